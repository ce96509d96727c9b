//! What an evaluation has done so far, on disk, so that the next try goes on from there and nothing is ever generated
//! twice: one file per suite with a line per scored batch, and one file with a line per answer. A file's name holds
//! everything that its content depends on, so a changed suite, template, model or engine begins anew.
//!
//! ```text
//! <keep_dir>/losses-<key>.jsonl    {"from": K, "scores": [[nll, tokens], …], "correct": N}   parts of rows
//! <keep_dir>/answers-<key>.jsonl   {"key": HASH, "answer": Answer}
//! ```
//!
//! A line that a crash tore is left out, and its work is done again.

use anyhow::Result;
use hone_pipeline::wire::{Answer, Question};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Characters of a hash in a file's name.
const KEY_CHARS: usize = 24;

/// Scores of one batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// Index of its first part in the suite.
    pub from: usize,
    /// Of each part: the sum of its losses and its trained tokens.
    pub scores: Vec<(f64, u32)>,
    /// Trained tokens of the batch whose argmax is right.
    pub correct: u64,
}

#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    answer: Answer,
}

/// Where results are kept; nothing is where there is no folder.
pub struct Kept {
    dir: Option<PathBuf>,
    /// What all results depend on.
    fingerprint: String,
}

impl Kept {
    /// Results in `dir` of the evaluation with this fingerprint (any text).
    pub fn open(dir: Option<&Path>, fingerprint: String) -> Result<Kept> {
        if let Some(dir) = dir {
            hone_disk::create_dir(dir)?;
        }
        Ok(Kept { dir: dir.map(Path::to_path_buf), fingerprint })
    }

    /// Batches of a suite that were scored: those that lie end to end from its first part on.
    pub fn batches(&self, suite_hash: &str, num_parts: usize) -> Vec<Batch> {
        let mut batches: Vec<Batch> = self.file("losses", suite_hash).map(|path| lines(&path)).unwrap_or_default();
        let mut next = 0;
        batches.retain(|batch| {
            let fits = batch.from == next && !batch.scores.is_empty() && next + batch.scores.len() <= num_parts;
            next += if fits { batch.scores.len() } else { 0 };
            fits
        });
        batches
    }

    /// Keeps a batch.
    pub fn add_batch(&self, suite_hash: &str, batch: &Batch) -> Result<()> {
        self.append("losses", suite_hash, batch)
    }

    /// Answers by what [`Kept::answer_key`] says of their question.
    pub fn answers(&self) -> HashMap<String, Answer> {
        let lines: Vec<Line> = self.file("answers", "").map(|path| lines(&path)).unwrap_or_default();
        lines.into_iter().map(|line| (line.key, line.answer)).collect()
    }

    /// Keeps an answer.
    pub fn add_answer(&self, key: &str, answer: &Answer) -> Result<()> {
        self.append("answers", "", &Line { key: key.to_string(), answer: answer.clone() })
    }

    /// What the answer to a question depends on, beside the fingerprint.
    pub fn answer_key(question: &Question, max_tokens: usize) -> String {
        hone_disk::hash_bytes(format!("{}\n{max_tokens}\n{}", question.id, question.messages).as_bytes())
    }

    fn file(&self, kind: &str, of: &str) -> Option<PathBuf> {
        let key = hone_disk::hash_bytes(format!("{}\n{of}", self.fingerprint).as_bytes());
        self.dir.as_ref().map(|dir| dir.join(format!("{kind}-{}.jsonl", &key[..KEY_CHARS])))
    }

    fn append(&self, kind: &str, of: &str, value: &impl Serialize) -> Result<()> {
        let Some(path) = self.file(kind, of) else { return Ok(()) };
        hone_disk::append_line(&path, &serde_json::to_string(value)?)
    }
}

/// The lines that can be read.
fn lines<T: DeserializeOwned>(path: &Path) -> Vec<T> {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
