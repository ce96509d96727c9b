//! `hone eval`: loss and token accuracy of a checkpoint, or of any model folder, on files.

use crate::exit::UsageError;
use crate::output;
use crate::workspace::{Workspace, absolute};
use anyhow::{Context, Result};
use clap::Args;
use hone_pipeline::ids::CheckpointId;
use hone_pipeline::state::SuiteResult;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Flags of `hone eval`.
#[derive(Args, Debug)]
pub struct EvalArgs {
    /// The checkpoint.
    id: Option<String>,
    /// Any model folder instead of a checkpoint.
    #[arg(long, value_name = "DIR", conflicts_with = "id")]
    model: Option<PathBuf>,
    /// A file (repeatable; default: every file of validation/).
    #[arg(long, value_name = "FILE")]
    suite: Vec<PathBuf>,
    /// Schema of the files (default: schema_id of config.json).
    #[arg(long, value_name = "ID")]
    schema: Option<String>,
}

/// Runs the verb.
pub fn run(ws: &Workspace, args: &EvalArgs) -> Result<()> {
    let config = ws.config()?;
    let (model_dir, subject) = subject(ws, args)?;
    let files = if args.suite.is_empty() { validation_files(ws)? } else { args.suite.clone() };
    if files.is_empty() {
        return Err(UsageError("evaluate: name a file with --suite, or put files into validation/".into()).into());
    }
    let schema = args.schema.clone().unwrap_or(config.schema_id.0);
    let mut results = Vec::new();
    for file in &files {
        let file = absolute(file)?;
        let result = hone_train::evaluate_file(&model_dir, &file, &schema, &config.settings.train)
            .with_context(|| format!("evaluate {}", file.display()))?;
        results.push(result);
    }
    if ws.json {
        let suites: Vec<Value> = results.iter().map(summary).collect();
        let mut value = json!({"suites": suites});
        value[subject.0] = subject.1;
        output::json(&value);
        return Ok(());
    }
    let rows: Vec<Vec<String>> = results
        .iter()
        .map(|r| {
            vec![
                r.suite.clone(),
                r.rows.to_string(),
                r.trained_tokens.to_string(),
                format!("{:.4}", r.mean_nll),
                format!("{:.2}", r.mean_nll.exp()),
                format!("{:.1} %", r.token_accuracy * 100.0),
            ]
        })
        .collect();
    output::table(&["suite", "rows", "tokens", "loss", "perplexity", "token acc"], &rows);
    Ok(())
}

fn subject(ws: &Workspace, args: &EvalArgs) -> Result<(PathBuf, (&'static str, Value))> {
    match (&args.model, &args.id) {
        (Some(dir), _) => Ok((absolute(dir)?, ("model", json!(dir)))),
        (None, Some(id)) => {
            let id: CheckpointId =
                id.parse().map_err(|error| UsageError(format!("read the checkpoint's id: {error}")))?;
            let dir = ws.layout().checkpoint_model_dir(&ws.state()?, id)?;
            Ok((dir, ("checkpoint", json!(id))))
        }
        (None, None) => Err(UsageError("evaluate: name a checkpoint (`hone eval 100`) or --model DIR".into()).into()),
    }
}

fn validation_files(ws: &Workspace) -> Result<Vec<PathBuf>> {
    let dir = ws.layout().validation();
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "jsonl") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn summary(result: &SuiteResult) -> Value {
    json!({
        "suite": result.suite, "suite_hash": result.suite_hash, "rows": result.rows, "rows_skipped": result.rows_skipped,
        "trained_tokens": result.trained_tokens, "mean_nll": result.mean_nll, "token_accuracy": result.token_accuracy,
    })
}
