//! What should be served where. What is wanted on every target is the champion.
//!
//! Per target at most one `Effect::Deploy` is under way. A newer wish supersedes one that is pending; where that
//! one is under way already, the newer waits for its outcome, so that the target never gets two orders at once.
//! A transient failure is tried again after a growing wait without end; any other one is final. Targets do not
//! wait for each other.

use super::draft::Draft;
use super::is_due;
use crate::event::{Effect, WatchOutcome};
use crate::ids::{CheckpointId, DeploymentId};
use crate::state::{Change, CheckpointState, Deployment, DeploymentState, State, TimeMs};

/// Asks for a checkpoint on every configured target.
pub(super) fn want(draft: &mut Draft, checkpoint: CheckpointId, reason: &str) {
    for target in &draft.settings.targets {
        want_on(draft, &target.name, checkpoint, reason);
    }
}

pub(super) fn deployed(draft: &mut Draft, id: DeploymentId, steps: &[(String, TimeMs)]) {
    let Some(deployment) = under_way(draft.state(), id) else { return };
    let live = |d: &&Deployment| d.target == deployment.target && d.state == DeploymentState::Live;
    for old in draft.state().deployments.active().filter(live).cloned().collect::<Vec<_>>() {
        draft.put(Change::PutDeployment(Deployment { state: DeploymentState::Superseded, ..old }));
    }
    let message = format!("{} is served on {}", deployment.checkpoint, deployment.target);
    draft.put(Change::PutDeployment(Deployment {
        state: DeploymentState::Live,
        in_flight: false,
        live_since_ms: Some(draft.now),
        watch_until_ms: (draft.settings.watch_ms > 0).then(|| draft.now + draft.settings.watch_ms),
        steps: steps.to_vec(),
        ..deployment
    }));
    draft.info("deployed", id, message);
    if draft.settings.watch_ms > 0 {
        draft.effect(Effect::Watch { deployment: id });
    }
}

/// The watch window ended. One that was superseded meanwhile is nobody's concern any more.
pub(super) fn watched(draft: &mut Draft, id: DeploymentId, outcome: &WatchOutcome) {
    let is_watched = |d: &&Deployment| d.state == DeploymentState::Live && d.watch_until_ms.is_some();
    let Some(deployment) = draft.state().deployments.get(&id).filter(is_watched).cloned() else { return };
    let (checkpoint, target) = (deployment.checkpoint, deployment.target.clone());
    let seen = Deployment { watch_until_ms: None, ..deployment };
    match outcome {
        WatchOutcome::Well { note } => {
            draft.put(Change::PutDeployment(seen));
            draft.info("watched", id, format!("{checkpoint} serves well on {target}: {note}"));
        }
        WatchOutcome::Unknown { reason } => {
            draft.put(Change::PutDeployment(seen));
            let message = format!("{checkpoint} stays on {target}, and nobody knows how it serves: {reason}");
            draft.error("watch_unknown", id, message);
        }
        WatchOutcome::Misbehaves { reason } => roll_back(draft, seen, reason),
    }
}

/// Whether a checkpoint was live and was then taken back by itself, on whichever target served it last.
pub(super) fn was_rolled_back(state: &State, checkpoint: CheckpointId) -> bool {
    let was_live = |d: &&Deployment| d.checkpoint == checkpoint && d.live_since_ms.is_some();
    let last = state.deployments.values().rev().find(was_live);
    last.is_some_and(|d| matches!(d.state, DeploymentState::Failed { .. }))
}

/// Back to what the target served before. Without such a checkpoint it goes on, and people are told.
fn roll_back(draft: &mut Draft, deployment: Deployment, reason: &str) {
    let (id, checkpoint, target) = (deployment.id, deployment.checkpoint, deployment.target.clone());
    let Some(previous) = draft.state().served_before(&target) else {
        draft.put(Change::PutDeployment(deployment));
        let message =
            format!("{checkpoint} misbehaves on {target}: {reason}; nothing was served there before, so it stays");
        return draft.error("misbehaves", id, message);
    };
    let newer = |d: &&Deployment| d.target == target && d.state == DeploymentState::Pending && d.id != id;
    let newer = draft.state().deployments.active().rev().find(newer).map(|d| d.checkpoint);
    let state = DeploymentState::Failed { reason: format!("rolled back: {reason}") };
    draft.put(Change::PutDeployment(Deployment { state, ..deployment }));
    if let Some(newer) = newer {
        let message = format!("{checkpoint} misbehaves on {target}: {reason}; {newer} is on its way there already");
        return draft.error("rolled_back", id, message);
    }
    let message = format!("{checkpoint} misbehaves on {target}: {reason}; going back to {previous} by itself");
    draft.error("rolled_back", id, message);
    let why = format!("rolled back from {checkpoint} by itself: {reason}");
    if draft.state().champion == Some(checkpoint) {
        draft.put(Change::SetChampion { checkpoint: Some(previous) });
        want(draft, previous, &why);
    } else {
        want_on(draft, &target, previous, &why);
    }
}

