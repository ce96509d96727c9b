//! Going back and keeping: `hone rewind`, `undo`, `forget`, `lineage`, `backup`, `restore`.

use crate::commands::control::send;
use crate::commands::init::{BaseModel, identify_base};
use crate::commands::submit::require_file;
use crate::config;
use crate::exit::UsageError;
use crate::output;
use crate::workspace::{Workspace, absolute, now_ms};
use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use hone_pipeline::decide::touched_by;
use hone_pipeline::event::Command;
use hone_pipeline::ids::{CheckpointId, DatasetId};
use hone_store::{backup, owner_lock};
use serde_json::json;
use std::path::PathBuf;

/// `hone rewind N`.
#[derive(Args, Debug)]
pub struct RewindArgs {
    /// The checkpoint that training goes on from.
    id: String,
    /// Why; kept in the ledger.
    #[arg(long, default_value = "by hand")]
    reason: String,
}

/// `hone undo DATASET`, `hone forget DATASET`.
#[derive(Args, Debug)]
pub struct DatasetArgs {
    /// The data set, `dataset-3` or `3`.
    id: String,
    /// Why; kept in the ledger.
    #[arg(long, default_value = "by hand")]
    reason: String,
    /// Only list the checkpoints that it touched.
    #[arg(long)]
    dry_run: bool,
}

/// `hone backup FILE`, `hone restore FILE`.
#[derive(Args, Debug)]
pub struct FileArgs {
    /// The file.
    file: PathBuf,
}

/// `hone lineage [VERB]`.
#[derive(Args, Debug)]
pub struct LineageArgs {
    #[command(subcommand)]
    verb: Option<LineageVerb>,
}

#[derive(Subcommand, Debug)]
enum LineageVerb {
    /// All lineages, and the chain of checkpoints that is trained on (the default).
    Show,
    /// Train another base model from now on; the lineage of before stands still and stays whole.
    New {
        /// The base model: a Hugging Face folder.
        #[arg(long, value_name = "DIR")]
        model: PathBuf,
        /// Why; kept in the ledger.
        #[arg(long, default_value = "by hand")]
        reason: String,
    },
    /// Go on with a lineage that stands still.
    Switch {
        /// Its number.
        number: u64,
        /// Why; kept in the ledger.
        #[arg(long, default_value = "by hand")]
        reason: String,
    },
}

/// `hone rewind`.
pub fn rewind(ws: &Workspace, args: &RewindArgs) -> Result<()> {
    let checkpoint = args.id.parse().map_err(|e| UsageError(format!("read the checkpoint's id: {e}")))?;
    send(ws, Command::Rewind { checkpoint, reason: args.reason.clone() })
}

/// `hone undo`.
pub fn undo(ws: &Workspace, args: &DatasetArgs) -> Result<()> {
    let dataset = dataset(args)?;
    if args.dry_run { touched(ws, dataset) } else { send(ws, Command::Undo { dataset, reason: args.reason.clone() }) }
}

/// `hone forget`. Without a daemon the files go when the next one starts.
pub fn forget(ws: &Workspace, args: &DatasetArgs) -> Result<()> {
    let dataset = dataset(args)?;
    if args.dry_run { touched(ws, dataset) } else { send(ws, Command::Forget { dataset, reason: args.reason.clone() }) }
}

fn dataset(args: &DatasetArgs) -> Result<DatasetId> {
    args.id.parse().map_err(|e| UsageError(format!("read the data set's id: {e}")).into())
}

fn touched(ws: &Workspace, dataset: DatasetId) -> Result<()> {
    let state = ws.state()?;
    ensure!(state.datasets.contains_key(&dataset), "find {dataset}: there is no such data set");
    let touched = touched_by(&state, dataset);
    if ws.json {
        output::json(&json!({ "dataset": dataset, "checkpoints": touched }));
        return Ok(());
    }
    for id in &touched {
        let mark = if state.checkpoints[id].marks.abandoned.is_some() { " (abandoned)" } else { "" };
        output::line(&format!("{id}{mark}"));
    }
    output::line(&format!("{dataset} touched {} checkpoints", touched.len()));
    Ok(())
}

