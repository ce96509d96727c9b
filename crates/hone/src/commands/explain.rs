//! `hone explain`: which data, jobs, evaluations and decisions led to a checkpoint, and why it is (not) served.

use crate::commands::checkpoints::{entry, find, live_on, outcome};
use crate::commands::deploy;
use crate::output;
use crate::workspace::{Workspace, now_ms};
use anyhow::Result;
use clap::Args;
use hone_pipeline::ids::CheckpointId;
use hone_pipeline::state::{Checkpoint, State};
use serde_json::{Value, json};

/// `hone explain N`.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// The checkpoint.
    id: String,
}

/// `hone explain N`.
pub fn explain(ws: &Workspace, args: &ExplainArgs) -> Result<()> {
    let state = ws.state()?;
    let mut chain = vec![find(&state, &args.id)?];
    while let Some(parent) = chain.last().and_then(|c| c.parent).and_then(|p| state.checkpoints.get(&p)) {
        chain.push(parent);
    }
    if ws.json {
        let entries: Vec<Value> = chain.iter().map(|c| explained(&state, c)).collect();
        output::json(&json!({"lineage": state.lineage, "chain": entries}));
        return Ok(());
    }
    for line in chain.into_iter().flat_map(|checkpoint| story(&state, checkpoint, now_ms())) {
        output::line(&line);
    }
    Ok(())
}

fn explained(state: &State, checkpoint: &Checkpoint) -> Value {
    let job = checkpoint.job.and_then(|id| state.jobs.get(&id));
    let datasets: Vec<_> = job.iter().flat_map(|j| &j.datasets).filter_map(|id| state.datasets.get(id)).collect();
    let deployments: Vec<_> = state.deployments.values().filter(|d| d.checkpoint == checkpoint.id).collect();
    let mut value = entry(state, checkpoint);
    value["job"] = json!(job);
    value["datasets"] = json!(datasets);
    value["deployments"] = json!(deployments);
    value
}

/// What led to one checkpoint and what became of it, line by line.
fn story(state: &State, checkpoint: &Checkpoint, now_ms: u64) -> Vec<String> {
    let from = checkpoint.parent.map_or("the base model".to_string(), |p| format!("from {p}"));
    let mut lines = vec![format!("{} {from}", checkpoint.id)];
    lines.extend(trained_on(state, checkpoint));
    if let Some(evaluation) = state.evaluations.get(&checkpoint.id) {
        lines.extend(evaluation.suites.iter().map(|suite| format!("├─ {} ({} rows)", suite.in_words(), suite.rows)));
        let speed = evaluation.speed.map(|speed| speed.in_words()).filter(|words| !words.is_empty());
        lines.extend(speed.map(|words| format!("├─ its evaluation took: {words}")));
        lines.extend(evaluation.error.iter().map(|error| format!("├─ its evaluation failed: {error}")));
    }
    if let Some(judgement) = state.judgements.get(&checkpoint.id) {
        lines.push(format!("├─ {}: {}", outcome(judgement.outcome), judgement.reason));
        lines.extend(judgement.budget.iter().map(|budget| {
            format!("│  look {} at its champion used {:.2} % of error", budget.look, budget.spent * 100.0)
        }));
    }
    let deployments = state.deployments.values().filter(|d| d.checkpoint == checkpoint.id);
    lines.extend(deployments.map(|deployment| format!("├─ {}", deploy::in_words(deployment, now_ms))));
    lines.push(format!("└─ {}", why_served(state, checkpoint.id)));
    lines
}

/// The job and the data of a checkpoint.
fn trained_on(state: &State, checkpoint: &Checkpoint) -> Vec<String> {
    let Some(job) = checkpoint.job.and_then(|id| state.jobs.get(&id)) else { return Vec::new() };
    let position = &checkpoint.position;
    let mut lines = vec![format!(
        "├─ {} step {} of {}, {} rows trained, rows digest {}",
        job.id,
        position.job_step,
        position.total_steps,
        position.rows_trained,
        checkpoint.rows_digest.get(..12).unwrap_or("-")
    )];
    for dataset in job.datasets.iter().filter_map(|id| state.datasets.get(id)) {
        let hash = dataset.blake3.as_deref().and_then(|h| h.get(..12)).unwrap_or("-");
        let kept_back = dataset.keep_back.map_or(String::new(), |keep| {
            format!(", {:.0} % of them but at most {} never trained", keep.share * 100.0, keep.max_rows)
        });
        let what = format!("{} rows{kept_back}, {hash}", dataset.rows);
        lines.push(format!("│  └─ {} {} ({what})", dataset.id, dataset.file_name));
        lines.extend(dataset.provenance.iter().map(|provenance| format!("│     made by {provenance}")));
    }
    lines
}

/// Why a checkpoint is served, or why it is not.
fn why_served(state: &State, id: CheckpointId) -> String {
    let places = live_on(state, id);
    match (state.champion, state.judgements.get(&id)) {
        _ if !places.is_empty() => format!("served on {}", places.join(", ")),
        (Some(champion), _) if champion == id => "the champion, on its way to its targets".to_string(),
        (Some(champion), None) => format!("not served: {champion} is the champion, and this one was not judged yet"),
        (Some(champion), Some(judgement)) => match judgement.outcome {
            hone_pipeline::state::Outcome::Promote => format!("not served any more: {champion} took its place"),
            other => format!("not served: {champion} is the champion; verdict {}", outcome(other)),
        },
        (None, _) => "not served: there is no champion yet".to_string(),
    }
}

#[cfg(test)]
mod tests;
