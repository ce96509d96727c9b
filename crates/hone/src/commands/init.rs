//! `hone init`: a workspace with its folders, its configuration and checkpoint-0.

use crate::config::commented_file;
use crate::exit::UsageError;
use crate::workspace::{Workspace, absolute, find_root};
use crate::{output, tiny};
use anyhow::{Context, Result};
use clap::Args;
use hone_data::{ChatTemplate, Tokenizer};
use hone_disk as disk;
use hone_model::{Config as ModelConfig, HostWeights};
use hone_pipeline::ids::CheckpointId;
use hone_pipeline::state::{Change, Checkpoint, CheckpointState, Lineage, ModelIdentity, Position};
use hone_store::{Layout, Store};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Flags of `hone init`.
#[derive(Args, Debug)]
pub struct InitArgs {
    /// Base model: a Hugging Face folder (llama, qwen2 or qwen3 with safetensors and tokenizer.json).
    #[arg(long, value_name = "DIR", conflicts_with = "tiny")]
    model: Option<PathBuf>,
    /// Make a tiny random model on the spot.
    #[arg(long)]
    tiny: bool,
}

/// Runs the verb.
pub fn run(ws: &Workspace, args: &InitArgs) -> Result<()> {
    let base = match (&args.model, args.tiny) {
        (Some(dir), _) => Base::Folder(absolute(dir)?),
        (None, true) => Base::Tiny,
        (None, false) => {
            return Err(
                UsageError("choose a base model: --model DIR, or --tiny for one made on the spot".into()).into()
            );
        }
    };
    let chosen = set_pairs(ws)?;
    let made = create(&ws.root, &base, &chosen)?;
    if ws.json {
        output::json(&json!({"root": ws.root, "base_model": made.base_model, "parameters": made.parameters}));
        return Ok(());
    }
    output::line(&format!("made a workspace at {}", ws.root.display()));
    output::line(&format!("base model: {} ({})", made.base_model, made.description));
    let hone =
        if find_root(None)? == ws.root { "hone".to_string() } else { format!("hone --root {}", ws.root.display()) };
    output::line(&format!("next: `{hone} up` starts it; drop JSONL into inbox/ or use `{hone} submit FILE`"));
    Ok(())
}

/// The base model of a new workspace.
pub enum Base {
    /// An existing folder, used by reference.
    Folder(PathBuf),
    /// Made on the spot under `models/tiny`.
    Tiny,
}

/// What was made.
pub struct Made {
    /// Folder of the base model.
    pub base_model: String,
    /// Shape and size in words.
    pub description: String,
    /// Number of parameters.
    pub parameters: u64,
}

/// Makes the workspace; `chosen` are configuration values to write into `config.json`.
pub fn create(root: &Path, base: &Base, chosen: &[(String, Value)]) -> Result<Made> {
    let layout = Layout::new(root);
    if layout.db().exists() {
        let root = root.display();
        let message = format!(
            "make a workspace at {root}: there is one already\nhint: `hone --root {root} up` goes on with it, or name another folder"
        );
        return Err(UsageError(message).into());
    }
    let (dir, name) = match base {
        Base::Folder(dir) => (dir.clone(), dir.display().to_string()),
        Base::Tiny => (layout.models().join("tiny"), "models/tiny".to_string()),
    };
    if matches!(base, Base::Tiny) {
        tiny::write_model(&dir, &tiny::Shape::default()).context("make the tiny model")?;
    }
    let BaseModel { model, identity, manifest_hash, .. } = identify_base(&dir)?;
    layout.create_folders().context("make the folders")?;
    if !layout.config().exists() {
        let mut values: Vec<(&str, Value)> = chosen.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
        let mut own = vec![("model_path", json!(name))];
        if matches!(base, Base::Tiny) {
            own.extend(tiny::settings());
        }
        let is_chosen = |key: &str| chosen.iter().any(|(chosen, _)| chosen == key);
        values.extend(own.into_iter().filter(|(key, _)| !is_chosen(key)));
        disk::write_atomic(&layout.config(), commented_file(&values).as_bytes())?;
    }
    let config = crate::config::Config::load(root, &[])?;
    let mut store = Store::create(root).context("make the database")?;
    let (model_name, base_model, base) = (config.model_name, name.clone(), CheckpointId(0));
    let lineage = Lineage { number: 1, model_name, base_model, identity, base, left_at: None };
    store.commit(&[Change::SetLineage(lineage), Change::PutCheckpoint(checkpoint_zero(manifest_hash))])?;
    let parameters = model.parameters().iter().map(|p| p.shape.iter().product::<usize>() as u64).sum();
    Ok(Made { base_model: name, description: tiny::describe(&model), parameters })
}

