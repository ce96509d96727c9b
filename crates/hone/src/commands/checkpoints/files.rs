//! The ledger against the disk: `hone checkpoints verify`, `prune`, `export`.

use super::find;
use crate::exit::{Refused, UsageError};
use crate::output;
use crate::workspace::{Workspace, absolute, now_ms};
use anyhow::{Context, Result, bail};
use hone_daemon::control;
use hone_disk::manifest;
use hone_pipeline::ids::CheckpointId;
use hone_pipeline::retention::plan;
use hone_pipeline::state::{Checkpoint, CheckpointState, State};
use hone_pipeline::wire::{ControlReply, ControlRequest};
use hone_store::retention::{Deadline, checkpoint_sizes};
use serde_json::json;
use std::path::Path;
use std::time::Duration;

/// How long the folders may take to be measured.
const MEASURE_LIMIT: Duration = Duration::from_secs(300);

/// `hone checkpoints verify [N]`: the ledger against the disk, both ways.
pub fn verify(ws: &Workspace, id: Option<&str>) -> Result<()> {
    let state = ws.state()?;
    let chosen: Vec<&Checkpoint> = match id {
        Some(id) => vec![find(&state, id)?],
        None => state.checkpoints.values().filter(|c| c.state == CheckpointState::Published).collect(),
    };
    let mut problems = Vec::new();
    for checkpoint in &chosen {
        if let Err(error) = verify_one(ws, &state, checkpoint) {
            problems.push(format!("{}: {error:#}", checkpoint.id));
        }
    }
    if id.is_none() {
        problems.extend(unknown_folders(ws, &state)?);
    }
    if ws.json {
        output::json(&json!({"verified": chosen.len(), "problems": problems}));
    } else {
        problems.iter().for_each(|problem| output::line(problem));
        output::line(&format!("{} checkpoints verified, {} problems", chosen.len(), problems.len()));
    }
    if problems.is_empty() { Ok(()) } else { Err(Refused.into()) }
}

fn verify_one(ws: &Workspace, state: &State, checkpoint: &Checkpoint) -> Result<()> {
    if checkpoint.state != CheckpointState::Published {
        bail!("it has no files here ({})", super::describe(&checkpoint.state));
    }
    if checkpoint.parent.is_none() {
        return verify_base(ws, state, checkpoint);
    }
    manifest::verify(&ws.layout().checkpoint(checkpoint.id), Some(&checkpoint.manifest_hash)).map(drop)
}

/// Folders of `checkpoints/` that the ledger does not know, or knows as pruned.
fn unknown_folders(ws: &Workspace, state: &State) -> Result<Vec<String>> {
    let dir = ws.layout().checkpoints();
    let mut problems = Vec::new();
    for entry in std::fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let record = name.parse::<CheckpointId>().ok().and_then(|id| state.checkpoints.get(&id));
        match record.map(|checkpoint| &checkpoint.state) {
            None if !name.starts_with('.') => problems.push(format!("{name}: on disk, but not in the ledger")),
            Some(CheckpointState::Pruned) => {
                problems
                    .push(format!("{name}: on disk, but pruned in the ledger (the daemon's next start removes it)"));
            }
            _ => {}
        }
    }
    problems.sort();
    Ok(problems)
}

fn verify_base(ws: &Workspace, state: &State, checkpoint: &Checkpoint) -> Result<()> {
    let dir = ws.layout().checkpoint_model_dir(state, checkpoint.id)?;
    let (_, hash) = manifest::compute(&dir)?;
    anyhow::ensure!(hash == checkpoint.manifest_hash, "the base model's files are not those of `hone init`");
    Ok(())
}

/// `hone checkpoints prune [--dry-run]`.
pub fn prune(ws: &Workspace, dry_run: bool) -> Result<()> {
    let (config, state) = (ws.config()?, ws.state()?);
    let sizes = checkpoint_sizes(&ws.layout(), &state, Deadline::new(MEASURE_LIMIT))?;
    let settings = &config.settings;
    let plan = plan(&state, &settings.retention, &settings.targets, &sizes, now_ms());
    let size = |id: &CheckpointId| sizes.get(id).copied().unwrap_or(0);
    if ws.json {
        let goes = plan.prune.iter().map(|(id, why)| json!({"checkpoint": id, "bytes": size(id), "why": why}));
        let kept = plan.kept.iter().map(|(id, why)| json!({"checkpoint": id, "bytes": size(id), "why": why}));
        output::json(&json!({
            "dry_run": dry_run, "prune": goes.collect::<Vec<_>>(), "kept": kept.collect::<Vec<_>>(),
            "total_bytes_after": plan.total_bytes,
        }));
    } else {
        for (id, why) in &plan.prune {
            output::line(&format!(
                "{} {id} ({}): {why}",
                if dry_run { "would go" } else { "goes" },
                output::bytes(size(id))
            ));
        }
        for (id, why) in &plan.kept {
            output::line(&format!("stays {id} ({}): {why}", output::bytes(size(id))));
        }
        let count = plan.prune.len();
        output::line(&format!("{count} to prune; {} stay in all", output::bytes(plan.total_bytes)));
    }
    if dry_run || plan.prune.is_empty() { Ok(()) } else { prune_now(ws) }
}

/// The running daemon does it; without one this process takes the lock and does the same.
fn prune_now(ws: &Workspace) -> Result<()> {
    match control::send(&ws.root, &ControlRequest::Housekeep, Duration::from_secs(10)) {
        Ok(ControlReply::Ok { .. }) => Ok(()),
        Ok(other) => bail!("ask the daemon to prune: it answered {other:?}"),
        Err(control::ControlError::NoDaemon) => {
            hone_daemon::prune_offline(&ws.root, &ws.config()?.settings).context("prune without a running daemon")
        }
        Err(error) => Err(error).context("ask the daemon to prune"),
    }
}

/// `hone checkpoints export N DIR`: a verified copy that shares nothing with the workspace.
pub fn export(ws: &Workspace, id: &str, dir: &Path) -> Result<()> {
    let state = ws.state()?;
    let checkpoint = find(&state, id)?;
    let (source, target) = (ws.layout().checkpoint_model_dir(&state, checkpoint.id)?, absolute(dir)?);
    if target.exists() {
        return Err(UsageError(format!("export to {}: it exists already", target.display())).into());
    }
    verify_one(ws, &state, checkpoint).with_context(|| format!("verify {}", checkpoint.id))?;
    target.parent().map_or(Ok(()), hone_disk::create_dir)?;
    hone_disk::copy_dir(&source, &target)?;
    let (_, hash) = manifest::compute(&target).context("verify the copy")?;
    anyhow::ensure!(hash == manifest::compute(&source)?.1, "verify the copy: it differs from {}", checkpoint.id);
    if ws.json {
        output::json(&json!({"checkpoint": checkpoint.id, "dir": target, "manifest": checkpoint.manifest_hash}));
    } else {
        output::line(&format!("{} is in {}", checkpoint.id, target.display()));
    }
    Ok(())
}
