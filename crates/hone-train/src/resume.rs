//! The resume folder: what training needs beside a checkpoint to go on as if it had never stopped.
//!
//! `masters/`, `first_moment/`, `second_moment/`: one `model.safetensors` each, f32, with the names of the
//! parameters (moments: of those that are trained); `resume.json`: a [`ResumeState`]; `manifest.json` last. The
//! published weights may be rounded (bf16); training always goes on from the masters.
//!
//! With LoRA `masters/` is absent: `base/` holds the frozen model in its own number type and `adapter/` the adapter in
//! f32, `peft`'s format; the moments are those of the adapter's matrices. So a resume state needs no other folder.

use crate::{Refusal, checkpoint};
use anyhow::{Context, Result};
use hone_disk::manifest;
use hone_model::{Adapter, Config, Dtype, HostWeights, Stored, Trainer};
use hone_pipeline::config::LoraSettings;
use hone_pipeline::ids::{CheckpointId, JobId};
use hone_pipeline::state::Position;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

#[cfg(test)]
mod tests;

/// Version of `resume.json`.
pub const FORMAT_VERSION: u32 = 1;

const MASTERS: &str = "masters";
const FIRST_MOMENT: &str = "first_moment";
const SECOND_MOMENT: &str = "second_moment";
const BASE: &str = "base";
const ADAPTER: &str = "adapter";
const WEIGHTS: &str = "model.safetensors";

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
    /// The adapters that were trained; none = the model itself. Older states have none.
    #[serde(default)]
    pub lora: Option<LoraSettings>,
    /// The patterns of frozen parameters.
    #[serde(default)]
    pub freeze: Vec<String>,
    /// How many tensors were trained; 0 in older states.
    #[serde(default)]
    pub trained_tensors: u64,
    /// Rows of a micro-batch; 0 in older states.
    #[serde(default)]
    pub micro_batch: usize,
    /// The folder that the model came from: the base under an adapter.
    #[serde(default)]
    pub base_model: String,
}

/// What a slice goes on from. The moments stay on disk until the trainer takes them.
#[derive(Debug)]
pub struct Resumed {
    /// Counters and position.
    pub state: ResumeState,
    /// f32 masters, or the frozen model under the adapter; `dtype` is that of the published weights.
    pub weights: HostWeights,
    /// The adapter, with LoRA.
    pub adapter: Option<Adapter>,
    dir: PathBuf,
}

impl Resumed {
    /// Puts adapter and moments into a trainer that was made of the weights.
    ///
    /// # Errors
    /// Another set of trained tensors, by count or name.
    pub fn put_into(&self, trainer: &mut Trainer) -> Result<()> {
        if let Some(adapter) = &self.adapter {
            trainer.load_adapter(adapter)?;
        }
        let [first, second] = [FIRST_MOMENT, SECOND_MOMENT].map(|folder| self.dir.join(folder).join(WEIGHTS));
        trainer.load_moments(&first, &second, self.state.optimizer_step)
    }
}

/// Writes a whole resume folder of what `trainer` holds into `staging` (emptied first).
///
/// # Errors
/// A number that is not finite; whatever the disk answers. `staging` is then without a manifest.
pub fn write(staging: &Path, config: &Config, state: &ResumeState, trainer: &mut Trainer) -> Result<String> {
    hone_disk::remove_tree(staging)?;
    hone_disk::create_dir(staging)?;
    let mut put = |folder: &str, what: Stored, dtype: Dtype| {
        hone_disk::create_dir(&staging.join(folder))?;
        checkpoint::write_file(&staging.join(folder).join(WEIGHTS), &mut |out| trainer.write(&what, dtype, out))
    };
    put(FIRST_MOMENT, Stored::FirstMoments, Dtype::F32)?;
    put(SECOND_MOMENT, Stored::SecondMoments, Dtype::F32)?;
    match state.lora {
        None => put(MASTERS, Stored::Base, Dtype::F32)?,
        Some(_) => put(BASE, Stored::Base, dtype_by_name(&state.dtype)?)?,
    }
    if let Some(adapter) = trainer.adapter()? {
        checkpoint::write_adapter(&staging.join(ADAPTER), config, &adapter, &state.base_model)?;
    }
    hone_disk::write_json(&staging.join("resume.json"), state)?;
    manifest::write(staging)
}

/// The state alone, after the folder was held against its manifest.
///
/// # Errors
/// A folder that is not complete or not that of `parent`.
pub fn read_state(dir: &Path, parent: CheckpointId) -> Result<ResumeState> {
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
    Ok(state)
}

/// Reads the weights (and the adapter) that belong to a state.
///
/// # Errors
/// Files that are not those of `config`.
pub fn load(dir: &Path, config: &Config, state: ResumeState) -> Result<Resumed> {
    let folder = if state.lora.is_some() { BASE } else { MASTERS };
    let mut weights = HostWeights::load(&dir.join(folder), config)?;
    weights.dtype = dtype_by_name(&state.dtype)?;
    let adapter = state.lora.as_ref().map(|_| Adapter::load(&dir.join(ADAPTER), config)).transpose()?;
    Ok(Resumed { state, weights, adapter, dir: dir.to_path_buf() })
}

fn dtype_by_name(name: &str) -> Result<Dtype> {
    let known = [Dtype::F32, Dtype::Bf16, Dtype::F16];
    known
        .into_iter()
        .find(|dtype| dtype.name() == name)
        .ok_or_else(|| Refusal(format!("resume.json names the unknown number type {name:?}")).into())
}