/// `hone lineage`.
pub fn lineage(ws: &Workspace, args: &LineageArgs) -> Result<()> {
    match &args.verb {
        None | Some(LineageVerb::Show) => show_lineages(ws),
        Some(LineageVerb::New { model, reason }) => {
            let config = ws.config()?;
            let base = identify_base(&absolute(model)?)?;
            let (model_name, reason) = (config.model_name, reason.clone());
            let BaseModel { base_model, identity, manifest_hash, .. } = base;
            change_lineage(ws, Command::NewLineage { model_name, base_model, identity, manifest_hash, reason })
        }
        Some(LineageVerb::Switch { number, reason }) => {
            change_lineage(ws, Command::SwitchLineage { number: *number, reason: reason.clone() })
        }
    }
}

/// `config.json` names the base model, too: it follows, so that the next start finds both of one mind.
fn change_lineage(ws: &Workspace, command: Command) -> Result<()> {
    send(ws, command)?;
    let base_model = ws.state()?.lineage.context("find the lineage")?.base_model;
    if config::put_text(&ws.layout().config(), "model_path", &base_model)? && !ws.json {
        output::line(&format!("config.json: model_path is {base_model} now"));
    }
    Ok(())
}

fn show_lineages(ws: &Workspace) -> Result<()> {
    let state = ws.state()?;
    let mut chain: Vec<CheckpointId> = Vec::new();
    let mut at = state.latest_checkpoint().map(|c| c.id);
    while let Some(id) = at {
        chain.push(id);
        at = state.checkpoints.get(&id).and_then(|c| c.parent);
    }
    let abandoned: Vec<_> = state.checkpoints.values().filter(|c| c.marks.abandoned.is_some()).collect();
    if ws.json {
        let lost: Vec<_> = abandoned.iter().map(|c| json!({"checkpoint": c.id, "why": c.marks.abandoned})).collect();
        let others: Vec<_> = state.other_lineages.values().collect();
        output::json(&json!({"lineage": state.lineage, "others": others, "chain": chain, "abandoned": lost}));
        return Ok(());
    }
    for lineage in state.lineages() {
        let (number, name, base) = (lineage.number, &lineage.model_name, &lineage.base_model);
        let stands = lineage.left_at.as_ref().map_or(String::new(), |left| format!(", stands still at {}", left.head));
        output::line(&format!("lineage {number}: {name}, from {base} ({}){stands}", lineage.identity.architecture));
    }
    let names: Vec<String> = chain.iter().rev().map(ToString::to_string).collect();
    output::line(&format!("trained   {}", names.join(" → ")));
    for checkpoint in abandoned {
        let why = checkpoint.marks.abandoned.as_deref().unwrap_or_default();
        output::line(&format!("abandoned {}: {why}", checkpoint.id));
    }
    Ok(())
}

/// `hone backup FILE`: consistent also while the daemon writes.
pub fn backup(ws: &Workspace, args: &FileArgs) -> Result<()> {
    let file = absolute(&args.file)?;
    backup::backup(&ws.store()?, &file, now_ms()).with_context(|| format!("back up to {}", file.display()))?;
    if ws.json {
        output::json(&json!({ "file": file }));
    } else {
        output::line(&format!("the state is in {} (weights and data are not)", file.display()));
    }
    Ok(())
}

/// `hone restore FILE`: needs the workspace for itself.
pub fn restore(ws: &Workspace, args: &FileArgs) -> Result<()> {
    require_file("restore", &args.file)?;
    let _lock = owner_lock(&ws.root).context("take the workspace (hint: `hone stop` ends the daemon)")?;
    let created_ms = backup::restore(&ws.root, &args.file)?;
    let day = hone_daemon::clock::day_of(created_ms);
    if ws.json {
        output::json(&json!({ "root": ws.root, "created_ms": created_ms }));
    } else {
        output::line(&format!("the state of {day} is back; the one of before is hone.db.before-restore"));
        output::line("next: `hone checkpoints verify` says which checkpoints are here");
    }
    Ok(())
}
