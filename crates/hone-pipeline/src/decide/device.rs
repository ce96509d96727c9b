//! Who has the device: one lease at a time, renewed by progress, freed only by the holder's exit.
//!
//! The next holder, when the device is free and the workspace runs: an evaluation that is due, else the open job
//! with the best priority; within one priority a job that was begun goes on before others, then the order of
//! arrival. A job of higher priority gets the device when the running one's slice ends.

use super::disk::ROOM_WAIT_MS;
use super::draft::Draft;
use super::{PROGRESS_EVERY_MS, evaluation, is_due, replay};
use crate::event::{Effect, WorkerExit};
use crate::ids::{JobId, LeaseToken};
use crate::state::{Change, Control, Job, JobState, Lease, Progress, State, Work};

pub(super) fn progress(draft: &mut Draft, token: LeaseToken, progress: Option<&Progress>) {
    let Some(lease) = in_force(draft.state(), token).cloned() else { return };
    // A commit is not free: a lease is renewed once a quarter of it has passed.
    let until_ms = draft.now + draft.settings.lease_ms;
    if until_ms >= lease.until_ms + draft.settings.lease_ms / 4 {
        draft.put(Change::SetLease { lease: Some(Lease { until_ms, ..lease.clone() }) });
    }
    let (Work::Train { job }, Some(progress), false) = (lease.work, progress, lease.delivered) else { return };
    let Some(job) = draft.state().jobs.get(&job) else { return };
    let shown_ms = job.progress.as_ref().map_or(0, |shown| shown.at_ms);
    if draft.now >= shown_ms + PROGRESS_EVERY_MS || draft.now < shown_ms {
        let progress = Progress { at_ms: draft.now, ..progress.clone() };
        let job = Job { progress: Some(progress), ..job.clone() };
        draft.put_job(job);
    }
}

pub(super) fn exited(draft: &mut Draft, token: LeaseToken, exit: &WorkerExit) {
    let Some(lease) = in_force(draft.state(), token).cloned() else {
        return draft.warning("stale_worker", token, "a worker that lost its lease ended");
    };
    draft.put(Change::SetLease { lease: None });
    match lease.work {
        Work::Train { job } => slice_ended(draft, job, &lease, exit),
        Work::Evaluate { checkpoint } if !lease.delivered => evaluation::ended_without(draft, checkpoint, &lease, exit),
        Work::Evaluate { .. } => {}
    }
}

/// Nobody could make progress meanwhile, so nobody is late.
pub(super) fn time_jumped(draft: &mut Draft, by_ms: u64) {
    let Some(lease) = draft.state().lease.clone() else { return };
    let (since_ms, until_ms) = (lease.since_ms.saturating_add(by_ms), lease.until_ms.saturating_add(by_ms));
    draft.info("time_jumped", lease.token, format!("the clock went on by {} s at once", by_ms / 1_000));
    draft.put(Change::SetLease { lease: Some(Lease { since_ms, until_ms, ..lease }) });
}

/// Ends a holder that is lost (no progress for a lease) or beyond its time. Where the clock was set back, its times begin
/// anew: a lease never ends later than one lease from now.
pub(super) fn check_limits(draft: &mut Draft) {
    let Some(lease) = draft.state().lease.clone() else { return };
    let latest_ms = draft.now + draft.settings.lease_ms;
    if lease.until_ms > latest_ms || lease.since_ms > draft.now {
        let (until_ms, since_ms) = (lease.until_ms.min(latest_ms), lease.since_ms.min(draft.now));
        return draft.put(Change::SetLease { lease: Some(Lease { until_ms, since_ms, ..lease }) });
    }
    let limit_ms = lease.since_ms + draft.settings.evaluation_max_ms + draft.settings.lease_ms;
    let overdue = matches!(lease.work, Work::Evaluate { .. }) && draft.now > limit_ms;
    let reason = match () {
        () if draft.now > lease.until_ms => format!("no progress for {} s", draft.settings.lease_ms / 1_000),
        () if overdue => format!("the evaluation took more than {} s", draft.settings.evaluation_max_ms / 1_000),
        () => return,
    };
    draft.warning("worker_lost", lease.token, format!("{reason}; it is ended"));
    draft.effect(Effect::KillWorker { token: lease.token, reason });
    // Asked again only after another lease. The evaluation's clock starts anew for the same reason.
    let (until_ms, since_ms) = (draft.now + draft.settings.lease_ms, if overdue { draft.now } else { lease.since_ms });
    draft.put(Change::SetLease { lease: Some(Lease { until_ms, since_ms, ..lease }) });
}

