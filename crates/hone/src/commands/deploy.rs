//! Deployment by hand, and its history.

use crate::commands::control::{ReasonArgs, send};
use crate::exit::UsageError;
use crate::output;
use crate::workspace::Workspace;
use anyhow::Result;
use clap::Args;
use hone_pipeline::event::Command;
use hone_pipeline::ids::CheckpointId;
use hone_pipeline::state::DeploymentState;

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

fn describe(state: &DeploymentState) -> String {
    match state {
        DeploymentState::Pending => "pending".to_string(),
        DeploymentState::Live => "live".to_string(),
        DeploymentState::Superseded => "superseded".to_string(),
        DeploymentState::Failed { reason } => format!("failed: {}", output::excerpt(reason, 60)),
    }
}
