//! `config.json` of a Hugging Face model folder, read strictly: which decoder it is, its sizes, its parameters.
//!
//! Three families: `llama`, `qwen2` (query/key/value biases), `qwen3` (norms of query and key heads). A key that
//! would change the function in a way that this engine does not compute is refused by its name, and so is one that it does not
//! know, unless it asks for nothing (null, false, 0 or empty).

mod known;
mod rope;

pub use rope::{Rope, RopeScaling};

use serde_json::{Map, Value};
use std::path::Path;

/// The sizes and switches of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Which family.
    pub family: Family,
    /// `V`.
    pub vocab_size: usize,
    /// `H`.
    pub hidden_size: usize,
    /// `I`.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_layers: usize,
    /// `A`.
    pub num_heads: usize,
    /// `K`; divides `A`.
    pub num_kv_heads: usize,
    /// `D`; `A * D` need not be `H`.
    pub head_dim: usize,
    /// Most positions that the model was made for.
    pub max_positions: usize,
    /// Added to the mean square in RMS norms.
    pub norm_eps: f32,
    /// Whether the output head is the embedding.
    pub tied: bool,
    /// Rotary position embedding.
    pub rope: Rope,
}

/// A model family (`model_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama 2 and 3, SmolLM2, TinyLlama.
    Llama,
    /// Qwen2 and Qwen2.5: biases on query, key and value.
    Qwen2,
    /// Qwen3: RMS norms on query and key heads.
    Qwen3,
}

impl Family {
    /// `model_type` of `config.json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Family::Llama => "llama",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
        }
    }
}

/// One parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterSpec {
    /// Its name in Hugging Face checkpoints.
    pub name: String,
    /// Its shape; row-major.
    pub shape: Vec<usize>,
    /// Whether weight decay applies: true for two dimensions or more.
    pub decay: bool,
}

/// Why a configuration is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read {file}")]
    Read {
        /// The file.
        file: String,
        /// Why: told as the cause, by which what may pass is known.
        source: std::io::Error,
    },
    /// The file is not JSON, or not an object.
    #[error("{file} is not a JSON object: {reason}")]
    NotJson {
        /// The file.
        file: String,
        /// Why.
        reason: String,
    },
    /// A key that is needed is absent.
    #[error("config.json lacks `{key}`")]
    Missing {
        /// The key.
        key: String,
    },
    /// A key has a wrong type or an impossible value.
    #[error("config.json: `{key}` {reason}")]
    Invalid {
        /// The key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// A key asks for something that the engine does not compute.
    #[error("config.json: `{key}` = {value} is not supported ({reason})")]
    Unsupported {
        /// The key.
        key: String,
        /// Its value, shortened.
        value: String,
        /// What is supported instead.
        reason: String,
    },
}

type Object = Map<String, Value>;

/// Factors that leave the function as it is.
const MUST_BE_ONE: &[&str] = &[
    "attention_multiplier",
    "dim_model_base",
    "embedding_multiplier",
    "logit_scale",
    "logits_scaling",
    "partial_rotary_factor",
    "residual_multiplier",
    "rotary_pct",
    "scale_depth",
    "scale_emb",
];

