//! Tests of `curve`.

use super::*;
use hone_pipeline::ids::LeaseToken;
use std::io::Write;

fn step(job_step: u64, loss: f64, at_ms: u64) -> WorkerMessage {
    WorkerMessage::Step(Progress {
        step: 100 + job_step,
        job_step,
        total_steps: 50,
        loss,
        at_ms,
        ..Progress::default()
    })
}

/// Appends lines to the events of a slice of job-1.
fn write(layout: &Layout, lease: u64, messages: &[WorkerMessage]) {
    let folder = layout.run(JobId(1), LeaseToken(lease));
    std::fs::create_dir_all(&folder).unwrap();
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(folder.join("events.jsonl")).unwrap();
    for message in messages {
        let line = WorkerLine { token: LeaseToken(lease), message: message.clone() };
        writeln!(file, "{}", serde_json::to_string(&line).unwrap()).unwrap();
    }
}

fn workspace() -> (tempfile::TempDir, Layout) {
    let root = tempfile::tempdir().unwrap();
    let layout = Layout::new(root.path());
    (root, layout)
}

#[test]
fn a_job_without_slices_has_an_empty_curve() {
    let (_root, layout) = workspace();
    let mut reader = CurveReader::new(layout);
    assert!(reader.read(JobId(1)).points().is_empty());
}

#[test]
fn slices_join_and_a_step_run_twice_counts_as_it_ran_last() {
    let (_root, layout) = workspace();
    write(&layout, 9, &[step(1, 4.0, 1_000), step(2, 3.0, 2_000), step(3, 9.0, 3_000)]);
    write(&layout, 10, &[step(3, 2.0, 20_000), step(4, 1.0, 20_500), step(5, 0.5, 21_000)]);
    let mut reader = CurveReader::new(layout);
    let curve = reader.read(JobId(1));
    assert_eq!(curve.points(), [(101, 4.0), (102, 3.0), (103, 2.0), (104, 1.0), (105, 0.5)]);
    // Only the newest slice is timed: 1,000 ms for two steps.
    assert_eq!(curve.ms_per_step(), Some(500.0));
}

#[test]
fn reading_goes_on_where_it_stopped_and_waits_for_whole_lines() {
    let (_root, layout) = workspace();
    let mut reader = CurveReader::new(layout.clone());
    write(&layout, 1, &[WorkerMessage::Alive { phase: "tokenizing".to_string() }]);
    assert_eq!(reader.read(JobId(1)).phase.as_deref(), Some("tokenizing"));
    write(&layout, 1, &[step(1, 4.0, 1_000)]);
    let events = layout.run(JobId(1), LeaseToken(1)).join("events.jsonl");
    let whole = serde_json::to_string(&WorkerLine { token: LeaseToken(1), message: step(2, 3.0, 2_000) }).unwrap();
    let (half, rest) = whole.split_at(20);
    let mut file = std::fs::OpenOptions::new().append(true).open(&events).unwrap();
    write!(file, "{half}").unwrap();
    let curve = reader.read(JobId(1));
    assert_eq!((curve.points().len(), curve.phase.as_deref()), (1, None));
    writeln!(file, "{rest}").unwrap();
    writeln!(file, "not json").unwrap();
    write(&layout, 1, &[step(3, 2.0, 3_000)]);
    assert_eq!(reader.read(JobId(1)).points(), [(101, 4.0), (102, 3.0), (103, 2.0)]);
}

#[test]
fn long_curves_are_thinned_by_means() {
    let (_root, layout) = workspace();
    let steps: Vec<WorkerMessage> = (1..=2 * MAX_POINTS as u64).map(|n| step(n, (n % 2) as f64, n)).collect();
    write(&layout, 1, &steps);
    let mut reader = CurveReader::new(layout);
    let points = reader.read(JobId(1)).points();
    assert_eq!(points.len(), MAX_POINTS);
    assert!(points.iter().all(|(_, loss)| *loss == 0.5));
}

#[test]
fn previews_are_the_newest_and_short() {
    let (_root, layout) = workspace();
    let preview = |step| WorkerMessage::Preview {
        step,
        source: "suite:1".to_string(),
        prompt: "p".to_string(),
        answer: "é".repeat(2 * MAX_PREVIEW_CHARS),
        expected: "e".to_string(),
    };
    write(&layout, 1, &[preview(1), preview(2), preview(3), preview(4)]);
    let mut reader = CurveReader::new(layout);
    let previews = &reader.read(JobId(1)).previews;
    assert_eq!(previews.iter().map(|preview| preview.step).collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!(previews[0].answer.chars().count(), MAX_PREVIEW_CHARS + 1);
}
