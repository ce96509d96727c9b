//! The tiny model of `hone init --tiny` and `hone demo`: a Qwen3-shaped transformer with random weights and its own
//! byte-level BPE tokenizer, both made on the spot and the same every time.

use anyhow::{Context, Result};
use hone_disk as disk;
use hone_model::{Config, Dtype, HostWeights};
use hone_skills::{GenerateRequest, Split};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;

/// Size of the tokenizer's vocabulary.
const VOCABULARY: usize = 512;
/// Seed of the weights.
const WEIGHTS_SEED: u64 = 20_251_125;
/// Texts per level that the tokenizer is trained on.
const TEXTS_PER_LEVEL: usize = 400;

/// A model in a few words: family, size, vocabulary.
#[must_use]
pub fn describe(config: &Config) -> String {
    let millions = config.num_parameters() as f64 / 1e6;
    format!("{} with {millions:.1} M parameters, vocabulary {}", config.family.name(), config.vocab_size)
}

/// Writes a complete Hugging Face folder: configuration, tokenizer, chat template, random weights.
pub fn write_model(dir: &Path) -> Result<Config> {
    disk::create_dir(dir)?;
    let tokenizer = hone_data::tiny::build_tokenizer(training_texts()?.into_iter(), VOCABULARY)?;
    let parsed = tokenizers::Tokenizer::from_bytes(serde_json::to_vec(&tokenizer)?)
        .map_err(|error| anyhow::anyhow!("read the tokenizer just made: {error}"))?;
    let id = |token: &str| parsed.token_to_id(token).with_context(|| format!("find {token} in the tokenizer"));
    let (end_of_turn, pad) = (id("<|im_end|>")?, id("<|endoftext|>")?);
    let config_json = model_config(parsed.get_vocab_size(true), end_of_turn, pad);
    let config = Config::from_json(&config_json)?;
    disk::write_json(&dir.join("config.json"), &config_json)?;
    disk::write_json(&dir.join("tokenizer.json"), &tokenizer)?;
    disk::write_json(&dir.join("tokenizer_config.json"), &hone_data::tiny::tokenizer_config())?;
    disk::write_json(
        &dir.join("generation_config.json"),
        &json!({"eos_token_id": end_of_turn, "pad_token_id": pad, "do_sample": false}),
    )?;
    let weights = HostWeights::random(&config, WEIGHTS_SEED);
    let mut file = std::io::BufWriter::new(disk::create_file(&dir.join("model.safetensors"))?);
    weights.write(&config, Dtype::F32, &mut file).context("write the weights")?;
    file.flush().context("write the weights")?;
    disk::sync_tree(dir)?;
    Ok(config)
}

/// The training texts of Binary, so that its words become tokens. Texts of other skills are spelled in smaller pieces: a
/// vocabulary for all English words would make the model several times larger.
fn training_texts() -> Result<Vec<String>> {
    let mut texts = Vec::new();
    let skill = hone_skills::find("binary").expect("Binary is built in");
    for level in skill.levels() {
        let (level, count, seed) = (level.level, TEXTS_PER_LEVEL, 1);
        let request = GenerateRequest { level, count, seed, split: Split::Train, steps: false };
        let batch = skill.generate(&request).map_err(|error| anyhow::anyhow!("generate tokenizer texts: {error}"))?;
        for sample in &batch.samples {
            texts.extend(sample.messages.iter().map(|message| message.content.clone()));
        }
    }
    Ok(texts)
}

fn model_config(vocab_size: usize, end_of_turn: u32, pad: u32) -> Value {
    json!({
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": vocab_size,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "hidden_act": "silu",
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": true,
        "attention_bias": false,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_sliding_window": false,
        "eos_token_id": end_of_turn,
        "pad_token_id": pad,
        "dtype": "float32",
    })
}