impl Config {
    /// Reads `config.json` of a model folder.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn from_dir(dir: &Path) -> Result<Config, ConfigError> {
        let path = dir.join("config.json");
        let file = path.display().to_string();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(source) => return Err(ConfigError::Read { file, source }),
        };
        match serde_json::from_str::<Value>(&text) {
            Ok(value) => Config::from_json(&value),
            Err(e) => Err(ConfigError::NotJson { file, reason: e.to_string() }),
        }
    }

    /// Reads a parsed `config.json`.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn from_json(value: &Value) -> Result<Config, ConfigError> {
        let Some(object) = value.as_object() else {
            return Err(ConfigError::NotJson { file: "config.json".into(), reason: "not an object".into() });
        };
        let family = family(object)?;
        refuse_unsupported(object, family)?;
        known::refuse_unknown(object)?;
        let num_heads = size(object, "num_attention_heads")?;
        let hidden_size = size(object, "hidden_size")?;
        let num_kv_heads = optional_size(object, "num_key_value_heads")?.unwrap_or(num_heads);
        if !num_heads.is_multiple_of(num_kv_heads) {
            return Err(invalid("num_key_value_heads", format!("= {num_kv_heads} does not divide {num_heads} heads")));
        }
        let head_dim = match optional_size(object, "head_dim")? {
            Some(head_dim) => head_dim,
            None if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
            None => {
                return Err(invalid("hidden_size", format!("= {hidden_size} is not a multiple of {num_heads} heads")));
            }
        };
        if !head_dim.is_multiple_of(2) {
            return Err(invalid("head_dim", format!("= {head_dim} is odd")));
        }
        let max_positions = size(object, "max_position_embeddings")?;
        Ok(Config {
            family,
            vocab_size: size(object, "vocab_size")?,
            hidden_size,
            intermediate_size: size(object, "intermediate_size")?,
            num_layers: num_layers(object)?,
            num_heads,
            num_kv_heads,
            head_dim,
            max_positions,
            norm_eps: positive(object, "rms_norm_eps")?.unwrap_or(1e-6) as f32,
            tied: boolean(object, "tie_word_embeddings")?.unwrap_or(false),
            rope: Rope::from_config(object, max_positions)?,
        })
    }

    /// Whether queries, keys and values have biases.
    pub fn qkv_bias(&self) -> bool {
        self.family == Family::Qwen2
    }

    /// Whether query and key heads are normed.
    pub fn head_norms(&self) -> bool {
        self.family == Family::Qwen3
    }

    /// All parameters. The order is fixed: embedding, layer by layer, final norm, head when untied; inside a layer
    /// query, key and value weights stand together, and so do their biases, and gate and up.
    pub fn parameters(&self) -> Vec<ParameterSpec> {
        let (h, i, d) = (self.hidden_size, self.intermediate_size, self.head_dim);
        let (q, kv) = (self.num_heads * d, self.num_kv_heads * d);
        let mut list = Vec::new();
        let mut add = |name: String, shape: &[usize]| {
            list.push(ParameterSpec { name, shape: shape.to_vec(), decay: shape.len() >= 2 });
        };
        add("model.embed_tokens.weight".into(), &[self.vocab_size, h]);
        for l in 0..self.num_layers {
            let layer = format!("model.layers.{l}");
            add(format!("{layer}.input_layernorm.weight"), &[h]);
            add(format!("{layer}.self_attn.q_proj.weight"), &[q, h]);
            add(format!("{layer}.self_attn.k_proj.weight"), &[kv, h]);
            add(format!("{layer}.self_attn.v_proj.weight"), &[kv, h]);
            if self.qkv_bias() {
                add(format!("{layer}.self_attn.q_proj.bias"), &[q]);
                add(format!("{layer}.self_attn.k_proj.bias"), &[kv]);
                add(format!("{layer}.self_attn.v_proj.bias"), &[kv]);
            }
            if self.head_norms() {
                add(format!("{layer}.self_attn.q_norm.weight"), &[d]);
                add(format!("{layer}.self_attn.k_norm.weight"), &[d]);
            }
            add(format!("{layer}.self_attn.o_proj.weight"), &[h, q]);
            add(format!("{layer}.post_attention_layernorm.weight"), &[h]);
            add(format!("{layer}.mlp.gate_proj.weight"), &[i, h]);
            add(format!("{layer}.mlp.up_proj.weight"), &[i, h]);
            add(format!("{layer}.mlp.down_proj.weight"), &[h, i]);
        }
        add("model.norm.weight".into(), &[h]);
        if !self.tied {
            add("lm_head.weight".into(), &[self.vocab_size, h]);
        }
        list
    }

    /// Numbers in all parameters together.
    pub fn num_parameters(&self) -> usize {
        self.parameters().iter().map(ParameterSpec::len).sum()
    }
}

