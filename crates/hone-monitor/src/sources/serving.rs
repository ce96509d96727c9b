//! `deployments`: `{targets: [{target, live, pending}], items: [deployment]}`, newest first, with deployments as `{id,
//! checkpoint, target, state, reason, error, tries, in_flight, created_ms, live_since_ms, steps: [[name, at_ms]]}`.

use super::tag;
use hone_pipeline::state::{Deployment, DeploymentState, State};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Deployments listed.
const MAX_DEPLOYMENTS: usize = 30;

pub(super) fn deployments(state: &State) -> Value {
    let names: BTreeSet<&str> = state.deployments.values().map(|deployment| deployment.target.as_str()).collect();
    let targets = names.into_iter().map(|target| {
        let is_pending = |d: &&Deployment| d.target == target && d.state == DeploymentState::Pending;
        json!({
            "target": target,
            "live": state.live_on(target).map(entry),
            "pending": state.deployments.values().rev().find(is_pending).map(entry),
        })
    });
    json!({
        "targets": targets.collect::<Vec<_>>(),
        "items": state.deployments.values().rev().take(MAX_DEPLOYMENTS).map(entry).collect::<Vec<_>>(),
    })
}

pub(super) fn entry(deployment: &Deployment) -> Value {
    let error = match &deployment.state {
        DeploymentState::Failed { reason } => Some(reason),
        _ => None,
    };
    json!({
        "id": deployment.id.to_string(),
        "checkpoint": deployment.checkpoint.to_string(),
        "target": deployment.target,
        "state": tag(&deployment.state),
        "reason": deployment.reason,
        "error": error,
        "tries": deployment.tries,
        "in_flight": deployment.in_flight,
        "created_ms": deployment.created_ms,
        "live_since_ms": deployment.live_since_ms,
        "steps": deployment.steps,
    })
}
