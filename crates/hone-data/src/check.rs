//! Both gates over one file: is it what its schema says, and is its content fit to train on?
//!
//! One pass reads, hashes and checks; rows are checked in parallel, and findings come out as if they had
//! been checked one after another. `standard` and `deep` remember a small record of every row and compare those
//! at the end; `deep` reads the rows that look alike a second time. What cannot be checked is a finding: a check never passes because it
//! failed itself.

mod balance;
mod compare;
mod content;
mod facts;
mod file;
mod leak;
mod line;
mod near;
mod overlap;
mod plain;
mod quality;
mod secrets;
mod tally;
mod words;

use crate::profile;
use crate::reader::{BadRow, Block, Blocks, Format, Packing, ReadError, ReadLimits};
use crate::tokenize::ChatContext;
use compare::Comparisons;
use hone_pipeline::config::Overlong;
use hone_pipeline::finding::{Level, REPORT_FORMAT_VERSION, Report, Severity, TokenStats, Verdict};
use hone_pipeline::spec::{self, RowProblem, Spec};
use hone_pipeline::wire::CheckRequest;
use line::{LineChecker, Outcome};
use rayon::prelude::*;
use std::time::Instant;
use tally::Tally;

/// How much is checked between two signs of life, in bytes: without and with tokenizing. A block that fits the
/// processor's caches is read once from memory.
const BLOCK_BYTES: usize = 2 << 20;
const BLOCK_BYTES_TOKENIZING: usize = 1 << 20;
/// Rows that one worker checks at a time.
const ROWS_PER_TASK: usize = 64;