fn checkpoint_zero(manifest_hash: String) -> Checkpoint {
    Checkpoint {
        id: CheckpointId(0),
        parent: None,
        job: None,
        state: CheckpointState::Published,
        manifest_hash,
        position: Position::default(),
        rows_digest: String::new(),
        train_loss: None,
        created_ms: crate::workspace::now_ms(),
        ends_job: true,
        yielded: false,
        marks: Default::default(),
    }
}

/// What a lineage needs to know of its base model.
pub struct BaseModel {
    /// The folder.
    pub base_model: String,
    /// Its shape.
    pub model: ModelConfig,
    /// What may not change.
    pub identity: ModelIdentity,
    /// Hash of the manifest that the folder would have; nothing is written into it.
    pub manifest_hash: String,
}

/// Reads a base model far enough to know that it can be trained and served.
pub fn identify_base(dir: &Path) -> Result<BaseModel> {
    if !dir.join("config.json").is_file() {
        let message = format!(
            "read the model in {}: there is no config.json\nhint: name a Hugging Face folder with config.json, safetensors and tokenizer.json; `hone model import` makes one of a GGUF file",
            dir.display()
        );
        return Err(UsageError(message).into());
    }
    let model = ModelConfig::from_dir(dir).with_context(|| format!("read the model in {}", dir.display()))?;
    HostWeights::load(dir, &model).with_context(|| format!("read the weights in {}", dir.display()))?;
    let (_, manifest_hash) = disk::manifest::compute(dir).context("hash the base model")?;
    Ok(BaseModel { base_model: dir.display().to_string(), model, identity: identity_of(dir)?, manifest_hash })
}

/// What may not change within a lineage, as it is in a model folder now. The weights are not read.
pub fn identity_of(dir: &Path) -> Result<ModelIdentity> {
    let model = ModelConfig::from_dir(dir).with_context(|| format!("read the model in {}", dir.display()))?;
    let tokenizer = Tokenizer::from_dir(dir)?;
    if tokenizer.vocab_size() > model.vocab_size {
        anyhow::bail!(
            "use the model in {}: its tokenizer has {} tokens, its embedding {}",
            dir.display(),
            tokenizer.vocab_size(),
            model.vocab_size
        );
    }
    let template_hash = match ChatTemplate::from_dir(dir) {
        Ok(template) => template.hash().to_string(),
        Err(error) => {
            output::note(&format!("note: no chat template ({error:#}); only completion_v1 data can be trained"));
            String::new()
        }
    };
    let (_, tokenizer_hash) = disk::hash_file(&dir.join("tokenizer.json"))?;
    Ok(ModelIdentity {
        architecture: model.family.name().to_string(),
        vocab_size: model.vocab_size as u64,
        context_length: model.max_positions as u64,
        tokenizer_hash,
        template_hash,
    })
}

/// `--set` pairs of `hone init` go into the new `config.json`, after the usual checks.
fn set_pairs(ws: &Workspace) -> Result<Vec<(String, Value)>> {
    let (values, _) = crate::config::load(&ws.root, &ws.set)?;
    let chosen = values.iter().filter(|(_, _, origin)| *origin == crate::config::Origin::CommandLine);
    Ok(chosen.map(|(key, value, _)| (key.to_string(), value.clone())).collect())
}
