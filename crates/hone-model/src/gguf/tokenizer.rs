//! The tokenizer of a GGUF file as `tokenizer.json` and its companions. Byte-level BPE only.
//!
//! llama.cpp stores tokens, merges and the *name* of the rule that splits text before merging; the rules behind the names are
//! written out here. Token types: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.

use super::convert::Architecture;
use super::reader::Metadata;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};
use std::collections::HashSet;

const NORMAL: i128 = 1;
const CONTROL: i128 = 3;
const USER_DEFINED: i128 = 4;
/// Tokens that end an answer beside the model's own end token, where the vocabulary has them among its special ones.
const OTHER_END_TOKENS: [&str; 2] = ["<|endoftext|>", "<end_of_turn>"];

const QWEN2_SPLIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const LLAMA3_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// `tokenizer.json`.
pub(super) fn tokenizer(metadata: &Metadata, vocab_size: usize) -> Result<Value> {
    let tokens = Tokens::read(metadata)?;
    let num_tokens = tokens.texts.len();
    ensure!(num_tokens <= vocab_size, "there are {num_tokens} tokens, but the embedding has only {vocab_size} rows");
    let mut merges = Vec::new();
    let mut made = HashSet::new();
    for (index, merge) in metadata.strings("tokenizer.ggml.merges")?.into_iter().enumerate() {
        let mut parts = merge.split(' ');
        let (Some(a), Some(b), None) = (parts.next(), parts.next(), parts.next()) else {
            bail!("`tokenizer.ggml.merges`, number {index}: `{merge}` is not two parts");
        };
        made.insert(format!("{a}{b}"));
        merges.push(json!([a, b]));
    }
    // Control tokens stay out of the model's vocabulary only when they come after the base vocabulary.
    let is_base = |i: &usize| {
        let text = tokens.texts[*i];
        tokens.types[*i] == NORMAL && (made.contains(text) || text.chars().count() == 1)
    };
    let base_end = (0..num_tokens).rev().find(is_base).context("`tokenizer.ggml.tokens` has no normal token")? + 1;
    let vocab: Map<String, Value> =
        tokens.texts[..base_end].iter().enumerate().map(|(i, text)| ((*text).to_owned(), i.into())).collect();
    let pipeline = Pipeline::of(tokens.split_rule)?;
    let mut model = json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": null,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": false,
        "byte_fallback": false,
        "ignore_merges": false,
        "vocab": vocab,
        "merges": merges,
    });
    for (key, value) in pipeline.model {
        model[key] = value;
    }
    let begin = metadata.optional_size("tokenizer.ggml.bos_token_id")?.zip(tokens.named(metadata, "bos")?);
    let post_processor = match begin {
        Some((id, text)) if tokens.adds_begin(metadata)? => with_begin(pipeline.post_processor, id, text),
        _ => pipeline.post_processor,
    };
    let added: Vec<Value> = tokens.added().map(|(id, token)| added_token(Some(id), token)).collect();
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": pipeline.normalizer,
        "pre_tokenizer": pipeline.pre_tokenizer,
        "post_processor": post_processor,
        "decoder": pipeline.decoder,
        "model": model,
    }))
}

/// `tokenizer_config.json`.
pub(super) fn tokenizer_config(metadata: &Metadata, architecture: &Architecture) -> Result<Value> {
    let tokens = Tokens::read(metadata)?;
    let is_qwen2 = tokens.split_rule == "qwen2";
    let unless_qwen2 = |name: Option<&str>| if is_qwen2 { Value::Null } else { name.into() };
    let added: Map<String, Value> =
        tokens.added().map(|(id, token)| (id.to_string(), added_token(None, token))).collect();
    let mut config = json!({
        "tokenizer_class": if is_qwen2 { "Qwen2Tokenizer" } else { "PreTrainedTokenizerFast" },
        "add_bos_token": tokens.adds_begin(metadata)?,
        "add_prefix_space": false,
        "clean_up_tokenization_spaces": false,
        "model_max_length": metadata.size(&architecture.key("context_length"))?,
        "bos_token": unless_qwen2(tokens.named(metadata, "bos")?),
        "eos_token": tokens.named(metadata, "eos")?,
        "pad_token": tokens.named(metadata, "padding")?,
        "unk_token": unless_qwen2(tokens.named(metadata, "unknown")?),
        "added_tokens_decoder": added,
    });
    if let Some(template) = chat_template(metadata)? {
        config["chat_template"] = template.into();
    }
    Ok(config)
}

/// `generation_config.json`.
pub(super) fn generation_config(metadata: &Metadata) -> Result<Value> {
    let tokens = Tokens::read(metadata)?;
    let id = |key: &str| metadata.optional_size(&format!("tokenizer.ggml.{key}_token_id"));
    let mut ends = vec![id("eos")?.context("metadata key `tokenizer.ggml.eos_token_id` is absent")?];
    if chat_template(metadata)?.is_some() {
        let num_tokens = tokens.texts.len();
        for text in OTHER_END_TOKENS {
            // Special tokens stand at either end of a vocabulary: the same text in its middle is an ordinary token.
            let at_an_end = |&i: &usize| i < 300 || i + 8000 >= num_tokens;
            let listed = (0..num_tokens).filter(at_an_end).any(|i| tokens.texts[i] == text);
            let first = tokens.texts.iter().position(|other| *other == text);
            if let Some(first) = first.filter(|first| listed && !ends.contains(first)) {
                ends.push(first);
            }
        }
    }
    let mut config = json!({"_from_model_config": true});
    if let Some(bos) = id("bos")? {
        config["bos_token_id"] = bos.into();
    }
    config["do_sample"] = false.into();
    config["eos_token_id"] = if let [end] = ends[..] { end.into() } else { ends.into() };
    if let Some(pad) = id("padding")? {
        config["pad_token_id"] = pad.into();
    }
    Ok(config)
}

