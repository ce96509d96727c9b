//! A checkpoint is visible whole or not at all, wherever the process dies.

use super::*;
use crate::fixtures::staged;
use hone_disk::faults::{self, Fault};
use hone_disk::manifest;
use hone_pipeline::ids::{CheckpointId, LeaseToken};
use hone_pipeline::state::{Change, Lease, Work};
use std::fs;

/// A workspace with checkpoint 10 staged under lease 10.
fn workspace() -> (tempfile::TempDir, Layout, Checkpoint) {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    layout.create_folders().unwrap();
    let token = LeaseToken(10);
    let (weights, resume) = (Layout::checkpoint_staging(token), Layout::resume_staging(token));
    let (weights, resume) = (layout.root().join(weights), layout.root().join(resume));
    for folder in [&weights, &resume] {
        fs::create_dir(folder).unwrap();
        fs::write(folder.join("model.safetensors"), "weights").unwrap();
    }
    manifest::write(&resume).unwrap();
    let hash = manifest::write(&weights).unwrap();
    (dir, layout, staged(10, &hash))
}

fn is_complete(layout: &Layout, checkpoint: &Checkpoint) -> bool {
    let weights = layout.checkpoint(checkpoint.id);
    if !weights.exists() {
        return false;
    }
    manifest::verify(&weights, Some(&checkpoint.manifest_hash)).expect("visible weights are complete");
    manifest::verify(&layout.resume(checkpoint.id), None).expect("visible weights have their resume state");
    true
}

#[test]
fn publishes_whole_checkpoints_at_every_fault() {
    let run = |fault: Option<(Fault, usize)>| {
        let (_guard, layout, checkpoint) = workspace();
        fault.map_or_else(faults::stop, |(kind, index)| faults::fail_at(kind, index));
        let _ = publish(&layout, &checkpoint);
        let num_operations = faults::operations().len();
        faults::stop();
        is_complete(&layout, &checkpoint);
        publish(&layout, &checkpoint).unwrap_or_else(|error| panic!("it goes on after {fault:?}: {error:#}"));
        assert!(is_complete(&layout, &checkpoint));
        publish(&layout, &checkpoint).expect("done again, there is nothing to do");
        num_operations
    };
    let num_operations = run(None);
    assert!(num_operations >= 10, "{num_operations}");
    for index in 0..num_operations {
        for kind in Fault::ALL {
            run(Some((kind, index)));
        }
    }
}

#[track_caller]
fn check_refused(spoil: impl FnOnce(&Layout, &mut Checkpoint), expected: &str) {
    let (_guard, layout, mut checkpoint) = workspace();
    spoil(&layout, &mut checkpoint);
    let error = publish(&layout, &checkpoint).unwrap_err();
    assert!(matches!(error, PublishError::Refused(_)), "{error}");
    assert!(error.to_string().contains(expected), "{error}");
    assert!(!layout.checkpoint(checkpoint.id).exists(), "nothing became visible");
}

#[test]
fn refuses_what_the_worker_did_not_say() {
    let weights = |layout: &Layout| layout.root().join("checkpoints/.staging-lease-10");
    check_refused(|_, checkpoint| checkpoint.manifest_hash = "0".repeat(64), "expected 0000");
    check_refused(|layout, _| fs::write(weights(layout).join("extra"), "").unwrap(), "not in the manifest");
    check_refused(|layout, _| fs::remove_file(weights(layout).join("manifest.json")).unwrap(), "manifest.json");
    check_refused(|layout, _| fs::write(weights(layout).join("model.safetensors"), "WEIGHTS").unwrap(), "differs");
    check_refused(|layout, _| fs::remove_dir_all(weights(layout)).unwrap(), "verify the weights");
    check_refused(
        |layout, _| fs::remove_dir_all(layout.root().join("resume/.staging-lease-10")).unwrap(),
        "verify the resume state",
    );
}

#[test]
fn a_fault_of_the_host_is_not_held_against_the_checkpoint() {
    let (_guard, layout, checkpoint) = workspace();
    for fault in [Fault::Crash, Fault::Once] {
        faults::fail_at(fault, 0);
        let error = publish(&layout, &checkpoint).unwrap_err();
        faults::stop();
        assert!(matches!(error, PublishError::Host(_)), "{error}");
    }
}

#[test]
fn what_an_earlier_refused_try_left_is_replaced() {
    let (_guard, layout, checkpoint) = workspace();
    fs::create_dir(layout.resume(checkpoint.id)).unwrap();
    fs::write(layout.resume(checkpoint.id).join("old"), "").unwrap();
    publish(&layout, &checkpoint).unwrap();
    assert!(is_complete(&layout, &checkpoint));
}

#[test]
fn sweeps_what_nobody_names() {
    let (_guard, layout, checkpoint) = workspace();
    let mut state = State::default();
    state.apply(&Change::PutCheckpoint(checkpoint));
    let work = Work::Evaluate { checkpoint: CheckpointId(0) };
    let token = LeaseToken(12);
    let lease = Lease { token, work, until_ms: 0, asked_to_yield: false, since_ms: 0, delivered: false };
    state.apply(&Change::SetLease { lease: Some(lease) });
    for name in [
        "checkpoints/.staging-lease-11",
        "checkpoints/.staging-lease-12",
        "checkpoints/checkpoint-5",
        "resume/.x.1-1.tmp",
    ] {
        fs::create_dir(layout.root().join(name)).unwrap();
    }
    sweep_staging(&layout, &state).unwrap();
    let mut left = [names_in(&layout.checkpoints()).unwrap(), names_in(&layout.resume_root()).unwrap()].concat();
    left.sort();
    assert_eq!(left, [".staging-lease-10", ".staging-lease-10", ".staging-lease-12", "checkpoint-5"]);
}

#[test]
fn keeps_the_newest_resume_folders_the_latest_checkpoints_and_the_champions() {
    let (_guard, layout, mut checkpoint) = workspace();
    for step in [1, 9, 10, 100, 1000] {
        fs::create_dir(layout.resume(CheckpointId(step))).unwrap();
    }
    checkpoint.state = CheckpointState::Published;
    let mut state = State::default();
    state.apply(&Change::PutCheckpoint(checkpoint.clone()));
    state.apply(&Change::SetChampion { checkpoint: Some(CheckpointId(1)) });
    assert_eq!(prune_resume(&layout, &state, 2).unwrap(), [9], "10 is the latest checkpoint's");
    state.apply(&Change::PutCheckpoint(Checkpoint { id: CheckpointId(1000), ..checkpoint }));
    assert_eq!(prune_resume(&layout, &state, 2).unwrap(), [10], "numbers sort as numbers");
    assert!([1, 100, 1000].iter().all(|step| layout.resume(CheckpointId(*step)).exists()), "1 is the champion's");
}