pub(super) fn failed(draft: &mut Draft, id: DeploymentId, reason: &str, transient: bool) {
    let Some(mut deployment) = under_way(draft.state(), id) else { return };
    let (checkpoint, target) = (deployment.checkpoint, deployment.target.clone());
    deployment.in_flight = false;
    if deployment.state == DeploymentState::Superseded {
        return draft.put(Change::PutDeployment(deployment));
    }
    deployment.tries += 1;
    deployment.not_before_ms = draft.retry_at(deployment.tries);
    let wait_ms = deployment.not_before_ms - draft.now;
    if transient {
        draft.put(Change::PutDeployment(deployment));
        let message = format!("{checkpoint} is not yet on {target}: {reason}; tried again in {wait_ms} ms");
        draft.warning("deploy_try_failed", id, message);
    } else {
        deployment.state = DeploymentState::Failed { reason: reason.to_string() };
        draft.put(Change::PutDeployment(deployment));
        let message = format!("{checkpoint} cannot be served on {target}, which goes on as before: {reason}");
        draft.error("deploy_failed", id, message);
        back_to_served(draft, checkpoint, &target);
    }
}

/// The target goes on with what it serves; where that was found to misbehave meanwhile, it goes back to what served well. A
/// champion that no target serves or is still to get is none: that checkpoint takes its place again, so that later ones are
/// held against what people are answered by.
fn back_to_served(draft: &mut Draft, checkpoint: CheckpointId, target: &str) {
    let live = draft.state().live_on(target).map(|live| live.checkpoint);
    let Some(served) = live.or_else(|| draft.state().served_before(target)) else { return };
    if live.is_none() {
        want_on(draft, target, served, &format!("{checkpoint} cannot be served"));
    }
    let state = draft.state();
    let wanted = |d: &Deployment| matches!(d.state, DeploymentState::Pending | DeploymentState::Live);
    let is_elsewhere = state.deployments.active().any(|d| d.checkpoint == checkpoint && wanted(d));
    if state.champion != Some(checkpoint) || is_elsewhere {
        return;
    }
    draft.put(Change::SetChampion { checkpoint: Some(served) });
    let message = format!("{checkpoint} can be served nowhere; {served}, which serves, is champion again");
    draft.warning("champion_chosen", served, message);
}

/// Starts every pending deployment that is due and whose target is free.
pub(super) fn start(draft: &mut Draft) {
    let now = draft.now;
    let due = |d: &Deployment| !d.in_flight && is_due(d.not_before_ms, now);
    let pending = |d: &&Deployment| d.state == DeploymentState::Pending && due(d);
    for deployment in draft.state().deployments.active().filter(pending).cloned().collect::<Vec<_>>() {
        let id = deployment.id;
        if !draft.settings.targets.iter().any(|target| target.name == deployment.target) {
            let reason = format!("{} is not a configured target any more", deployment.target);
            let state = DeploymentState::Failed { reason: reason.clone() };
            draft.put(Change::PutDeployment(Deployment { state, ..deployment }));
            draft.warning("deploy_failed", id, reason);
        } else if !is_busy(draft.state(), &deployment.target) {
            draft.put(Change::PutDeployment(Deployment { in_flight: true, ..deployment }));
            draft.effect(Effect::Deploy { deployment: id });
        }
    }
}

