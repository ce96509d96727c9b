//! What goes, what stays, and that a crash at any operation leaves nothing that the next call does not finish.

use super::*;
use crate::fixtures::{dataset, staged};
use hone_disk::faults::{Fault, fail_at, operations, stop};
use hone_pipeline::ids::DatasetId;
use hone_pipeline::state::{DatasetState, Lease};
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

const DAY: u64 = 24 * 3_600_000;

fn deadline() -> Deadline {
    Deadline::new(Duration::from_secs(60))
}

/// Checkpoints 1 (pruned) and 2 (published) with their files, and data set 1 whose rows are gone by decision.
fn workspace() -> (tempfile::TempDir, Layout, State) {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    layout.create_folders().unwrap();
    let mut state = State::default();
    for id in [1, 2] {
        let folder = layout.checkpoint(CheckpointId(id));
        fs::create_dir_all(folder.join("sub")).unwrap();
        fs::write(folder.join("model.safetensors"), "weights").unwrap();
        fs::write(folder.join("sub/config.json"), "{}").unwrap();
        hone_disk::manifest::write(&folder).unwrap();
        fs::create_dir_all(layout.resume(CheckpointId(id))).unwrap();
        fs::write(layout.resume(CheckpointId(id)).join("state"), "s").unwrap();
        let kind = if id == 1 { CheckpointState::Pruned } else { CheckpointState::Published };
        state.checkpoints.insert(CheckpointId(id), Checkpoint { state: kind, ..staged(id, "m") });
    }
    let mut gone = dataset(1, "a.jsonl", DatasetState::Accepted);
    gone.gone = Some(hone_pipeline::state::Gone::Aged);
    for (id, dataset) in [(1, gone), (2, dataset(2, "b.jsonl", DatasetState::Accepted))] {
        fs::create_dir_all(layout.dataset(DatasetId(id))).unwrap();
        fs::write(layout.dataset_file(&dataset), "row\n").unwrap();
        fs::write(layout.dataset_report(DatasetId(id)), "{}").unwrap();
        state.datasets.insert(DatasetId(id), dataset);
    }
    (dir, layout, state)
}

/// Each operation with each kind of fault.
fn every_fault(num_operations: usize) -> impl Iterator<Item = (usize, Fault)> {
    (0..num_operations).flat_map(|index| Fault::ALL.into_iter().map(move |fault| (index, fault)))
}

fn files(root: &Path) -> Vec<String> {
    fn walk(folder: &Path, root: &Path, found: &mut Vec<String>) {
        for path in entries(folder).unwrap() {
            if path.is_dir() {
                walk(&path, root, found)
            } else {
                found.push(path.strip_prefix(root).unwrap().display().to_string())
            }
        }
    }
    let mut found = Vec::new();
    walk(root, root, &mut found);
    found
}

#[test]
fn only_what_the_state_calls_gone_goes_whatever_operation_fails() {
    let left = [
        "checkpoints/checkpoint-2/manifest.json",
        "checkpoints/checkpoint-2/model.safetensors",
        "checkpoints/checkpoint-2/sub/config.json",
        "datasets/dataset-1/report.json",
        "datasets/dataset-2/b.jsonl",
        "datasets/dataset-2/report.json",
        "resume/step-2/state",
    ];
    let (_dir, layout, state) = workspace();
    stop();
    let gone = remove_pruned(&layout, &state, deadline()).unwrap();
    assert_eq!(gone, ["checkpoints/checkpoint-1", "resume/step-1", "datasets/dataset-1/a.jsonl"]);
    assert_eq!(files(layout.root()), left);
    let num_operations = operations().len();
    assert!(num_operations >= 5, "{num_operations}");
    for (index, fault) in every_fault(num_operations) {
        let (_dir, layout, state) = workspace();
        fail_at(fault, index);
        let _ = remove_pruned(&layout, &state, deadline());
        // Never half of a visible folder.
        let folder = layout.checkpoint(CheckpointId(1));
        if folder.exists() {
            hone_disk::manifest::verify(&folder, None).unwrap();
        }
        stop();
        crate::publish::sweep_staging(&layout, &state).unwrap();
        remove_pruned(&layout, &state, deadline()).unwrap();
        assert_eq!(files(layout.root()), left, "after {fault:?} at operation {index}");
    }
}

