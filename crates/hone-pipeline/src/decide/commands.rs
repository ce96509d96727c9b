//! What people ask for. `Pause` and `Stop` let a slice write a checkpoint at its next step and end an evaluation
//! at once (it is done again later); `Stop` wins over `Pause` and cannot be taken back. Checks of arriving files
//! go on while paused.

use super::device::{ask_to_yield, end_skipped, is_publishing};
use super::draft::Draft;
use super::{curriculum, deployment, lineage, rewind};
use crate::event::Command;
use crate::ids::{CheckpointId, DatasetId, JobId};
use crate::state::{
    Change, Checkpoint, CheckpointState, Control, Job, JobState, Lease, Lineage, Marks, Priority, Work,
};

pub(super) fn command(draft: &mut Draft, command: &Command) {
    let reply = match command {
        Command::Pause { reason } => pause(draft, reason),
        Command::Resume { reason } => resume(draft, reason),
        Command::Skip { reason } => skip(draft, reason),
        Command::Stop { reason } => stop(draft, reason),
        Command::MoveJob { job, priority } => move_job(draft, *job, *priority),
        Command::CancelJob { job } => cancel(draft, *job),
        Command::RetryJob { job } => retry(draft, *job),
        Command::Deploy { checkpoint, reason } => deployment::deploy_by_hand(draft, *checkpoint, reason),
        Command::Rewind { checkpoint, reason } => rewind::rewind(draft, *checkpoint, reason),
        Command::NewLineage { model_name, base_model, identity, manifest_hash, reason } => {
            let new = Lineage {
                number: 0,
                model_name: model_name.clone(),
                base_model: base_model.clone(),
                identity: identity.clone(),
                base: CheckpointId(0),
                left_at: None,
            };
            lineage::begin(draft, new, manifest_hash, reason)
        }
        Command::SwitchLineage { number, reason } => lineage::switch(draft, *number, reason),
        Command::Undo { dataset, reason } => rewind::undo(draft, *dataset, reason),
        Command::Forget { dataset, reason } => rewind::forget(draft, *dataset, reason),
        Command::Pin { checkpoint, reason } => pin(draft, *checkpoint, Some(reason.clone())),
        Command::Unpin { checkpoint } => pin(draft, *checkpoint, None),
        Command::SetLevel { skill, level } => curriculum::set_level(draft, skill, *level),
        Command::ResetSkill { skill } => curriculum::reset(draft, skill),
        Command::Rollback { reason } => deployment::rollback_by_hand(draft, reason),
    };
    draft.reply(reply);
}

/// Whoever starts a daemon again wants it to run; a pause is kept, also one from before the stop.
pub(super) fn recover(draft: &mut Draft) {
    if let Control::Stopping { paused, .. } = &draft.state().control {
        let control = paused.clone().map_or(Control::Running, |reason| Control::Paused { reason });
        draft.put(Change::SetControl(control));
    }
}

/// Training pauses because of what a checkpoint did, and people are told. A pause or a stop that is in force stays; behind a stop
/// it is paused.
pub(super) fn hold(draft: &mut Draft, id: CheckpointId, reason: &str) {
    let number = id.0;
    let hint = format!("`hone explain {number}` shows why, `hone resume` trains on from it");
    draft.error("held", id, format!("training is held: {id} is {reason} ({hint})"));
    let held = format!("held: {id} is {reason}");
    match draft.state().control.clone() {
        Control::Running => {
            draft.put(Change::SetControl(Control::Paused { reason: held }));
            ask_to_yield(draft, "held");
        }
        Control::Stopping { reason, paused: None } => {
            draft.put(Change::SetControl(Control::Stopping { reason, paused: Some(held) }));
        }
        Control::Paused { .. } | Control::Stopping { .. } => {}
    }
}

fn pause(draft: &mut Draft, reason: &str) -> Result<String, String> {
    if let Control::Stopping { .. } = draft.state().control {
        return Err("the daemon is stopping".to_string());
    }
    draft.put(Change::SetControl(Control::Paused { reason: reason.to_string() }));
    draft.info("paused", "control", format!("paused: {reason}"));
    ask_to_yield(draft, "paused");
    Ok(match draft.state().lease {
        Some(_) => "pausing at the next step".to_string(),
        None => "paused".to_string(),
    })
}

fn resume(draft: &mut Draft, reason: &str) -> Result<String, String> {
    match draft.state().control {
        Control::Running => Ok("it runs already".to_string()),
        Control::Stopping { .. } => Err("the daemon is stopping; start it again".to_string()),
        Control::Paused { .. } => {
            draft.put(Change::SetControl(Control::Running));
            let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            draft.info("resumed", "control", format!("resumed{why}"));
            Ok("resumed".to_string())
        }
    }
}