/// Starts again what was under way, and asks for the champion where it is neither served nor about to be.
pub(super) fn recover(draft: &mut Draft) {
    for deployment in draft.state().deployments.active().filter(|d| d.in_flight).cloned().collect::<Vec<_>>() {
        draft.put(Change::PutDeployment(Deployment { in_flight: false, ..deployment }));
    }
    let watched = |d: &&Deployment| d.state == DeploymentState::Live && d.watch_until_ms.is_some();
    for id in draft.state().deployments.active().filter(watched).map(|d| d.id).collect::<Vec<_>>() {
        draft.effect(Effect::Watch { deployment: id });
    }
    if let Some(champion) = draft.state().champion {
        want(draft, champion, "the champion was not served here");
    }
}

/// A person's decision: makes the checkpoint champion and asks for it everywhere.
pub(super) fn deploy_by_hand(
    draft: &mut Draft,
    checkpoint: Option<CheckpointId>,
    reason: &str,
) -> Result<String, String> {
    let id = checkpoint.or(draft.state().champion).ok_or("there is no champion yet; name a checkpoint")?;
    let known = draft.state().checkpoints.get(&id).ok_or_else(|| format!("{id} is not in the ledger"))?;
    if known.state != CheckpointState::Published {
        return Err(format!("{id} has no files here"));
    }
    if draft.settings.targets.is_empty() {
        return Err("no deployment target is configured".to_string());
    }
    choose(draft, id, &format!("by hand: {reason}"));
    Ok(format!("{id} is wanted on every target"))
}

/// A person's decision: back to what each target served before. What the first target goes back to is champion.
pub(super) fn rollback_by_hand(draft: &mut Draft, reason: &str) -> Result<String, String> {
    let previous: Vec<_> =
        draft.settings.targets.iter().map(|t| (&t.name, draft.state().served_before(&t.name))).collect();
    let champion = previous.iter().find_map(|(_, checkpoint)| *checkpoint);
    let champion = champion.ok_or("no target has served another checkpoint before")?;
    draft.put(Change::SetChampion { checkpoint: Some(champion) });
    for (target, checkpoint) in previous {
        want_on(draft, target, checkpoint.unwrap_or(champion), &format!("rolled back by hand: {reason}"));
    }
    draft.warning("rolled_back", champion, format!("rolled back to {champion} by hand: {reason}"));
    Ok(format!("going back to {champion}"))
}

/// Makes a checkpoint champion and asks for it everywhere.
pub(super) fn choose(draft: &mut Draft, id: CheckpointId, reason: &str) {
    if draft.state().champion != Some(id) {
        draft.put(Change::SetChampion { checkpoint: Some(id) });
        draft.info("champion_chosen", id, reason);
    }
    // A person does not wait for the back-off.
    let resting =
        |d: &&Deployment| d.state == DeploymentState::Pending && d.checkpoint == id && d.not_before_ms > draft.now;
    for deployment in draft.state().deployments.active().filter(resting).cloned().collect::<Vec<_>>() {
        draft.put(Change::PutDeployment(Deployment { not_before_ms: 0, ..deployment }));
    }
    want(draft, id, reason);
}

fn want_on(draft: &mut Draft, target: &str, checkpoint: CheckpointId, reason: &str) {
    let here = |d: &&Deployment| d.target == target;
    let pending = |d: &&Deployment| d.state == DeploymentState::Pending;
    let state = draft.state();
    if state.deployments.active().filter(here).filter(pending).any(|d| d.checkpoint == checkpoint) {
        return;
    }
    let served = state.live_on(target).is_some_and(|live| live.checkpoint == checkpoint);
    let older: Vec<_> = state.deployments.active().filter(here).filter(pending).cloned().collect();
    let busy = is_busy(state, target);
    for deployment in older {
        draft.put(Change::PutDeployment(Deployment { state: DeploymentState::Superseded, ..deployment }));
    }
    if served && !busy {
        return;
    }
    let deployment = Deployment {
        id: DeploymentId(draft.next(|counters| &mut counters.deployment)),
        checkpoint,
        target: target.to_string(),
        state: DeploymentState::Pending,
        tries: 0,
        not_before_ms: 0,
        reason: reason.to_string(),
        created_ms: draft.now,
        steps: Vec::new(),
        in_flight: false,
        live_since_ms: None,
        watch_until_ms: None,
    };
    draft.put(Change::PutDeployment(deployment));
}

fn is_busy(state: &State, target: &str) -> bool {
    state.deployments.active().any(|d| d.target == target && d.in_flight)
}

fn under_way(state: &State, id: DeploymentId) -> Option<Deployment> {
    state.deployments.get(&id).filter(|deployment| deployment.in_flight).cloned()
}
