//! Keys that `config.json` may hold: those that are read, and those that ask for nothing that this engine would have to compute.
//!
//! From the configuration classes of `transformers` (4 and 5) and from files of Llama, TinyLlama, SmolLM2, Falcon3, Qwen2.5, Qwen3
//! and models tuned from them by `transformers`, nanotron and unsloth.

use super::{ConfigError, MUST_BE_ONE, Object, is_off, unsupported};

/// Read, or held against the values that this engine computes.
const READ: &[&str] = &[
    "activation",
    "architectures",
    "attention_bias",
    "head_dim",
    "hidden_act",
    "hidden_activation",
    "hidden_size",
    "intermediate_size",
    "is_causal",
    "layer_types",
    "max_position_embeddings",
    "model_type",
    "no_rope_layers",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "original_max_position_embeddings",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "vocab_size",
];
/// Names, types of stored numbers, tokens, lengths that people advise.
const NOTES: &[&str] = &[
    "auto_map",
    "bos_token_id",
    "cls_token_id",
    "decoder_start_token_id",
    "dtype",
    "eos_token_id",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "id2label",
    "is_llama_config",
    "is_qwen2_config",
    "label2id",
    "mask_token_id",
    "max_seq_len",
    "max_sequence_length",
    "model_max_length",
    "model_name",
    "name_or_path",
    "num_labels",
    "pad_token_id",
    "prefix",
    "problem_type",
    "sep_token_id",
    "seq_length",
    "task_specific_params",
    "tokenizer_class",
    "tokenizer_model_max_length",
    "torch_dtype",
    "transformers.js_config",
    "unk_token_id",
];
/// How others begin, train and compute the same function, and Qwen's first layer with a window that is not in use.
const WAYS: &[&str] = &[
    "attn_implementation",
    "gradient_checkpointing",
    "initializer_range",
    "keys_to_ignore_at_inference",
    "max_window_layers",
    "neftune_noise_alpha",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "pretraining_tp",
    "return_dict",
    "torchscript",
    "use_bfloat16",
    "use_cache",
    "use_flash_attention",
    "use_flash_attention_2",
    "use_flash_attn",
    "use_reentrant_checkpointing",
    "use_return_dict",
    "use_sdpa",
];
/// How tokens are chosen, which older versions of `transformers` write beside the model; `generation_config.json` says it now.
const GENERATION: &[&str] = &[
    "bad_words_ids",
    "begin_suppress_tokens",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict_in_generate",
    "suppress_tokens",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
];

/// Refuses the first key that is not known, unless its value asks for nothing.
pub(super) fn refuse_unknown(object: &Object) -> Result<(), ConfigError> {
    const REASON: &str = "an unknown key; delete it from config.json if it does not change what the model computes";
    match object.iter().find(|(key, value)| !is_off(value) && !is_known(key)) {
        Some((key, value)) => Err(unsupported(key, value, REASON)),
        None => Ok(()),
    }
}

fn is_known(key: &str) -> bool {
    let is_listed = [READ, MUST_BE_ONE, NOTES, WAYS, GENERATION].iter().any(|list| list.contains(&key));
    // What libraries note for themselves.
    is_listed || key.starts_with('_') || key.starts_with("unsloth_") || key.ends_with("_version")
}
