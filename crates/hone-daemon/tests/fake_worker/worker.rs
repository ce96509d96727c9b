//! A stand-in for `hone` in the daemon's tests: the children keep the contract of `hone_pipeline::wire` without
//! any model, or break it on request.
//!
//! `child KIND --request FILE` plays a child. `daemon ROOT` runs the real daemon over such children.
//!
//! A "model" is a folder whose `model.safetensors` lists the rows that it was trained on, one per line; one row is
//! one optimizer step. Misbehaviour is ordered by files in `ROOT/behave/`: `crash`, `garbage`, `silent` and `lie` make
//! the next training child do that once; `family` lets it start a process in its group (its id is then in
//! `behave/grandchild`), `heirs` runs a shell script in a session of its own that has its stdout; `step_ms` is the time
//! of one step, `settle_ms` what the daemon takes for the settle time of the inbox.

#![expect(clippy::disallowed_methods, reason = "a test helper writes the files of a pretended model")]

use anyhow::{Context, Result, bail};
use hone_daemon::notify::Notifier;
use hone_daemon::{DaemonOptions, DataManagerConfig, Limits, LoopConfig, SkillEndpoint};
use hone_pipeline::config::Settings;
use hone_pipeline::event::StagedCheckpoint;
use hone_pipeline::finding::{Finding, Level, REPORT_FORMAT_VERSION, Report, Severity, Verdict};
use hone_pipeline::ids::{CheckpointId, LeaseToken};
use hone_pipeline::state::{Position, Progress, SuiteResult};
use hone_pipeline::wire::{Answer, CheckRequest, EvalRequest, Question, TrainRequest, WorkerLine, WorkerMessage};
use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        [_, "daemon", root] => daemon(Path::new(root)),
        [_, "child", kind, "--request", request] => child(kind, Path::new(request)),
        _ => bail!("run {args:?}"),
    }
}

fn daemon(root: &Path) -> Result<()> {
    let root = root.to_path_buf();
    let (settings_file, skill_file) = (root.join("settings.json"), root.join("skill"));
    let load_settings = move || -> Result<LoopConfig> {
        let settings: Settings = serde_json::from_slice(&std::fs::read(&settings_file)?)?;
        let limits = Limits { earlier_child_wait_ms: 5_000, ..Limits::default() };
        // The URL of a skill `s`, where there is one.
        let skill = std::fs::read_to_string(&skill_file).ok();
        let skills = skill.into_iter().map(|url| SkillEndpoint::new("s", &url)).collect();
        let data_manager = DataManagerConfig { skills, ..DataManagerConfig::default() };
        Ok(LoopConfig { settings, limits, data_manager, ..LoopConfig::default() })
    };
    let mut options = DaemonOptions::new(root, std::env::current_exe()?, Box::new(load_settings));
    options.scan_interval = Duration::from_millis(10);
    let settle_ms = std::fs::read_to_string(options.root.join("behave/settle_ms")).ok();
    let settle_ms = settle_ms.and_then(|text| text.trim().parse().ok()).unwrap_or(50);
    options.settle = Duration::from_millis(settle_ms);
    options.notifier = Notifier::new(std::env::var("NOTIFY_SOCKET").ok().as_deref())?;
    hone_daemon::run(options, Arc::new(AtomicBool::new(false)), || {})
}

fn child(kind: &str, request: &Path) -> Result<()> {
    let asked_to_yield = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&asked_to_yield);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            flag.store(line.is_ok_and(|line| line.contains("yield")), Ordering::SeqCst);
        }
        std::process::exit(3);
    });
    let request = std::fs::read(request)?;
    match kind {
        "check-job" => check(&serde_json::from_slice(&request)?),
        "train-job" => train(&serde_json::from_slice(&request)?, &asked_to_yield),
        "eval-job" => evaluate(&serde_json::from_slice(&request)?),
        _ => bail!("run a child of the kind {kind}"),
    }
}

