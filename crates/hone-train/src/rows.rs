//! Data files to tokenised training examples, the same on every run: the order is that of the files and
//! their lines. What is left out is counted and named, never dropped silently.

use crate::kept_back::{self, Key};
use crate::{Refusal, refuse, replay, selfcheck};
use anyhow::{Context, Result};
use hone_data::tokenize::{ChatContext, TokenRow, fit, tokenize};
use hone_pipeline::config::Overlong;
use hone_pipeline::ids::JobId;
use hone_pipeline::wire::{KeptBack, Replay, TrainFile, WorkerMessage};
use std::collections::{BTreeSet, HashSet};

#[cfg(test)]
mod tests;

/// Lines that a warning names.
const MAX_NAMED_LINES: usize = 20;
/// Rows between two signs of life.
const ROWS_PER_SIGN: u64 = 256;

/// One training example: a row, or one assistant turn of it where the template needs that.
#[derive(Clone, Debug)]
pub struct Example {
    /// Index into the files of the request.
    pub file: usize,
    /// Which example of its row, from 0.
    pub part: usize,
    /// Ids and mask.
    pub tokens: TokenRow,
}

/// All examples of a job, in the order of files and lines.
#[derive(Clone, Debug, Default)]
pub struct Examples {
    /// The examples.
    pub list: Vec<Example>,
    /// Names of the files.
    pub files: Vec<String>,
    /// Rows read, without those that are kept back.
    pub rows: u64,
    /// Rows that are kept back for evaluation.
    pub rows_kept_back: u64,
    /// Rows left out because they are longer than the limit.
    pub rows_overlong: u64,
    /// Rows left out because they cannot be tokenised with a mask.
    pub rows_refused: u64,
}

/// The limits of one load.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest example in tokens.
    pub max_length: usize,
    /// What happens to longer ones.
    pub overlong: Overlong,
}

/// Lines with one problem.
#[derive(Default)]
struct Lines {
    count: u64,
    named: Vec<String>,
}

/// Reads and tokenises `files`, and holds rows against the self-check. Warnings and signs of life go to `report`.
///
/// # Errors
/// A [`Refusal`] for an unreadable row, an overlong row under [`Overlong::Reject`], or a failed self-check.
pub fn load(
    ctx: &ChatContext,
    files: &[TrainFile],
    limits: Limits,
    report: &mut dyn FnMut(WorkerMessage),
) -> Result<Examples> {
    load_with(ctx, files, limits, Selection::default(), report)
}

/// Which rows of earlier data sets come after those of the files, and which rows are not trained at all.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'a> {
    /// Seed of the choice.
    pub seed: u64,
    /// The job; another job gets other rows.
    pub job: JobId,
    /// From where, and how many.
    pub replay: Option<&'a Replay>,
    /// Files with rows that are kept back.
    pub kept_back: &'a [KeptBack],
}

impl Default for Selection<'_> {
    /// All rows of the files.
    fn default() -> Self {
        Selection { seed: 0, job: JobId(0), replay: None, kept_back: &[] }
    }
}

/// As [`load`], with replayed rows after the new ones.
///
/// # Errors
/// As [`load`]; also for a source of the replay.
pub fn load_with(
    ctx: &ChatContext,
    files: &[TrainFile],
    limits: Limits,
    selection: Selection,
    report: &mut dyn FnMut(WorkerMessage),
) -> Result<Examples> {
    let examples = Examples { files: files.iter().map(|f| f.name.clone()).collect(), ..Examples::default() };
    let mut alive = || report(WorkerMessage::Alive { phase: "choosing rows to keep back".to_string() });
    let kept_back = kept_back::keys(selection.kept_back, &mut alive).map_err(refuse)?;
    let mut loader = Loader { ctx, limits, examples, kept_back, overlong: Lines::default() };
    let named = |file: &TrainFile| format!("read {} ({})", file.name, file.path.display());
    for (index, file) in files.iter().enumerate() {
        loader.read(index, file, None, report).with_context(|| named(file)).map_err(refuse)?;
    }
    let Some(from) = selection.replay else { return Ok(loader.finish(report)) };
    let num_rows = replay::num_rows(from.share, loader.examples.rows);
    let mut alive = || report(WorkerMessage::Alive { phase: "choosing rows to replay".to_string() });
    let chosen = replay::choose(from, num_rows, (selection.seed, selection.job), &mut alive).map_err(refuse)?;
    for (file, lines) in replay::files(from).iter().zip(&chosen).filter(|(_, lines)| !lines.is_empty()) {
        let index = loader.examples.files.len();
        loader.examples.files.push(file.name.clone());
        loader.read(index, file, Some(lines), report).with_context(|| named(file)).map_err(refuse)?;
    }
    Ok(loader.finish(report))
}

