//! Tests of `history`.

use super::*;
use hone_pipeline::ids::LeaseToken;
use std::io::Write;

const LOSS: Metric = METRICS[0];

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

fn losses(history: &History) -> Vec<(u64, f64)> {
    let column = history.series.column(LOSS, 0, u64::MAX, 1_000);
    column.steps.into_iter().zip(column.mean).collect()
}

#[test]
fn a_job_without_slices_has_an_empty_history() {
    let (_root, layout) = workspace();
    let mut reader = HistoryReader::new(layout);
    assert!(losses(reader.read(JobId(1))).is_empty());
}

#[test]
fn slices_join_and_a_step_run_twice_counts_as_it_ran_last_and_shows_both() {
    let (_root, layout) = workspace();
    write(&layout, 9, &[step(1, 4.0, 1_000), step(2, 3.0, 2_000), step(3, 9.0, 3_000)]);
    write(&layout, 10, &[step(3, 2.0, 20_000), step(4, 1.0, 20_500), step(5, 0.5, 21_000)]);
    let mut reader = HistoryReader::new(layout);
    let history = reader.read(JobId(1));
    assert_eq!(losses(history), [(101, 4.0), (102, 3.0), (103, 2.0), (104, 1.0), (105, 0.5)]);
    let superseded = history.series.superseded(LOSS, 0, u64::MAX, 100);
    assert_eq!(superseded.len(), 1);
    assert_eq!((superseded[0].0, &superseded[0].1.steps, &superseded[0].1.mean), (9, &vec![103], &vec![9.0]));
    // Only the newest slice is timed: 1,000 ms for two steps.
    assert_eq!(history.ms_per_step(), Some(500.0));
    assert_eq!(history.last().unwrap().job_step, 5);
}

#[test]
fn reading_goes_on_where_it_stopped_and_waits_for_whole_lines() {
    let (_root, layout) = workspace();
    let mut reader = HistoryReader::new(layout.clone());
    write(&layout, 1, &[WorkerMessage::Alive { phase: "tokenizing".to_string() }]);
    assert_eq!(reader.read(JobId(1)).phase.as_deref(), Some("tokenizing"));
    write(&layout, 1, &[step(1, 4.0, 1_000)]);
    let events = layout.run(JobId(1), LeaseToken(1)).join("events.jsonl");
    let whole = serde_json::to_string(&WorkerLine { token: LeaseToken(1), message: step(2, 3.0, 2_000) }).unwrap();
    let (half, rest) = whole.split_at(20);
    let mut file = std::fs::OpenOptions::new().append(true).open(&events).unwrap();
    write!(file, "{half}").unwrap();
    let history = reader.read(JobId(1));
    assert_eq!((losses(history).len(), history.phase.as_deref()), (1, None));
    writeln!(file, "{rest}").unwrap();
    writeln!(file, "not json").unwrap();
    write(&layout, 1, &[step(3, 2.0, 3_000)]);
    assert_eq!(losses(reader.read(JobId(1))), [(101, 4.0), (102, 3.0), (103, 2.0)]);
}

#[test]
fn figures_that_are_not_finite_are_marked_and_enter_no_mean() {
    let (_root, layout) = workspace();
    write(&layout, 1, &[step(1, 4.0, 1), step(2, f64::NAN, 2), step(3, f64::INFINITY, 3), step(4, 2.0, 4)]);
    let mut reader = HistoryReader::new(layout);
    let series = &reader.read(JobId(1)).series;
    assert_eq!(series.non_finite(), (&[102, 103][..], 2));
    let whole = series.column(LOSS, 0, u64::MAX, 1);
    assert_eq!((whole.mean[0], whole.min[0], whole.max[0]), (3.0, 2.0, 4.0));
    assert!(series.column(LOSS, 102, 102, 10).mean[0].is_nan());
}

