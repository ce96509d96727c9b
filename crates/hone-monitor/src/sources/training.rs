//! `training_status`: what happens now.
//!
//! `{state, headline, detail, model_name, daemon: {alive, holder}, control: {mode, reason?}, phase, last_sign_ms, job:
//! {id, files, priority, job_step, total_steps, rows_trained, share, eta_ms, started_ms} | null, progress: {step, loss,
//! learning_rate, grad_norm, tokens_per_s, memory_bytes, at_ms, …} | null, curve: {job, points: [[step, loss]]} | null,
//! previews: [{step, source, prompt, answer, expected}], warnings: [{code, message}]}`. `state` is one of `training`, `evaluating`, `idle`, `paused`,
//! `stopping`, `stalled` (the worker gave no sign for [`STALE_MS`]) and `dead` (no daemon).

use super::daemon::{self, Daemon};
use super::workspace::Workspace;
use crate::clock;
use crate::history::{History, HistoryReader, METRICS};
use anyhow::Result;
use hone_pipeline::state::{Control, Job, Lease, Progress, State, TimeMs, Work};
use hone_store::Layout;
use serde_json::{Value, json};
use std::sync::{Mutex, PoisonError};

/// A worker that gave no sign for this long is shown as stalled, never as training: with the time that readings take, within
/// 10 s. A worker that lives gives one at least every few seconds.
pub(super) const STALE_MS: u64 = 8_000;
/// Points of the loss curve; `/api/history/run` has more.
const MAX_POINTS: usize = 240;
/// Names of files listed for a job.
const MAX_FILES: usize = 20;

pub(super) fn read(workspace: &Workspace, histories: &Mutex<HistoryReader>, now: TimeMs) -> Result<Value> {
    let state = workspace.state()?;
    let daemon = daemon::look(workspace.layout());
    let job = shown_job(&state);
    let last_sign_ms = state.lease.as_ref().map(|lease| last_sign(workspace.layout(), lease, job));
    let empty = History::default();
    let mut histories = histories.lock().unwrap_or_else(PoisonError::into_inner);
    let history = job.map_or(&empty, |job| histories.read(job.id));
    Ok(describe(&state, &daemon, history, last_sign_ms, now))
}

/// The job that has the device, or else the one that had it last.
fn shown_job(state: &State) -> Option<&Job> {
    let running = match &state.lease {
        Some(Lease { work: Work::Train { job }, .. }) => state.jobs.get(job),
        _ => None,
    };
    running.or_else(|| state.jobs.values().filter(|job| job.started_ms.is_some()).max_by_key(|job| job.started_ms))
}

/// When the holder of the device last said anything.
fn last_sign(layout: &Layout, lease: &Lease, job: Option<&Job>) -> TimeMs {
    let folder = match lease.work {
        Work::Train { job } => layout.run(job, lease.token),
        Work::Evaluate { checkpoint } => layout.eval_run(checkpoint, lease.token),
    };
    let written = folder.join("events.jsonl").metadata().and_then(|metadata| metadata.modified());
    let reported = job.and_then(|job| job.progress.as_ref()).map_or(0, |progress| progress.at_ms);
    written.map_or(0, clock::ms_of).max(reported).max(lease.since_ms)
}

fn describe(state: &State, daemon: &Daemon, history: &History, last_sign_ms: Option<TimeMs>, now: TimeMs) -> Value {
    let (name, headline, detail) = now_sentence(state, daemon, history, last_sign_ms, now);
    let job = shown_job(state);
    let progress = job.and_then(|job| newest_progress(job, history));
    json!({
        "state": name,
        "headline": headline,
        "detail": detail,
        "model_name": state.lineage.as_ref().map(|lineage| &lineage.model_name),
        "base_model": state.lineage.as_ref().map(|lineage| base_name(&lineage.base_model)),
        "daemon": { "alive": daemon.alive, "holder": daemon.holder },
        "control": state.control,
        "phase": history.phase,
        "last_sign_ms": last_sign_ms,
        "job": job.map(|job| job_entry(state, job, progress.as_ref(), history)),
        "progress": progress,
        "curve": job.map(|job| json!({ "job": job.id.to_string(), "points": loss_curve(history) })),
        "previews": history.previews,
        "warnings": history.warnings,
    })
}

