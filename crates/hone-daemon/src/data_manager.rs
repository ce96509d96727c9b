//! Asking a skill for new data when the queue runs dry. What it brings enters through the inbox like any file.

use crate::options::{Limits, SkillEndpoint};
use anyhow::{Result, bail};
use hone_pipeline::state::Priority;
use std::path::Path;

/// One request for data.
#[derive(Clone, Debug)]
pub struct GenerateOrder {
    /// Whom to ask.
    pub skill: SkillEndpoint,
    /// Which level.
    pub level: u32,
    /// How many samples.
    pub count: u64,
    /// The seed; the next fresh one of the workspace when absent.
    pub seed: Option<u64>,
    /// Priority of the file.
    pub priority: Priority,
}

/// What was placed in the inbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeneratedFile {
    /// Relative to `inbox/`.
    pub inbox_path: String,
    /// Rows of the file.
    pub rows: u64,
    /// The seed that made it.
    pub seed: u64,
    /// The skill's version.
    pub version: String,
}

/// Asks once, checks what came, and places it in the inbox of the workspace `root`.
///
/// # Errors
/// The skill does not answer, answers outside its contract, or what it brings does not pass the quality check.
pub fn generate_once(_root: &Path, _order: &GenerateOrder, _limits: &Limits) -> Result<GeneratedFile> {
    bail!("not built yet")
}