#[test]
fn long_histories_are_thinned_with_least_and_greatest_kept() {
    let (_root, layout) = workspace();
    let num_steps = 2 * series::MAX_BUCKETS as u64;
    let loss = |n: u64| if n == 40_000 { 77.0 } else { (n % 2) as f64 };
    let steps: Vec<WorkerMessage> = (1..=num_steps).map(|n| step(n, loss(n), n)).collect();
    write(&layout, 1, &steps);
    let mut reader = HistoryReader::new(layout);
    let series = &reader.read_whole(JobId(1)).series;
    let column = series.column(LOSS, 0, u64::MAX, 200);
    assert!((100..=200).contains(&column.steps.len()), "{}", column.steps.len());
    assert_eq!(column.steps.last(), Some(&(100 + num_steps)));
    assert_eq!(column.max.iter().copied().fold(0.0, f64::max), 77.0);
    assert!(column.min.iter().all(|&min| min == 0.0));
    let mean = column.mean.iter().sum::<f64>() / column.mean.len() as f64;
    assert!((mean - 0.5).abs() < 0.01, "{mean}");
    let part = series.column(LOSS, 1_000, 2_000, 10_000);
    assert!(part.steps.iter().all(|step| (1_000..=2_000).contains(step)) && part.steps.len() > 400);
}

#[test]
fn only_the_jobs_asked_for_last_stay_in_memory() {
    let (_root, layout) = workspace();
    let mut reader = HistoryReader::new(layout);
    (1..=5).for_each(|job| drop(losses(reader.read(JobId(job)))));
    reader.read(JobId(4));
    assert_eq!(reader.jobs.iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [3, 5, 4]);
}

#[test]
fn previews_are_the_newest_and_short() {
    let (_root, layout) = workspace();
    let preview = |step| WorkerMessage::Preview {
        step,
        source: "suite:1".to_string(),
        prompt: "p".to_string(),
        answer: "é".repeat(2 * MAX_TEXT_CHARS),
        expected: "e".to_string(),
    };
    let warning = WorkerMessage::Warning { code: "overlong".to_string(), message: "two rows".to_string() };
    write(&layout, 1, &[preview(1), preview(2), warning, preview(3), preview(4)]);
    let mut reader = HistoryReader::new(layout);
    let history = reader.read(JobId(1));
    assert_eq!(history.previews.iter().map(|preview| preview.step).collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!(history.previews[0].answer.chars().count(), MAX_TEXT_CHARS + 1);
    assert_eq!(history.warnings[0].code, "overlong");
}

#[test]
fn curves_have_every_step_where_the_worker_wrote_them_all_down() {
    let (_root, layout) = workspace();
    // It says only some of the steps; the second attempt begins again at step 3.
    write(&layout, 1, &[step(1, 4.0, 1_000), step(3, 3.0, 3_000)]);
    write(&layout, 2, &[step(3, 2.5, 9_000)]);
    let metrics = |lease: u64, lines: &[(u64, Option<f64>)]| {
        let line = |(job_step, loss): &(u64, Option<f64>)| {
            let line = serde_json::json!({
                "step": 100 + job_step, "job_step": job_step, "loss": loss, "token_accuracy": 0.5, "learning_rate": 1e-3,
                "grad_norm": loss, "tokens": 50, "trained_tokens": 20, "ms": 25.0, "rows": [0, 8],
            });
            format!("{line}\n")
        };
        let text: String = lines.iter().map(line).collect();
        std::fs::write(layout.run(JobId(1), LeaseToken(lease)).join("metrics.jsonl"), text).unwrap();
    };
    metrics(1, &[(1, Some(4.0)), (2, Some(3.5)), (3, Some(3.0))]);
    metrics(2, &[(3, Some(2.5)), (4, None), (5, Some(2.0))]);
    let mut reader = HistoryReader::new(layout.clone());
    let history = reader.read(JobId(1));
    let column = history.series.column(LOSS, 0, u64::MAX, 100);
    assert_eq!(column.steps, [101, 102, 103, 104, 105]);
    assert_eq!((column.mean[1], column.mean[2], column.mean[4]), (3.5, 2.5, 2.0));
    assert_eq!(history.series.non_finite(), (&[104][..], 1));
    assert_eq!(history.series.superseded(LOSS, 0, u64::MAX, 9)[0].1.mean, [3.0]);
    assert_eq!(history.series.column(METRICS[3], 0, u64::MAX, 1).mean, [2_000.0]);
    let steps = all_steps(&layout, JobId(1));
    assert_eq!(steps.iter().map(|step| step.job_step).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(steps.iter().map(|step| step.at_ms).collect::<Vec<_>>(), [1_000, 1_000, 9_000, 9_000, 9_000]);
    assert!(steps[3].loss.is_nan());
}