/// The name of what happens now, a headline and a sentence.
fn now_sentence(
    state: &State,
    daemon: &Daemon,
    history: &History,
    last_sign_ms: Option<TimeMs>,
    now: TimeMs,
) -> (&'static str, String, String) {
    let work = state.lease.as_ref().map(|lease| lease.work.clone());
    if !daemon.alive {
        let detail = match (&work, state.jobs.values().any(|job| job.state.is_open())) {
            (Some(Work::Train { job }), _) => format!("{job} goes on from its last checkpoint when the daemon starts"),
            (Some(Work::Evaluate { checkpoint }), _) => {
                format!("the evaluation of {checkpoint} starts again with the daemon")
            }
            (None, true) => "jobs wait in the queue until it starts".to_string(),
            (None, false) => "nothing waits; `hone up` starts it".to_string(),
        };
        return ("dead", "The daemon is not running".to_string(), detail);
    }
    let silence = now.saturating_sub(last_sign_ms.unwrap_or(now));
    match (work, &state.control) {
        (Some(work), _) if silence > STALE_MS => {
            let seconds = silence / 1000;
            ("stalled", format!("No sign of life for {seconds} s"), format!("{} is silent", worker(&work)))
        }
        (Some(Work::Train { job }), control) => {
            let detail = match control {
                Control::Running => history.phase.clone().unwrap_or_default(),
                Control::Paused { reason } => format!("pausing at the next step: {reason}"),
                Control::Stopping { reason, .. } => format!("stopping at the next step: {reason}"),
            };
            ("training", format!("Training {job}"), detail)
        }
        (Some(Work::Evaluate { checkpoint }), _) => {
            ("evaluating", format!("Evaluating {checkpoint}"), "on every suite, before it may be served".to_string())
        }
        (None, Control::Paused { reason }) => ("paused", "Paused".to_string(), reason.clone()),
        (None, Control::Stopping { reason, .. }) => ("stopping", "Stopping".to_string(), reason.clone()),
        (None, Control::Running) => {
            ("idle", "Waiting for data".to_string(), "drop a JSONL file into inbox/".to_string())
        }
    }
}

fn worker(work: &Work) -> String {
    match work {
        Work::Train { job } => format!("the training of {job}"),
        Work::Evaluate { checkpoint } => format!("the evaluation of {checkpoint}"),
    }
}

/// `[step, mean loss]` over equal stretches of the job; steps without a finite loss are left out.
fn loss_curve(history: &History) -> Vec<(u64, f64)> {
    let column = history.series.column(METRICS[0], 0, u64::MAX, MAX_POINTS);
    column.steps.into_iter().zip(column.mean).filter(|(_, mean)| mean.is_finite()).collect()
}

/// The newer one of what the daemon committed and what the worker wrote.
fn newest_progress(job: &Job, history: &History) -> Option<Progress> {
    [job.progress.as_ref(), history.last()].into_iter().flatten().max_by_key(|progress| progress.job_step).cloned()
}

fn job_entry(state: &State, job: &Job, progress: Option<&Progress>, history: &History) -> Value {
    let files = job.datasets.iter().take(MAX_FILES).filter_map(|id| state.datasets.get(id));
    let job_step = progress.map_or(job.position.job_step, |progress| progress.job_step.max(job.position.job_step));
    let total_steps = progress.map_or(job.position.total_steps, |progress| progress.total_steps);
    let remaining = total_steps.saturating_sub(job_step);
    let eta_ms = history.ms_per_step().filter(|_| job.state.is_open()).map(|ms| (ms * remaining as f64).round() as u64);
    json!({
        "id": job.id.to_string(),
        "files": files.map(|dataset| &dataset.file_name).collect::<Vec<_>>(),
        "num_files": job.datasets.len(),
        "priority": job.priority,
        "state": super::tag(&job.state),
        "job_step": job_step,
        "total_steps": total_steps,
        "rows_trained": job.position.rows_trained,
        "share": (total_steps > 0).then(|| (job_step as f64 / total_steps as f64).min(1.0)),
        "eta_ms": eta_ms,
        "started_ms": job.started_ms,
    })
}

/// The last component of a path: what people call the model, and nothing about the host.
fn base_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests;
