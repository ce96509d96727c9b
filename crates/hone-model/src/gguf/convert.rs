//! From llama.cpp's names, order of rows and keys to those of Hugging Face: `config.json`, the weights, `SOURCE.json`.

use super::reader::{GgufFile, Metadata, TensorInfo, Value as Meta};
use crate::config::{Config, Family};
use crate::weights::{Dtype, HostWeights};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};

/// Head and embedding that differ less than this (norm of the difference over norm) are one matrix that was quantised twice.
const TIED_BELOW: f64 = 0.1;
const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// The architecture of a file, and its name, which prefixes its keys.
pub(super) struct Architecture {
    pub family: Family,
    name: &'static str,
    class: &'static str,
}

/// What [`weights`] gives.
pub(super) struct Converted {
    pub config: Value,
    pub weights: HostWeights,
    pub model: Config,
}

impl Architecture {
    /// Reads `general.architecture`, and refuses the keys of models that compute something else.
    pub fn of(file: &GgufFile<'_>) -> Result<Architecture> {
        let metadata = &file.metadata;
        let (family, name, class) = match metadata.string("general.architecture")? {
            "llama" => (Family::Llama, "llama", "LlamaForCausalLM"),
            "qwen2" => (Family::Qwen2, "qwen2", "Qwen2ForCausalLM"),
            "qwen3" => (Family::Qwen3, "qwen3", "Qwen3ForCausalLM"),
            other => bail!("architecture `{other}` is not supported; llama, qwen2 and qwen3 are"),
        };
        let architecture = Architecture { family, name, class };
        if let Some(parts) = metadata.optional_size("split.count")?.filter(|&n| n > 1) {
            bail!("the model is split into {parts} files (`split.count`); join them with llama-gguf-split --merge");
        }
        for key in ["expert_count", "attention.sliding_window"] {
            let key = architecture.key(key);
            if metadata.get(&key).is_some_and(|value| *value != Meta::Integer(0)) {
                bail!("`{key}` is set, which is not supported");
            }
        }
        let key = architecture.key("rope.scaling.type");
        if let Some(kind) = metadata.optional_string(&key)?.filter(|kind| *kind != "none") {
            bail!("`{key}` = `{kind}` is not supported by the import; take the Hugging Face folder of this model");
        }
        Ok(architecture)
    }

    /// A key of this architecture.
    pub fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.name)
    }
}

/// Loads all tensors and makes `config.json` from them and the metadata.
pub(super) fn weights(file: &mut GgufFile<'_>, architecture: &Architecture) -> Result<Converted> {
    let mut tensors: HashMap<String, (TensorInfo, Part)> = HashMap::new();
    for tensor in &file.tensors {
        let (name, part) = hugging_face_name(&tensor.name)?;
        tensors.insert(name, (tensor.clone(), part));
    }
    // A bound on the number of parameters before they are listed: each layer has nine tensors or more.
    let (key, num_tensors) = (architecture.key("block_count"), tensors.len());
    let num_layers = file.metadata.size(&key)?;
    ensure!(
        num_layers.saturating_mul(9) <= num_tensors,
        "`{key}` = {num_layers}, but there are only {num_tensors} tensors"
    );
    let (embedding, _) = tensors.get(EMBEDDING).context("tensor `token_embd.weight` is absent")?;
    ensure!(embedding.shape.len() == 2, "tensor `token_embd.weight` has shape {:?}", embedding.shape);
    let vocab_size = embedding.shape[0];

    let mut loaded: HashMap<String, Vec<f32>> = HashMap::new();
    let tied = tie(file, &mut tensors, &mut loaded)?;
    let config = config(&file.metadata, architecture, vocab_size, tied)?;
    let model = Config::from_json(&config).context("read the configuration made from the metadata")?;
    ensure!(
        file.metadata.optional_size(&architecture.key("rope.dimension_count"))?.is_none_or(|n| n == model.head_dim),
        "`{}` is not the size of a head ({}); partial rotation is not supported",
        architecture.key("rope.dimension_count"),
        model.head_dim
    );
    let mut list = Vec::new();
    for spec in model.parameters() {
        let (tensor, part) =
            tensors.remove(&spec.name).with_context(|| format!("the tensor for `{}` is absent", spec.name))?;
        ensure!(
            tensor.shape == spec.shape,
            "tensor `{}` has shape {:?}, the metadata asks for {:?}",
            tensor.name,
            tensor.shape,
            spec.shape
        );
        let mut values = match loaded.remove(&spec.name) {
            Some(values) => values,
            None => file.load(&tensor)?,
        };
        if architecture.family == Family::Llama {
            match part {
                Part::Query => values = split_halves(&values, model.num_heads, model.head_dim),
                Part::Key => values = split_halves(&values, model.num_kv_heads, model.head_dim),
                Part::Other => {}
            }
        }
        list.push((spec.name, values));
    }
    if let Some((tensor, _)) = tensors.values().min_by_key(|(tensor, _)| &tensor.name) {
        bail!("tensor `{}` belongs to no parameter of this architecture", tensor.name);
    }
    Ok(Converted { config, weights: HostWeights { tensors: list, dtype: Dtype::F32 }, model })
}

