//! A small tokenizer with a chat template, made on the spot from given texts: for `hone init --tiny`, the
//! demo, and every test that needs a real tokenizer without a download. It writes no file.

use anyhow::{Result, anyhow, ensure};
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, TokenizerBuilder};

/// ChatML with the roles system, user, assistant and tool; prints nothing of its own.
pub const TINY_CHAT_TEMPLATE: &str = "{%- for message in messages %}\
{%- if message.role not in ['system', 'user', 'assistant', 'tool'] %}\
{{- raise_exception('unknown role ' + message.role) }}\
{%- endif %}\
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}\
{%- endfor %}\
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}";

/// Special tokens; their ids are their positions here.
pub const SPECIAL_TOKENS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// Fewest tokens: the special ones and every byte.
pub const MIN_VOCAB_SIZE: usize = SPECIAL_TOKENS.len() + 256;

/// Words, single digits of every script, punctuation and white space apart (the expression of Qwen2).
const SPLIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Trains a byte-level BPE tokenizer and returns it as the content of `tokenizer.json`. The same texts give
/// the same bytes, in any order of training threads. It has at most `vocab_size` tokens (fewer when the
/// texts hold fewer frequent pairs). Every digit is a word of its own, so a digit that occurs often,
/// such as `⓪` and `①`, becomes exactly one token, and none swallows its neighbour.
///
/// # Errors
/// `vocab_size` below [`MIN_VOCAB_SIZE`], or a failure of the trainer.
pub fn build_tokenizer(texts: impl Iterator<Item = String>, vocab_size: usize) -> Result<Value> {
    ensure!(vocab_size >= MIN_VOCAB_SIZE, "a vocabulary needs at least {MIN_VOCAB_SIZE} tokens, not {vocab_size}");
    let split = Split::new(SplitPattern::Regex(SPLIT.to_string()), SplitDelimiterBehavior::Isolated, false)
        .map_err(|e| anyhow!("compile the splitting expression: {e}"))?;
    let mut tokenizer = TokenizerBuilder::<BPE, tokenizers::NormalizerWrapper, _, ByteLevel, ByteLevel>::new()
        .with_model(BPE::default())
        .with_normalizer(None)
        .with_pre_tokenizer(Some(Sequence::new(vec![split.into(), ByteLevel::new(false, false, false).into()])))
        .with_post_processor(None)
        .with_decoder(Some(ByteLevel::new(false, false, false)))
        .build()
        .map_err(|e| anyhow!("assemble the tokenizer: {e}"))?;
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(vocab_size)
        .min_frequency(2)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(SPECIAL_TOKENS.iter().map(|token| AddedToken::from(*token, true)).collect())
        .build();
    let texts: Vec<String> = texts.collect();
    tokenizer.train(&mut trainer, texts.iter()).map_err(|e| anyhow!("train the tokenizer: {e}"))?;
    let json = tokenizer.to_string(false).map_err(|e| anyhow!("write the tokenizer: {e}"))?;
    Ok(serde_json::from_str(&json)?)
}

/// Content of `tokenizer_config.json`, with [`TINY_CHAT_TEMPLATE`]. `transformers` reads it too.
#[must_use]
pub fn tokenizer_config() -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": false,
        "add_prefix_space": false,
        "clean_up_tokenization_spaces": false,
        "eos_token": SPECIAL_TOKENS[2],
        "pad_token": SPECIAL_TOKENS[0],
        "chat_template": TINY_CHAT_TEMPLATE,
    })
}

/// Content of `generation_config.json`: greedy, ending at `<|im_end|>` or `<|endoftext|>`.
#[must_use]
pub fn generation_config() -> Value {
    json!({ "do_sample": false, "eos_token_id": [2, 0], "pad_token_id": 0 })
}

#[cfg(test)]
mod tests;
