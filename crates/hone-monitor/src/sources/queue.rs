//! `queue` and `datasets`.
//!
//! `queue`: `{num_open, queue_full, open: [job], ended: [job], counts: {STATE: n}}` with jobs as `{id, priority, state,
//! files, num_files, job_step, total_steps, tries, reason, created_ms, started_ms, ended_ms}`; open ones in the order of
//! service, each with `waits_for`, a plain sentence, and ended ones newest first.
//!
//! `datasets`: `{counts: {STATE: n}, recent: [dataset], rejected: [dataset]}`, newest first, with datasets as `{id,
//! file_name, state, schema_id, rows, priority, arrived_ms, reasons, duplicate_of, provenance}`.

use super::tag;
use hone_pipeline::state::{Dataset, DatasetState, Job, JobState, State, TimeMs, waits_for};
use serde_json::{Map, Value, json};

/// Open jobs listed; `num_open` has their number.
const MAX_OPEN: usize = 100;
/// Ended jobs listed.
const MAX_ENDED: usize = 20;
/// Datasets listed, of all and of the refused ones.
const MAX_DATASETS: usize = 20;
/// Files listed for a job.
const MAX_FILES: usize = 5;

pub(crate) fn jobs(state: &State, now: TimeMs) -> Value {
    let (mut open, mut ended): (Vec<&Job>, Vec<&Job>) = state.jobs.values().partition(|job| job.state.is_open());
    open.sort_by_key(|job| (job.state != JobState::Running, job.priority, job.id));
    ended.sort_by_key(|job| std::cmp::Reverse((job.ended_ms, job.id)));
    json!({
        "num_open": open.len(),
        "queue_full": state.queue_full,
        "open": open.iter().take(MAX_OPEN).enumerate().map(|(before, job)| open_job(state, job, before, now)).collect::<Vec<_>>(),
        "ended": ended.iter().take(MAX_ENDED).map(|job| job_entry(state, job)).collect::<Vec<_>>(),
        "counts": counts(state.jobs.values().map(|job| tag(&job.state))),
    })
}

fn open_job(state: &State, job: &Job, before: usize, now: TimeMs) -> Value {
    let mut entry = job_entry(state, job);
    let why = (&state.control, state.lease.as_ref(), state.disk_low);
    entry["waits_for"] = waits_for(job, before, why, now).into();
    entry
}

pub(crate) fn job_entry(state: &State, job: &Job) -> Value {
    let files = job.datasets.iter().take(MAX_FILES).filter_map(|id| state.datasets.get(id));
    let reason = match &job.state {
        JobState::Failed { reason } => Some(reason.clone()),
        JobState::Skipped { at_row } => {
            Some(format!("skipped at row {at_row}: {}", job.skip_reason.as_deref().unwrap_or("no reason given")))
        }
        _ => None,
    };
    let progress = job.progress.as_ref();
    json!({
        "id": job.id.to_string(),
        "priority": job.priority,
        "state": tag(&job.state),
        "files": files.map(|dataset| &dataset.file_name).collect::<Vec<_>>(),
        "num_files": job.datasets.len(),
        "job_step": progress.map_or(job.position.job_step, |progress| progress.job_step),
        "total_steps": progress.map_or(job.position.total_steps, |progress| progress.total_steps),
        "tries": job.tries,
        "reason": reason,
        "created_ms": job.created_ms,
        "started_ms": job.started_ms,
        "ended_ms": job.ended_ms,
    })
}

pub(crate) fn datasets(state: &State) -> Value {
    let newest = || state.datasets.values().rev();
    let is_rejected = |dataset: &&Dataset| matches!(dataset.state, DatasetState::Rejected { .. });
    json!({
        "counts": counts(state.datasets.values().map(|dataset| tag(&dataset.state))),
        "recent": newest().take(MAX_DATASETS).map(dataset_entry).collect::<Vec<_>>(),
        "rejected": newest().filter(is_rejected).take(MAX_DATASETS).map(dataset_entry).collect::<Vec<_>>(),
    })
}

pub(crate) fn dataset_entry(dataset: &Dataset) -> Value {
    let (reasons, duplicate_of) = match &dataset.state {
        DatasetState::Rejected { reasons } => (reasons.as_slice(), None),
        DatasetState::Duplicate { of } => (&[][..], Some(of.to_string())),
        _ => (&[][..], None),
    };
    json!({
        "id": dataset.id.to_string(),
        "file_name": dataset.file_name,
        "state": tag(&dataset.state),
        "schema_id": dataset.schema_id,
        "rows": dataset.rows,
        "priority": dataset.priority,
        "arrived_ms": dataset.arrived_ms,
        "reasons": reasons,
        "duplicate_of": duplicate_of,
        "provenance": dataset.provenance,
    })
}

fn counts(states: impl Iterator<Item = String>) -> Map<String, Value> {
    let mut counts = Map::new();
    for state in states {
        let count = counts.get(&state).and_then(Value::as_u64).unwrap_or(0);
        counts.insert(state, (count + 1).into());
    }
    counts
}
