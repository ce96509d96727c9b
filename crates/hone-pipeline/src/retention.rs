//! Which checkpoints stay on disk, and which go. Pure.
//!
//! Checkpoints older than `keep_ms` go; while all together are larger than `max_total_bytes`, abandoned ones go
//! first and then the oldest. What [`protection`] names a reason for never goes, whatever the limits say. The record
//! of a pruned checkpoint stays in the ledger for ever.

#[cfg(test)]
mod tests;

use crate::config::{Retention, Target};
use crate::ids::{CheckpointId, DatasetId};
use crate::state::{Checkpoint, CheckpointState, Dataset, DatasetState, DeploymentState, Job, State, TimeMs, Work};
use std::collections::BTreeMap;

/// What is to happen to the checkpoints on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// These go, each with the sentence why, in the order in which they were chosen.
    pub prune: Vec<(CheckpointId, String)>,
    /// These stay although a limit asks for them: why.
    pub kept: Vec<(CheckpointId, &'static str)>,
    /// Bytes of all that stay.
    pub total_bytes: u64,
}

/// Decides about every published checkpoint that has a folder of its own. `sizes` are the bytes of the folders; one
/// that was not measured counts as empty and goes by its age only.
#[must_use]
pub fn plan(
    state: &State,
    retention: &Retention,
    targets: &[Target],
    sizes: &BTreeMap<CheckpointId, u64>,
    now: TimeMs,
) -> Plan {
    let size = |id: CheckpointId| sizes.get(&id).copied().unwrap_or(0);
    let on_disk = |c: &&Checkpoint| c.state == CheckpointState::Published && c.parent.is_some();
    let all: Vec<&Checkpoint> = state.checkpoints.values().filter(on_disk).collect();
    let mut plan = Plan { total_bytes: all.iter().map(|c| size(c.id)).sum(), ..Plan::default() };
    let mut free: Vec<&Checkpoint> = Vec::new();
    for checkpoint in all {
        match protection(state, retention, targets, checkpoint, now) {
            Some(reason) => plan.kept.push((checkpoint.id, reason)),
            None => free.push(checkpoint),
        }
    }
    free.sort_by_key(|c| (c.marks.abandoned.is_none(), c.id));
    for checkpoint in free {
        let age_ms = now.saturating_sub(checkpoint.created_ms);
        let reason = if age_ms > retention.keep_ms {
            format!("older than {} h", retention.keep_ms / 3_600_000)
        } else if plan.total_bytes > retention.max_total_bytes {
            format!("all checkpoints together take more than {} GB", retention.max_total_bytes / 1_000_000_000)
        } else {
            continue;
        };
        plan.total_bytes -= size(checkpoint.id);
        plan.prune.push((checkpoint.id, reason));
    }
    let tight = plan.total_bytes > retention.max_total_bytes;
    let asked_for =
        |id: CheckpointId| tight || now.saturating_sub(state.checkpoints[&id].created_ms) > retention.keep_ms;
    plan.kept.retain(|(id, _)| asked_for(*id));
    plan
}

/// Data sets whose rows go: accepted, all their jobs ended more than `keep_datasets_ms` ago. The reports stay.
#[must_use]
pub fn old_datasets(state: &State, retention: &Retention, now: TimeMs) -> Vec<DatasetId> {
    let keep_ms = retention.keep_datasets_ms;
    if keep_ms == 0 {
        return Vec::new();
    }
    let old = |d: &&Dataset| {
        d.state == DatasetState::Accepted && d.gone.is_none() && now.saturating_sub(d.arrived_ms) > keep_ms
    };
    let used = |d: &&Dataset| {
        let recent = |job: &Job| job.ended_ms.is_none_or(|ended| now.saturating_sub(ended) <= keep_ms);
        let replays = |job: &Job| job.replay.as_ref().is_some_and(|replay| replay.datasets.contains(&d.id));
        let uses = |job: &Job| job.datasets.contains(&d.id) || (job.state.is_open() && replays(job));
        state.jobs.values().any(|job| recent(job) && uses(job))
    };
    state.datasets.values().filter(old).filter(|d| !used(d)).map(|d| d.id).collect()
}

/// Why the files of a checkpoint may not go now; `None` when they may.
#[must_use]
pub fn protection(
    state: &State,
    retention: &Retention,
    targets: &[Target],
    checkpoint: &Checkpoint,
    now: TimeMs,
) -> Option<&'static str> {
    let id = checkpoint.id;
    let wanted = |d: &crate::state::Deployment| {
        d.checkpoint == id && (d.in_flight || matches!(d.state, DeploymentState::Pending | DeploymentState::Live))
    };
    let evaluated = |work: &Work| *work == Work::Evaluate { checkpoint: id };
    match () {
        () if checkpoint.parent.is_none() => Some("the base model"),
        () if checkpoint.marks.pinned.is_some() => Some("pinned"),
        () if state.latest_checkpoint().is_some_and(|latest| latest.id == id) => Some("the latest"),
        () if state.champion == Some(id) => Some("the champion"),
        () if best(state) == Some(id) => Some("the best"),
        () if state.is_left_at(id) => Some("what another lineage goes on from"),
        () if state.deployments.values().any(wanted) => Some("served or about to be"),
        () if targets.iter().any(|t| state.served_before(&t.name) == Some(id)) => Some("what a rollback goes back to"),
        () if state.lease.as_ref().is_some_and(|lease| evaluated(&lease.work)) => Some("being evaluated"),
        () if now.saturating_sub(checkpoint.created_ms) < retention.min_age_ms => Some("younger than an hour"),
        () => None,
    }
}

/// The published checkpoint with the lowest loss over all suites, out of those that were measured on exactly the
/// suites of the champion's evaluation; without such an evaluation, out of all.
fn best(state: &State) -> Option<CheckpointId> {
    let suites = |id: &CheckpointId| {
        let evaluation = state.evaluations.get(id)?;
        Some(evaluation.suites.iter().map(|s| (s.suite.as_str(), s.suite_hash.as_str())).collect::<Vec<_>>())
    };
    let measure = state.champion.as_ref().and_then(suites);
    let goes_on = |c: &Checkpoint| c.state == CheckpointState::Published && c.marks.abandoned.is_none();
    let is_here = |id: &CheckpointId| state.checkpoints.get(id).is_some_and(goes_on);
    let alike = |id: &CheckpointId| measure.is_none() || suites(id) == measure;
    let of = |e: &crate::state::Evaluation| {
        let tokens: u64 = e.suites.iter().map(|s| s.trained_tokens).sum();
        let nll: f64 = e.suites.iter().map(|s| s.mean_nll * s.trained_tokens as f64).sum();
        (tokens > 0 && e.error.is_none()).then(|| nll / tokens as f64).filter(|loss| loss.is_finite())
    };
    let here = state.evaluations.values().filter(|e| is_here(&e.checkpoint) && alike(&e.checkpoint));
    let measured = here.filter_map(|e| of(e).map(|loss| (loss, e.checkpoint)));
    measured.min_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1))).map(|(_, id)| id)
}
