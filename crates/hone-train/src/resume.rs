//! The resume folder: what training needs beside a checkpoint to go on as if it had never stopped.
//!
//! `masters/`, `first_moment/`, `second_moment/`: one `model.safetensors` each, f32, with the names of the
//! parameters; `resume.json`: a [`ResumeState`]; `manifest.json` last. The published weights may be rounded
//! (bf16); training always goes on from the masters.

use crate::Refusal;
use crate::checkpoint::write_weights;
use anyhow::{Context, Result};
use hone_disk::manifest;
use hone_model::{Config, Dtype, HostWeights, OptimizerState};
use hone_pipeline::ids::{CheckpointId, JobId};
use hone_pipeline::state::Position;
use serde::{Deserialize, Serialize};
use std::path::Path;

#[cfg(test)]
mod tests;

/// Version of `resume.json`.
pub const FORMAT_VERSION: u32 = 1;

const MASTERS: &str = "masters";
const FIRST_MOMENT: &str = "first_moment";
const SECOND_MOMENT: &str = "second_moment";

/// Content of `resume.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResumeState {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The checkpoint that this belongs to.
    pub checkpoint: CheckpointId,
    /// The job that wrote it.
    pub job: JobId,
    /// That job's position.
    pub position: Position,
    /// Digest of that job's rows up to the position.
    pub rows_digest: String,
    /// Updates of the optimizer since the base model (bias correction); a refused update does not count.
    pub optimizer_step: u64,
    /// Steps since the base model.
    pub steps_from_base: u64,
    /// Refused updates in a row, up to now.
    pub nonfinite_in_a_row: u32,
    /// Mean loss of the last step that had one.
    pub last_loss: f64,
    /// Number type of the published weights: `float32`, `bfloat16` or `float16`.
    pub dtype: String,
}

/// Everything that a slice goes on from.
#[derive(Debug)]
pub struct Resumed {
    /// Counters and position.
    pub state: ResumeState,
    /// f32 masters; `dtype` is that of the published weights.
    pub masters: HostWeights,
    /// What AdamW remembers.
    pub optimizer: OptimizerState,
}

/// Writes a whole resume folder into `staging` (emptied first).
///
/// # Errors
/// Whatever the disk answers; `staging` is then without a manifest.
pub fn write(staging: &Path, config: &Config, content: Resumed) -> Result<String> {
    hone_disk::remove_tree(staging)?;
    hone_disk::create_dir(staging)?;
    let put = |name: &str, weights: &HostWeights| {
        hone_disk::create_dir(&staging.join(name))?;
        write_weights(&staging.join(name).join("model.safetensors"), config, weights, Dtype::F32)
    };
    let Resumed { state, masters, optimizer } = content;
    put(MASTERS, &masters)?;
    put(FIRST_MOMENT, &HostWeights { tensors: optimizer.m, dtype: Dtype::F32 })?;
    put(SECOND_MOMENT, &HostWeights { tensors: optimizer.v, dtype: Dtype::F32 })?;
    hone_disk::write_json(&staging.join("resume.json"), &state)?;
    manifest::write(staging)
}

/// Reads a resume folder after holding it against its manifest.
///
/// # Errors
/// A folder that is not complete or not that of `parent`.
pub fn load(dir: &Path, config: &Config, parent: CheckpointId) -> Result<Resumed> {
    manifest::verify(dir, None).context("verify the resume state")?;
    let path = dir.join("resume.json");
    let bytes = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let state: ResumeState = serde_json::from_slice(&bytes).with_context(|| format!("parse {}", path.display()))?;
    if state.format_version != FORMAT_VERSION {
        let version = state.format_version;
        return Err(Refusal(format!("{} has format {version}, expected {FORMAT_VERSION}", path.display())).into());
    }
    if state.checkpoint != parent {
        let found = state.checkpoint;
        return Err(Refusal(format!("{} belongs to {found}, not to {parent}", path.display())).into());
    }
    let mut masters = HostWeights::load(&dir.join(MASTERS), config)?;
    masters.dtype = dtype_by_name(&state.dtype)?;
    let optimizer = OptimizerState {
        step: state.optimizer_step,
        m: HostWeights::load(&dir.join(FIRST_MOMENT), config)?.tensors,
        v: HostWeights::load(&dir.join(SECOND_MOMENT), config)?.tensors,
    };
    Ok(Resumed { state, masters, optimizer })
}

fn dtype_by_name(name: &str) -> Result<Dtype> {
    let known = [Dtype::F32, Dtype::Bf16, Dtype::F16];
    known
        .into_iter()
        .find(|dtype| dtype.name() == name)
        .ok_or_else(|| Refusal(format!("resume.json names the unknown number type {name:?}")).into())
}