fn say(token: LeaseToken, message: WorkerMessage) -> Result<()> {
    let mut line = serde_json::to_vec(&WorkerLine { token, message })?;
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&line)?;
    Ok(out.flush()?)
}

/// A row is any line; one that holds `BAD` is refused, one that holds `DEEP` by the deep check alone, one that holds
/// `PANIC` ends the check.
fn check(request: &CheckRequest) -> Result<()> {
    let (size_bytes, blake3) = hone_disk::hash_file(&request.file)?;
    let rows = rows_of(&request.file)?;
    assert!(!rows.iter().any(|row| row.contains("PANIC")), "the check was told to panic");
    let is_bad = |row: &str| row.contains("BAD") || (row.contains("DEEP") && request.level == Level::Deep);
    let bad: Vec<u64> = (1..).zip(&rows).filter(|(_, row)| is_bad(row)).map(|(line, _)| line).collect();
    let findings = bad.first().map(|_| Finding {
        code: "row_bad".to_string(),
        severity: Severity::Error,
        count: bad.len() as u64,
        lines: bad.clone(),
        message: "the row is bad".to_string(),
        hint: "write a good one".to_string(),
        evidence: None,
    });
    let report = Report {
        format_version: REPORT_FORMAT_VERSION,
        verdict: if bad.is_empty() { Verdict::Accepted } else { Verdict::Rejected },
        schema_id: request.schema_id.clone(),
        schema_origin: request.schema_origin,
        level: request.level,
        rows: rows.len() as u64,
        size_bytes,
        blake3,
        findings: findings.into_iter().collect(),
        stats: None,
        elapsed_ms: 0,
    };
    say(LeaseToken(0), WorkerMessage::Checked(report))
}

fn train(request: &TrainRequest, asked_to_yield: &AtomicBool) -> Result<()> {
    let _lock = hone_disk::FileLock::try_exclusive(&request.run_dir.join("lock"))?.context("lock the run folder")?;
    misbehave(request)?;
    let mut rows = Vec::new();
    for file in &request.files {
        rows.extend(rows_of(&file.path)?);
    }
    let mut model = rows_of(&request.model_dir.join("model.safetensors"))?;
    let step_ms = std::fs::read_to_string(request.root.join("behave/step_ms")).ok();
    let step_ms: u64 = step_ms.and_then(|text| text.trim().parse().ok()).unwrap_or(1);
    let total_steps = rows.len() as u64;
    let (mut job_step, first) = (request.position.job_step, request.position.job_step);
    let mut yielded = false;
    while job_step < total_steps && !yielded && (job_step == first || job_step % request.settings.save_steps != 0) {
        std::thread::sleep(Duration::from_millis(step_ms));
        model.push(rows[usize::try_from(job_step)?].clone());
        job_step += 1;
        let step = request.number_from.unwrap_or(request.parent).0 + job_step - first;
        let progress = Progress { step, job_step, total_steps, loss: 1.0, ..Progress::default() };
        say(request.token, WorkerMessage::Step(progress))?;
        yielded = asked_to_yield.load(Ordering::SeqCst);
    }
    let number = request.number_from.unwrap_or(request.parent).0 + job_step - first;
    let manifest_hash = stage(&request.root.join(&request.staging), &model)?;
    stage(&request.root.join(&request.resume_staging), &model)?;
    let lie = take_order(&request.root, "lie");
    let staged = StagedCheckpoint {
        checkpoint: CheckpointId(number),
        parent: request.parent,
        job: request.job,
        staging: request.staging.clone(),
        resume_staging: request.resume_staging.clone(),
        manifest_hash: if lie { "0".repeat(64) } else { manifest_hash },
        position: Position { job_step, rows_trained: job_step, total_steps },
        rows_digest: format!("{}+{}", request.rows_digest, job_step - first),
        train_loss: 1.0,
        ends_job: job_step == total_steps,
        yielded,
    };
    say(request.token, WorkerMessage::Staged(staged))
}

