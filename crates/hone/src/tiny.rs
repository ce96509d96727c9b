//! Models made on the spot: a Qwen3-shaped transformer with random weights and its own byte-level BPE tokenizer, the same
//! every time. `hone init --tiny` and `hone demo` use the smallest one, `hone model new` makes others.

use anyhow::{Context, Result, ensure};
use hone_disk as disk;
use hone_model::{Config, Dtype, HostWeights};
use hone_skills::{GenerateRequest, Split};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;

/// Longest prompt and answer together, in tokens, of the smallest model.
const CONTEXT: usize = 512;
/// Seed of the weights.
const WEIGHTS_SEED: u64 = 20_251_125;
/// Texts per level that the tokenizer is trained on.
const TEXTS_PER_LEVEL: usize = 400;

/// What a model made on the spot is like.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Skills whose texts the tokenizer learns its words from.
    pub skills: Vec<String>,
    /// Most tokens of the vocabulary.
    pub vocabulary: usize,
    /// Width; a multiple of twice `heads`.
    pub hidden: usize,
    /// Layers.
    pub layers: usize,
    /// Heads of queries, an even number; keys and values have half as many.
    pub heads: usize,
    /// Longest prompt and answer together, in tokens.
    pub context: usize,
}

impl Default for Shape {
    /// The model of the demo. Its vocabulary is made for Binary alone: one for all English words would make the model several
    /// times larger.
    fn default() -> Self {
        let skills = vec!["binary".to_string()];
        Shape { skills, vocabulary: 512, hidden: 128, layers: 4, heads: 4, context: CONTEXT }
    }
}

/// Settings with which a model made on the spot learns: those of the configuration are made for models that know a
/// language already.
#[must_use]
pub fn settings() -> Vec<(&'static str, Value)> {
    vec![("batch_size", json!(32)), ("learning_rate", json!(1e-3)), ("max_length", json!(CONTEXT))]
}

/// A model in a few words: family, size, vocabulary.
#[must_use]
pub fn describe(config: &Config) -> String {
    let millions = config.num_parameters() as f64 / 1e6;
    format!("{} with {millions:.1} M parameters, vocabulary {}", config.family.name(), config.vocab_size)
}

/// Writes a complete Hugging Face folder: configuration, tokenizer, chat template, random weights.
pub fn write_model(dir: &Path, shape: &Shape) -> Result<Config> {
    let Shape { hidden, heads, layers, context, .. } = *shape;
    ensure!(layers > 0 && heads > 0 && heads % 2 == 0, "a model needs layers and an even number of heads");
    ensure!(context > 1, "a context of {context} tokens has no room for a prompt and an answer: take 2 or more");
    ensure!(hidden > 0 && hidden % (2 * heads) == 0, "the width must be a multiple of twice the heads, {}", 2 * heads);
    disk::create_dir(dir)?;
    let tokenizer = hone_data::tiny::build_tokenizer(training_texts(&shape.skills)?.into_iter(), shape.vocabulary)?;
    let parsed = tokenizers::Tokenizer::from_bytes(serde_json::to_vec(&tokenizer)?)
        .map_err(|error| anyhow::anyhow!("read the tokenizer just made: {error}"))?;
    let id = |token: &str| parsed.token_to_id(token).with_context(|| format!("find {token} in the tokenizer"));
    let (end_of_turn, pad) = (id("<|im_end|>")?, id("<|endoftext|>")?);
    let config_json = model_config(shape, parsed.get_vocab_size(true), end_of_turn, pad);
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

/// Texts of all levels, so that their words become tokens.
fn training_texts(skills: &[String]) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for name in skills {
        let skill = hone_skills::find(name)
            .with_context(|| format!("find the skill {name:?} (known: {})", hone_skills::names().join(", ")))?;
        for level in skill.levels() {
            let (level, count, seed) = (level.level, TEXTS_PER_LEVEL, 1);
            let request = GenerateRequest { level, count, seed, split: Split::Train, steps: false };
            let batch =
                skill.generate(&request).map_err(|error| anyhow::anyhow!("generate tokenizer texts: {error}"))?;
            for sample in &batch.samples {
                texts.extend(sample.messages.iter().map(|message| message.content.clone()));
            }
        }
    }
    Ok(texts)
}

fn model_config(shape: &Shape, vocab_size: usize, end_of_turn: u32, pad: u32) -> Value {
    json!({
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": vocab_size,
        "hidden_size": shape.hidden,
        "intermediate_size": 3 * shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads / 2,
        "head_dim": shape.hidden / shape.heads,
        "hidden_act": "silu",
        "max_position_embeddings": shape.context,
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
