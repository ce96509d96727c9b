//! A checkpoint folder: a complete Hugging Face model plus where it comes from.
//!
//! `config.json`, tokenizer, chat template and generation files as they stand in the parent's folder;
//! `model.safetensors` in the parent's number type (masters rounded to nearest even);
//! `trainer_state.json` in the shape that `transformers` reads (steps of this slice);
//! `lineage.json`: what the request's `lineage` holds, and over it `format_version`, `checkpoint`, `parent`,
//! `job`, `steps_from_base`, `position`, `rows_digest`, `slice` (first and last step of the job, range of
//! examples in the job's order), `files` (rows trained per file in this slice), `settings`, `versions`;
//! `manifest.json` last. Everything is written into a staging folder that nobody else looks at.

use anyhow::{Context, Result};
use hone_disk::manifest;
use hone_model::{Config, Dtype, HostWeights};
use serde_json::Value;
use std::io::{BufWriter, Write};
use std::path::Path;

#[cfg(test)]
mod tests;

/// Files of the parent that belong to a model beside its weights.
const MODEL_FILES: &[&str] = &[
    "LICENSE",
    "LICENSE.md",
    "LICENSE.txt",
    "NOTICE",
    "SOURCE.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
];

/// What a checkpoint holds.
#[derive(Debug)]
pub struct Contents<'a> {
    /// The parent's folder.
    pub model_dir: &'a Path,
    /// Its configuration.
    pub config: &'a Config,
    /// The weights (f32 masters).
    pub weights: &'a HostWeights,
    /// The number type on disk.
    pub dtype: Dtype,
    /// Content of `trainer_state.json`.
    pub trainer_state: &'a Value,
    /// Content of `lineage.json`.
    pub lineage: &'a Value,
}

/// Writes a whole checkpoint into `staging` (emptied first). Returns the BLAKE3 of its manifest.
///
/// # Errors
/// Whatever the disk answers; `staging` is then without a manifest, so nobody takes it for complete.
pub fn write(staging: &Path, contents: &Contents<'_>) -> Result<String> {
    hone_disk::remove_tree(staging)?;
    hone_disk::create_dir(staging)?;
    for name in MODEL_FILES {
        copy(&contents.model_dir.join(name), &staging.join(name))?;
    }
    write_weights(&staging.join("model.safetensors"), contents.config, contents.weights, contents.dtype)?;
    hone_disk::write_json(&staging.join("trainer_state.json"), contents.trainer_state)?;
    hone_disk::write_json(&staging.join("lineage.json"), contents.lineage)?;
    manifest::write(staging)
}

/// Writes one safetensors file.
pub(crate) fn write_weights(path: &Path, config: &Config, weights: &HostWeights, dtype: Dtype) -> Result<()> {
    let mut file = BufWriter::new(hone_disk::create_file(path)?);
    weights
        .write(config, dtype, &mut file)
        .and_then(|()| Ok(file.flush()?))
        .with_context(|| format!("write {}", path.display()))
}

/// Copies the bytes (no link: a published folder shares nothing with its parent that someone may edit).
/// An absent file is fine.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut source = match std::fs::File::open(from) {
        Ok(source) => source,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("open {}", from.display())),
    };
    let mut target = hone_disk::create_file(to)?;
    std::io::copy(&mut source, &mut target).with_context(|| format!("copy {}", from.display()))?;
    Ok(())
}