impl ParameterSpec {
    /// Numbers in it.
    #[expect(clippy::len_without_is_empty, reason = "a parameter is never empty")]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

fn family(object: &Object) -> Result<Family, ConfigError> {
    let name = match object.get("model_type") {
        Some(Value::String(name)) => name.as_str(),
        Some(_) => return Err(invalid("model_type", "is not a string")),
        None => return Err(ConfigError::Missing { key: "model_type".into() }),
    };
    let (family, class) = match name {
        "llama" => (Family::Llama, "LlamaForCausalLM"),
        "qwen2" => (Family::Qwen2, "Qwen2ForCausalLM"),
        "qwen3" => (Family::Qwen3, "Qwen3ForCausalLM"),
        _ => return Err(unsupported("model_type", &object["model_type"], "known: llama, qwen2, qwen3")),
    };
    if let Some(value) = object.get("architectures").filter(|v| !v.is_null()) {
        let is_ours = value.as_array().is_some_and(|list| list.len() == 1 && list[0] == class);
        if !is_ours {
            return Err(unsupported("architectures", value, &format!("only [\"{class}\"] with this model_type")));
        }
    }
    Ok(family)
}

/// Refuses every key known to change the function unless its value leaves it as it is.
fn refuse_unsupported(object: &Object, family: Family) -> Result<(), ConfigError> {
    const OFF: &str = "must be absent, null, false, 0 or empty";
    const MUST_BE_OFF: &[&str] = &[
        "add_cross_attention",
        "alibi",
        "attention_chunk_size",
        "attention_dropout",
        "attention_sink",
        "attn_logit_softcapping",
        "attn_output_gate",
        "attn_temperature_tuning",
        "embd_pdrop",
        "embedding_dropout",
        "final_logit_softcapping",
        "first_k_dense_replace",
        "hidden_dropout",
        "hidden_dropout_prob",
        "kv_lora_rank",
        "lm_head_bias",
        "mlp_bias",
        "mlp_only_layers",
        "moe_intermediate_size",
        "n_routed_experts",
        "n_shared_experts",
        "no_rope_layer_interval",
        "num_experts",
        "num_experts_per_tok",
        "num_local_experts",
        "num_nextn_predict_layers",
        "parallel_residual",
        "q_lora_rank",
        "qk_layernorm",
        "quantization_config",
        "resid_pdrop",
        "residual_dropout",
        "rope_interleaved",
        "use_parallel_residual",
        "use_sliding_window",
        "vision_config",
        "audio_config",
        "clip_qkv",
        "dual_chunk_attention_config",
        "global_attn_every_n_layers",
        "qk_norm",
        "query_pre_attn_scalar",
        "rope_local_base_freq",
        "scale_attn_by_inverse_layer_idx",
        "sliding_window_pattern",
        "use_qk_norm",
    ];
    for &key in MUST_BE_OFF {
        if let Some(value) = object.get(key).filter(|v| !is_off(v)) {
            return Err(unsupported(key, value, OFF));
        }
    }
    for &key in MUST_BE_ONE {
        if let Some(value) = object.get(key).filter(|v| !v.is_null() && v.as_f64() != Some(1.0)) {
            return Err(unsupported(key, value, "must be absent or 1"));
        }
    }
    // `swiglu` is SiLU with the gate that these families always have: Falcon3's `activation`.
    let is_silu = |value: &Value| matches!(value.as_str(), Some("silu" | "swish" | "swiglu"));
    for key in ["hidden_act", "hidden_activation", "activation"] {
        if let Some(value) = object.get(key).filter(|v| !v.is_null() && !is_silu(v)) {
            return Err(unsupported(key, value, "only silu"));
        }
    }
    // In Qwen2 biases of query, key and value are always on, and this key is not read there.
    if let Some(value) = object.get("attention_bias").filter(|v| family != Family::Qwen2 && !is_off(v)) {
        return Err(unsupported("attention_bias", value, "only qwen2 has biases"));
    }
    // Qwen2 and Qwen3 carry a window that is in use only with `use_sliding_window`; elsewhere it is in use as it stands.
    if let Some(value) =
        object.get("sliding_window").filter(|v| !object.contains_key("use_sliding_window") && !is_off(v))
    {
        return Err(unsupported("sliding_window", value, "only full attention"));
    }
    if let Some(value) = object.get("layer_types").filter(|v| !v.is_null()) {
        let full = value.as_array().is_some_and(|list| list.iter().all(|kind| kind == "full_attention"));
        if !full {
            return Err(unsupported("layer_types", value, "only full_attention"));
        }
    }
    if let Some(value) = object.get("no_rope_layers").filter(|v| !v.is_null()) {
        let all = value.as_array().is_some_and(|list| list.iter().all(|flag| flag.as_i64() == Some(1)));
        if !all {
            return Err(unsupported("no_rope_layers", value, "every layer is rotated"));
        }
    }
    if let Some(value) = object.get("is_causal").filter(|v| **v == false) {
        return Err(unsupported("is_causal", value, "only causal attention"));
    }
    Ok(())
}

pub(crate) fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        Value::Bool(true) | Value::String(_) => false,
    }
}

/// Bounded, because the list of parameters grows with it.
fn num_layers(object: &Object) -> Result<usize, ConfigError> {
    const MOST: usize = 1024;
    let number = size(object, "num_hidden_layers")?;
    if number > MOST {
        return Err(invalid("num_hidden_layers", format!("= {number} is more than {MOST}")));
    }
    Ok(number)
}

fn size(object: &Object, key: &str) -> Result<usize, ConfigError> {
    optional_size(object, key)?.ok_or_else(|| ConfigError::Missing { key: key.into() })
}

fn optional_size(object: &Object, key: &str) -> Result<Option<usize>, ConfigError> {
    // Beyond this no size makes sense, and products of sizes stay within 64 bits.
    const MOST: u64 = 1 << 24;
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(number) if (1..=MOST).contains(&number) => Ok(Some(number as usize)),
            _ => Err(invalid(key, format!("= {} is not a whole number from 1 to {MOST}", short(value)))),
        },
    }
}

fn positive(object: &Object, key: &str) -> Result<Option<f64>, ConfigError> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64() {
            Some(number) if number > 0.0 && number.is_finite() => Ok(Some(number)),
            _ => Err(invalid(key, format!("= {} is not a positive number", short(value)))),
        },
    }
}

fn boolean(object: &Object, key: &str) -> Result<Option<bool>, ConfigError> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(value) => Err(invalid(key, format!("= {} is not true or false", short(value)))),
    }
}

fn invalid(key: &str, reason: impl Into<String>) -> ConfigError {
    ConfigError::Invalid { key: key.into(), reason: reason.into() }
}

fn unsupported(key: &str, value: &Value, reason: &str) -> ConfigError {
    ConfigError::Unsupported { key: key.into(), value: short(value), reason: reason.into() }
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 80 { text } else { text.chars().take(77).chain("...".chars()).collect() }
}

#[cfg(test)]
mod tests;
