//! Evaluations, and what follows from them: judgements and the champion.
//!
//! The first champion is the base model, once its evaluation is final (also when it could not be evaluated:
//! something must be served). Every newer checkpoint is judged once, when its evaluation is final. Where the
//! suites have changed since the champion's evaluation, the champion is evaluated again first. A failed
//! evaluation never blocks training: a crash is tried again after a wait, up to `max_tries` in all.

use super::device::in_force;
use super::draft::Draft;
use super::{commands, deployment, is_due, rewind};
use crate::compare;
use crate::config::OnRegression;
use crate::event::WorkerExit;
use crate::ids::{CheckpointId, LeaseToken};
use crate::state::{
    Change, Checkpoint, CheckpointState, Evaluation, Judgement, Lease, Outcome, State, SuiteResult, TimeMs, Work,
};

pub(super) fn evaluated(draft: &mut Draft, token: LeaseToken, evaluation: &Evaluation) {
    let id = evaluation.checkpoint;
    let Some(lease) = in_force(draft.state(), token).cloned() else {
        return draft.warning("stale_worker", token, format!("results for {id} refused: the lease is not in force"));
    };
    let manifest_hash = draft.state().checkpoints.get(&id).map(|c| c.manifest_hash.as_str());
    if lease.work != (Work::Evaluate { checkpoint: id }) || manifest_hash != Some(&evaluation.manifest_hash) {
        return draft.error("evaluation_refused", id, "the results are of other files than the checkpoint's");
    }
    let (at_ms, until_ms) = (draft.now, draft.now + draft.settings.lease_ms);
    let evaluation = Evaluation { at_ms, lease: token.0, tries: 0, retry_at_ms: None, ..evaluation.clone() };
    let message = summary(&evaluation);
    draft.put(Change::PutEvaluation(evaluation));
    draft.put(Change::SetLease { lease: Some(Lease { delivered: true, until_ms, ..lease }) });
    draft.info("checkpoint_evaluated", id, message);
}

/// An evaluation's worker ended without results.
pub(super) fn ended_without(draft: &mut Draft, id: CheckpointId, lease: &Lease, exit: &WorkerExit) {
    // Ended by us, or by a host without room: it is done again.
    if lease.asked_to_yield || (draft.state().disk_low && *exit != WorkerExit::Done) {
        return;
    }
    let Some(checkpoint) = draft.state().checkpoints.get(&id) else { return };
    let old = draft.state().evaluations.get(&id);
    let tries = old.filter(|e| e.error.is_some()).map_or(0, |e| e.tries) + 1;
    let (reason, transient) = match exit {
        WorkerExit::Done => ("the evaluation ended without results".to_string(), true),
        WorkerExit::Failed { reason } => (reason.clone(), false),
        WorkerExit::Crashed { reason } => (format!("the evaluation crashed: {reason}"), true),
        WorkerExit::OutOfMemory { reason } => (format!("the evaluation ran out of memory: {reason}"), true),
    };
    let again = transient && tries < draft.settings.max_tries;
    let evaluation = Evaluation {
        checkpoint: id,
        manifest_hash: checkpoint.manifest_hash.clone(),
        template_hash: old.map(|e| e.template_hash.clone()).unwrap_or_default(),
        dtype: old.map(|e| e.dtype.clone()).unwrap_or_default(),
        engine: old.map(|e| e.engine.clone()).unwrap_or_default(),
        suites: old.map(|e| e.suites.clone()).unwrap_or_default(),
        speed: old.and_then(|e| e.speed),
        at_ms: draft.now,
        lease: lease.token.0,
        error: Some(reason.clone()),
        tries,
        retry_at_ms: again.then(|| draft.retry_at(tries)),
    };
    draft.put(Change::PutEvaluation(evaluation));
    let next = if again { "it is tried again" } else { "given up" };
    draft.warning("evaluation_failed", id, format!("{reason}; {next}"));
}

/// The checkpoint to evaluate now, if any.
pub(super) fn next_due(state: &State, now: TimeMs) -> Option<CheckpointId> {
    let due = |id: &CheckpointId| match state.evaluations.get(id) {
        None => true,
        Some(evaluation) => evaluation.retry_at_ms.is_some_and(|at| is_due(at, now)),
    };
    let published = |id: &CheckpointId| is_published(state, *id);
    let first = first_champion(state).filter(due);
    let newest = || state.latest_checkpoint().map(|c| c.id).filter(due);
    let champion = || state.champion.filter(published).filter(due);
    let stale = || {
        let champion = state.champion.filter(published)?;
        let waits = |id: CheckpointId| champion_is_stale(state, champion, id);
        // One that waits for its next try is not started by this door.
        let resting = state.evaluations.get(&champion).is_some_and(|e| e.retry_at_ms.is_some());
        (!resting && challengers(state).into_iter().any(waits)).then_some(champion)
    };
    first.or_else(newest).or_else(champion).or_else(stale)
}

/// Judges every checkpoint that can be judged now, oldest first.
pub(super) fn judge_all(draft: &mut Draft) {
    if let Some(first) = first_champion(draft.state()).filter(|id| is_final(draft.state(), *id)) {
        judge(draft, first);
    }
    if draft.state().champion.is_none() {
        return;
    }
    for id in challengers(draft.state()) {
        let Some(champion) = draft.state().champion.filter(|champion| *champion < id) else { continue };
        // One before it may have taken it back.
        if draft.state().checkpoints[&id].marks.abandoned.is_some() {
            continue;
        }
        if !champion_is_stale(draft.state(), champion, id) {
            judge(draft, id);
        }
    }
}

