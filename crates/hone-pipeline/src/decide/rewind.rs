//! Going back: `rewind` to an earlier checkpoint, `undo` of a data set, `forget` of its rows, and by itself from a
//! checkpoint that is worse than its parent.
//!
//! Training goes on from the newest checkpoint that is not abandoned. Going back to a checkpoint means: it and its
//! ancestors are what is trained, everything else is abandoned (also a checkpoint that is being published), and every
//! job is where that chain says it is. Checkpoints stay in the ledger, and numbers count on from the highest one.

use super::deployment;
use super::draft::Draft;
use crate::event::Effect;
use crate::ids::{CheckpointId, DatasetId, JobId};
use crate::state::{
    Change, Checkpoint, CheckpointState, Dataset, DatasetState, Gone, Job, JobState, Lease, Marks, Outcome, Position,
    State, Work,
};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn rewind(draft: &mut Draft, to: CheckpointId, reason: &str) -> Result<String, String> {
    let target = draft.state().checkpoints.get(&to).ok_or_else(|| format!("{to} is not in the ledger"))?;
    if target.state != CheckpointState::Published {
        return Err(format!("{to} has no files here"));
    }
    if draft.state().latest_checkpoint().is_some_and(|latest| latest.id == to) {
        return Err(format!("{to} is the latest already"));
    }
    let moved = go_back(draft, to, &format!("rewound to {to}: {reason}"));
    let jobs = names(moved.iter().filter(|(_, before)| !before.is_open()).map(|(id, _)| *id));
    let again = if jobs.is_empty() { String::new() } else { format!("; `hone queue retry` trains {jobs} again") };
    draft.warning("rewound", to, format!("training goes on from {to}: {reason}"));
    Ok(format!("training goes on from {to}{again}"))
}

/// Takes a data set out of the model: back to the last checkpoint with files before it was first trained, and the
/// later good jobs are queued again.
pub(super) fn undo(draft: &mut Draft, id: DatasetId, reason: &str) -> Result<String, String> {
    accepted(draft.state(), id)?;
    let touched = touched_by(draft.state(), id);
    let in_model = |c: &&CheckpointId| draft.state().checkpoints[c].marks.abandoned.is_none();
    let first = touched.iter().filter(in_model).min().copied();
    let why = format!("{id} undone: {reason}");
    if draft.state().lease.as_ref().is_some_and(|lease| trains_with(draft.state(), lease, id)) {
        revoke(draft);
    }
    let to = first.and_then(|first| last_before(draft.state(), first));
    let again = set_aside(draft, &[id], reason, to, &why);
    let went = touched.iter().copied().filter(|c| draft.state().checkpoints[c].marks.abandoned.is_some());
    let went = went.collect::<Vec<_>>();
    let message = match to {
        None => format!("{id} is in no checkpoint that is trained on"),
        Some(to) => {
            let (went, queued) = (names(went.into_iter()), names_or_nothing(&again));
            format!("{id} touched {went}; training goes on from {to}; queued again: {queued}")
        }
    };
    draft.warning("dataset_undone", id, format!("{message} ({reason})"));
    Ok(message)
}

/// Takes back a checkpoint that is worse than its parent, with the files of its job: training restarts from the champion,
/// and the later good jobs are queued again. False where there is nothing to go back to: it is the champion itself.
pub(super) fn take_back(draft: &mut Draft, guilty: CheckpointId, reason: &str) -> bool {
    let state = draft.state();
    let here = |id: &CheckpointId| state.checkpoints.get(id).is_some_and(|c| c.state == CheckpointState::Published);
    let Some(champion) = state.champion.filter(|champion| *champion < guilty).filter(here) else { return false };
    let job = state.checkpoints.get(&guilty).and_then(|c| c.job).and_then(|job| state.jobs.get(&job));
    let Some(datasets) = job.map(|job| job.datasets.clone()) else { return false };
    let why = format!("{guilty} is {reason}");
    let again = set_aside(draft, &datasets, &why, Some(champion), &why);
    let (aside, queued) = (names(datasets.into_iter()), names_or_nothing(&again));
    let message = format!("{why}: training restarts from {champion}; set aside: {aside}; queued again: {queued}");
    draft.error("rewound", guilty, message);
    true
}

