//! Import of a GGUF file (llama.cpp's single-file format) as the parts of a Hugging Face model folder.
//!
//! Reads versions 2 and 3, little endian, of the architectures `llama`, `qwen2` and `qwen3`, with tensors stored as F32, F16,
//! BF16, Q8_0, Q4_0 or Q4_1, and byte-level BPE tokenizers (`gpt2`) with the splitting rules `smollm`, `qwen2` and `llama-bpe`.
//! The weights are the dequantised ones: what the file holds, not what it was once made from. Everything else is refused by its
//! name. Writing the folder is the caller's work: nothing here writes.
//!
//! A file is untrusted: every length is held against the size of the file before memory is asked for, and an error names the
//! key, the tensor or the byte at which reading stopped.

mod convert;
mod dequantise;
mod reader;
mod tokenizer;

use crate::config::Config;
use crate::weights::{Dtype, HostWeights};
use anyhow::{Context, Result};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

/// The parts of a Hugging Face model folder.
#[derive(Clone, Debug)]
pub struct Imported {
    /// `config.json`.
    pub config: Value,
    /// `tokenizer.json`.
    pub tokenizer: Value,
    /// `tokenizer_config.json`, with the chat template if the file has one.
    pub tokenizer_config: Value,
    /// `generation_config.json`.
    pub generation_config: Value,
    /// `SOURCE.json`: where the numbers came from (hash of the file, name, licence, how tensors were stored).
    pub source: Value,
    /// `model.safetensors`, to be written with [`HostWeights::write`] in its `dtype`.
    pub weights: HostWeights,
    /// `config`, read.
    pub model: Config,
}

impl Imported {
    /// Chooses how `model.safetensors` is to be written, and says so in `config.json` and `SOURCE.json`. f32 unless called.
    pub fn set_dtype(&mut self, dtype: Dtype) {
        self.weights.dtype = dtype;
        self.config["torch_dtype"] = dtype.name().into();
        self.source["dtype"] = convert::dtype_name(dtype).into();
    }
}

/// Reads a GGUF file whole.
///
/// # Errors
/// A file that cannot be read, is malformed, or holds something that is not supported; the message names it.
pub fn import(path: &Path) -> Result<Imported> {
    let read = || -> Result<Imported> {
        let mut file = File::open(path)?;
        let sha256 = hash(&mut file)?;
        let len = file.metadata()?.len();
        import_from(&mut BufReader::new(file), len, &sha256)
    };
    read().with_context(|| format!("import {}", path.display()))
}

/// Reads from anything that holds `len` bytes.
fn import_from(input: &mut dyn reader::Input, len: u64, sha256: &str) -> Result<Imported> {
    let mut file = reader::GgufFile::read(input, len)?;
    let architecture = convert::Architecture::of(&file)?;
    let converted = convert::weights(&mut file, &architecture)?;
    let mut imported = Imported {
        tokenizer: tokenizer::tokenizer(&file.metadata, converted.model.vocab_size)?,
        tokenizer_config: tokenizer::tokenizer_config(&file.metadata, &architecture)?,
        generation_config: tokenizer::generation_config(&file.metadata)?,
        source: convert::source(&file, sha256),
        config: converted.config,
        weights: converted.weights,
        model: converted.model,
    };
    imported.set_dtype(Dtype::F32);
    Ok(imported)
}

fn hash(file: &mut File) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    file.rewind()?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests;