/// Checks a whole file in one pass. `alive` is called between blocks with what is being done.
/// Never fails: what cannot be checked is a finding. Reads the file and, where one is named, the model's
/// tokenizer and template; writes nothing.
#[must_use]
pub fn check_file(request: &CheckRequest, alive: &dyn Fn(&str)) -> Report {
    let started = Instant::now();
    let mut tally = Tally::default();
    let mut outcome = Outcome::default();
    let mut read = (0, String::new());
    let mut compared = Vec::new();
    if let Some((checker, earlier)) = prepare(request, &mut tally, alive) {
        match read_file(request, &checker, alive, &mut outcome, &mut tally) {
            Ok(size_and_hash) => read = size_and_hash,
            Err(e) => tally.whole_file(RowProblem::error(e.code(), e.to_string(), e.hint())),
        }
        judge_rows(request, &checker, &outcome, read.0, &mut tally);
        if checker.level != Level::Quick {
            compared = compare::finish(request, &checker, &mut outcome, &earlier, &mut tally, alive);
        }
    }
    tally.append(std::mem::take(&mut outcome.tally));
    let mut findings = tally.into_findings(outcome.suggestion);
    findings.extend(compared);
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let blocked = findings.iter().any(|finding| finding.severity == Severity::Error);
    Report {
        format_version: REPORT_FORMAT_VERSION,
        verdict: if blocked { Verdict::Rejected } else { Verdict::Accepted },
        schema_id: request.schema_id.clone(),
        schema_origin: request.schema_origin,
        level: request.level,
        rows: outcome.rows,
        size_bytes: read.0,
        blake3: read.1,
        findings,
        stats: (request.level != Level::Quick).then(|| Box::new(outcome.stats)),
        elapsed_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}

/// Everything before the first row. `None` when the rows need not be read.
fn prepare(request: &CheckRequest, tally: &mut Tally, alive: &dyn Fn(&str)) -> Option<(LineChecker, Comparisons)> {
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
    let profile = match profile::find(&request.profile) {
        Ok(profile) => profile,
        Err(e) => {
            tally.whole_file(RowProblem::error("profile_unknown", e.to_string(), "set profile.name, then check again"));
            return None;
        }
    };
    let ctx = match &request.model_dir {
        _ if request.level == Level::Quick => None,
        None => {
            let message = "no model is at hand, so tokens were not counted";
            let hint = "name one: `hone validate --model DIR`, or check inside a workspace";
            tally.whole_file(RowProblem::warning("tokens_not_counted", message, hint));
            None
        }
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
    let (index, earlier) = compare::load(request, tally, alive);
    let checker = LineChecker {
        spec,
        ctx,
        profile,
        level: request.level,
        settings: request.content.clone(),
        index,
        max_length: request.max_length,
        overlong: request.overlong,
    };
    Some((checker, earlier))
}

/// Size and hash of the file, after all its rows went through the checker.
fn read_file(
    request: &CheckRequest,
    checker: &LineChecker,
    alive: &dyn Fn(&str),
    outcome: &mut Outcome,
    tally: &mut Tally,
) -> Result<(u64, String), ReadError> {
    let format = Format::of(&request.file).unwrap_or(Format::Lines(Packing::Plain));
    let mut reader = Blocks::open(&request.file, format, checker.spec, limits(request))?;
    let (phase, min_bytes) = match checker.ctx {
        Some(_) => ("tokenizing", BLOCK_BYTES_TOKENIZING),
        None => ("reading", BLOCK_BYTES),
    };
    alive(phase);
    let mut next = reader.next_block(min_bytes)?;
    if let Some(block) = next.as_ref().filter(|block| block.num_rows() > 0) {
        file::problem_of_first_line(format, block.row(0).1).into_iter().for_each(|problem| tally.whole_file(problem));
    }
    while let Some(block) = next {
        // The next block is read while this one is checked.
        let (part, following) = rayon::join(|| check_block(checker, &block), || reader.next_block(min_bytes));
        outcome.append(part);
        for (line, bad) in block.bad() {
            outcome.rows += 1;
            outcome.tally.row(*line, bad_row(bad, request.max_line_bytes), None);
        }
        reader.recycle(block);
        alive(phase);
        if reader.size_bytes() > request.max_file_bytes {
            tally.whole_file(file::too_large(reader.size_bytes(), request.max_file_bytes));
            return Ok((reader.size_bytes(), String::new()));
        }
        next = following?;
    }
    reader.size_and_hash()
}

/// Checks the rows of a block in parallel; what is found is in the order of the rows.
fn check_block(checker: &LineChecker, block: &Block) -> Outcome {
    let tasks: Vec<usize> = (0..block.num_rows()).step_by(ROWS_PER_TASK).collect();
    let parts: Vec<Outcome> = tasks
        .par_iter()
        .map(|start| {
            let mut part = Outcome::default();
            for i in *start..(start + ROWS_PER_TASK).min(block.num_rows()) {
                let (line, bytes) = block.row(i);
                checker.check(line, bytes, &mut part);
            }
            part
        })
        .collect();
    let mut outcome = Outcome::default();
    parts.into_iter().for_each(|part| outcome.append(part));
    outcome
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
        let message = format!(
            "every row is longer than {} tokens (max_length, and no more than the model's context): nothing is left to train",
            request.max_length
        );
        tally.whole_file(RowProblem::error(
            "nothing_fits",
            message,
            "shorten the rows, or raise max_length up to the model's context",
        ));
    }
}

fn bad_row(bad: &BadRow, limit: u64) -> RowProblem {
    match bad {
        BadRow::TooLong(size) => {
            let message = format!("the line has {size} bytes; at most {limit} are allowed");
            RowProblem::error("line_too_long", message, "split the row, or raise validation.max_line_bytes")
        }
        BadRow::Cells { expected, found } => {
            let message = format!("the record has {found} cells; the header names {expected} columns");
            RowProblem::error("csv_cells", message, "put cells that hold commas or line breaks between double quotes")
        }
    }
}

fn limits(request: &CheckRequest) -> ReadLimits {
    ReadLimits { max_line_bytes: request.max_line_bytes, max_unpacked_bytes: request.max_unpacked_bytes }
}

/// Adds the counts of one part to those of another.
fn add_stats(to: &mut TokenStats, from: &TokenStats) {
    let TokenStats { num_tokens, num_trained_tokens, num_overlong_rows, max_row_tokens, .. } = from;
    to.num_tokens += num_tokens;
    to.num_trained_tokens += num_trained_tokens;
    to.num_overlong_rows += num_overlong_rows;
    to.max_row_tokens = to.max_row_tokens.max(*max_row_tokens);
}

#[cfg(test)]
mod tests;