/// Marks data sets as set aside and goes back to a checkpoint. Completed jobs that lie after it and hold none of them are
/// queued again and returned; open ones go on without them.
fn set_aside(
    draft: &mut Draft,
    ids: &[DatasetId],
    reason: &str,
    to: Option<CheckpointId>,
    why: &str,
) -> BTreeSet<JobId> {
    for id in ids {
        let dataset = draft.state().datasets[id].clone();
        draft.put(Change::PutDataset(Dataset { set_aside: Some(reason.to_string()), ..dataset }));
    }
    let moved = to.map(|to| go_back(draft, to, why)).unwrap_or_default();
    let (mut again, mut ended) = (BTreeSet::new(), BTreeSet::new());
    for (job, before) in moved {
        let job = draft.state().jobs[&job].clone();
        if matches!(before, JobState::Completed | JobState::Skipped { .. }) {
            ended.insert(job.id);
        }
        if before == JobState::Completed && !ids.iter().any(|id| job.datasets.contains(id)) {
            again.insert(job.id);
            draft.put_job(Job { state: JobState::Queued, ended_ms: None, tries: 0, not_before_ms: 0, ..job });
        }
    }
    leave_out(draft, ids, &ended, why);
    again
}

/// [`undo`], and the rows, previews and quotations of the data set go. Its hash stays, so that the same file is known
/// when it comes again, and every checkpoint that saw it is flagged.
pub(super) fn forget(draft: &mut Draft, id: DatasetId, reason: &str) -> Result<String, String> {
    accepted(draft.state(), id)?;
    let touched = touched_by(draft.state(), id);
    let message = undo(draft, id, reason)?;
    for checkpoint in &touched {
        let checkpoint = draft.state().checkpoints[checkpoint].clone();
        let mut marks = checkpoint.marks.clone();
        marks.saw_forgotten.push(id);
        draft.put(Change::PutCheckpoint(Checkpoint { marks, ..checkpoint }));
    }
    let dataset = accepted(draft.state(), id)?;
    draft.put(Change::PutDataset(Dataset { gone: Some(Gone::Forgotten), ..dataset }));
    draft.effect(Effect::RemovePruned);
    draft.warning("dataset_forgotten", id, format!("its rows, previews and quotations go ({reason})"));
    let flagged = if touched.is_empty() { "none".to_string() } else { names(touched.into_iter()) };
    Ok(format!("{message}; its rows are removed, checkpoints that saw them: {flagged}"))
}

/// Checkpoints, abandoned ones too, whose job was trained on a data set, or replayed it.
#[must_use]
pub fn touched_by(state: &State, id: DatasetId) -> Vec<CheckpointId> {
    let visible = |c: &&Checkpoint| !matches!(c.state, CheckpointState::Refused { .. });
    let touched = |c: &&Checkpoint| c.job.and_then(|job| state.jobs.get(&job)).is_some_and(|job| uses(job, id));
    state.checkpoints.values().filter(visible).filter(touched).map(|c| c.id).collect()
}

