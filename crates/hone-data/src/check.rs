//! Both gates over one file: is it what its schema says, and is its content fit to train on?
//!
//! One pass reads, hashes and checks; rows are checked in parallel, and findings come out as if they had
//! been checked one after another. What cannot be checked is a finding: a check never passes because it
//! failed itself.

mod content;
mod file;
mod line;
mod tally;

use crate::reader::LineReader;
use crate::tokenize::ChatContext;
use hone_pipeline::config::Overlong;
use hone_pipeline::finding::{Level, REPORT_FORMAT_VERSION, Report, Severity, TokenStats, Verdict};
use hone_pipeline::spec::{self, RowProblem, Spec};
use hone_pipeline::wire::CheckRequest;
use line::{LineChecker, Outcome};
use rayon::prelude::*;
use std::fs::File;
use std::time::Instant;
use tally::Tally;

/// How much is checked between two signs of life, in bytes: without and with tokenizing.
const BLOCK_BYTES: usize = 16 << 20;
const BLOCK_BYTES_TOKENIZING: usize = 1 << 20;
/// Rows that one worker checks at a time.
const ROWS_PER_TASK: usize = 256;

/// Checks a whole file in one pass. `alive` is called between blocks with what is being done.
/// Never fails: what cannot be checked is a finding. Reads the file and, where one is named, the model's
/// tokenizer and template; writes nothing.
#[must_use]
pub fn check_file(request: &CheckRequest, alive: &dyn Fn(&str)) -> Report {
    let started = Instant::now();
    let mut tally = Tally::default();
    let mut outcome = Outcome::default();
    let mut read = (0, String::new());
    if let Some(checker) = prepare(request, &mut tally) {
        match read_file(request, &checker, alive, &mut outcome, &mut tally) {
            Ok(size_and_hash) => read = size_and_hash,
            Err(e) => tally.whole_file(RowProblem::error(
                "file_unreadable",
                format!("the file cannot be read: {e}"),
                "look at its permissions and its disk",
            )),
        }
        judge_rows(request, &checker, &outcome, read.0, &mut tally);
    }
    tally.append(std::mem::take(&mut outcome.tally));
    let findings = tally.into_findings(outcome.suggestion);
    let blocked = findings.iter().any(|finding| finding.severity == Severity::Error);
    Report {
        format_version: REPORT_FORMAT_VERSION,
        verdict: if blocked { Verdict::Rejected } else { Verdict::Accepted },
        schema_id: request.schema_id.clone(),
        schema_origin: request.schema_origin,
        level: Level::Quick,
        rows: outcome.rows,
        size_bytes: read.0,
        blake3: read.1,
        findings,
        stats: request.model_dir.as_ref().map(|_| outcome.stats),
        elapsed_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}

/// Everything before the first row. `None` when the rows need not be read.
fn prepare(request: &CheckRequest, tally: &mut Tally) -> Option<LineChecker> {
    if let Some(problem) = level_not_available(request.level) {
        tally.whole_file(problem);
    }
    let spec = match spec::validate_job(&request.schema_id, &serde_json::Value::Null, &serde_json::Value::Null) {
        Ok(spec) => Some(spec),
        Err(problems) => {
            problems.into_iter().for_each(|problem| tally.whole_file(problem));
            None
        }
    };
    let before = file::problem_before_reading(request);
    let readable = before.is_none();
    before.into_iter().for_each(|problem| tally.whole_file(problem));
    let spec: &'static Spec = spec.filter(|_| readable)?;
    let ctx = match &request.model_dir {
        None => None,
        Some(dir) => match ChatContext::from_dir(dir, &request.profile, &request.chat_template_kwargs) {
            Ok(ctx) => Some(ctx),
            Err(e) => {
                let message = format!("the model that counts the tokens cannot be used: {e:#}");
                tally.whole_file(RowProblem::error(
                    "model_unusable",
                    message,
                    "mend the model folder, then check again",
                ));
                return None;
            }
        },
    };
    Some(LineChecker { spec, ctx, max_length: request.max_length, overlong: request.overlong })
}

/// Size and hash of the file, after all its rows went through the checker.
fn read_file(
    request: &CheckRequest,
    checker: &LineChecker,
    alive: &dyn Fn(&str),
    outcome: &mut Outcome,
    tally: &mut Tally,
) -> std::io::Result<(u64, String)> {
    let mut reader = LineReader::new(File::open(&request.file)?, request.max_line_bytes);
    let (phase, min_bytes) = match checker.ctx {
        Some(_) => ("tokenizing", BLOCK_BYTES_TOKENIZING),
        None => ("reading", BLOCK_BYTES),
    };
    let mut is_first = true;
    alive(phase);
    while let Some(block) = reader.next_block(min_bytes)? {
        if is_first && block.num_rows() > 0 {
            file::problem_of_first_line(block.row(0).1).into_iter().for_each(|problem| tally.whole_file(problem));
        }
        is_first = false;
        let indices: Vec<usize> = (0..block.num_rows()).collect();
        let parts: Vec<Outcome> = indices
            .par_chunks(ROWS_PER_TASK)
            .map(|chunk| {
                let mut part = Outcome::default();
                for i in chunk {
                    let (line, bytes) = block.row(*i);
                    checker.check(line, bytes, &mut part);
                }
                part
            })
            .collect();
        parts.into_iter().for_each(|part| outcome.append(part));
        for (line, size) in block.too_long() {
            outcome.rows += 1;
            outcome.tally.row(*line, line_too_long(*size, request.max_line_bytes), None);
        }
        alive(phase);
        if reader.size_bytes() > request.max_file_bytes {
            tally.whole_file(file::too_large(reader.size_bytes(), request.max_file_bytes));
            return Ok((reader.size_bytes(), String::new()));
        }
    }
    Ok((reader.size_bytes(), reader.blake3()))
}

/// What can be said once all rows are known.
fn judge_rows(request: &CheckRequest, checker: &LineChecker, outcome: &Outcome, size: u64, tally: &mut Tally) {
    if outcome.rows == 0 && !tally.blocks() {
        tally.whole_file(match size {
            0 => RowProblem::error("file_empty", "the file is empty", "write one JSON object per line"),
            _ => RowProblem::error("no_rows", "the file has only blank lines", "write one JSON object per line"),
        });
    }
    let nothing_fits = checker.ctx.is_some() && outcome.num_kept == 0 && outcome.stats.num_overlong_rows > 0;
    if nothing_fits && request.overlong != Overlong::Reject && !outcome.tally.blocks() {
        let message =
            format!("every row is longer than max_length ({} tokens), so nothing is left to train", request.max_length);
        tally.whole_file(RowProblem::error("nothing_fits", message, "raise max_length, or shorten the rows"));
    }
}

fn line_too_long(size: u64, limit: u64) -> RowProblem {
    let message = format!("the line has {size} bytes; at most {limit} are allowed");
    RowProblem::error("line_too_long", message, "split the row, or raise limits.max_line_bytes")
}

/// Says exactly what a deeper level would have run. `None` for quick.
fn level_not_available(level: Level) -> Option<RowProblem> {
    const STANDARD: &str = "token quantiles, balance (role, length, label, language, source), duplicates";
    const DEEP: &str = "answer leakage, near-duplicates, overlap with validation and skill evaluation sets, \
                        degenerate text, contradicting answers, secrets and personal data";
    let (name, missing) = match level {
        Level::Quick => return None,
        Level::Standard => ("standard", STANDARD.to_string()),
        Level::Deep => ("deep", format!("{STANDARD}, {DEEP}")),
    };
    let message = format!("level {name} is not available in this version: quick ran; these did not: {missing}");
    Some(RowProblem::warning("level_not_available", message, "look at these points by hand"))
}

/// Adds the counts of one part to those of another.
fn add_stats(to: &mut TokenStats, from: &TokenStats) {
    let TokenStats { num_tokens, num_trained_tokens, num_overlong_rows, max_row_tokens } = from;
    to.num_tokens += num_tokens;
    to.num_trained_tokens += num_trained_tokens;
    to.num_overlong_rows += num_overlong_rows;
    to.max_row_tokens = to.max_row_tokens.max(*max_row_tokens);
}

#[cfg(test)]
mod tests;