/// What a load gathers.
struct Loader<'a> {
    ctx: &'a ChatContext,
    limits: Limits,
    examples: Examples,
    /// Rows that are left out by what they say.
    kept_back: HashSet<Key>,
    overlong: Lines,
}

impl Loader<'_> {
    /// Reads a file, or those lines of it.
    fn read(
        &mut self,
        index: usize,
        file: &TrainFile,
        only: Option<&BTreeSet<u64>>,
        report: &mut dyn FnMut(WorkerMessage),
    ) -> Result<()> {
        for (number, row) in hone_data::rows(&file.path, &file.schema_id)?.enumerate() {
            let row = row?;
            if only.is_some_and(|lines| !lines.contains(&row.line)) {
                continue;
            }
            if self.examples.rows.is_multiple_of(ROWS_PER_SIGN) {
                report(WorkerMessage::Alive { phase: "tokenizing".to_string() });
            }
            if !self.kept_back.is_empty() && self.kept_back.contains(&kept_back::key(&row)) {
                self.examples.rows_kept_back += 1;
                continue;
            }
            self.examples.rows += 1;
            let name = format!("{}:{}", file.name, row.line);
            match tokenize(self.ctx, &row) {
                Ok(parts) => {
                    if selfcheck::is_sampled(number) {
                        let checked = selfcheck::check_row(self.ctx, &row, &parts);
                        checked.map_err(|why| Refusal(format!("{name}: {why}")))?;
                    }
                    self.add(index, name, parts)?;
                }
                Err(error) => {
                    self.examples.rows_refused += 1;
                    if self.examples.rows_refused <= MAX_NAMED_LINES as u64 {
                        let message = format!("{name} is not trained: {}", error.kind);
                        report(WorkerMessage::Warning { code: error.kind.code().to_string(), message });
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds a row's examples, or leaves the whole row out when one is too long.
    fn add(&mut self, file: usize, name: String, parts: Vec<TokenRow>) -> Result<()> {
        let Limits { max_length, overlong } = self.limits;
        let fitted: Option<Vec<TokenRow>> = parts.into_iter().map(|part| fit(part, max_length, overlong)).collect();
        match fitted {
            Some(parts) => {
                let parts = parts.into_iter().enumerate();
                self.examples.list.extend(parts.map(|(part, tokens)| Example { file, part, tokens }));
                Ok(())
            }
            None if overlong == Overlong::Reject => {
                Err(Refusal(format!("{name} is longer than {max_length} tokens")).into())
            }
            None => {
                self.overlong.add(name);
                Ok(())
            }
        }
    }

    fn finish(self, report: &mut dyn FnMut(WorkerMessage)) -> Examples {
        let Loader { limits, mut examples, overlong, .. } = self;
        examples.rows_overlong = overlong.count;
        if overlong.count > 0 {
            let (count, rows, max_length) = (overlong.count, examples.rows, limits.max_length);
            let message = format!(
                "{count} of {rows} rows are longer than {max_length} tokens and are not trained: {}",
                overlong.names()
            );
            report(WorkerMessage::Warning { code: "rows_overlong".to_string(), message });
        }
        if examples.rows_refused > MAX_NAMED_LINES as u64 {
            let message = format!("{} rows in all cannot be tokenised and are not trained", examples.rows_refused);
            report(WorkerMessage::Warning { code: "rows_refused".to_string(), message });
        }
        examples
    }
}

impl Examples {
    /// `dataset-3:17` (`dataset-3:17#2` for the third example of a row).
    #[must_use]
    pub fn name(&self, index: usize) -> String {
        let example = &self.list[index];
        let part = if example.part == 0 { String::new() } else { format!("#{}", example.part) };
        format!("{}:{}{part}", self.files[example.file], example.tokens.line)
    }

    /// Tokens of one pass.
    #[must_use]
    pub fn num_tokens(&self) -> u64 {
        self.list.iter().map(|e| e.tokens.ids.len() as u64).sum()
    }

    /// Tokens of one pass that carry loss.
    #[must_use]
    pub fn num_trained_tokens(&self) -> u64 {
        self.list.iter().map(|e| e.tokens.num_trained() as u64).sum()
    }

    /// Tokens of the longest example.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.list.iter().map(|e| e.tokens.ids.len()).max().unwrap_or(0)
    }
}

impl Lines {
    fn add(&mut self, name: String) {
        self.count += 1;
        if self.named.len() < MAX_NAMED_LINES {
            self.named.push(name);
        }
    }

    fn names(&self) -> String {
        let more = self.count - self.named.len() as u64;
        let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{}{tail}", self.named.join(", "))
    }
}
