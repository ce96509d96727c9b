//! Deployment by hand, and its history.

use crate::commands::control::{ReasonArgs, send};
use crate::exit::UsageError;
use crate::output;
use crate::workspace::{Workspace, now_ms};
use anyhow::Result;
use clap::Args;
use hone_pipeline::event::Command;
use hone_pipeline::ids::CheckpointId;
use hone_pipeline::state::{Deployment, DeploymentState};

/// Flags of `hone deploy`.
#[derive(Args, Debug)]
pub struct DeployArgs {
    /// The checkpoint; the champion when absent.
    id: Option<String>,
    /// Why; kept with the deployment.
    #[arg(long, default_value = "by hand")]
    reason: String,
}

/// `hone deploy`.
pub fn deploy(ws: &Workspace, args: &DeployArgs) -> Result<()> {
    let checkpoint = match &args.id {
        Some(id) => {
            Some(id.parse::<CheckpointId>().map_err(|error| UsageError(format!("read the checkpoint's id: {error}")))?)
        }
        None => None,
    };
    send(ws, Command::Deploy { checkpoint, reason: args.reason.clone() })
}

/// `hone rollback`.
pub fn rollback(ws: &Workspace, args: &ReasonArgs) -> Result<()> {
    send(ws, Command::Rollback { reason: args.reason.clone() })
}

/// `hone deployments`.
pub fn list(ws: &Workspace) -> Result<()> {
    let state = ws.state()?;
    if ws.json {
        output::json(&state.deployments.values().collect::<Vec<_>>());
        return Ok(());
    }
    if state.deployments.is_empty() {
        output::line("nothing was deployed yet");
        return Ok(());
    }
    for live in state.deployments.values().filter(|d| d.state == DeploymentState::Live) {
        output::line(&format!("serving: {}", in_words(live, now_ms())));
    }
    let rows: Vec<Vec<String>> = state
        .deployments
        .values()
        .rev()
        .map(|d| {
            let took =
                d.steps.last().map_or("-".to_string(), |(_, at)| format!("{} ms", at.saturating_sub(d.created_ms)));
            vec![
                d.id.to_string(),
                d.checkpoint.to_string(),
                d.target.clone(),
                describe(&d.state),
                took,
                output::excerpt(&d.reason, 80),
            ]
        })
        .collect();
    output::table(&["deployment", "checkpoint", "target", "state", "took", "reason"], &rows);
    Ok(())
}

/// What is deployed where, how far it is, since when, how long each step took, and why.
#[must_use]
pub fn in_words(deployment: &Deployment, now_ms: u64) -> String {
    let mut started_ms = deployment.created_ms;
    let mut steps = Vec::new();
    for (step, ended_ms) in &deployment.steps {
        steps.push(format!("{step} {} ms", ended_ms.saturating_sub(started_ms)));
        started_ms = *ended_ms;
    }
    let since = match (&deployment.state, live_for(deployment, now_ms)) {
        (DeploymentState::Live, Some(time)) => format!(" for {time}"),
        (_, Some(time)) => format!(", went live {time} ago"),
        (_, None) => String::new(),
    };
    let watched = if deployment.watch_until_ms.is_some() { ", still watched" } else { "" };
    let Deployment { id, checkpoint, target, reason, .. } = deployment;
    let steps = if steps.is_empty() { String::new() } else { format!(" ({})", steps.join(", ")) };
    format!("{checkpoint} on {target} by {id}: {}{since}{watched}{steps}; why: {reason}", describe(&deployment.state))
}

/// How long ago it went live.
#[must_use]
pub fn live_for(deployment: &Deployment, now_ms: u64) -> Option<String> {
    deployment.live_since_ms.map(|since_ms| output::duration(now_ms.saturating_sub(since_ms) as f64 / 1000.0))
}

fn describe(state: &DeploymentState) -> String {
    match state {
        DeploymentState::Pending => "pending".to_string(),
        DeploymentState::Live => "live".to_string(),
        DeploymentState::Superseded => "superseded".to_string(),
        DeploymentState::Failed { reason } => format!("failed: {}", output::excerpt(reason, 60)),
    }
}
