//! A model that answers: everything about it that does not change while it serves, shared by all who need it.

use anyhow::{Context, Result};
use hone_data::ChatContext;
use hone_generate::{FormatLoss, Grammars, WeightFormat};
use hone_pipeline::config::ProfileSettings;
use hone_pipeline::ids::CheckpointId;
use hone_pipeline::wire::DeployRequest;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Characters of the manifest hash in a stamp.
const STAMP_HASH_CHARS: usize = 12;
/// Keys of `config.json` that `/models/info` shows.
const INFO_KEYS: [&str; 8] = [
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "max_position_embeddings",
];

/// One deployment's identity and what prompts are made with. Each request keeps the one that admitted it.
pub struct Served {
    /// Number of the deployment.
    pub deployment: u64,
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// BLAKE3 of its manifest, hex.
    pub manifest_hash: String,
    /// Template, tokenizer and profile.
    pub context: ChatContext,
    /// Makes grammars of the model's tokens.
    pub grammars: Grammars,
    /// Tokens that prompt and answer may have together.
    pub max_context: usize,
    /// How the weights are held.
    pub weights: WeightFormat,
    /// What that costs, measured at load; `None` where it changes no number.
    pub format_loss: Option<FormatLoss>,
    /// Part of the model's `config.json`.
    pub config: Map<String, Value>,
}

impl Served {
    /// Reads what belongs to the model from its folder.
    pub fn load(
        deployment: u64,
        request: &DeployRequest,
        model_dir: &Path,
        max_context: usize,
        weights: WeightFormat,
    ) -> Result<Served> {
        let profile = ProfileSettings::named(&request.profile);
        let context = ChatContext::from_dir(model_dir, &profile, &request.chat_template_kwargs)
            .context("load tokenizer and chat template")?;
        let text = std::fs::read(model_dir.join("config.json")).context("read config.json")?;
        let config: Map<String, Value> = serde_json::from_slice(&text).context("parse config.json")?;
        let config = config.into_iter().filter(|(key, _)| INFO_KEYS.contains(&key.as_str())).collect();
        let grammars = Grammars::new(&context.tokenizer).context("read the vocabulary for grammars")?;
        Ok(Served {
            grammars,
            deployment,
            checkpoint: request.checkpoint,
            manifest_hash: request.manifest_hash.clone(),
            context,
            max_context,
            weights,
            format_loss: None,
            config,
        })
    }

    /// `checkpoint-N-<first 12 of the manifest hash>-<how weights are held>`: stamped on every answer as
    /// `system_fingerprint`.
    pub fn stamp(&self) -> String {
        let hash: String = self.manifest_hash.chars().take(STAMP_HASH_CHARS).collect();
        format!("{}-{hash}-{}", self.checkpoint, self.weights.name())
    }

    /// What `/models/info` tells.
    pub fn info(&self, model_name: &str, since_ms: u64) -> Value {
        json!({
            "model": model_name,
            "checkpoint": self.checkpoint.to_string(),
            "manifest_hash": self.manifest_hash,
            "system_fingerprint": self.stamp(),
            "deployment": self.deployment,
            "template_hash": self.context.template.as_ref().map(|template| template.hash()),
            "profile": self.context.profile.name(),
            "chat_template_kwargs": self.context.kwargs,
            "max_context": self.max_context,
            "weights": {
                "dtype": self.weights.name(),
                "rounding": self.format_loss.map(|loss| json!({
                    "tokens": loss.tokens,
                    "nll_stored": loss.nll_stored,
                    "nll_held": loss.nll_held,
                    "nll_difference": loss.difference(),
                })),
            },
            "serving_since_ms": since_ms,
            "config": self.config,
        })
    }
}
