//! From a staged checkpoint to a published one. The chain of published checkpoints is what was trained: a job's
//! position moves only when the checkpoint that holds it is published.

use super::device::{end_skipped, in_force, is_publishing, job_try_failed, open_job};
use super::draft::Draft;
use crate::event::{Effect, StagedCheckpoint};
use crate::ids::{CheckpointId, LeaseToken};
use crate::state::{Change, Checkpoint, CheckpointState, Job, JobState, Lease, Marks, Work};

pub(super) fn staged(draft: &mut Draft, token: LeaseToken, staged: &StagedCheckpoint) {
    let Some(lease) = in_force(draft.state(), token).cloned() else {
        return draft.warning(
            "stale_worker",
            token,
            format!("{} refused: the lease is not in force", staged.checkpoint),
        );
    };
    if let Err(problem) = fits(draft, &lease, staged) {
        let reason = format!("{} refused: {problem}", staged.checkpoint);
        draft.error("checkpoint_refused", staged.job, &reason);
        return draft.effect(Effect::KillWorker { token, reason });
    }
    let checkpoint = Checkpoint {
        id: staged.checkpoint,
        parent: Some(staged.parent),
        job: Some(staged.job),
        state: CheckpointState::Staged {
            staging: staged.staging.clone(),
            resume_staging: staged.resume_staging.clone(),
        },
        manifest_hash: staged.manifest_hash.clone(),
        position: staged.position.clone(),
        rows_digest: staged.rows_digest.clone(),
        train_loss: Some(staged.train_loss),
        created_ms: draft.now,
        ends_job: staged.ends_job,
        yielded: staged.yielded,
        marks: Marks::default(),
    };
    draft.put(Change::PutCheckpoint(checkpoint));
    let until_ms = draft.now + draft.settings.lease_ms;
    draft.put(Change::SetLease { lease: Some(Lease { delivered: true, until_ms, ..lease }) });
    draft.effect(Effect::Publish { checkpoint: staged.checkpoint });
}

pub(super) fn published(draft: &mut Draft, id: CheckpointId) {
    let Some(mut checkpoint) = waiting(draft, id) else { return };
    checkpoint.state = CheckpointState::Published;
    draft.put(Change::PutCheckpoint(checkpoint.clone()));
    let loss = checkpoint.train_loss.unwrap_or(f64::NAN);
    draft.info("checkpoint_published", id, format!("published with training loss {loss:.4}"));
    if checkpoint.marks.abandoned.is_some() {
        // Training went back while it was published: no job is where it says.
        return;
    }
    let Some(mut job) = checkpoint.job.and_then(|job| draft.state().jobs.get(&job).cloned()) else { return };
    job.position = checkpoint.position;
    job.tries = 0;
    job.not_before_ms = 0;
    let (job_id, skipped) = (job.id, job.skip_reason.is_some());
    if checkpoint.ends_job {
        let message = format!("completed: {} rows in {} steps", job.position.rows_trained, job.position.job_step);
        job = Job { state: JobState::Completed, progress: None, ended_ms: Some(draft.now), ..job };
        draft.put_job(job);
        return draft.info("job_completed", job_id, message);
    }
    draft.put_job(job);
    if skipped {
        end_skipped(draft, job_id);
    }
}

pub(super) fn publish_failed(draft: &mut Draft, id: CheckpointId, reason: &str) {
    let Some(mut checkpoint) = waiting(draft, id) else { return };
    let job = checkpoint.job.filter(|_| checkpoint.marks.abandoned.is_none());
    checkpoint.state = CheckpointState::Refused { reason: reason.to_string() };
    draft.put(Change::PutCheckpoint(checkpoint));
    draft.error("checkpoint_refused", id, reason);
    if let Some(job) = job {
        job_try_failed(draft, job, &format!("{id} could not be published: {reason}"));
    }
}

pub(super) fn recover(draft: &mut Draft) {
    let ids: Vec<_> = draft.state().checkpoints.active().map(|c| c.id).collect();
    for checkpoint in ids {
        draft.effect(Effect::Publish { checkpoint });
    }
}

/// Whether what a worker staged goes on from where the ledger is.
fn fits(draft: &Draft, lease: &Lease, staged: &StagedCheckpoint) -> Result<(), String> {
    if lease.work != (Work::Train { job: staged.job }) {
        return Err(format!("the lease is not for {}", staged.job));
    }
    if lease.delivered || is_publishing(draft.state(), staged.job) {
        return Err("the slice has staged a checkpoint already".to_string());
    }
    let job = open_job(draft.state(), staged.job).ok_or_else(|| format!("{} is not open", staged.job))?;
    let latest = draft.state().latest_checkpoint().map(|checkpoint| checkpoint.id);
    if latest != Some(staged.parent) {
        let latest = latest.map_or("none".to_string(), |id| id.to_string());
        return Err(format!("its parent is {}, the newest is {latest}", staged.parent));
    }
    let (from, to) = (&job.position, &staged.position);
    let num_steps = to.job_step.checked_sub(from.job_step).filter(|steps| *steps > 0);
    let num_steps =
        num_steps.ok_or_else(|| format!("it goes from step {} to {} of its job", from.job_step, to.job_step))?;
    // Numbers never go back: after a rewind they count on from the highest one, not from the parent.
    let before = draft.state().highest_number().unwrap_or(staged.parent);
    if staged.checkpoint.0 != before.0 + num_steps {
        return Err(format!("{num_steps} steps after {before} make another number"));
    }
    if to.rows_trained < from.rows_trained {
        return Err(format!("it goes back from row {} to {}", from.rows_trained, to.rows_trained));
    }
    Ok(())
}

fn waiting(draft: &Draft, id: CheckpointId) -> Option<Checkpoint> {
    let checkpoint = draft.state().checkpoints.get(&id)?;
    matches!(checkpoint.state, CheckpointState::Staged { .. }).then(|| checkpoint.clone())
}
