//! What a job will take, before it starts.

use anyhow::{Result, bail};
use hone_pipeline::config::TrainSettings;
use hone_pipeline::wire::TrainFile;
use serde::Serialize;
use std::path::Path;

/// The size of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Rows of all files.
    pub rows: u64,
    /// Rows left out as overlong.
    pub rows_skipped: u64,
    /// Training examples: rows, or assistant turns where the template needs one example per turn.
    pub examples: u64,
    /// Tokens of one pass.
    pub tokens: u64,
    /// Tokens of one pass that carry loss.
    pub trained_tokens: u64,
    /// Optimizer steps of the whole job.
    pub steps: u64,
    /// Tokens of the longest example.
    pub longest: u64,
    /// Tokens of the largest micro-batch.
    pub largest_micro_batch: u64,
    /// Memory that the engine plans for weights, gradients, optimizer and activations, in bytes.
    pub planned_bytes: u64,
}

/// Reads and tokenises the files and counts; trains nothing.
pub fn plan(_model_dir: &Path, _files: &[TrainFile], _settings: &TrainSettings) -> Result<Plan> {
    bail!("not built yet")
}