fn misbehave(request: &TrainRequest) -> Result<()> {
    if take_order(&request.root, "family") {
        let grandchild = Command::new("sleep").arg("600").stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        std::fs::write(request.root.join("behave/grandchild"), grandchild.id().to_string())?;
    }
    if let Ok(script) = std::fs::read_to_string(request.root.join("behave/heirs")) {
        take_order(&request.root, "heirs");
        Command::new("setsid").args(["sh", "-c", &script]).current_dir(&request.root).stdin(Stdio::null()).spawn()?;
    }
    if take_order(&request.root, "crash") {
        bail!("told to crash");
    }
    if take_order(&request.root, "garbage") {
        std::io::stdout().write_all(b"step 1 of 5, loss 0.3\n")?;
        std::thread::sleep(Duration::from_secs(600));
    }
    if take_order(&request.root, "silent") {
        std::thread::sleep(Duration::from_secs(600));
    }
    Ok(())
}

fn take_order(root: &Path, name: &str) -> bool {
    std::fs::remove_file(root.join("behave").join(name)).is_ok()
}

/// The more rows a model was trained on, the lower its loss.
fn evaluate(request: &EvalRequest) -> Result<()> {
    let _lock = hone_disk::FileLock::try_exclusive(&request.run_dir.join("lock"))?.context("lock the run folder")?;
    let num_trained = rows_of(&request.model_dir.join("model.safetensors"))?.len() as f64;
    let mut suites = Vec::new();
    for suite in &request.suites {
        // Losses of rows differ, so that their differences have a spread: a real test of significance.
        let row_nll: Vec<(f64, u32)> = (0..32u32)
            .map(|row| (10.0 * (5.0 - 0.1 * num_trained) + f64::from(row % 4) * 0.01 * num_trained, 10))
            .collect();
        let mean_nll = row_nll.iter().map(|(nll, _)| nll).sum::<f64>() / 320.0;
        suites.push(SuiteResult {
            suite: suite.name.clone(),
            suite_hash: hone_disk::hash_file(&suite.path)?.1,
            rows: 32,
            rows_skipped: 0,
            trained_tokens: 320,
            mean_nll,
            token_accuracy: 0.5,
            row_nll,
            answers: None,
        });
    }
    let (manifest_hash, template_hash) = (request.manifest_hash.clone(), "template".to_string());
    let answers = answers(request)?;
    say(
        request.token,
        WorkerMessage::Evaluated {
            manifest_hash,
            template_hash,
            dtype: "f32".to_string(),
            engine: "fake".to_string(),
            suites,
            answers,
            speed: None,
        },
    )
}

/// A scripted learner: `answers.json` has the right answer of each sample by its id, and `knows` the share of them, in
/// percent, that it gets right.
fn answers(request: &EvalRequest) -> Result<Vec<Answer>> {
    let behave = request.run_dir.ancestors().map(|folder| folder.join("behave")).find(|folder| folder.is_dir());
    let behave = behave.context("find the script")?;
    let Ok(right) = std::fs::read(behave.join("answers.json")) else { return Ok(Vec::new()) };
    let right: BTreeMap<String, String> = serde_json::from_slice(&right)?;
    let knows: usize = std::fs::read_to_string(behave.join("knows"))?.trim().parse()?;
    let answer = |(number, question): (usize, &Question)| {
        let text = right.get(sample_of(&question.id)).filter(|_| number % 100 < knows).cloned();
        let text = text.unwrap_or_else(|| "add \u{2460} \u{2460} = \u{2460}".to_string());
        Answer { id: question.id.clone(), text, finish_reason: "stop".to_string(), num_tokens: 1 }
    };
    Ok(request.questions.iter().enumerate().map(answer).collect())
}

/// The id of a question ends with that of its sample.
fn sample_of(question: &str) -> &str {
    question.rsplit('/').next().unwrap_or(question)
}

fn stage(folder: &PathBuf, model: &[String]) -> Result<String> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("config.json"), "{}")?;
    std::fs::write(folder.join("model.safetensors"), model.join("\n"))?;
    hone_disk::manifest::write(folder)
}

fn rows_of(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    Ok(text.lines().map(str::to_string).collect())
}
