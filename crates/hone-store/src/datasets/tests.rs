//! A file is never lost, doubled or taken for another, wherever the process dies.

use super::*;
use crate::fixtures::dataset;
use expect_test::{Expect, expect};
use hone_disk::faults::{self, Fault};
use hone_pipeline::ids::DatasetId;
use hone_pipeline::state::DatasetState::{Arriving, Rejected};
use std::collections::BTreeMap;
use std::fs;

fn workspace() -> (tempfile::TempDir, Layout) {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    layout.create_folders().unwrap();
    (dir, layout)
}

/// Every file of the workspace with its text, temporary names left out.
fn files(layout: &Layout) -> BTreeMap<String, String> {
    fn collect(root: &Path, dir: &Path, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_string_lossy().ends_with(".tmp") {
                continue;
            }
            if path.is_dir() {
                collect(root, &path, found);
            } else {
                let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                found.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    collect(layout.root(), layout.root(), &mut found);
    found
}

#[track_caller]
fn check_files(layout: &Layout, expected: Expect) {
    let lines = files(layout).into_iter().map(|(name, text)| {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        format!("{name}: {text}\n")
    });
    expected.assert_eq(&lines.collect::<String>());
}

/// Runs `action` with every kind of fault at each of its durable operations, looks at what is there with `inspect`, and
/// runs it again. Returns how many operations it has.
#[track_caller]
fn fail_everywhere(
    prepare: &dyn Fn(&Layout),
    action: &dyn Fn(&Layout) -> Result<()>,
    inspect: &dyn Fn(&Layout, bool),
) -> usize {
    let run = |fault: Option<(Fault, usize)>| {
        let (_guard, layout) = workspace();
        prepare(&layout);
        fault.map_or_else(faults::stop, |(kind, index)| faults::fail_at(kind, index));
        let _ = action(&layout);
        let num_operations = faults::operations().len();
        faults::stop();
        inspect(&layout, false);
        action(&layout).unwrap_or_else(|error| panic!("it goes on after {fault:?}: {error:#}"));
        inspect(&layout, true);
        num_operations
    };
    let num_operations = run(None);
    for index in 0..num_operations {
        for kind in Fault::ALL {
            run(Some((kind, index)));
        }
    }
    num_operations
}

#[test]
fn takes_a_file_with_its_sidecar_and_marker() {
    let (_guard, layout) = workspace();
    let source = layout.inbox().join("high/a.jsonl");
    fs::write(&source, "rows").unwrap();
    fs::write(sidecar_of(&source), "{}").unwrap();
    write_submit_marker(&source, "completion_v1").unwrap();
    assert_eq!(read_submit_marker(&source).as_deref(), Some("completion_v1"));
    assert!(take_file(&layout, &dataset(3, "high/a.jsonl", Arriving)).unwrap());
    check_files(
        &layout,
        expect![[r#"
        datasets/dataset-3/a.jsonl: rows
        datasets/dataset-3/meta.json: {}
    "#]],
    );
}

#[test]
fn tells_that_a_file_has_vanished() {
    let (_guard, layout) = workspace();
    assert!(!take_file(&layout, &dataset(1, "a.jsonl", Arriving)).unwrap());
    assert!(!layout.dataset(DatasetId(1)).exists());
}

#[test]
fn leaves_a_second_file_of_the_same_name_alone() {
    let (_guard, layout) = workspace();
    fs::write(layout.inbox().join("a.jsonl"), "first").unwrap();
    take_file(&layout, &dataset(1, "a.jsonl", Arriving)).unwrap();
    fs::write(layout.inbox().join("a.jsonl"), "second").unwrap();
    assert!(take_file(&layout, &dataset(1, "a.jsonl", Arriving)).unwrap());
    check_files(
        &layout,
        expect![[r#"
        datasets/dataset-1/a.jsonl: first
        inbox/a.jsonl: second
    "#]],
    );
}

#[test]
fn takes_nothing_from_outside_the_inbox() {
    let (_guard, layout) = workspace();
    fs::write(layout.root().join("config.json"), "{}").unwrap();
    for path in ["../config.json", "/etc/hostname", "", "a/../../config.json"] {
        take_file(&layout, &dataset(1, path, Arriving)).unwrap_err();
    }
    std::os::unix::fs::symlink(layout.config(), layout.inbox().join("link.jsonl")).unwrap();
    assert!(!take_file(&layout, &dataset(1, "link.jsonl", Arriving)).unwrap(), "a link is not a file");
}

#[test]
fn a_file_named_like_a_report_is_kept_apart_from_it() {
    let (_guard, layout) = workspace();
    fs::write(layout.inbox().join("report.json"), "rows").unwrap();
    let dataset = dataset(1, "report.json", Arriving);
    take_file(&layout, &dataset).unwrap();
    assert_ne!(layout.dataset_file(&dataset), layout.dataset_report(dataset.id));
}

#[test]
fn a_taken_file_is_in_one_place_at_every_fault() {
    let places =
        |layout: &Layout| ["inbox/a.jsonl", "datasets/dataset-1/a.jsonl"].map(|p| layout.root().join(p).is_file());
    let num_operations = fail_everywhere(
        &|layout| {
            fs::write(layout.inbox().join("a.jsonl"), "rows").unwrap();
            fs::write(layout.inbox().join("a.jsonl.meta.json"), "{}").unwrap();
        },
        &|layout| take_file(layout, &dataset(1, "a.jsonl", Arriving)).map(|found| assert!(found)),
        &|layout, finished| {
            let [inbox, taken] = places(layout);
            assert!(inbox != taken, "it is in {} places", usize::from(inbox) * 2);
            assert!(taken || !finished);
            assert!(!finished || layout.dataset_meta(DatasetId(1)).is_file(), "the sidecar is lost");
        },
    );
    assert!(num_operations >= 6, "{num_operations}");
}

fn rejected() -> Dataset {
    dataset(1, "high/a.jsonl", Rejected { reasons: vec!["line 7: not JSON".to_string()] })
}

fn prepare_rejected(layout: &Layout) {
    fs::create_dir_all(layout.dataset(DatasetId(1))).unwrap();
    fs::write(layout.dataset_file(&rejected()), "rows").unwrap();
    fs::write(layout.dataset_report(DatasetId(1)), r#"{"verdict": "rejected", "rows": 7}"#).unwrap();
}

const FILED: &str = r#"rejected/a.jsonl: rows
rejected/a.jsonl.report.json: { "verdict": "rejected", "rows": 7, "reasons": [ "line 7: not JSON" ], "dataset": "dataset-1", "file": "high/a.jsonl" }
"#;

#[test]
fn a_rejected_file_lies_beside_its_report() {
    let (_guard, layout) = workspace();
    prepare_rejected(&layout);
    let target = move_rejected(&layout, &rejected()).unwrap();
    assert_eq!(target, layout.rejected().join("a.jsonl"));
    let found = files(&layout);
    let lines =
        found.iter().map(|(name, text)| format!("{name}: {}\n", text.split_whitespace().collect::<Vec<_>>().join(" ")));
    assert_eq!(lines.collect::<String>(), FILED);
}

#[test]
fn a_rejected_file_is_in_one_place_at_every_fault() {
    let num_operations = fail_everywhere(
        &prepare_rejected,
        &|layout| move_rejected(layout, &rejected()).map(drop),
        &|layout, finished| {
            let found = files(layout);
            assert_eq!(found.values().filter(|text| *text == "rows").count(), 1, "{found:?}");
            if finished {
                assert!(found.contains_key("rejected/a.jsonl.report.json"), "{found:?}");
                assert_eq!(found.len(), 2, "{found:?}");
            }
        },
    );
    assert!(num_operations >= 8, "{num_operations}");
}

#[test]
fn rejected_files_of_one_name_do_not_overwrite_each_other() {
    let (_guard, layout) = workspace();
    fs::write(layout.rejected().join("a.jsonl"), "put here by hand").unwrap();
    prepare_rejected(&layout);
    let target = move_rejected(&layout, &rejected()).unwrap();
    assert_eq!(target, layout.rejected().join("dataset-1-a.jsonl"));
    assert_eq!(fs::read_to_string(layout.rejected().join("a.jsonl")).unwrap(), "put here by hand");
    assert_eq!(move_rejected(&layout, &rejected()).unwrap(), target, "done again it ends in the same place");
    assert_eq!(files(&layout).len(), 3);
}

#[test]
fn a_check_that_died_leaves_a_report_with_its_reason() {
    let (_guard, layout) = workspace();
    prepare_rejected(&layout);
    fs::remove_file(layout.dataset_report(DatasetId(1))).unwrap();
    move_rejected(&layout, &rejected()).unwrap();
    let report = fs::read_to_string(layout.rejected().join("a.jsonl.report.json")).unwrap();
    assert!(report.contains("line 7: not JSON"), "{report}");
}

#[test]
fn drops_duplicates_only() {
    let (_guard, layout) = workspace();
    prepare_rejected(&layout);
    drop_duplicate(&layout, &rejected()).unwrap_err();
    let duplicate = dataset(1, "a.jsonl", DatasetState::Duplicate { of: DatasetId(9) });
    drop_duplicate(&layout, &duplicate).unwrap();
    drop_duplicate(&layout, &duplicate).unwrap();
    assert!(!layout.dataset(DatasetId(1)).exists());
}
