//! Model folders: `hone model info`, `hone model import`, `hone model new`.

use crate::output;
use crate::tiny::{self, Shape};
use crate::workspace::{Workspace, absolute};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use hone_disk as disk;
use hone_model::{Config, Dtype, HostWeights, gguf};
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};

/// `hone model …`.
#[derive(Subcommand, Debug)]
pub enum ModelVerb {
    /// What a model folder holds, and whether hone can train and serve it.
    Info {
        /// A Hugging Face folder.
        path: PathBuf,
    },
    /// Make a small model with random weights and a tokenizer of its own, e.g. for `hone init --model`.
    New(NewArgs),
    /// Dequantise a GGUF file into a Hugging Face folder.
    Import {
        /// The GGUF file (llama, qwen2 or qwen3).
        file: PathBuf,
        /// The folder to make.
        dir: PathBuf,
        /// Type of the written weights.
        #[arg(long, value_enum, default_value = "bf16")]
        dtype: DtypeArg,
    },
}

/// Flags of `hone model new`. The defaults make the model of `hone init --tiny`.
#[derive(Args, Debug)]
pub struct NewArgs {
    /// The folder to make.
    dir: PathBuf,
    /// Skills of hone whose texts the tokenizer learns its words from.
    #[arg(long, value_delimiter = ',', default_value = "binary")]
    skills: Vec<String>,
    /// Most tokens of the vocabulary.
    #[arg(long, default_value_t = 512)]
    vocabulary: usize,
    /// Width: a multiple of twice the heads.
    #[arg(long, default_value_t = 128)]
    hidden: usize,
    /// Layers.
    #[arg(long, default_value_t = 4)]
    layers: usize,
    /// Heads: an even number.
    #[arg(long, default_value_t = 4)]
    heads: usize,
    /// Longest prompt and answer together, in tokens.
    #[arg(long, default_value_t = 512)]
    context: usize,
}

/// Type of written weights, as a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DtypeArg {
    /// 4 bytes.
    F32,
    /// 2 bytes, rounded to nearest even.
    Bf16,
    /// 2 bytes, IEEE half.
    F16,
}

/// Runs the verb.
pub fn run(ws: &Workspace, verb: &ModelVerb) -> Result<()> {
    match verb {
        ModelVerb::Info { path } => info(ws, path),
        ModelVerb::New(args) => new(ws, args),
        ModelVerb::Import { file, dir, dtype } => import(ws, file, dir, *dtype),
    }
}

fn new(ws: &Workspace, args: &NewArgs) -> Result<()> {
    let NewArgs { dir, skills, vocabulary, hidden, layers, heads, context } = args;
    if dir.join("config.json").exists() {
        bail!("make a model in {}: there is one already", dir.display());
    }
    let (skills, vocabulary, hidden, layers, heads) = (skills.clone(), *vocabulary, *hidden, *layers, *heads);
    let shape = Shape { skills, vocabulary, hidden, layers, heads, context: *context };
    let config = tiny::write_model(&absolute(dir)?, &shape).context("make the model")?;
    if ws.json {
        output::json(&json!({"model": dir, "parameters": count(&config), "vocab_size": config.vocab_size}));
    } else {
        output::line(&format!("made {}: {}", dir.display(), tiny::describe(&config)));
    }
    Ok(())
}

fn info(ws: &Workspace, path: &Path) -> Result<()> {
    let config = Config::from_dir(path).with_context(|| format!("read the model in {}", path.display()))?;
    HostWeights::load(path, &config).with_context(|| format!("read the weights in {}", path.display()))?;
    let parameters = count(&config);
    let template = hone_data::ChatTemplate::from_dir(path).map(|t| t.hash().to_string()).ok();
    if ws.json {
        output::json(&json!({
            "model_type": config.family.name(), "parameters": parameters, "vocab_size": config.vocab_size,
            "context_length": config.max_positions, "chat_template_hash": template,
        }));
        return Ok(());
    }
    output::line(&format!("{} with {:.1} M parameters", config.family.name(), parameters as f64 / 1e6));
    output::line(&format!("vocabulary {}, context {} tokens", config.vocab_size, config.max_positions));
    output::line(&match template {
        Some(hash) => format!("chat template {}", &hash[..12]),
        None => "no chat template: only completion_v1 data can be trained".to_string(),
    });
    Ok(())
}

fn count(config: &Config) -> usize {
    config.parameters().iter().map(|p| p.shape.iter().product::<usize>()).sum()
}

fn import(ws: &Workspace, file: &Path, dir: &Path, dtype: DtypeArg) -> Result<()> {
    let dir = absolute(dir)?;
    if dir.exists() && std::fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("import into {}: the folder is not empty", dir.display());
    }
    let dtype = match dtype {
        DtypeArg::F32 => Dtype::F32,
        DtypeArg::Bf16 => Dtype::Bf16,
        DtypeArg::F16 => Dtype::F16,
    };
    let mut imported = gguf::import(file).with_context(|| format!("import {}", file.display()))?;
    imported.set_dtype(dtype);
    disk::create_dir(&dir)?;
    let mut out = std::io::BufWriter::new(disk::create_file(&dir.join("model.safetensors"))?);
    imported.weights.write(&imported.model, dtype, &mut out).context("write the weights")?;
    out.flush().context("write the weights")?;
    disk::write_json(&dir.join("tokenizer.json"), &imported.tokenizer)?;
    disk::write_json(&dir.join("tokenizer_config.json"), &imported.tokenizer_config)?;
    disk::write_json(&dir.join("generation_config.json"), &imported.generation_config)?;
    disk::write_json(&dir.join("SOURCE.json"), &imported.source)?;
    disk::write_json(&dir.join("config.json"), &imported.config)?;
    disk::sync_tree(&dir)?;
    if ws.json {
        output::json(&json!({"dir": dir, "parameters": count(&imported.model)}));
    } else {
        output::line(&format!(
            "imported {:.1} M parameters into {}",
            count(&imported.model) as f64 / 1e6,
            dir.display()
        ));
    }
    Ok(())
}