/// Makes `to` the head. Returns the jobs whose position changed, with their state before.
pub(super) fn go_back(draft: &mut Draft, to: CheckpointId, reason: &str) -> Vec<(JobId, JobState)> {
    revoke(draft);
    let chain = chain_of(draft.state(), to);
    for checkpoint in draft.state().checkpoints.values().cloned().collect::<Vec<_>>() {
        let was = checkpoint.marks.abandoned.clone();
        let now = if chain.contains(&checkpoint.id) { None } else { was.clone().or_else(|| Some(reason.to_string())) };
        let counts = !matches!(checkpoint.state, CheckpointState::Refused { .. });
        if counts && was != now {
            let marks = Marks { abandoned: now, ..checkpoint.marks.clone() };
            draft.put(Change::PutCheckpoint(Checkpoint { marks, ..checkpoint }));
        }
    }
    let mut moved = Vec::new();
    for job in draft.state().jobs.values().cloned().collect::<Vec<_>>() {
        let last = chain.iter().rev().map(|id| &draft.state().checkpoints[id]).find(|c| c.job == Some(job.id));
        let (position, ends_job) = last.map_or((Position::default(), false), |c| (c.position.clone(), c.ends_job));
        if position.job_step != job.position.job_step {
            moved.push((job.id, job.state.clone()));
            let moved_job = at_position(job, position, ends_job, reason);
            draft.put_job(moved_job);
        }
    }
    end_doubled(draft);
    choose_champion(draft, &chain, to, reason);
    moved
}

/// A job that waits while the chain holds rows of its data sets by another job, of which it was made when a data set was
/// taken out of that one, would train them twice: it ends.
fn end_doubled(draft: &mut Draft) {
    let state = draft.state();
    let begun = state.jobs.values().filter(|job| job.position.rows_trained > 0);
    let by: BTreeMap<DatasetId, JobId> = begun.flat_map(|job| job.datasets.iter().map(|id| (*id, job.id))).collect();
    let waits = |job: &&Job| job.state.is_open() && job.position.rows_trained == 0;
    let holder = |job: &Job| job.datasets.iter().find_map(|id| by.get(id)).copied();
    let doubled: Vec<(Job, JobId)> =
        state.jobs.active().filter(waits).filter_map(|job| Some((job.clone(), holder(job)?))).collect();
    for (job, holder) in doubled {
        let (id, reason) = (job.id, format!("{holder} trained its rows"));
        let state = JobState::Rewound { reason: reason.clone() };
        draft.put_job(Job { state, ended_ms: Some(draft.now), progress: None, skip_reason: None, ..job });
        draft.info("job_rewound", id, reason);
    }
}

fn at_position(job: Job, position: Position, ends_job: bool, reason: &str) -> Job {
    let state = match &job.state {
        JobState::Queued | JobState::Running => JobState::Queued,
        JobState::Completed | JobState::Skipped { .. } | JobState::Rewound { .. } if ends_job => JobState::Completed,
        JobState::Completed | JobState::Skipped { .. } | JobState::Rewound { .. } => {
            JobState::Rewound { reason: reason.to_string() }
        }
        state @ (JobState::Failed { .. } | JobState::Cancelled) => state.clone(),
    };
    let begun = position.job_step > 0;
    // A job that begins anew takes the values of now (`device::start_slice`); should the chain be gone back to, it goes
    // on with those of then.
    let started_ms = job.started_ms.filter(|_| begun);
    Job { state, position, started_ms, progress: None, skip_reason: None, ..job }
}

/// A champion that is abandoned makes way for the newest one in the chain that was promoted.
fn choose_champion(draft: &mut Draft, chain: &BTreeSet<CheckpointId>, to: CheckpointId, reason: &str) {
    let state = draft.state();
    if state.champion.is_none_or(|champion| chain.contains(&champion)) {
        return;
    }
    let here = |id: &&CheckpointId| state.checkpoints[id].state == CheckpointState::Published;
    let promoted = |id: &&CheckpointId| state.judgements.get(id).is_some_and(|j| j.outcome == Outcome::Promote);
    let sound = |id: &&CheckpointId| !deployment::was_rolled_back(state, **id);
    let sound_ones = || chain.iter().rev().filter(here).filter(sound);
    let champion = sound_ones().find(promoted).or_else(|| sound_ones().find(|id| **id <= to)).copied().unwrap_or(to);
    draft.put(Change::SetChampion { checkpoint: Some(champion) });
    draft.info("champion_chosen", champion, reason);
    deployment::want(draft, champion, reason);
}

