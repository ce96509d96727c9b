//! A checkpoint folder: a complete Hugging Face model plus where it comes from.
//!
//! `config.json`, tokenizer, chat template and generation files as they stand in the parent's folder;
//! `model.safetensors` in the parent's number type (masters rounded to nearest even), or shards with their index above
//! the configured size. With LoRA or frozen parameters there are always shards: those that training leaves alone come
//! first and keep their bytes from checkpoint to checkpoint, so that a deployment sends only the others. With LoRA the
//! adapters are merged into these weights, and `adapter/` beside them holds the adapter alone in `peft`'s format (it
//! belongs to the model that its `base_model_name_or_path` names);
//! `trainer_state.json` in the shape that `transformers` reads (steps of this slice);
//! `lineage.json`: what the request's `lineage` holds, and over it `format_version`, `checkpoint`, `parent`,
//! `job`, `steps_from_base`, `position`, `rows_digest`, `slice` (first and last step of the job, range of
//! examples in the job's order), `files` (rows trained per file in this slice), `settings`, `versions`;
//! `manifest.json` last. Everything is written into a staging folder that nobody else looks at.

use anyhow::{Context, Result};
use hone_disk::manifest;
use hone_model::{Adapter, Config, Dtype, INDEX_FILE, Shards, Stored, Trainer};
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
    /// The number type on disk.
    pub dtype: Dtype,
    /// Largest weight file in bytes; 0 = one file.
    pub max_shard_bytes: u64,
    /// The folder of the model under the adapter, for `adapter_config.json`.
    pub adapter_base: &'a str,
    /// Content of `trainer_state.json`.
    pub trainer_state: &'a Value,
    /// Content of `lineage.json`.
    pub lineage: &'a Value,
}

/// Writes a whole checkpoint of what `trainer` holds into `staging` (emptied first). Returns the BLAKE3 of its manifest.
///
/// # Errors
/// A number that is not finite; whatever the disk answers. `staging` is then without a manifest, so nobody takes it for
/// complete.
pub fn write(staging: &Path, contents: &Contents<'_>, trainer: &mut Trainer) -> Result<String> {
    hone_disk::remove_tree(staging)?;
    hone_disk::create_dir(staging)?;
    for name in MODEL_FILES {
        copy(&contents.model_dir.join(name), &staging.join(name))?;
    }
    let changes = |parameter: &str| trainer.changes(parameter);
    let shards = Shards::plan(contents.config, contents.dtype, contents.max_shard_bytes, &changes);
    for (name, indices) in shards.files {
        let weights = Stored::Weights(indices);
        write_file(&staging.join(name), &mut |out| trainer.write(&weights, contents.dtype, out))?;
    }
    if let Some(index) = shards.index {
        hone_disk::write_json(&staging.join(INDEX_FILE), &index)?;
    }
    if let Some(adapter) = trainer.adapter()? {
        write_adapter(&staging.join("adapter"), contents.config, &adapter, contents.adapter_base)?;
    }
    hone_disk::write_json(&staging.join("trainer_state.json"), contents.trainer_state)?;
    hone_disk::write_json(&staging.join("lineage.json"), contents.lineage)?;
    manifest::write(staging)
}

/// Writes `peft`'s two files into `dir`; `base` is the folder of the adapted model.
///
/// # Errors
/// Whatever the disk answers.
pub fn write_adapter(dir: &Path, config: &Config, adapter: &Adapter, base: &str) -> Result<()> {
    hone_disk::create_dir(dir)?;
    hone_disk::write_json(&dir.join("adapter_config.json"), &adapter.config_json(base))?;
    write_file(&dir.join("adapter_model.safetensors"), &mut |out| adapter.write(config, out))
}

/// Writes one file through a buffer.
pub(crate) fn write_file(path: &Path, content: &mut dyn FnMut(&mut dyn Write) -> Result<()>) -> Result<()> {
    let mut file = BufWriter::new(hone_disk::create_streamed(path)?);
    content(&mut file).and_then(|()| Ok(file.flush()?)).with_context(|| format!("write {}", path.display()))
}

/// Copies the bytes (no link: a published folder shares nothing with its parent that someone may edit).
/// An absent file is fine.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut source = match std::fs::File::open(from) {
        Ok(source) => source,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("open {}", from.display())),
    };
    let mut target = hone_disk::create_streamed(to)?;
    std::io::copy(&mut source, &mut target).with_context(|| format!("copy {}", from.display()))?;
    Ok(())
}
