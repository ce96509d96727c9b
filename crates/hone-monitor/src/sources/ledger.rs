//! `checkpoints` and `model_comparison`.
//!
//! `checkpoints`: `{num_published, total, latest, champion, champion_number, items: [checkpoint]}`, newest first, with
//! checkpoints as `{id, number, parent, job, state, reason, created_ms, train_loss, ends_job, is_champion, evaluation: {at_ms,
//! error, suites: [{suite, rows, rows_skipped, trained_tokens, mean_nll, token_accuracy, share_right, interval: [low, high] |
//! null, shares: {cut, empty, unparsable, errored} | null}]} | null, verdict: {outcome, reason, champion, at_ms} | null}`.
//!
//! `model_comparison`: `{champion, verdicts: [{challenger, outcome, reason, champion, at_ms}]}`, newest first.

use super::{queue, serving, tag};
use hone_pipeline::state::{Checkpoint, CheckpointState, Evaluation, Judgement, State, SuiteResult};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Checkpoints listed.
const MAX_CHECKPOINTS: usize = 40;
/// Verdicts listed, and deployments of one checkpoint.
const MAX_VERDICTS: usize = 40;
/// Ancestors and files told of one checkpoint.
const MAX_ANCESTORS: usize = 50;
const MAX_FILES: usize = 200;

pub(crate) fn checkpoints(state: &State) -> Value {
    let num_published = state.checkpoints.values().filter(|c| c.state == CheckpointState::Published).count();
    json!({
        "num_published": num_published,
        "total": state.checkpoints.len(),
        "latest": state.latest_checkpoint().map(|checkpoint| checkpoint.id.to_string()),
        "champion": state.champion.map(|id| id.to_string()),
        "champion_number": state.champion.map(|id| id.0),
        "items": state.checkpoints.values().rev().take(MAX_CHECKPOINTS).map(|c| entry(state, c)).collect::<Vec<_>>(),
    })
}

pub(crate) fn entry(state: &State, checkpoint: &Checkpoint) -> Value {
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

/// A suite's figures, without the losses of its rows. One of questions has a share of right answers, any other has losses; the
/// interval (95 %) is that of either.
fn suite(result: &SuiteResult) -> Value {
    let has_losses = result.answers.is_none();
    json!({
        "suite": result.suite,
        "rows": result.rows,
        "rows_skipped": result.rows_skipped,
        "trained_tokens": result.trained_tokens,
        "mean_nll": has_losses.then_some(result.mean_nll),
        "token_accuracy": has_losses.then_some(result.token_accuracy),
        "share_right": result.share_right(),
        "interval": result.interval(),
        "shares": result.shares(),
    })
}

fn verdict(judgement: &Judgement) -> Value {
    json!({
        "outcome": judgement.outcome,
        "reason": judgement.reason,
        "champion": judgement.champion.map(|id| id.to_string()),
        "at_ms": judgement.at_ms,
        "evidence": judgement.evidence,
        "budget": judgement.budget,
    })
}

pub(crate) fn comparisons(state: &State) -> Value {
    let mut judgements: Vec<&Judgement> = state.judgements.values().collect();
    judgements.sort_by_key(|judgement| std::cmp::Reverse((judgement.at_ms, judgement.challenger)));
    let verdicts = judgements.into_iter().take(MAX_VERDICTS).map(|judgement| {
        let mut entry = verdict(judgement);
        entry["challenger"] = judgement.challenger.to_string().into();
        entry
    });
    json!({ "champion": state.champion.map(|id| id.to_string()), "verdicts": verdicts.collect::<Vec<_>>() })
}

/// Everything that led to a checkpoint and what became of it: `{checkpoint, lineage: [checkpoint], job, files,
/// deployments}`, its ancestors newest first.
pub(crate) fn story(state: &State, checkpoint: &Checkpoint) -> Value {
    let parent_of = |checkpoint: &&Checkpoint| checkpoint.parent.and_then(|id| state.checkpoints.get(&id));
    let ancestors = std::iter::successors(parent_of(&checkpoint), parent_of).take(MAX_ANCESTORS);
    let job = checkpoint.job.and_then(|id| state.jobs.get(&id));
    let files = job.into_iter().flat_map(|job| &job.datasets).filter_map(|id| state.datasets.get(id));
    let deployments = state.deployments.values().rev().filter(|deployment| deployment.checkpoint == checkpoint.id);
    json!({
        "checkpoint": entry(state, checkpoint),
        "manifest_hash": checkpoint.manifest_hash,
        "rows_trained": checkpoint.position.rows_trained,
        "lineage": ancestors.map(|ancestor| entry(state, ancestor)).collect::<Vec<_>>(),
        "job": job.map(|job| queue::job_entry(state, job)),
        "settings": job.and_then(|job| job.settings.as_ref()),
        "files": files.take(MAX_FILES).map(queue::dataset_entry).collect::<Vec<_>>(),
        "deployments": deployments.take(MAX_VERDICTS).map(serving::entry).collect::<Vec<_>>(),
    })
}

/// Per suite `{suite, checkpoints, mean_nll, min_nll, max_nll, token_accuracy, share_right}`, in the order of checkpoints,
/// thinned to at most `points` stretches: of each its last checkpoint, and means over it. What a suite does not measure is
/// null.
pub(crate) fn suites_over_time(state: &State, points: usize) -> Vec<Value> {
    let mut suites: BTreeMap<&str, Vec<(u64, &SuiteResult)>> = BTreeMap::new();
    for evaluation in state.evaluations.values() {
        for result in &evaluation.suites {
            suites.entry(&result.suite).or_default().push((evaluation.checkpoint.0, result));
        }
    }
    suites.into_iter().map(|(suite, results)| suite_over_time(suite, &results, points)).collect()
}

fn suite_over_time(suite: &str, results: &[(u64, &SuiteResult)], points: usize) -> Value {
    type Stretch<'a> = [(u64, &'a SuiteResult)];
    let stretches: Vec<&Stretch> = results.chunks(results.len().div_ceil(points).max(1)).collect();
    let values = |stretch: &Stretch, value: &dyn Fn(&SuiteResult) -> Option<f64>| -> Vec<f64> {
        stretch.iter().filter_map(|(_, result)| value(result)).filter(|value| value.is_finite()).collect()
    };
    let of_rows = |value: fn(&SuiteResult) -> f64| move |r: &SuiteResult| r.answers.is_none().then(|| value(r));
    let (nll, accuracy) = (of_rows(|result| result.mean_nll), of_rows(|result| result.token_accuracy));
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    let each =
        |figure: &dyn Fn(&Stretch) -> f64| -> Vec<f64> { stretches.iter().map(|stretch| figure(stretch)).collect() };
    json!({
        "suite": suite,
        "checkpoints": stretches.iter().map(|stretch| stretch[stretch.len() - 1].0).collect::<Vec<_>>(),
        "mean_nll": each(&|stretch| mean(values(stretch, &nll))),
        "min_nll": each(&|stretch| values(stretch, &nll).into_iter().fold(f64::NAN, f64::min)),
        "max_nll": each(&|stretch| values(stretch, &nll).into_iter().fold(f64::NAN, f64::max)),
        "token_accuracy": each(&|stretch| mean(values(stretch, &accuracy))),
        "share_right": each(&|stretch| mean(values(stretch, &SuiteResult::share_right))),
    })
}