/// `SOURCE.json`.
pub(super) fn source(file: &GgufFile<'_>, sha256: &str) -> Value {
    let text = |key| match file.metadata.get(key) {
        Some(Meta::String(text)) => Value::from(text.as_str()),
        _ => Value::Null,
    };
    let mut storage: BTreeMap<&str, usize> = BTreeMap::new();
    for tensor in &file.tensors {
        *storage.entry(tensor.storage.name()).or_default() += 1;
    }
    json!({
        "gguf_sha256": sha256,
        "pypi": null,
        "name": text("general.name"),
        "license": text("general.license"),
        "dtype": null,
        "quantisation": storage,
    })
}

/// A dtype's name in `SOURCE.json`.
pub(super) fn dtype_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "f32",
        Dtype::Bf16 => "bf16",
        Dtype::F16 => "f16",
    }
}

/// Whether the rows of a tensor are ordered for rotation.
#[derive(Clone, Copy)]
enum Part {
    Query,
    Key,
    Other,
}

fn hugging_face_name(name: &str) -> Result<(String, Part)> {
    let unknown = || format!("tensor `{name}` is not known");
    ensure!(
        name != "rope_freqs.weight",
        "tensor `rope_freqs.weight` (Llama 3 rope scaling) is not supported by the import; take the Hugging Face folder of this model"
    );
    let (stem, kind) = name.rsplit_once('.').with_context(unknown)?;
    ensure!(matches!(kind, "weight" | "bias"), unknown());
    let Some(rest) = stem.strip_prefix("blk.") else {
        let top = match stem {
            "token_embd" => "model.embed_tokens",
            "output_norm" => "model.norm",
            "output" => "lm_head",
            _ => bail!(unknown()),
        };
        return Ok((format!("{top}.{kind}"), Part::Other));
    };
    let (layer, part) = rest.split_once('.').with_context(unknown)?;
    // Parsed, so that `blk.01` and `blk.1` are not two names of one parameter.
    let number: u32 = layer.parse().with_context(unknown)?;
    ensure!(number.to_string() == layer, unknown());
    let inner = match part {
        "attn_norm" => "input_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "ffn_norm" => "post_attention_layernorm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => bail!(unknown()),
    };
    let part = match part {
        "attn_q" => Part::Query,
        "attn_k" => Part::Key,
        _ => Part::Other,
    };
    Ok((format!("model.layers.{layer}.{inner}.{kind}"), part))
}

/// Decides whether the head is the embedding. A head that is nearly equal to the embedding is the same matrix quantised twice:
/// the copy with more bytes is kept, as the embedding.
fn tie(
    file: &mut GgufFile<'_>,
    tensors: &mut HashMap<String, (TensorInfo, Part)>,
    loaded: &mut HashMap<String, Vec<f32>>,
) -> Result<bool> {
    let Some((head, _)) = tensors.get(HEAD).cloned() else { return Ok(true) };
    let embedding = tensors[EMBEDDING].0.clone();
    ensure!(
        head.shape == embedding.shape,
        "tensor `output.weight` has shape {:?}, `token_embd.weight` {:?}",
        head.shape,
        embedding.shape
    );
    let (a, b) = (file.load(&embedding)?, file.load(&head)?);
    let difference: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let norm: f64 = b.iter().map(|b| f64::from(*b).powi(2)).sum();
    let tied = difference.sqrt() < TIED_BELOW * norm.sqrt();
    if !tied {
        loaded.insert(EMBEDDING.into(), a);
        loaded.insert(HEAD.into(), b);
        return Ok(false);
    }
    tensors.remove(HEAD);
    loaded.insert(EMBEDDING.into(), if head.size_bytes >= embedding.size_bytes { b } else { a });
    Ok(true)
}

