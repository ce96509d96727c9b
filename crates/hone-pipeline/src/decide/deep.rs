//! The deep check in the background, of files that were accepted at a lower level: one at a time, oldest first, while
//! they wait or are trained. A file that it refuses is set aside: jobs that have not begun go on without it, and what
//! was trained on it already people are told.

use super::draft::Draft;
use crate::event::Effect;
use crate::finding::Report;
use crate::ids::{DatasetId, JobId};
use crate::state::{Change, Dataset, DatasetState, DeepCheck, Job, JobState};

/// Before the reason why a dataset is set aside.
pub(super) const SET_ASIDE: &str = "deep check: ";

/// Starts the next check when none is under way.
pub(super) fn start_check(draft: &mut Draft) {
    let datasets = &draft.state().datasets;
    let accepted = |d: &&Dataset| d.state == DatasetState::Accepted;
    let is_busy = || datasets.moving().filter(accepted).any(|d| d.check_started);
    if !draft.settings.deep_in_background || draft.state().disk_low || is_busy() {
        return;
    }
    let wanted = |d: &&Dataset| d.deep_check == DeepCheck::Due && d.gone.is_none() && d.set_aside.is_none();
    let Some(dataset) = datasets.active().filter(accepted).find(wanted).cloned() else { return };
    draft.effect(Effect::Check { dataset: dataset.id });
    draft.put(Change::PutDataset(Dataset { check_started: true, ..dataset }));
}

/// Whether a check of an accepted dataset was started and has not come back.
pub(super) fn is_under_way(draft: &Draft, id: DatasetId) -> bool {
    let dataset = draft.state().datasets.get(&id);
    dataset.is_some_and(|d| d.state == DatasetState::Accepted && d.check_started)
}

pub(super) fn checked(draft: &mut Draft, id: DatasetId, report: &Report) {
    let dataset = end(draft, id);
    if report.is_accepted() {
        return tell_passed(draft, &dataset, report);
    }
    let first = report.error_lines().next().unwrap_or_else(|| "see its report".to_string());
    if dataset.set_aside.is_none() {
        draft.put(Change::PutDataset(Dataset { set_aside: Some(format!("{SET_ASIDE}{first}")), ..dataset.clone() }));
    }
    let left = leave_out(draft, id);
    let trained = draft.state().jobs.values().any(|job| job.datasets.contains(&id) && has_begun(job));
    let what = match (trained, left.is_empty()) {
        (true, _) => format!("; rows of it may be trained already (`hone undo {id}` takes them out)"),
        (false, true) => String::new(),
        (false, false) => format!("; it is not trained ({})", names(&left)),
    };
    draft.error("deep_refused", id, format!("the deep check refuses {}: {first}{what}", dataset.file_name));
}

pub(super) fn failed(draft: &mut Draft, id: DatasetId, reason: &str) {
    if draft.state().disk_low {
        // The host is to blame: it is checked again when there is room.
        let dataset = draft.state().datasets[&id].clone();
        return draft.put(Change::PutDataset(Dataset { check_started: false, ..dataset }));
    }
    let dataset = end(draft, id);
    let message = format!("the deep check of {} did not end, so nothing is known: {reason}", dataset.file_name);
    draft.warning("deep_failed", id, message);
}

fn tell_passed(draft: &mut Draft, dataset: &Dataset, report: &Report) {
    let codes: Vec<&str> = report.findings.iter().map(|finding| finding.code.as_str()).collect();
    if codes.is_empty() {
        return draft.info("deep_checked", dataset.id, format!("{} passed the deep check", dataset.file_name));
    }
    let message = format!("the deep check of {} found: {}", dataset.file_name, codes.join(", "));
    draft.warning("deep_findings", dataset.id, message);
}

fn end(draft: &mut Draft, id: DatasetId) -> Dataset {
    let dataset = draft.state().datasets[&id].clone();
    let dataset = Dataset { check_started: false, deep_check: DeepCheck::Done, ..dataset };
    draft.put(Change::PutDataset(dataset.clone()));
    dataset
}

/// Jobs that have not begun go on without the dataset; one that has no other is failed, and `retry` trains it all the
/// same. Returns the jobs.
fn leave_out(draft: &mut Draft, id: DatasetId) -> Vec<JobId> {
    let waits = |job: &&Job| job.state == JobState::Queued && !has_begun(job) && job.datasets.contains(&id);
    let waiting: Vec<Job> = draft.state().jobs.values().filter(waits).cloned().collect();
    for mut job in waiting.iter().cloned() {
        if job.datasets.len() > 1 {
            job.datasets.retain(|other| *other != id);
        } else {
            job.state = JobState::Failed { reason: "the deep check refuses its file".to_string() };
            job.ended_ms = Some(draft.now);
        }
        draft.put_job(job);
    }
    waiting.iter().map(|job| job.id).collect()
}

fn has_begun(job: &Job) -> bool {
    job.started_ms.is_some() || job.position.job_step > 0
}

fn names(jobs: &[JobId]) -> String {
    jobs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