fn stop(draft: &mut Draft, reason: &str) -> Result<String, String> {
    let paused = match &draft.state().control {
        Control::Running => None,
        Control::Paused { reason } => Some(reason.clone()),
        Control::Stopping { paused, .. } => paused.clone(),
    };
    draft.put(Change::SetControl(Control::Stopping { reason: reason.to_string(), paused }));
    draft.info("stopping", "control", format!("stopping: {reason}"));
    ask_to_yield(draft, "the daemon stops");
    Ok("stopping".to_string())
}

fn skip(draft: &mut Draft, reason: &str) -> Result<String, String> {
    let running = draft.state().jobs.moving().find(|job| job.state == JobState::Running).cloned();
    let job = running.ok_or("no job runs")?;
    let id = job.id;
    draft.put_job(Job { skip_reason: Some(reason.to_string()), ..job });
    let trains = |lease: &Lease| lease.work == Work::Train { job: id } && !lease.delivered;
    if draft.state().lease.as_ref().is_some_and(trains) {
        ask_to_yield(draft, "skipped");
        return Ok(format!("{id} ends at its next step"));
    }
    if is_publishing(draft.state(), id) {
        return Ok(format!("{id} ends with the checkpoint that is being published"));
    }
    end_skipped(draft, id);
    Ok(format!("{id} skipped"))
}

fn move_job(draft: &mut Draft, id: JobId, priority: Priority) -> Result<String, String> {
    let job = find(draft, id)?;
    if job.state != JobState::Queued {
        return Err(format!("{id} is not waiting in the queue"));
    }
    draft.put_job(Job { priority, ..job });
    Ok(format!("{id} moved"))
}

fn cancel(draft: &mut Draft, id: JobId) -> Result<String, String> {
    let job = find(draft, id)?;
    match job.state {
        JobState::Queued => {}
        JobState::Running => return Err(format!("{id} is running (hint: `hone skip` ends it)")),
        _ => return Err(format!("{id} has ended already")),
    }
    draft.put_job(Job { state: JobState::Cancelled, ended_ms: Some(draft.now), ..job });
    draft.info("job_cancelled", id, "taken out of the queue by hand");
    Ok(format!("{id} cancelled"))
}

/// Queues a job again *at its position*: rows that are in a published checkpoint are not trained twice. One that
/// never reached a checkpoint takes the settings of now.
fn retry(draft: &mut Draft, id: JobId) -> Result<String, String> {
    let job = find(draft, id)?;
    match job.state {
        JobState::Failed { .. } | JobState::Skipped { .. } | JobState::Cancelled | JobState::Rewound { .. } => {}
        JobState::Completed => return Err(format!("{id} was completed; all its rows are trained")),
        JobState::Queued | JobState::Running => return Err(format!("{id} is in the queue already")),
    }
    let gone = |id: &&DatasetId| draft.state().datasets.get(id).is_some_and(|dataset| dataset.gone.is_some());
    if let Some(gone) = job.datasets.iter().find(gone) {
        return Err(format!("the rows of {gone} are not here any more"));
    }
    let has_same = |other: &&Job| {
        let counts = other.state.is_open() || other.position.rows_trained > 0;
        counts && other.id != id && other.datasets.iter().any(|dataset| job.datasets.contains(dataset))
    };
    if let Some(other) = draft.state().jobs.values().find(has_same) {
        return Err(format!("{} has rows of the same files: they would be trained twice", other.id));
    }
    let settings = job.settings.clone().filter(|_| job.position.job_step > 0);
    let state = JobState::Queued;
    draft.put_job(Job { state, settings, tries: 0, not_before_ms: 0, skip_reason: None, ended_ms: None, ..job });
    draft.info("job_retried", id, "queued again by hand");
    Ok(format!("{id} queued again"))
}

fn pin(draft: &mut Draft, id: CheckpointId, pinned: Option<String>) -> Result<String, String> {
    let checkpoint = draft.state().checkpoints.get(&id).cloned().ok_or_else(|| format!("{id} is not in the ledger"))?;
    if checkpoint.state != CheckpointState::Published {
        return Err(format!("{id} has no files here"));
    }
    let message = if pinned.is_some() { "stays whatever retention says" } else { "is left to retention again" };
    let marks = Marks { pinned, ..checkpoint.marks.clone() };
    draft.put(Change::PutCheckpoint(Checkpoint { marks, ..checkpoint }));
    Ok(format!("{id} {message}"))
}

fn find(draft: &Draft, id: JobId) -> Result<Job, String> {
    draft.state().jobs.get(&id).cloned().ok_or_else(|| format!("there is no {id}"))
}
