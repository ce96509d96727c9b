//! `checkpoints` and `model_comparison`.
//!
//! `checkpoints`: `{num_published, latest, champion, champion_number, items: [checkpoint]}`, newest first, with
//! checkpoints as `{id, number, parent, job, state, reason, created_ms, train_loss, ends_job, is_champion, evaluation: {at_ms,
//! error, suites: [{suite, rows, rows_skipped, trained_tokens, mean_nll, token_accuracy}]} | null, verdict: {outcome,
//! reason, champion, at_ms} | null}`.
//!
//! `model_comparison`: `{champion, verdicts: [{challenger, outcome, reason, champion, at_ms}]}`, newest first.

use super::tag;
use hone_pipeline::state::{Checkpoint, CheckpointState, Evaluation, Judgement, State, SuiteResult};
use serde_json::{Value, json};

/// Checkpoints listed.
const MAX_CHECKPOINTS: usize = 40;
/// Verdicts listed.
const MAX_VERDICTS: usize = 40;

pub(super) fn checkpoints(state: &State) -> Value {
    let num_published = state.checkpoints.values().filter(|c| c.state == CheckpointState::Published).count();
    json!({
        "num_published": num_published,
        "latest": state.latest_checkpoint().map(|checkpoint| checkpoint.id.to_string()),
        "champion": state.champion.map(|id| id.to_string()),
        "champion_number": state.champion.map(|id| id.0),
        "items": state.checkpoints.values().rev().take(MAX_CHECKPOINTS).map(|c| entry(state, c)).collect::<Vec<_>>(),
    })
}

fn entry(state: &State, checkpoint: &Checkpoint) -> Value {
    let reason = match &checkpoint.state {
        CheckpointState::Refused { reason } => Some(reason),
        _ => None,
    };
    json!({
        "id": checkpoint.id.to_string(),
        "number": checkpoint.id.0,
        "parent": checkpoint.parent.map(|id| id.to_string()),
        "job": checkpoint.job.map(|id| id.to_string()),
        "state": tag(&checkpoint.state),
        "reason": reason,
        "created_ms": checkpoint.created_ms,
        "train_loss": checkpoint.train_loss,
        "ends_job": checkpoint.ends_job,
        "is_champion": state.champion == Some(checkpoint.id),
        "evaluation": state.evaluations.get(&checkpoint.id).map(evaluation),
        "verdict": state.judgements.get(&checkpoint.id).map(verdict),
    })
}

fn evaluation(evaluation: &Evaluation) -> Value {
    let suites: Vec<Value> = evaluation.suites.iter().map(suite).collect();
    json!({ "at_ms": evaluation.at_ms, "error": evaluation.error, "suites": suites })
}

/// A suite's figures, without the losses of its rows.
fn suite(result: &SuiteResult) -> Value {
    json!({
        "suite": result.suite,
        "rows": result.rows,
        "rows_skipped": result.rows_skipped,
        "trained_tokens": result.trained_tokens,
        "mean_nll": result.mean_nll,
        "token_accuracy": result.token_accuracy,
    })
}

fn verdict(judgement: &Judgement) -> Value {
    json!({
        "outcome": judgement.outcome,
        "reason": judgement.reason,
        "champion": judgement.champion.map(|id| id.to_string()),
        "at_ms": judgement.at_ms,
    })
}

pub(super) fn comparisons(state: &State) -> Value {
    let mut judgements: Vec<&Judgement> = state.judgements.values().collect();
    judgements.sort_by_key(|judgement| std::cmp::Reverse((judgement.at_ms, judgement.challenger)));
    let verdicts = judgements.into_iter().take(MAX_VERDICTS).map(|judgement| {
        let mut entry = verdict(judgement);
        entry["challenger"] = judgement.challenger.to_string().into();
        entry
    });
    json!({ "champion": state.champion.map(|id| id.to_string()), "verdicts": verdicts.collect::<Vec<_>>() })
}
