//! Lineages: one base model each, and everything trained on it. One of them is trained, the others stand still.

use super::State;
use crate::ids::CheckpointId;
use serde::{Deserialize, Serialize};

/// One base model and everything trained on it. Identity is locked at the first step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// Number of the lineage, from 1.
    pub number: u64,
    /// The label that clients ask for.
    pub model_name: String,
    /// The base model's folder: absolute, or relative to the workspace.
    pub base_model: String,
    /// Hashes that may not change within the lineage.
    pub identity: ModelIdentity,
    /// The checkpoint that is its base model; `checkpoint-0` in what older versions wrote.
    #[serde(default)]
    pub base: CheckpointId,
    /// Where it stood when another one took its place; none for the one that is trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_at: Option<LeftAt>,
}

/// What a lineage goes on with when it is trained again. Neither checkpoint goes by retention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftAt {
    /// The checkpoint that training goes on from.
    pub head: CheckpointId,
    /// The one that was served.
    pub champion: Option<CheckpointId>,
}

/// What makes a model's outputs and token ids comparable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelIdentity {
    /// `model_type` of `config.json`.
    pub architecture: String,
    /// Size of the vocabulary.
    pub vocab_size: u64,
    /// Longest context.
    pub context_length: u64,
    /// BLAKE3 of `tokenizer.json`, hex.
    pub tokenizer_hash: String,
    /// BLAKE3 of the chat template's text, hex.
    pub template_hash: String,
}

impl State {
    /// All lineages, the one that is trained first.
    pub fn lineages(&self) -> impl Iterator<Item = &Lineage> {
        self.lineage.iter().chain(self.other_lineages.values())
    }

    /// Whether a lineage that stands still goes on from this checkpoint, or served it.
    #[must_use]
    pub fn is_left_at(&self, id: CheckpointId) -> bool {
        let left = self.other_lineages.values().filter_map(|lineage| lineage.left_at.as_ref());
        left.into_iter().any(|left| left.head == id || left.champion == Some(id))
    }
}
