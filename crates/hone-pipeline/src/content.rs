//! Thresholds of the content gate, each with its default, and the files that rows are compared with.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Thresholds of the content gate. A share is that of the file's rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContentSettings {
    /// An answer of fewer characters is never called leaked: it stands in many prompts by chance.
    pub min_answer_chars: usize,
    /// Share of common five-word shingles from which on two rows are near-duplicates.
    pub near_duplicate_similarity: f64,
    /// Words in a row that two texts must have in common before an overlap is looked at.
    pub overlap_words: usize,
    /// Share of a validation text's distinctive word runs that must stand in a row.
    pub overlap_coverage: f64,
    /// More exact duplicates than this reject the file.
    pub max_duplicate_share: f64,
    /// More rows whose prompt holds the answer reject the file.
    pub max_leak_share: f64,
    /// More rows that overlap with validation data reject the file.
    pub max_overlap_share: f64,
    /// A label of more rows than this is reported.
    pub max_label_share: f64,
    /// Distance (half the sum of differences of shares, 0 to 1) from earlier files that is reported.
    pub max_shift: f64,
    /// Most bytes of earlier files that rows are compared with, the newest first.
    pub max_compare_bytes: u64,
}

impl Default for ContentSettings {
    fn default() -> Self {
        ContentSettings {
            min_answer_chars: 24,
            near_duplicate_similarity: 0.8,
            overlap_words: 13,
            overlap_coverage: 0.8,
            max_duplicate_share: 1.0,
            max_leak_share: 0.2,
            max_overlap_share: 0.01,
            max_label_share: 0.9,
            max_shift: 0.5,
            max_compare_bytes: 2 << 30,
        }
    }
}

/// A file that rows are compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CompareFile {
    /// Its name, for messages.
    pub name: String,
    /// Where it lies (absolute).
    pub path: PathBuf,
    /// The schema of its rows.
    pub schema_id: String,
    /// What it is.
    pub role: CompareRole,
}

/// Why a file is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompareRole {
    /// Checkpoints are judged on it: its rows must not be trained.
    Validation,
    /// Samples of a skill's `eval` split: checkpoints are judged on such, so they must not be trained.
    SkillEvaluation,
    /// It was accepted before: its rows are trained already.
    Earlier,
}
