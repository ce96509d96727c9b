//! What is wrong with data: findings, reports, verdicts. The stored report is JSON with a
//! `format_version` and is kept for ever beside its dataset.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version written into every stored report.
pub const REPORT_FORMAT_VERSION: u32 = 1;
/// How many line numbers a finding lists; `count` has the true number.
pub const MAX_FINDING_LINES: usize = 20;

/// Whether a finding blocks the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is accepted all the same.
    Warning,
    /// The file is rejected.
    Error,
}

/// One problem of a file, with all the lines that have it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable machine-readable name, e.g. `json_syntax`, `schema_unknown`, `role_invalid`.
    pub code: String,
    /// Whether it blocks.
    pub severity: Severity,
    /// How many rows have it.
    pub count: u64,
    /// Physical line numbers from 1, the first [`MAX_FINDING_LINES`]; empty when it concerns the whole file.
    pub lines: Vec<u64>,
    /// A plain sentence: what was found and what was expected.
    pub message: String,
    /// What to do about it.
    pub hint: String,
    /// A short excerpt or measured value, where one helps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
}

/// The answer of both gates about one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The file may be trained on.
    Accepted,
    /// It may not.
    Rejected,
}

/// Where the schema id of a file came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SchemaOrigin {
    /// `--schema` on the command line.
    Flag,
    /// The sidecar `<file>.meta.json`.
    Sidecar,
    /// `schema_id` of `config.json`.
    Config,
    /// Nothing named one; the default applied.
    Default,
}

/// The content-check level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Every row: syntax, types, roles, emptiness.
    Quick,
    /// Quick, token statistics, balance, duplicates.
    Standard,
    /// Standard, leakage, near-duplicates, overlap, degenerate text, secrets.
    Deep,
}

/// Statistics of a file: tokens under the model's chat template (zero where no model was at hand), and from
/// `standard` on the balance of its rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenStats {
    /// Tokens of all rows.
    pub num_tokens: u64,
    /// Tokens that carry loss.
    pub num_trained_tokens: u64,
    /// Rows longer than `max_length`.
    pub num_overlong_rows: u64,
    /// Token count of the longest row.
    pub max_row_tokens: u64,
    /// Token count of the shortest row.
    #[serde(default)]
    pub min_row_tokens: u64,
    /// Half of the rows have at most so many tokens.
    #[serde(default)]
    pub median_row_tokens: u64,
    /// 95 of 100 rows have at most so many.
    #[serde(default)]
    pub p95_row_tokens: u64,
    /// 99 of 100 rows have at most so many.
    #[serde(default)]
    pub p99_row_tokens: u64,
    /// `num_overlong_rows` by the rows that were counted.
    #[serde(default)]
    pub overlong_share: f64,
    /// `num_trained_tokens` by `num_tokens`.
    #[serde(default)]
    pub trained_share: f64,
    /// What the rows are made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance: Option<Balance>,
}

/// What the rows of a file are made of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Balance {
    /// Messages by role (`prompt` and `completion` outside conversations).
    pub roles: BTreeMap<String, u64>,
    /// Rows by number of messages: `1`, `2`, `3-4`, `5-8`, `9+`.
    pub turns: BTreeMap<String, u64>,
    /// Short answers by their text, the most frequent ones.
    pub labels: BTreeMap<String, u64>,
    /// Rows by the script of most of their letters.
    pub scripts: BTreeMap<String, u64>,
    /// Rows in Latin script by language, told by frequent words; `unknown` where none stands out.
    pub languages: BTreeMap<String, u64>,
    /// Rows by `source` (of the row or its metadata), the most frequent ones.
    pub sources: BTreeMap<String, u64>,
    /// Rows by characters of their answers: `0-9`, `10-99`, `100-999`, `1000-9999`, `10000+`.
    pub answer_chars: BTreeMap<String, u64>,
    /// Rows that say the same as an earlier row.
    pub num_duplicates: u64,
}

/// The full report of both gates about one file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`REPORT_FORMAT_VERSION`] at the time of writing.
    pub format_version: u32,
    /// Accepted or rejected.
    pub verdict: Verdict,
    /// The schema the file was held against.
    pub schema_id: String,
    /// Where that id came from.
    pub schema_origin: SchemaOrigin,
    /// The level that ran.
    pub level: Level,
    /// Rows of the file (lines that are not blank).
    pub rows: u64,
    /// Size of the file in bytes.
    pub size_bytes: u64,
    /// BLAKE3 of the file's bytes, hex; empty when it was not read to its end.
    pub blake3: String,
    /// All problems.
    pub findings: Vec<Finding>,
    /// Statistics, from `standard` on; written as `null` at `quick`.
    #[serde(default)]
    pub stats: Option<Box<TokenStats>>,
    /// How long it took.
    pub elapsed_ms: u64,
}

impl Report {
    /// True when no finding blocks.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.verdict == Verdict::Accepted
    }

    /// The blocking findings in one line each: `line 7: message`.
    pub fn error_lines(&self) -> impl Iterator<Item = String> + '_ {
        self.findings.iter().filter(|f| f.severity == Severity::Error).map(|f| match f.lines.first() {
            Some(line) if f.count > 1 => {
                format!("line {line} and {} more: {}", f.count - 1, f.message)
            }
            Some(line) => format!("line {line}: {}", f.message),
            None => f.message.clone(),
        })
    }
}