fn judge(draft: &mut Draft, challenger: CheckpointId) {
    let state = draft.state();
    let champion = state.champion;
    let evaluation = &state.evaluations[&challenger];
    let champion_evaluation =
        champion.map(|id| state.evaluations.get(&id).cloned().unwrap_or_else(|| absent(state, id)));
    let past = state.judgements.values();
    let judgement = compare::judge(evaluation, champion_evaluation.as_ref(), past, draft.settings, draft.now);
    let (outcome, reason) = (judgement.outcome, judgement.reason.clone());
    draft.put(Change::PutJudgement(judgement));
    if outcome == Outcome::Promote {
        draft.put(Change::SetChampion { checkpoint: Some(challenger) });
        draft.info("promoted", challenger, &reason);
        deployment::want(draft, challenger, &reason);
    } else {
        draft.info("not_promoted", challenger, reason);
        tell_standstill(draft);
    }
    watch_for_regression(draft, challenger);
}

/// People are told when one checkpoint after the other comes to nothing, and again after as many more.
fn tell_standstill(draft: &mut Draft) {
    let (Some(champion), limit) = (draft.state().champion, draft.settings.alert_after) else { return };
    let failed = |j: &&Judgement| j.champion == Some(champion) && j.outcome != Outcome::Promote;
    let num_failed = draft.state().judgements.values().filter(failed).count();
    if limit > 0 && num_failed > 0 && num_failed.is_multiple_of(limit) {
        let message = format!("{num_failed} checkpoints in a row did not take its place (`hone compare` says why)");
        draft.warning("no_promotion", champion, message);
    }
}

/// A checkpoint that is surely worse than the one it was trained from is a matter for people, whoever is champion.
fn watch_for_regression(draft: &mut Draft, id: CheckpointId) {
    let state = draft.state();
    let parent = state.checkpoints.get(&id).and_then(|checkpoint| checkpoint.parent);
    let evaluations = (state.evaluations.get(&id), parent.and_then(|parent| state.evaluations.get(&parent)));
    let (Some(evaluation), Some(of_parent)) = evaluations else { return };
    let Some(reason) = compare::regression(evaluation, of_parent, draft.settings) else { return };
    let on_regression = draft.settings.on_regression;
    if on_regression == OnRegression::Continue {
        return draft.warning("regressed", id, format!("{reason}; training goes on"));
    }
    if on_regression == OnRegression::Hold || !rewind::take_back(draft, id, &reason) {
        commands::hold(draft, id, &reason);
    }
}

/// The checkpoint that becomes champion when there is none yet: the oldest.
fn first_champion(state: &State) -> Option<CheckpointId> {
    if state.champion.is_some() {
        return None;
    }
    state.checkpoints.values().find(|c| c.state == CheckpointState::Published).map(|c| c.id)
}

/// Published checkpoints newer than the champion with a final evaluation and no judgement, oldest first.
fn challengers(state: &State) -> Vec<CheckpointId> {
    let open = |c: &&Checkpoint| {
        c.state == CheckpointState::Published
            && c.marks.abandoned.is_none()
            && state.champion.is_none_or(|champion| champion < c.id)
            && !state.judgements.contains_key(&c.id)
            && is_final(state, c.id)
    };
    state.checkpoints.values().filter(open).map(|c| c.id).collect()
}

/// Whether the champion must be evaluated (again) before this challenger can be judged.
fn champion_is_stale(state: &State, champion: CheckpointId, challenger: CheckpointId) -> bool {
    let Some(new) = state.evaluations.get(&challenger).filter(|e| e.error.is_none() && !e.suites.is_empty()) else {
        return false;
    };
    if !is_published(state, champion) {
        return false;
    }
    match state.evaluations.get(&champion) {
        None => true,
        Some(old) if old.retry_at_ms.is_some() => true,
        Some(old) => (old.lease, old.at_ms) < (new.lease, new.at_ms) && !measured_alike(old, new),
    }
}

/// Whether every suite of `new` was measured for `old` under the same fingerprint but for the checkpoint.
fn measured_alike(old: &Evaluation, new: &Evaluation) -> bool {
    let alike = |result: &SuiteResult| {
        let other = old.result(&result.suite);
        other.is_some_and(|other| new.fingerprint(result).difference(&old.fingerprint(other)).is_none())
    };
    old.error.is_none() && new.suites.iter().all(alike)
}

fn is_final(state: &State, id: CheckpointId) -> bool {
    state.evaluations.get(&id).is_some_and(|evaluation| evaluation.retry_at_ms.is_none())
}

fn is_published(state: &State, id: CheckpointId) -> bool {
    state.checkpoints.get(&id).is_some_and(|c| c.state == CheckpointState::Published)
}

/// Stands for an evaluation that never was.
fn absent(state: &State, id: CheckpointId) -> Evaluation {
    Evaluation {
        checkpoint: id,
        manifest_hash: state.checkpoints.get(&id).map(|c| c.manifest_hash.clone()).unwrap_or_default(),
        error: Some("it was never evaluated".to_string()),
        ..Evaluation::default()
    }
}

fn summary(evaluation: &Evaluation) -> String {
    match (&evaluation.error, evaluation.suites.as_slice()) {
        (Some(error), _) => format!("could not be evaluated: {error}"),
        (None, []) => "there is no evaluation suite".to_string(),
        (None, suites) => suites.iter().map(SuiteResult::in_words).collect::<Vec<_>>().join("; "),
    }
}
