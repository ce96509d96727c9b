//! A trainer that ruins what it makes, under the contract of `trainer.command`: `HONE HOW --request FILE` runs hone's own
//! `train-job` and passes on what it says, but the files of each checkpoint are changed before it is told of, and their
//! manifest is that of the changed files: nothing but what the model does can tell.

#![expect(clippy::disallowed_methods, reason = "a test helper ruins files")]

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, hone, how, flag, request] = args.as_slice() else { bail!("run {args:?}") };
    let root: Value = serde_json::from_slice(&std::fs::read(request)?)?;
    let root = PathBuf::from(root["root"].as_str().context("find the root")?);
    let mut trainer = Command::new(hone).args(["child", "train-job", flag, request]).stdout(Stdio::piped()).spawn()?;
    for line in BufReader::new(trainer.stdout.take().context("read the trainer")?).lines() {
        let mut message: Value = serde_json::from_str(&line?)?;
        if message["type"] == "staged" {
            let folder = root.join(message["staging"].as_str().context("find the folder")?);
            ruin(&folder, how)?;
            message["manifest_hash"] = hone_disk::manifest::write(&folder)?.into();
        }
        writeln!(std::io::stdout(), "{message}")?;
    }
    std::process::exit(trainer.wait()?.code().unwrap_or(1));
}

fn ruin(folder: &Path, how: &str) -> Result<()> {
    match how {
        "random" => {
            fill(&folder.join("model.safetensors"), |place| (place.wrapping_mul(0x9E37_79B9) >> 8) as f32 / 1e7)
        }
        "nan" => fill(&folder.join("model.safetensors"), |_| f32::NAN),
        "tokenizer" => turn_ids(&folder.join("tokenizer.json")),
        _ => bail!("ruin by {how}"),
    }
}

/// Overwrites every weight. Two bytes a weight are the upper half of four.
fn fill(file: &Path, weight: impl Fn(u32) -> f32) -> Result<()> {
    let mut bytes = std::fs::read(file)?;
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into()?) as usize;
    let tensors: Map<String, Value> = serde_json::from_slice(&bytes[8..header])?;
    for tensor in tensors.values().filter(|tensor| tensor["dtype"].is_string()) {
        let width = match tensor["dtype"].as_str() {
            Some("F32") => 4,
            Some("BF16") => 2,
            other => bail!("weights of {other:?}"),
        };
        let offset = |end: usize| tensor["data_offsets"][end].as_u64().map(|offset| offset as usize + header);
        let (from, to) = (offset(0).context("find a tensor")?, offset(1).context("find a tensor")?);
        for (place, bytes) in bytes[from..to].chunks_mut(width).enumerate() {
            bytes.copy_from_slice(&weight(place as u32).to_le_bytes()[4 - width..]);
        }
    }
    Ok(std::fs::write(file, bytes)?)
}

/// The same tokens under one another's ids: a tokenizer of another model of the same size.
fn turn_ids(file: &Path) -> Result<()> {
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(file)?)?;
    let special: Vec<u64> = tokenizer["added_tokens"]
        .as_array()
        .map_or_else(Vec::new, |tokens| tokens.iter().filter_map(|token| token["id"].as_u64()).collect());
    let vocab = tokenizer["model"]["vocab"].as_object_mut().context("find the vocabulary")?;
    let mut ids: Vec<u64> = vocab.values().filter_map(Value::as_u64).filter(|id| !special.contains(id)).collect();
    ids.sort_unstable();
    let turned: std::collections::BTreeMap<u64, u64> =
        ids.iter().copied().zip(ids.iter().copied().cycle().skip(ids.len() / 2)).collect();
    for id in vocab.values_mut() {
        if let Some(other) = id.as_u64().and_then(|id| turned.get(&id)) {
            *id = (*other).into();
        }
    }
    Ok(std::fs::write(file, serde_json::to_vec(&tokenizer)?)?)
}
