//! `hone eval`: a checkpoint on all its suites, as the daemon evaluates it; a checkpoint, or any model folder, on files; and
//! kept answers to questions, judged again (`--rescore`).

use crate::commands::roles::loop_config;
use crate::commands::scores;
use crate::exit::UsageError;
use crate::output;
use crate::workspace::{Workspace, absolute};
use anyhow::{Context, Result};
use clap::Args;
use hone_daemon::LoopConfig;
use hone_daemon::rescore::{self, Rescored};
use hone_pipeline::curriculum::SkillEvaluation;
use hone_pipeline::ids::CheckpointId;
use hone_pipeline::state::{AnswerOutcome, Evaluation, EvaluationSpeed, SuiteResult};
use hone_pipeline::wire::{EvalRequest, TrainFile, WorkerMessage};
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
    /// A file (repeatable). Without one: all suites of a checkpoint (files of validation/, rows that are kept back, sealed
    /// questions of skills), the files of validation/ for any other model.
    #[arg(long, value_name = "FILE")]
    suite: Vec<PathBuf>,
    /// Schema of the files, instead of each one's own (its sidecar, else schema_id of config.json where its first row fits).
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
    let mut speed = None;
    let results = match &args.id {
        Some(id) if args.suite.is_empty() && args.schema.is_none() => {
            let (suites, took) = all_suites(ws, checkpoint_id(id)?)?;
            speed = took;
            suites
        }
        _ => {
            let settings = &config.settings.train;
            let evaluate = |file: &TrainFile| {
                hone_train::evaluate_file(&model_dir, &file.path, &file.schema_id, settings)
                    .with_context(|| format!("evaluate {}", file.path.display()))
            };
            files(ws, args, &loop_config(&config))?.iter().map(evaluate).collect::<Result<Vec<_>>>()?
        }
    };
    if results.is_empty() {
        return Err(UsageError("evaluate: name a file with --suite, or put files into validation/".into()).into());
    }
    if ws.json {
        let suites: Vec<Value> = results.iter().map(scores::summary).collect();
        let mut value = json!({"suites": suites});
        value[subject.0] = subject.1;
        if let Some(speed) = speed {
            value["speed"] = json!(speed);
        }
        output::json(&value);
        return Ok(());
    }
    show(&results);
    if let Some(words) = speed.map(|speed| speed.in_words()).filter(|words| !words.is_empty()) {
        output::line(&format!("it took: {words}"));
    }
    Ok(())
}

/// What the daemon's evaluation of a checkpoint finds, without its time limit. What it has computed already is taken from
/// what is kept, and what is computed here is kept for it.
fn all_suites(ws: &Workspace, id: CheckpointId) -> Result<(Vec<SuiteResult>, Option<EvaluationSpeed>)> {
    let (state, config) = (ws.state()?, loop_config(&ws.config()?));
    let sets = rescore::sets(&ws.layout(), &state, &config, id)?;
    let request = EvalRequest { max_ms: u64::MAX, ..sets.request.clone() };
    let mut report = |message| {
        if let WorkerMessage::Alive { phase } = message {
            output::note(&phase);
        }
    };
    let done = hone_train::evaluate::evaluate(&request, &mut report).with_context(|| format!("evaluate {id}"))?;
    let WorkerMessage::Evaluated { mut suites, answers, speed, .. } = done else {
        anyhow::bail!("evaluate {id}: it ended without a result");
    };
    suites.extend(sets.score(&answers, &config).into_iter().map(|scored| scored.result));
    Ok((suites, speed))
}

/// The files to evaluate on, each with its schema.
fn files(ws: &Workspace, args: &EvalArgs, config: &LoopConfig) -> Result<Vec<TrainFile>> {
    let mut files = match args.suite.as_slice() {
        [] => hone_daemon::validation_suites(&ws.layout(), config)?,
        named => named.iter().map(|file| hone_daemon::suite(&absolute(file)?, config)).collect::<Result<Vec<_>>>()?,
    };
    if let Some(schema) = &args.schema {
        files.iter_mut().for_each(|file| file.schema_id.clone_from(schema));
    }
    Ok(files)
}

fn show(results: &[SuiteResult]) {
    let (answers, losses): (Vec<&SuiteResult>, Vec<&SuiteResult>) =
        results.iter().partition(|result| result.answers.is_some());
    let row = |r: &&SuiteResult| {
        vec![
            r.suite.clone(),
            r.rows.to_string(),
            r.trained_tokens.to_string(),
            format!("{:.4}", r.mean_nll),
            r.interval().map_or("-".to_string(), |(low, high)| format!("{low:.4} to {high:.4}")),
            format!("{:.2}", r.mean_nll.exp()),
            scores::percent(r.token_accuracy),
        ]
    };
    let rows: Vec<Vec<String>> = losses.iter().map(row).collect();
    if !rows.is_empty() {
        output::table(&["suite", "rows", "tokens", "loss", "95 % interval", "perplexity", "token acc"], &rows);
    }
    scores::show(answers.into_iter().map(|result| ("answers".to_string(), result)));
}

fn subject(ws: &Workspace, args: &EvalArgs) -> Result<(PathBuf, (&'static str, Value))> {
    match (&args.model, &args.id) {
        (Some(dir), _) => Ok((absolute(dir)?, ("model", json!(dir)))),
        (None, Some(id)) => {
            let id = checkpoint_id(id)?;
            let dir = ws.layout().checkpoint_model_dir(&ws.state()?, id).with_context(|| format!("evaluate {id}"))?;
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
    value.map_or("-".to_string(), scores::percent)
}