#[test]
fn forgotten_rows_go_with_everything_that_quotes_them_whatever_operation_fails() {
    let forgotten = || {
        let (dir, layout, mut state) = workspace();
        let (gone, blake3) = (Some(Gone::Forgotten), Some("abc".to_string()));
        let dataset = Dataset { gone, blake3, ..state.datasets[&DatasetId(1)].clone() };
        state.datasets.insert(dataset.id, dataset);
        let job = hone_pipeline::ids::JobId(1);
        let jobs = vec![DatasetId(1)];
        state.jobs.insert(job, Job::new(job, jobs, hone_pipeline::state::Priority::Normal, 0));
        fs::write(layout.dataset_report(DatasetId(1)), r#"{"findings":[{"evidence":"my secret"}]}"#).unwrap();
        for file in ["runs/job-1/lease-1/events.jsonl", "runs/checks/dataset-1/events.jsonl"] {
            fs::create_dir_all(layout.root().join(file).parent().unwrap()).unwrap();
            fs::write(layout.root().join(file), "my secret").unwrap();
        }
        (dir, layout, state)
    };
    let (_dir, layout, state) = forgotten();
    stop();
    remove_pruned(&layout, &state, deadline()).unwrap();
    let num_operations = operations().len();
    for (index, fault) in every_fault(num_operations) {
        let (_dir, layout, state) = forgotten();
        fail_at(fault, index);
        let _ = remove_pruned(&layout, &state, deadline());
        stop();
        remove_pruned(&layout, &state, deadline()).unwrap();
        let left = files(layout.root());
        // A hidden folder that a crash left behind is swept at the start; here it may still be there.
        let visible = left.iter().filter(|path| !path.contains(".tmp"));
        for path in visible {
            let text = fs::read_to_string(layout.root().join(path)).unwrap();
            assert!(
                !text.contains("my secret") && !path.ends_with("a.jsonl"),
                "{fault:?} at operation {index}: {path}"
            );
        }
        let report = fs::read_to_string(layout.dataset_report(DatasetId(1))).unwrap();
        assert!(report.contains("abc"), "the hash stays: {report}");
    }
}

#[test]
fn a_snapshot_is_whole_or_not_there_and_outlives_the_checkpoint() {
    let (_dir, layout, state) = workspace();
    stop();
    assert!(take_snapshot(&layout, CheckpointId(2), "2026-11-25").unwrap());
    let num_operations = operations().len();
    assert!(!take_snapshot(&layout, CheckpointId(2), "2026-11-25").unwrap(), "one a day");
    assert!(!take_snapshot(&layout, CheckpointId(7), "2026-11-26").unwrap(), "nothing to take");
    for (index, fault) in every_fault(num_operations) {
        let (_dir, layout, _) = workspace();
        fail_at(fault, index);
        let _ = take_snapshot(&layout, CheckpointId(2), "2026-11-25");
        let snapshot = layout.snapshots().join("2026-11-25/checkpoint-2");
        if snapshot.exists() {
            hone_disk::manifest::verify(&snapshot, None).unwrap();
        }
        stop();
        take_snapshot(&layout, CheckpointId(2), "2026-11-25").unwrap();
        hone_disk::manifest::verify(&snapshot, None).unwrap();
    }
    let mut state = state;
    let pruned = Checkpoint { state: CheckpointState::Pruned, ..state.checkpoints[&CheckpointId(2)].clone() };
    state.checkpoints.insert(pruned.id, pruned);
    remove_pruned(&layout, &state, deadline()).unwrap();
    hone_disk::manifest::verify(&layout.snapshots().join("2026-11-25/checkpoint-2"), None).unwrap();
}

#[test]
fn what_had_its_time_goes_and_reports_stay() {
    let (_dir, layout, mut state) = workspace();
    let lease = Lease {
        token: hone_pipeline::ids::LeaseToken(4),
        work: Work::Train { job: hone_pipeline::ids::JobId(1) },
        until_ms: 0,
        asked_to_yield: false,
        since_ms: 0,
        delivered: false,
    };
    state.lease = Some(lease);
    for file in ["rejected/a.jsonl", "rejected/a.jsonl.report.json", "logs/daemon.log", "logs/daemon.log.1"] {
        fs::write(layout.root().join(file), "x").unwrap();
    }
    // Refused now, written long ago by whoever it came from: its time begins with the move.
    let file = fs::File::options().write(true).open(layout.root().join("rejected/a.jsonl")).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(90 * 86_400)).unwrap();
    for run in ["runs/job-1/lease-3", "runs/job-1/lease-4", "runs/evaluations/checkpoint-2-lease-2"] {
        fs::create_dir_all(layout.root().join(run)).unwrap();
    }
    for day in ["2026-11-23", "2026-11-24", "2026-11-25"] {
        fs::create_dir_all(layout.snapshots().join(day)).unwrap();
    }
    let rest = Rest { rejected_ms: DAY, runs_ms: DAY, logs_ms: DAY, keep_snapshots: 2 };
    let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let gone = |now| sweep_rest(&layout, &state, &rest, now, deadline()).unwrap();
    assert_eq!(gone(now), ["snapshots/2026-11-23"], "nothing else is old");
    assert_eq!(
        gone(now + 2 * DAY),
        ["rejected/a.jsonl", "logs/daemon.log.1", "runs/evaluations/checkpoint-2-lease-2", "runs/job-1/lease-3"]
    );
    assert_eq!(gone(now + 2 * DAY), Vec::<String>::new());
    // Raw answers go with the runs, but not under an evaluation that goes on from them.
    let (work, results) = (Work::Evaluate { checkpoint: CheckpointId(2) }, layout.eval_results(CheckpointId(2)));
    fs::create_dir_all(&results).unwrap();
    let evaluating = State { lease: state.lease.clone().map(|lease| Lease { work, ..lease }), ..state.clone() };
    let swept = |state: &State| sweep_rest(&layout, state, &rest, now + 2 * DAY, deadline()).unwrap();
    assert!(!swept(&evaluating).contains(&"runs/results/checkpoint-2".to_string()));
    assert!(swept(&state).contains(&"runs/results/checkpoint-2".to_string()));
    let late = Deadline::new(Duration::ZERO);
    std::thread::sleep(Duration::from_millis(1));
    assert!(checkpoint_sizes(&layout, &state, late).is_err(), "the time limit is real");
    assert_eq!(checkpoint_sizes(&layout, &state, deadline()).unwrap(), [(CheckpointId(2), 9)].into());
}