/// llama.cpp keeps the rows of llama's queries and keys in the order that rotates neighbours (0, D/2, 1, D/2 + 1, …); Hugging
/// Face rotates halves. Works on rows of any length, biases included.
fn split_halves(values: &[f32], num_heads: usize, head_dim: usize) -> Vec<f32> {
    let row_len = values.len() / (num_heads * head_dim);
    let mut out = Vec::with_capacity(values.len());
    for head in values.chunks_exact(head_dim * row_len) {
        for half in 0..2 {
            for pair in head.chunks_exact(2 * row_len) {
                out.extend_from_slice(&pair[half * row_len..(half + 1) * row_len]);
            }
        }
    }
    out
}

fn config(metadata: &Metadata, architecture: &Architecture, vocab_size: usize, tied: bool) -> Result<Value> {
    let size = |key: &str| metadata.size(&architecture.key(key));
    let optional_size = |key: &str| metadata.optional_size(&architecture.key(key));
    let float = |key: &str| metadata.optional_float(&architecture.key(key));
    let (hidden_size, num_heads) = (size("embedding_length")?, size("attention.head_count")?);
    ensure!(num_heads > 0, "`{}` is 0", architecture.key("attention.head_count"));
    let head_dim = optional_size("attention.key_length")?.unwrap_or(hidden_size / num_heads);
    let value_dim = optional_size("attention.value_length")?.unwrap_or(head_dim);
    ensure!(value_dim == head_dim, "values of {value_dim} numbers beside keys of {head_dim} are not supported");
    let eps_key = "attention.layer_norm_rms_epsilon";
    let eps = float(eps_key)?.with_context(|| format!("metadata key `{}` is absent", architecture.key(eps_key)))?;
    let mut config = json!({
        "architectures": [architecture.class],
        "model_type": architecture.name,
        "attention_dropout": 0.0,
        "hidden_size": hidden_size,
        "intermediate_size": size("feed_forward_length")?,
        "num_hidden_layers": size("block_count")?,
        "num_attention_heads": num_heads,
        "num_key_value_heads": optional_size("attention.head_count_kv")?.unwrap_or(num_heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_position_embeddings": size("context_length")?,
        "rms_norm_eps": seven_digits(eps),
        "rope_theta": seven_digits(float("rope.freq_base")?.unwrap_or(10000.0)),
        "vocab_size": vocab_size,
        "tie_word_embeddings": tied,
        "use_cache": true,
        "torch_dtype": null,
    });
    for (key, ours) in [("bos", "bos_token_id"), ("eos", "eos_token_id"), ("padding", "pad_token_id")] {
        if let Some(id) = metadata.optional_size(&format!("tokenizer.ggml.{key}_token_id"))? {
            config[ours] = id.into();
        }
    }
    let object = config.as_object_mut().expect("it is written as an object above");
    match architecture.family {
        Family::Llama => {
            object.insert("attention_bias".into(), false.into());
            object.insert("mlp_bias".into(), false.into());
            object.insert("rope_scaling".into(), Value::Null);
        }
        Family::Qwen2 => {
            // Hugging Face computes it there, and has no key for it.
            object.shift_remove("head_dim");
            object.insert("use_sliding_window".into(), false.into());
        }
        Family::Qwen3 => {
            object.insert("attention_bias".into(), false.into());
            object.insert("use_sliding_window".into(), false.into());
            object.insert("rope_scaling".into(), Value::Null);
        }
    }
    Ok(config)
}

/// An f32 that was written from a decimal number, as that number: seven significant digits.
fn seven_digits(x: f64) -> f64 {
    format!("{x:.6e}").parse().expect("a number that was just written")
}
