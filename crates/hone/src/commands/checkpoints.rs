//! The ledger: `hone checkpoints`.

mod files;

use crate::commands::{control, scores};
use crate::exit::UsageError;
use crate::output;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use hone_pipeline::event::Command;
use hone_pipeline::ids::CheckpointId;
use hone_pipeline::state::{Checkpoint, CheckpointState, DeploymentState, Evaluation, State};
use serde_json::{Value, json};
use std::path::PathBuf;

/// `hone checkpoints [VERB]`.
#[derive(Args, Debug)]
pub struct CheckpointsArgs {
    #[command(subcommand)]
    verb: Option<CheckpointsVerb>,
}

#[derive(Subcommand, Debug)]
enum CheckpointsVerb {
    /// One checkpoint, whole.
    Show {
        /// Its number.
        id: String,
    },
    /// Hold the ledger against the disk: manifests and hashes.
    Verify {
        /// Only this one.
        id: Option<String>,
    },
    /// What retention takes away now, and what stays although a limit asks for it.
    Prune {
        /// Only say it.
        #[arg(long)]
        dry_run: bool,
    },
    /// Copy a checkpoint, verified, to a new folder.
    Export {
        /// Its number.
        id: String,
        /// The folder; it must not exist yet.
        dir: PathBuf,
    },
    /// Keep the files of a checkpoint whatever retention says.
    Pin {
        /// Its number.
        id: String,
        /// Why; kept in the ledger.
        #[arg(long, default_value = "by hand")]
        reason: String,
    },
    /// Leave a checkpoint to retention again.
    Unpin {
        /// Its number.
        id: String,
    },
}

/// `hone checkpoints …`.
pub fn run(ws: &Workspace, args: &CheckpointsArgs) -> Result<()> {
    match &args.verb {
        None => list(ws),
        Some(CheckpointsVerb::Show { id }) => show(ws, id),
        Some(CheckpointsVerb::Verify { id }) => files::verify(ws, id.as_deref()),
        Some(CheckpointsVerb::Prune { dry_run }) => files::prune(ws, *dry_run),
        Some(CheckpointsVerb::Export { id, dir }) => files::export(ws, id, dir),
        Some(CheckpointsVerb::Pin { id, reason }) => {
            let checkpoint = find(&ws.state()?, id)?.id;
            control::send(ws, Command::Pin { checkpoint, reason: reason.clone() })
        }
        Some(CheckpointsVerb::Unpin { id }) => {
            let checkpoint = find(&ws.state()?, id)?.id;
            control::send(ws, Command::Unpin { checkpoint })
        }
    }
}

fn list(ws: &Workspace) -> Result<()> {
    let state = ws.state()?;
    let entries: Vec<Value> = state.checkpoints.values().map(|c| entry(&state, c)).collect();
    if ws.json {
        output::json(&entries);
        return Ok(());
    }
    let rows: Vec<Vec<String>> = state.checkpoints.values().rev().map(|c| row(&state, c)).collect();
    output::table(
        &["checkpoint", "state", "from", "train loss", "eval loss", "token acc", "verdict", "serving"],
        &rows,
    );
    Ok(())
}

pub(super) fn entry(state: &State, checkpoint: &Checkpoint) -> Value {
    json!({
        "checkpoint": checkpoint,
        "evaluation": state.evaluations.get(&checkpoint.id).map(summary),
        "judgement": state.judgements.get(&checkpoint.id),
        "is_champion": state.champion == Some(checkpoint.id),
        "live_on": live_on(state, checkpoint.id),
    })
}

/// An evaluation without what it has per row.
#[must_use]
pub fn summary(evaluation: &Evaluation) -> Value {
    let mut value = serde_json::to_value(evaluation).expect("our own values serialise");
    value["suites"] = evaluation.suites.iter().map(scores::summary).collect();
    value
}

pub(super) fn live_on(state: &State, id: CheckpointId) -> Vec<String> {
    let live = state.deployments.values().filter(|d| d.checkpoint == id && d.state == DeploymentState::Live);
    live.map(|d| d.target.clone()).collect()
}

/// Loss and token accuracy over all suites, weighted by tokens.
#[must_use]
pub fn totals(evaluation: &Evaluation) -> Option<(f64, f64)> {
    let tokens: u64 = evaluation.suites.iter().map(|s| s.trained_tokens).sum();
    if tokens == 0 {
        return None;
    }
    let weighted = |value: fn(&hone_pipeline::state::SuiteResult) -> f64| {
        evaluation.suites.iter().map(|s| value(s) * s.trained_tokens as f64).sum::<f64>() / tokens as f64
    };
    Some((weighted(|s| s.mean_nll), weighted(|s| s.token_accuracy)))
}

fn row(state: &State, checkpoint: &Checkpoint) -> Vec<String> {
    let totals = state.evaluations.get(&checkpoint.id).and_then(totals);
    let verdict = state.judgements.get(&checkpoint.id).map_or("-".to_string(), |j| outcome(j.outcome).to_string());
    vec![
        checkpoint.id.to_string(),
        described(checkpoint),
        checkpoint.parent.map_or("base".to_string(), |p| p.to_string()),
        checkpoint.train_loss.map_or("-".to_string(), |l| format!("{l:.4}")),
        totals.map_or("-".to_string(), |(loss, _)| format!("{loss:.4}")),
        totals.map_or("-".to_string(), |(_, accuracy)| format!("{:.1} %", accuracy * 100.0)),
        verdict,
        live_on(state, checkpoint.id).join(", "),
    ]
}

fn described(checkpoint: &Checkpoint) -> String {
    let mark = match &checkpoint.marks {
        marks if marks.abandoned.is_some() => ", abandoned",
        marks if marks.pinned.is_some() => ", pinned",
        _ => "",
    };
    format!("{}{mark}", describe(&checkpoint.state))
}

fn describe(state: &CheckpointState) -> &'static str {
    match state {
        CheckpointState::Staged { .. } => "staged",
        CheckpointState::Published => "published",
        CheckpointState::Pruned => "pruned",
        CheckpointState::Refused { .. } => "refused",
    }
}

/// An outcome in words.
#[must_use]
pub fn outcome(outcome: hone_pipeline::state::Outcome) -> &'static str {
    use hone_pipeline::state::Outcome;
    match outcome {
        Outcome::Promote => "promoted",
        Outcome::Worse => "worse",
        Outcome::CannotTell => "cannot tell",
        Outcome::Manual => "by hand only",
    }
}

/// The checkpoint that a person named.
pub fn find<'a>(state: &'a State, id: &str) -> Result<&'a Checkpoint> {
    let id: CheckpointId = id.parse().map_err(|error| UsageError(format!("read the checkpoint's id: {error}")))?;
    let newest = state.checkpoints.keys().next_back();
    state
        .checkpoints
        .get(&id)
        .with_context(|| format!("find {id}; the newest is {}", newest.map_or("none".to_string(), ToString::to_string)))
}

fn show(ws: &Workspace, id: &str) -> Result<()> {
    let state = ws.state()?;
    let value = entry(&state, find(&state, id)?);
    if ws.json {
        output::json(&value);
    } else {
        output::line(&serde_json::to_string_pretty(&value)?);
    }
    Ok(())
}