/// Jobs that have one of the data sets among their own, or replay it and are not begun: they go on without. Of those that
/// are not open, only jobs that had `ended` until now are wanted: the rest of an older one is another job's by now.
fn leave_out(draft: &mut Draft, ids: &[DatasetId], ended: &BTreeSet<JobId>, reason: &str) {
    let concerned = |job: &&Job| ids.iter().any(|id| uses(job, *id));
    for job in draft.state().jobs.values().filter(concerned).cloned().collect::<Vec<_>>() {
        let was_wanted =
            job.state.is_open() || (matches!(job.state, JobState::Rewound { .. }) && ended.contains(&job.id));
        let others: Vec<DatasetId> = job.datasets.iter().copied().filter(|other| !ids.contains(other)).collect();
        if others.len() == job.datasets.len() {
            if job.state.is_open() && job.position.job_step == 0 {
                draft.put_job(Job { settings: None, replay: None, started_ms: None, ..job });
            }
            continue;
        }
        let (priority, ended_ms) = (job.priority, Some(draft.now));
        if was_wanted {
            let state = JobState::Rewound { reason: reason.to_string() };
            draft.put_job(Job { state, ended_ms, progress: None, skip_reason: None, ..job });
        }
        if was_wanted && !others.is_empty() {
            let new = JobId(draft.next(|counters| &mut counters.job));
            draft.put_job(Job::new(new, others, priority, draft.now));
        }
    }
}

/// The worker of a training lease is ended, without blame; what it says from now on is refused.
fn revoke(draft: &mut Draft) {
    let trains = |lease: &Lease| matches!(lease.work, Work::Train { .. }) && !lease.delivered;
    let Some(lease) = draft.state().lease.clone().filter(trains) else { return };
    let reason = "training goes back".to_string();
    draft.effect(Effect::KillWorker { token: lease.token, reason });
    let Work::Train { job } = lease.work else { return };
    if let Some(job) = draft.state().jobs.get(&job).cloned() {
        draft.put_job(Job { progress: None, ..job });
    }
    draft.put(Change::SetLease { lease: Some(Lease { delivered: true, ..lease }) });
}

fn trains_with(state: &State, lease: &Lease, id: DatasetId) -> bool {
    let Work::Train { job } = &lease.work else { return false };
    state.jobs.get(job).is_some_and(|job| uses(job, id))
}

fn uses(job: &Job, id: DatasetId) -> bool {
    job.datasets.contains(&id) || job.replay.as_ref().is_some_and(|replay| replay.datasets.contains(&id))
}

/// The newest ancestor whose files are here. The base model always is.
fn last_before(state: &State, first: CheckpointId) -> Option<CheckpointId> {
    let mut at = state.checkpoints.get(&first)?.parent?;
    while state.checkpoints.get(&at)?.state != CheckpointState::Published {
        at = state.checkpoints[&at].parent?;
    }
    Some(at)
}

/// A checkpoint and its ancestors.
fn chain_of(state: &State, head: CheckpointId) -> BTreeSet<CheckpointId> {
    let mut chain = BTreeSet::from([head]);
    let mut at = head;
    while let Some(parent) = state.checkpoints.get(&at).and_then(|c| c.parent) {
        // A ledger that went in a circle would be no chain.
        if !chain.insert(parent) {
            break;
        }
        at = parent;
    }
    chain
}

fn accepted(state: &State, id: DatasetId) -> Result<Dataset, String> {
    let dataset = state.datasets.get(&id).ok_or_else(|| format!("there is no {id}"))?;
    match dataset.state {
        DatasetState::Accepted => Ok(dataset.clone()),
        _ => Err(format!("{id} was never accepted, so nothing was trained on it")),
    }
}

fn names_or_nothing(jobs: &BTreeSet<JobId>) -> String {
    if jobs.is_empty() { "nothing".to_string() } else { names(jobs.iter()) }
}

fn names(ids: impl Iterator<Item = impl std::fmt::Display>) -> String {
    ids.map(|id| id.to_string()).collect::<Vec<_>>().join(", ")
}