/// The vocabulary.
struct Tokens<'a> {
    texts: Vec<&'a str>,
    types: Vec<i128>,
    split_rule: &'a str,
}

impl<'a> Tokens<'a> {
    fn read(metadata: &'a Metadata) -> Result<Tokens<'a>> {
        let model = metadata.string("tokenizer.ggml.model")?;
        ensure!(
            model == "gpt2",
            "tokenizer model `{model}` (`tokenizer.ggml.model`) is not supported; gpt2 (byte-level BPE) is"
        );
        let texts = metadata.strings("tokenizer.ggml.tokens")?;
        let types = metadata.integers("tokenizer.ggml.token_type")?;
        ensure!(
            texts.len() == types.len(),
            "`tokenizer.ggml.tokens` has {} entries, `tokenizer.ggml.token_type` {}",
            texts.len(),
            types.len()
        );
        let split_rule = metadata.optional_string("tokenizer.ggml.pre")?.unwrap_or("default");
        Ok(Tokens { texts, types, split_rule })
    }

    /// Id, text and type of the tokens that are found in text before it is split.
    fn added(&self) -> impl Iterator<Item = (usize, (&'a str, i128))> {
        let all = self.texts.iter().copied().zip(self.types.iter().copied()).enumerate();
        all.filter(|(_, (_, kind))| matches!(*kind, CONTROL | USER_DEFINED))
    }

    /// The text of the token that a key of the metadata names.
    fn named(&self, metadata: &Metadata, key: &str) -> Result<Option<&'a str>> {
        let key = format!("tokenizer.ggml.{key}_token_id");
        let Some(id) = metadata.optional_size(&key)? else { return Ok(None) };
        let text =
            self.texts.get(id).with_context(|| format!("`{key}` = {id}, but there are {} tokens", self.texts.len()))?;
        Ok(Some(text))
    }

    /// Whether a text begins with the token that `bos` names: as the file says, else as llama.cpp has it for this rule.
    fn adds_begin(&self, metadata: &Metadata) -> Result<bool> {
        const KEY: &str = "tokenizer.ggml.add_bos_token";
        match metadata.get(KEY) {
            None => Ok(matches!(self.split_rule, "llama-bpe" | "llama3")),
            Some(_) => metadata.flag(KEY),
        }
    }
}

fn chat_template(metadata: &Metadata) -> Result<Option<&str>> {
    Ok(metadata.optional_string("tokenizer.chat_template")?.filter(|template| !template.is_empty()))
}

fn added_token(id: Option<usize>, (text, kind): (&str, i128)) -> Value {
    let mut token = Map::new();
    if let Some(id) = id {
        token.insert("id".into(), id.into());
    }
    token.insert("content".into(), text.into());
    for key in ["single_word", "lstrip", "rstrip", "normalized"] {
        token.insert(key.into(), false.into());
    }
    token.insert("special".into(), (kind != USER_DEFINED).into());
    token.into()
}

/// A post-processor that puts a token before each text as well.
fn with_begin(post_processor: Value, id: usize, token: &str) -> Value {
    let begin = |type_id: u8| json!({"SpecialToken": {"id": token, "type_id": type_id}});
    let text = |name: &str, type_id: u8| json!({"Sequence": {"id": name, "type_id": type_id}});
    let template = json!({
        "type": "TemplateProcessing",
        "single": [begin(0), text("A", 0)],
        "pair": [begin(0), text("A", 0), begin(1), text("B", 1)],
        "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
    });
    match post_processor {
        Value::Null => template,
        other => json!({"type": "Sequence", "processors": [other, template]}),
    }
}

/// The parts of `tokenizer.json` that follow from the name of the splitting rule.
struct Pipeline {
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
    /// Keys of the BPE model that differ from the usual.
    model: Vec<(&'static str, Value)>,
}

impl Pipeline {
    fn of(split_rule: &str) -> Result<Pipeline> {
        let byte_level = |trim_offsets: bool, use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": trim_offsets, "use_regex": use_regex});
        let split = |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
        let sequence = |first: Value, second: Value| json!({"type": "Sequence", "pretokenizers": [first, second]});
        // Prefix space and trimming are spelled as the published tokenizers spell them; decoding reads neither.
        let decoder = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
        Ok(match split_rule {
            "smollm" => Pipeline {
                normalizer: Value::Null,
                pre_tokenizer: sequence(json!({"type": "Digits", "individual_digits": true}), byte_level(true, true)),
                post_processor: Value::Null,
                decoder,
                model: vec![],
            },
            "qwen2" => Pipeline {
                normalizer: json!({"type": "NFC"}),
                pre_tokenizer: sequence(split(QWEN2_SPLIT), byte_level(false, false)),
                post_processor: byte_level(false, false),
                decoder: byte_level(false, false),
                model: vec![("continuing_subword_prefix", "".into()), ("end_of_word_suffix", "".into())],
            },
            "llama-bpe" | "llama3" => Pipeline {
                normalizer: Value::Null,
                pre_tokenizer: sequence(split(LLAMA3_SPLIT), byte_level(true, false)),
                post_processor: Value::Null,
                decoder,
                model: vec![("ignore_merges", true.into())],
            },
            other => bail!(
                "splitting rule `{other}` (`tokenizer.ggml.pre`) is not supported; smollm, qwen2 and llama-bpe are"
            ),
        })
    }
}
