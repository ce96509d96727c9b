//! A tiny random model in a folder, ready to be deployed. Shared with the unit tests of the crate.

use hone_data::tiny;
use hone_model::{Config, Dtype, HostWeights};
use hone_pipeline::ids::CheckpointId;
use hone_pipeline::wire::{DeployFile, DeployRequest, WIRE_FORMAT_VERSION};
use serde_json::{Map, json};
use tempfile::TempDir;

pub const MODEL_NAME: &str = "tiny";
/// Tokens that the model's context holds.
pub const CONTEXT: usize = 4096;
/// A model folder with what is needed to deploy it.
pub struct Model {
    pub dir: TempDir,
    pub request: DeployRequest,
}

impl Model {
    /// A random model that never ends by itself: the rows of the special tokens in its head are zero, so their
    /// logits are 0 while the greatest of the others is above.
    pub fn random(checkpoint: u64, seed: u64) -> Model {
        let dir = TempDir::new().unwrap();
        let texts = ["the quick brown fox jumps over the lazy dog", "grüße, 你好 🙂 naïve café"];
        let tokenizer = tiny::build_tokenizer(texts.iter().map(|text| text.to_string()), 300).unwrap();
        let config = json!({
            "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "vocab_size": 320, "hidden_size": 32,
            "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 8, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
            "tie_word_embeddings": false, "hidden_act": "silu",
        });
        let parsed = Config::from_json(&config).unwrap();
        let mut weights = HostWeights::random(&parsed, seed);
        let (_, head) = weights.tensors.iter_mut().find(|(name, _)| name == "lm_head.weight").unwrap();
        head.iter_mut().for_each(|weight| *weight *= 20.0);
        head[..tiny::SPECIAL_TOKENS.len() * 32].fill(0.0);
        // Ids beyond the tokenizer have no text.
        let vocab_size = tokenizer["model"]["vocab"].as_object().unwrap().len();
        head[vocab_size * 32..].fill(0.0);
        hone_disk::write_json(&dir.path().join("config.json"), &config).unwrap();
        hone_disk::write_json(&dir.path().join("tokenizer.json"), &tokenizer).unwrap();
        hone_disk::write_json(&dir.path().join("tokenizer_config.json"), &tiny::tokenizer_config()).unwrap();
        hone_disk::write_json(&dir.path().join("generation_config.json"), &tiny::generation_config()).unwrap();
        let mut file = hone_disk::create_file(&dir.path().join("model.safetensors")).unwrap();
        weights.write(&parsed, Dtype::F32, &mut file).unwrap();
        Model::of(dir, checkpoint)
    }

    /// Describes a folder as it is, after writing its manifest.
    pub fn of(dir: TempDir, checkpoint: u64) -> Model {
        hone_disk::remove_file(&dir.path().join(hone_disk::manifest::FILE)).unwrap();
        let manifest_hash = hone_disk::manifest::write(dir.path()).unwrap();
        let mut names: Vec<String> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let files = names
            .into_iter()
            .map(|path| {
                let (size, blake3) = hone_disk::hash_file(&dir.path().join(&path)).unwrap();
                DeployFile { path, size, blake3 }
            })
            .collect();
        let request = DeployRequest {
            format_version: WIRE_FORMAT_VERSION,
            checkpoint: CheckpointId(checkpoint),
            manifest_hash,
            model_name: MODEL_NAME.to_string(),
            files,
            chat_template_kwargs: Map::new(),
            profile: "plain".to_string(),
        };
        Model { dir, request }
    }
}
