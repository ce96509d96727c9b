//! `hone eval`: loss and token accuracy of a checkpoint, or of any model folder, on files; and its kept answers to
//! questions, judged again (`--rescore`).

use crate::commands::roles::loop_config;
use crate::exit::UsageError;
use crate::output;
use crate::workspace::{Workspace, absolute};
use anyhow::{Context, Result};
use clap::Args;
use hone_daemon::rescore::{self, Rescored};
use hone_pipeline::curriculum::SkillEvaluation;
use hone_pipeline::ids::CheckpointId;
use hone_pipeline::state::{AnswerOutcome, Evaluation, SuiteResult};
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
    /// Judge the kept raw answers of a checkpoint to its skills' questions again; generates nothing.
    #[arg(long, conflicts_with_all = ["model", "suite", "schema"])]
    rescore: bool,
}

/// Runs the verb.
pub fn run(ws: &Workspace, args: &EvalArgs) -> Result<()> {
    if args.rescore {
        return rescore(ws, args);
    }
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
            let id = checkpoint_id(id)?;
            let dir = ws.layout().checkpoint_model_dir(&ws.state()?, id)?;
            Ok((dir, ("checkpoint", json!(id))))
        }
        (None, None) => Err(UsageError("evaluate: name a checkpoint (`hone eval 100`) or --model DIR".into()).into()),
    }
}

fn checkpoint_id(id: &str) -> Result<CheckpointId> {
    Ok(id.parse().map_err(|error| UsageError(format!("read the checkpoint's id: {error}")))?)
}

/// `hone eval N --rescore`.
fn rescore(ws: &Workspace, args: &EvalArgs) -> Result<()> {
    let Some(id) = &args.id else {
        return Err(UsageError("score again: name a checkpoint (`hone eval 100 --rescore`)".into()).into());
    };
    let (id, state, config) = (checkpoint_id(id)?, ws.state()?, loop_config(&ws.config()?));
    let sets = rescore::sets(&ws.layout(), &state, &config, id)?;
    let answers = hone_train::kept_answers(&sets.request).context("read the kept answers")?;
    let suites = sets.score(&answers, &config);
    let exams = rescore::exams(&ws.layout(), &state, &config, id)?;
    if suites.iter().all(|suite| suite.num_kept == 0) && exams.is_empty() {
        anyhow::bail!(
            "score {id} again: none of its answers is kept\nhint: they are kept from its evaluation on, under the settings of then (profile, template, max_answer_tokens), as long as retention.runs_days says"
        );
    }
    let stored = state.evaluations.get(&id);
    if ws.json {
        let suites: Vec<Value> = suites.iter().map(|suite| rescored_json(suite, stored)).collect();
        let exams: Vec<Value> = exams.iter().map(|(skill, exam)| json!({"skill": skill, "result": exam})).collect();
        output::json(&json!({"checkpoint": id, "rescored": true, "suites": suites, "exams": exams}));
        return Ok(());
    }
    let rows: Vec<Vec<String>> = suites.iter().map(|suite| rescored_row(suite, stored)).collect();
    let headings = ["suite", "questions", "kept", "right now", "right then", "unparsable", "cut", "empty", "errored"];
    output::table(&headings, &rows);
    let rows: Vec<Vec<String>> = exams.iter().map(exam_row).collect();
    output::table(&["exam", "questions", "", "right now", "", "unparsable", "cut", "empty", "errored"], &rows);
    output::line("the workspace's verdicts stay as they are");
    Ok(())
}

/// The share of right answers that the ledger has for the same questions.
fn right_then(suite: &Rescored, stored: Option<&Evaluation>) -> Option<f64> {
    let then = stored?.result(&suite.result.suite)?;
    then.share_right().filter(|_| then.suite_hash == suite.result.suite_hash)
}

fn rescored_json(suite: &Rescored, stored: Option<&Evaluation>) -> Value {
    let Rescored { result, num_kept } = suite;
    let count = |outcome| result.num_answers(outcome);
    json!({
        "suite": result.suite, "suite_hash": result.suite_hash, "rows": result.rows, "kept": num_kept,
        "share_right": result.share_right(), "share_right_before": right_then(suite, stored),
        "right": count(AnswerOutcome::Right), "wrong": count(AnswerOutcome::Wrong),
        "unparsable": count(AnswerOutcome::Unparsable), "cut": count(AnswerOutcome::Cut),
        "empty": count(AnswerOutcome::Empty), "errored": count(AnswerOutcome::Errored),
    })
}

fn rescored_row(suite: &Rescored, stored: Option<&Evaluation>) -> Vec<String> {
    let Rescored { result, num_kept } = suite;
    let count = |outcome| result.num_answers(outcome).to_string();
    vec![
        result.suite.clone(),
        result.rows.to_string(),
        num_kept.to_string(),
        share(result.share_right()),
        share(right_then(suite, stored)),
        count(AnswerOutcome::Unparsable),
        count(AnswerOutcome::Cut),
        count(AnswerOutcome::Empty),
        count(AnswerOutcome::Errored),
    ]
}

fn exam_row((skill, exam): &(String, SkillEvaluation)) -> Vec<String> {
    let SkillEvaluation { level, questions, solved, unparsed, cut, empty, errored, .. } = exam;
    let judged = questions.saturating_sub(*errored);
    let right = (judged > 0).then(|| *solved as f64 / judged as f64);
    let [questions, unparsed, cut, empty, errored] =
        [questions, unparsed, cut, empty, errored].map(|count| count.to_string());
    let none = String::new;
    vec![format!("{skill} level {level}"), questions, none(), share(right), none(), unparsed, cut, empty, errored]
}

fn share(value: Option<f64>) -> String {
    value.map_or("-".to_string(), |value| format!("{:.1} %", value * 100.0))
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
