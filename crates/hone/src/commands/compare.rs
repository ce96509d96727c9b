//! `hone compare`: how checkpoints rank, who serves, the newest verdict with its evidence, and the error budget left.

use crate::commands::checkpoints::{find, outcome, summary};
use crate::commands::scores;
use crate::output;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use clap::Args;
use hone_pipeline::compare::{budget, score};
use hone_pipeline::config::{ScoreWeights, Settings};
use hone_pipeline::state::{Budget, Evaluation, Evidence, EvidenceFinding, Judgement, Measure, State};
use serde_json::{Value, json};

/// Flags of `hone compare`.
#[derive(Args, Debug)]
pub struct CompareArgs {
    /// Show the verdict about this checkpoint (default: the newest verdict).
    id: Option<String>,
}

/// Runs the verb.
pub fn run(ws: &Workspace, args: &CompareArgs) -> Result<()> {
    let (state, config) = (ws.state()?, ws.config()?);
    let settings = &config.settings;
    let shown = match &args.id {
        Some(id) => {
            let id = find(&state, id)?.id;
            Some(state.judgements.get(&id).with_context(|| format!("find a verdict about {id}: there is none yet"))?)
        }
        None => state.judgements.values().max_by_key(|judgement| (judgement.at_ms, judgement.challenger)),
    };
    let ranked = ranking(&state, &settings.score_weights);
    let next = next_look(&state, settings);
    if ws.json {
        let evaluations: Vec<Value> = ranked.iter().map(|(evaluation, score)| entry(evaluation, score)).collect();
        output::json(&json!({
            "champion": state.champion, "evaluations": evaluations,
            "judgements": state.judgements.values().collect::<Vec<_>>(),
            "verdict": shown, "next_look": next,
        }));
        return Ok(());
    }
    show_ranking(&state, &ranked);
    show_scores(&state, shown);
    if let Some(judgement) = shown {
        show_verdict(judgement);
    }
    if let (Some(champion), Some(next)) = (state.champion, next) {
        let (left, total) = ((next.left + next.spent) * 100.0, next.total * 100.0);
        let (look, spent) = (next.look, next.spent * 100.0);
        output::line(&format!(
            "error budget of {champion}: {left:.2} % of {total:.2} % left; look {look} may use {spent:.2} %, shared by its suites"
        ));
    }
    Ok(())
}

fn ranking<'a>(state: &'a State, weights: &ScoreWeights) -> Vec<(&'a Evaluation, score::Score)> {
    let mut ranked: Vec<_> = state.evaluations.values().map(|e| (e, score::score(e, weights))).collect();
    ranked.sort_by(|(_, a), (_, b)| b.value.unwrap_or(-1.0).total_cmp(&a.value.unwrap_or(-1.0)));
    ranked
}

fn next_look(state: &State, settings: &Settings) -> Option<Budget> {
    state.champion.map(|champion| budget::next_look(settings.error_budget, champion, state.judgements.values()))
}

fn entry(evaluation: &Evaluation, score: &score::Score) -> Value {
    let mut value = summary(evaluation);
    value["score"] = json!({
        "value": score.value, "loss": score.loss, "token_accuracy": score.token_accuracy,
        "right_answers": score.right_answers,
    });
    value
}

fn show_ranking(state: &State, ranked: &[(&Evaluation, score::Score)]) {
    let number = |value: Option<f64>| value.map_or("-".to_string(), |value| format!("{value:.4}"));
    let share = |value: Option<f64>| value.map_or("-".to_string(), |value| format!("{:.1} %", value * 100.0));
    let row = |(evaluation, score): &(&Evaluation, score::Score)| {
        let verdict = state.judgements.get(&evaluation.checkpoint).map_or("-", |judgement| outcome(judgement.outcome));
        let champion = if state.champion == Some(evaluation.checkpoint) { "champion" } else { "" };
        vec![
            evaluation.checkpoint.to_string(),
            number(score.value),
            number(score.loss),
            share(score.token_accuracy),
            share(score.right_answers),
            verdict.to_string(),
            champion.to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = ranked.iter().map(row).collect();
    output::table(&["checkpoint", "score", "loss", "token acc", "right", "verdict", ""], &rows);
}

/// Scores of the two that a verdict is about; of the champion where there is none yet.
fn show_scores(state: &State, judgement: Option<&Judgement>) {
    let pair = judgement.map_or([None, state.champion], |found| [Some(found.challenger), found.champion]);
    let evaluations = pair.into_iter().flatten().filter_map(|id| state.evaluations.get(&id));
    scores::show(evaluations.flat_map(|e| e.suites.iter().map(|suite| (e.checkpoint.to_string(), suite))));
}

/// The evidence of one verdict and the sentence that decides.
pub fn show_verdict(judgement: &Judgement) {
    if !judgement.evidence.is_empty() {
        let champion = judgement.champion.map_or("none".to_string(), |id| id.to_string());
        output::line(&format!("{} against {champion}:", judgement.challenger));
        let rows: Vec<Vec<String>> = judgement.evidence.iter().map(evidence_row).collect();
        let headings = ["suite", "measure", "rows", "new", "old", "gain", "95 % interval", "p", "needed", "finding"];
        output::table(&headings, &rows);
    }
    output::line(&format!("verdict: {}: {}", outcome(judgement.outcome), judgement.reason));
}

fn evidence_row(evidence: &Evidence) -> Vec<String> {
    let (measure, changed) = match evidence.measure {
        Measure::Loss => ("loss", String::new()),
        Measure::RightAnswers => ("right answers", format!(" (+{} -{})", evidence.gained, evidence.lost)),
    };
    let interval = evidence.interval.map_or("unknown".to_string(), |(low, high)| format!("{low:+.4} to {high:+.4}"));
    let finding = match evidence.finding {
        EvidenceFinding::Better => "better",
        EvidenceFinding::NotWorse => "not worse",
        EvidenceFinding::CannotTell => "cannot tell",
        EvidenceFinding::Worse => "worse",
    };
    vec![
        evidence.suite.clone(),
        measure.to_string(),
        evidence.rows.to_string(),
        format!("{:.4}", evidence.challenger),
        format!("{:.4}", evidence.champion),
        format!("{:+.4}{changed}", evidence.gain),
        interval,
        format!("{:.2e}", evidence.p_value),
        format!("{:.2e}", evidence.level),
        finding.to_string(),
    ]
}
