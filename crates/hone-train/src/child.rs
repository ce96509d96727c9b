//! The children's mains: `check-job`, `train-job`, `eval-job`.
//!
//! A child reports [`WorkerLine`]s on stdout, logs on stderr, and listens on stdin: [`WorkerOrder::Yield`] asks a
//! slice to end, end of input means that the parent is gone. Exit codes: 0 done; 1 failed for good, the last
//! line is `failed`; 101 a panic and [`EXIT_TRANSIENT`] any other error, both worth another try (the reason is
//! on stderr); [`EXIT_ORPHAN`] the parent is gone.

mod reporter;

use crate::slice::{YieldFlag, train_slice};
use crate::{Refusal, evaluate};
use anyhow::{Context, Result};
use hone_disk::FileLock;
use hone_pipeline::ids::LeaseToken;
use hone_pipeline::wire::{CheckRequest, EvalRequest, TrainRequest, WorkerMessage, WorkerOrder};
use reporter::Reporter;
use serde::de::DeserializeOwned;
use std::io::BufRead;
use std::path::Path;
use std::process::ExitCode;

#[cfg(test)]
mod tests;

/// An error that may pass: disk, memory, a lock still held.
pub const EXIT_TRANSIENT: u8 = 75;
/// The system gave no memory: worth another try with smaller micro-batches.
pub const EXIT_OUT_OF_MEMORY: u8 = 76;
/// How far a check in the background gives way to other processes.
const BACKGROUND_NICE: i32 = 15;
/// The parent closed stdin.
pub const EXIT_ORPHAN: u8 = 3;

/// Runs `check-job`, `train-job` or `eval-job` on a request file. Exits the process at once, publishing
/// nothing, when stdin ends.
#[must_use]
pub fn run_child(kind: &str, request: &Path) -> ExitCode {
    ExitCode::from(exit_code(kind, request))
}

fn exit_code(kind: &str, request: &Path) -> u8 {
    let yield_flag = YieldFlag::default();
    listen_on_stdin(yield_flag.clone());
    let done = match kind {
        "check-job" => check(request),
        "train-job" => train(request, &yield_flag),
        "eval-job" => evaluation(request),
        _ => {
            tracing::error!(kind, "unknown kind of child (known: check-job, train-job, eval-job)");
            return 2;
        }
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            tracing::error!(kind, "failed to {error:#}");
            if is_out_of_memory(&error) { EXIT_OUT_OF_MEMORY } else { EXIT_TRANSIENT }
        }
    }
}

fn is_out_of_memory(error: &anyhow::Error) -> bool {
    let io =
        |cause: &(dyn std::error::Error + 'static)| cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    error.chain().filter_map(io).any(|kind| kind == std::io::ErrorKind::OutOfMemory)
}

fn check(path: &Path) -> Result<u8> {
    let request: CheckRequest = read_request(path)?;
    let _lock = lock(path.parent().context("find the folder of the request")?)?;
    if request.background {
        // Before the first thread of the check: each takes over the priority of the one that starts it.
        rustix::process::nice(BACKGROUND_NICE).context("lower the priority")?;
    }
    let reporter = Reporter::start(Box::new(std::io::stdout()), LeaseToken(0));
    let report = hone_data::check::check_file(&request, &|phase| {
        reporter.report(WorkerMessage::Alive { phase: phase.to_string() });
    });
    reporter.report(WorkerMessage::Checked(report));
    Ok(0)
}

fn train(path: &Path, yield_flag: &YieldFlag) -> Result<u8> {
    let request: TrainRequest = read_request(path)?;
    let _lock = lock(&request.run_dir)?;
    let reporter = Reporter::start(Box::new(std::io::stdout()), request.token);
    let done = train_slice(&request, &mut |message| reporter.report(message), yield_flag);
    conclude(&reporter, done)
}

fn evaluation(path: &Path) -> Result<u8> {
    let request: EvalRequest = read_request(path)?;
    let _lock = lock(&request.run_dir)?;
    let reporter = Reporter::start(Box::new(std::io::stdout()), request.token);
    let done = evaluate::evaluate(&request, &mut |message| reporter.report(message));
    conclude(&reporter, done.map(|evaluated| reporter.report(evaluated)))
}

/// Tells a failure that would come again; passes any other on.
fn conclude(reporter: &Reporter, done: Result<()>) -> Result<u8> {
    match done {
        Ok(()) => Ok(0),
        Err(error) if error.chain().any(|cause| cause.is::<Refusal>()) => {
            reporter.report(WorkerMessage::Failed { reason: format!("{error:#}") });
            Ok(1)
        }
        Err(error) => Err(error),
    }
}

fn read_request<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).with_context(|| format!("read request {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("parse request {}", path.display()))
}

fn lock(run_dir: &Path) -> Result<FileLock> {
    hone_disk::create_dir(run_dir)?;
    let path = run_dir.join("lock");
    FileLock::try_exclusive(&path)?.with_context(|| {
        let holder = FileLock::holder(&path).unwrap_or_else(|| "another process".to_string());
        format!("lock {}: {holder} holds it", path.display())
    })
}

/// The one thread that nobody joins: it waits in a blocking read until the parent is gone, and then ends
/// the process.
fn listen_on_stdin(yield_flag: YieldFlag) {
    std::thread::spawn(move || {
        obey(&mut std::io::stdin().lock(), &yield_flag);
        std::process::exit(i32::from(EXIT_ORPHAN));
    });
}

/// Follows orders until the input ends. A line that is no order is logged and ignored.
fn obey(input: &mut dyn BufRead, yield_flag: &YieldFlag) {
    let mut line = String::new();
    while matches!(input.read_line(&mut line), Ok(read) if read > 0) {
        match serde_json::from_str(&line) {
            Ok(WorkerOrder::Yield) => yield_flag.set(),
            Err(error) => tracing::warn!(%error, "a line on stdin is no order"),
        }
        line.clear();
    }
}
