//! What checkpoints were measured to do, and what was concluded from it.

use super::TimeMs;
use crate::ids::CheckpointId;
use serde::{Deserialize, Serialize};

/// Results of one checkpoint on the suites in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// Its manifest, so that a result can never be taken for another's.
    pub manifest_hash: String,
    /// The chat template used, by hash.
    pub template_hash: String,
    /// One result per suite, by suite name.
    pub suites: Vec<SuiteResult>,
    /// When it ended.
    pub at_ms: TimeMs,
    /// Set when it could not be done.
    #[serde(default)]
    pub error: Option<String>,
    /// Tries that crashed.
    #[serde(default)]
    pub tries: u32,
    /// With an error: not before this time it is tried again; `None` means that the record is final.
    #[serde(default)]
    pub retry_at_ms: Option<TimeMs>,
}

/// Loss of one checkpoint on one suite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SuiteResult {
    /// Name of the suite: the file's name.
    pub suite: String,
    /// BLAKE3 of the suite's bytes, hex.
    pub suite_hash: String,
    /// Rows evaluated.
    pub rows: u64,
    /// Rows left out because they exceed the context.
    pub rows_skipped: u64,
    /// Tokens that carry loss.
    pub trained_tokens: u64,
    /// Mean negative log-likelihood per trained token, in nats.
    pub mean_nll: f64,
    /// Share of trained tokens whose argmax is right.
    pub token_accuracy: f64,
    /// Per row: sum of the negative log-likelihoods and number of trained tokens; the base of paired tests.
    pub row_nll: Vec<(f64, u32)>,
}

/// Which of two checkpoints is better, and by what evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// Who was judged.
    pub challenger: CheckpointId,
    /// Against whom; `None` for the first champion.
    pub champion: Option<CheckpointId>,
    /// The outcome.
    pub outcome: Outcome,
    /// The sentence that decides.
    pub reason: String,
    /// When.
    pub at_ms: TimeMs,
}

/// Outcome of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The challenger becomes champion.
    Promote,
    /// It does not: worse.
    Worse,
    /// It does not: the evidence does not tell.
    CannotTell,
    /// It does not: only people promote here.
    Manual,
}