/// Tells the holder, once, to end early: a slice writes a checkpoint at its next step, an evaluation is ended
/// (it is done again later).
pub(super) fn ask_to_yield(draft: &mut Draft, reason: &str) {
    let Some(lease) = draft.state().lease.clone().filter(|lease| !lease.asked_to_yield && !lease.delivered) else {
        return;
    };
    let token = lease.token;
    draft.effect(match lease.work {
        Work::Train { .. } => Effect::AskToYield { token },
        Work::Evaluate { .. } => Effect::KillWorker { token, reason: reason.to_string() },
    });
    draft.put(Change::SetLease { lease: Some(Lease { asked_to_yield: true, ..lease }) });
}

/// Gives the free device to whoever is next; ends the daemon when it is stopping and nothing is under way.
pub(super) fn assign(draft: &mut Draft) {
    let state = draft.state();
    let publishing = state.checkpoints.active().next().is_some();
    if state.lease.is_some() || publishing {
        return;
    }
    match state.control {
        Control::Stopping { .. } => draft.effect(Effect::Exit),
        Control::Paused { .. } => {}
        Control::Running if state.disk_low => {}
        Control::Running => {
            if let Some(checkpoint) = evaluation::next_due(state, draft.now) {
                let token = give(draft, Work::Evaluate { checkpoint });
                draft.effect(Effect::StartEval { checkpoint, token });
            } else if let Some(job) = next_job(draft) {
                start_slice(draft, job);
            }
        }
    }
}

/// The state was left by a daemon that is gone, and so are its children.
pub(super) fn recover(draft: &mut Draft) {
    if draft.state().lease.is_some() {
        draft.put(Change::SetLease { lease: None });
    }
    for job in draft.state().jobs.values().cloned().collect::<Vec<_>>() {
        if job.progress.is_some() {
            draft.put_job(Job { progress: None, ..job.clone() });
        }
        if job.state.is_open() && job.skip_reason.is_some() && !is_publishing(draft.state(), job.id) {
            end_skipped(draft, job.id);
        }
    }
}

/// A try of a job came to nothing, and another one may go better.
pub(super) fn job_try_failed(draft: &mut Draft, id: JobId, reason: &str) {
    let Some(mut job) = open_job(draft.state(), id) else { return };
    if job.skip_reason.is_some() {
        return end_skipped(draft, id);
    }
    job.tries += 1;
    if job.tries >= draft.settings.max_tries {
        return end_failed(draft, id, &format!("{reason} (given up after {} tries)", job.tries));
    }
    job.state = JobState::Queued;
    job.not_before_ms = draft.retry_at(job.tries);
    job.progress = None;
    let (tries, wait_ms) = (job.tries, job.not_before_ms - draft.now);
    draft.put_job(job);
    let max_tries = draft.settings.max_tries;
    draft.warning("job_try_failed", id, format!("{reason}; try {tries} of {max_tries}, the next one in {wait_ms} ms"));
}

/// Ends a job as skipped at the last row that is in the published chain.
pub(super) fn end_skipped(draft: &mut Draft, id: JobId) {
    let Some(mut job) = open_job(draft.state(), id) else { return };
    let at_row = job.position.rows_trained;
    job.state = JobState::Skipped { at_row };
    job.progress = None;
    job.ended_ms = Some(draft.now);
    let reason = job.skip_reason.clone().unwrap_or_default();
    draft.put_job(job);
    draft.info("job_skipped", id, format!("skipped after {at_row} rows: {reason}"));
}

pub(super) fn in_force(state: &State, token: LeaseToken) -> Option<&Lease> {
    state.lease.as_ref().filter(|lease| lease.token == token)
}

pub(super) fn open_job(state: &State, id: JobId) -> Option<Job> {
    state.jobs.get(&id).filter(|job| job.state.is_open()).cloned()
}

/// True while a checkpoint of the job is staged and not yet published.
pub(super) fn is_publishing(state: &State, id: JobId) -> bool {
    state.checkpoints.active().any(|c| c.job == Some(id))
}

fn slice_ended(draft: &mut Draft, id: JobId, lease: &Lease, exit: &WorkerExit) {
    if let Some(job) = open_job(draft.state(), id).filter(|job| job.progress.is_some()) {
        draft.put_job(Job { progress: None, ..job });
    }
    if lease.delivered {
        if *exit != WorkerExit::Done {
            draft.warning("worker_ended_badly", id, format!("after its work was over: {}", in_words(exit)));
        }
        return;
    }
    if draft.state().disk_low && *exit != WorkerExit::Done {
        return wait_for_room(draft, id, exit);
    }
    match exit {
        WorkerExit::Failed { reason } => {
            let skipped = open_job(draft.state(), id).is_some_and(|job| job.skip_reason.is_some());
            if skipped { end_skipped(draft, id) } else { end_failed(draft, id, reason) }
        }
        // It was asked to yield before its first step ended: nothing is lost, nobody is to blame.
        WorkerExit::Done if lease.asked_to_yield => {
            let skipped = open_job(draft.state(), id).is_some_and(|job| job.skip_reason.is_some());
            if skipped {
                end_skipped(draft, id);
            }
        }
        WorkerExit::OutOfMemory { reason } if halve_micro_batch(draft, id, reason) => {}
        WorkerExit::Done | WorkerExit::Crashed { .. } | WorkerExit::OutOfMemory { .. } => {
            job_try_failed(draft, id, &in_words(exit));
        }
    }
}

/// The host had no room: the job keeps its place and its tries.
fn wait_for_room(draft: &mut Draft, id: JobId, exit: &WorkerExit) {
    let Some(job) = open_job(draft.state(), id) else { return };
    if job.skip_reason.is_some() {
        return end_skipped(draft, id);
    }
    draft.put_job(Job { not_before_ms: draft.now + ROOM_WAIT_MS, ..job });
    draft.warning("job_waits_for_room", id, format!("{}; it goes on when the disk has room", in_words(exit)));
}

/// Once per job: half the rows of a micro-batch and twice the accumulation, so that a step keeps its rows. False when
/// that was done already, or a micro-batch has but one row.
fn halve_micro_batch(draft: &mut Draft, id: JobId, reason: &str) -> bool {
    let Some(mut job) = open_job(draft.state(), id) else { return false };
    let Some(settings) = job.settings.as_mut().filter(|settings| settings.micro_batch == 0) else { return false };
    let rows = settings.micro_rows();
    if rows < 2 {
        return false;
    }
    let (halved, steps) = (rows.div_ceil(2), settings.rows_per_step());
    settings.micro_batch = halved;
    job.state = JobState::Queued;
    job.progress = None;
    draft.put_job(job);
    let message = format!(
        "out of memory ({reason}): it is started again with micro-batches of {halved} rows in place of {rows}; a step \
         keeps its {steps} rows"
    );
    draft.warning("out_of_memory", id, message);
    true
}

fn end_failed(draft: &mut Draft, id: JobId, reason: &str) {
    let Some(mut job) = open_job(draft.state(), id) else { return };
    job.state = JobState::Failed { reason: reason.to_string() };
    job.progress = None;
    job.ended_ms = Some(draft.now);
    draft.put_job(job);
    draft.error("job_failed", id, reason);
}

fn in_words(exit: &WorkerExit) -> String {
    match exit {
        WorkerExit::Done => "the worker ended without a result".to_string(),
        WorkerExit::Failed { reason } => reason.clone(),
        WorkerExit::Crashed { reason } => format!("the worker crashed: {reason}"),
        WorkerExit::OutOfMemory { reason } => format!("the worker ran out of memory: {reason}"),
    }
}

fn next_job(draft: &Draft) -> Option<JobId> {
    draft.state().latest_checkpoint()?;
    let due = |job: &&Job| is_due(job.not_before_ms, draft.now);
    let key = |job: &&Job| (job.priority, job.state != JobState::Running, job.id);
    draft.state().jobs.active().filter(due).min_by_key(key).map(|job| job.id)
}

fn start_slice(draft: &mut Draft, id: JobId) {
    let preempted = |job: &&Job| job.state == JobState::Running && job.id != id;
    for job in draft.state().jobs.moving().filter(preempted).cloned().collect::<Vec<_>>() {
        draft.put_job(Job { state: JobState::Queued, ..job });
    }
    let token = give(draft, Work::Train { job: id });
    let mut job = draft.state().jobs[&id].clone();
    job.state = JobState::Running;
    let begins = job.started_ms.is_none() && job.position.job_step == 0;
    if job.settings.is_none() || begins {
        job.replay = replay::choose(draft, &job);
        job.kept_back = replay::kept_back(draft, &job);
        job.settings = Some(draft.settings.train.clone());
    }
    job.started_ms.get_or_insert(draft.now);
    job.progress = None;
    draft.put_job(job);
    draft.effect(Effect::StartSlice { job: id, token });
}

fn give(draft: &mut Draft, work: Work) -> LeaseToken {
    let token = LeaseToken(draft.next(|counters| &mut counters.lease));
    let (since_ms, until_ms) = (draft.now, draft.now + draft.settings.lease_ms);
    let lease = Lease { token, work, until_ms, asked_to_yield: false, since_ms, delivered: false };
    draft.put(Change::SetLease { lease: Some(lease) });
    token
}
