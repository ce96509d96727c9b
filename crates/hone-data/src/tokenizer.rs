//! Text to token ids and back, by a model's own `tokenizer.json`.
//!
//! Files read from a model folder: `tokenizer.json`; `tokenizer_config.json` (`bos_token`, `eos_token`);
//! `generation_config.json` and `config.json` (`eos_token_id`). Nothing here adds special tokens to a text:
//! a chat template prints them.

mod fast;
mod split;

use anyhow::{Context, Result, anyhow};
use fast::Fast;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

mod bytes;

/// A model's tokenizer. Cheap to clone (shared inside), safe between threads.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

struct Inner {
    /// As in the file but without a post-processor, so that offsets are exact and nothing is added.
    plain: tokenizers::Tokenizer,
    /// A faster way to the same ids, where this tokenizer is of a known kind.
    fast: Option<Fast>,
    /// What the file's own post-processor puts before a text.
    text_prefix: Vec<u32>,
    eos_ids: Vec<u32>,
    text_end: Option<u32>,
    bos_id: Option<u32>,
    vocab_size: usize,
    /// Whether tokens are written in GPT-2's alphabet of bytes.
    byte_level: bool,
}

/// Token ids with the bytes of the text that each came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids.
    pub ids: Vec<u32>,
    /// `(start, end)` in bytes of the text, per id. Tokens that share a character share its range.
    pub spans: Vec<(usize, usize)>,
}

impl Tokenizer {
    /// Reads a model folder. Ids that end an answer are: `eos_token_id` of `generation_config.json` (one or
    /// several), without it that of `config.json`; `eos_token` of `tokenizer_config.json`; and the special
    /// token that the chat template prints after an assistant's answer, since an answer trained under that
    /// template ends with it.
    ///
    /// # Errors
    /// A missing or broken file, by name.
    pub fn from_dir(model_dir: &Path) -> Result<Self> {
        let path = model_dir.join("tokenizer.json");
        let json = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let config = read_json(&model_dir.join("tokenizer_config.json"))?.unwrap_or(Value::Null);
        let mut eos_ids = match read_json(&model_dir.join("generation_config.json"))?.as_ref().map(eos_token_id) {
            Some(ids) if !ids.is_empty() => ids,
            _ => read_json(&model_dir.join("config.json"))?.as_ref().map(eos_token_id).unwrap_or_default(),
        };
        let names = crate::template::special_tokens(model_dir, &config)?;
        let bos = names.get("bos_token").and_then(Value::as_str);
        let plain = Self::from_json(&json, &[], bos).with_context(|| format!("read {}", path.display()))?;
        let text_end = names.get("eos_token").and_then(Value::as_str).and_then(|token| plain.token_id(token));
        let text_end = text_end.or_else(|| eos_ids.first().copied());
        eos_ids.extend(text_end);
        if let Ok(template) = crate::template::ChatTemplate::from_dir(model_dir) {
            eos_ids.extend(turn_end(&plain, &template));
        }
        eos_ids.sort_unstable();
        eos_ids.dedup();
        let inner = Arc::into_inner(plain.inner).expect("it was just made and never cloned");
        Ok(Tokenizer { inner: Arc::new(Inner { eos_ids, text_end, ..inner }) })
    }

    /// A tokenizer from the text of a `tokenizer.json`. `eos_ids[0]` ends a plain text.
    ///
    /// # Errors
    /// The text is not a tokenizer.
    pub fn from_json(json: &str, eos_ids: &[u32], bos_token: Option<&str>) -> Result<Self> {
        let mut file = tokenizers::Tokenizer::from_bytes(json).map_err(|e| anyhow!("parse the tokenizer: {e}"))?;
        file.with_padding(None);
        file.with_truncation(None).map_err(|e| anyhow!("switch truncation off: {e}"))?;
        let text_prefix = text_prefix(&file)?;
        file.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
        let fast = Fast::of(&serde_json::from_str(json).context("parse the tokenizer")?, &file);
        let vocab_size = file.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1);
        let bos_id = bos_token.and_then(|token| file.token_to_id(token));
        let text_end = eos_ids.first().copied();
        let mut eos_ids = eos_ids.to_vec();
        eos_ids.sort_unstable();
        let decoder = file.get_decoder().map(serde_json::to_string).transpose().context("read the decoder")?;
        let byte_level = decoder.is_some_and(|decoder| decoder.contains("ByteLevel"));
        let inner = Inner { plain: file, fast, text_prefix, eos_ids, text_end, bos_id, vocab_size, byte_level };
        Ok(Tokenizer { inner: Arc::new(inner) })
    }

    /// Token ids of a text. Special tokens written in the text are recognised; none are added.
    ///
    /// # Errors
    /// The tokenizer's own failure.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        if let Some(encoded) = self.inner.fast.as_ref().and_then(|fast| fast.encode(&self.inner.plain, text, false)) {
            return Ok(encoded.ids);
        }
        let encoding = self.inner.plain.encode_fast(text, false).map_err(|e| anyhow!("tokenize: {e}"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// As [`encode`](Self::encode), with the bytes that each token came from.
    ///
    /// # Errors
    /// The tokenizer's own failure.
    pub fn encode_with_spans(&self, text: &str) -> Result<Encoded> {
        if let Some(encoded) = self.inner.fast.as_ref().and_then(|fast| fast.encode(&self.inner.plain, text, true)) {
            return Ok(encoded);
        }
        let encoding = self.inner.plain.encode(text, false).map_err(|e| anyhow!("tokenize: {e}"))?;
        Ok(Encoded { ids: encoding.get_ids().to_vec(), spans: encoding.get_offsets().to_vec() })
    }

    /// The text of ids; incomplete UTF-8 becomes U+FFFD, and ids outside the vocabulary are left out.
    ///
    /// # Errors
    /// The tokenizer's own failure.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner.plain.decode(ids, skip_special).map_err(|e| anyhow!("decode tokens: {e}"))
    }

    /// Ids that end an answer, sorted.
    #[must_use]
    pub fn eos_ids(&self) -> &[u32] {
        &self.inner.eos_ids
    }

    /// The id that ends a plain text (no chat), if the model has one.
    #[must_use]
    pub fn text_end_id(&self) -> Option<u32> {
        self.inner.text_end
    }

    /// Ids that the tokenizer itself puts before a plain text (often the beginning-of-text token, or none).
    #[must_use]
    pub fn text_prefix_ids(&self) -> &[u32] {
        &self.inner.text_prefix
    }

    /// Id of `bos_token`, if the model names one. Whether it is used is the template's business.
    #[must_use]
    pub fn bos_id(&self) -> Option<u32> {
        self.inner.bos_id
    }

    /// Number of ids: one more than the greatest. A model's embedding may have more rows.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.inner.vocab_size
    }

    /// Id of a token by its text (`<|im_end|>`), if it is one token of the vocabulary.
    #[must_use]
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.plain.token_to_id(token)
    }

    /// True for a special token, such as `<|im_start|>`.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        let added = self.inner.plain.get_added_vocabulary();
        added.simple_id_to_token(id).is_some_and(|token| added.is_special_token(&token))
    }

    /// The bytes that a token adds to a text: its own bytes under a byte-level alphabet, else its text. A special token
    /// is its name. `None` for an id without a token.
    #[must_use]
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let token = self.inner.plain.id_to_token(id)?;
        let is_added = self.inner.plain.get_added_vocabulary().simple_id_to_token(id).is_some();
        // Added tokens are not written in GPT-2's alphabet; those of SentencePiece, such as runs of spaces, have its marks.
        if is_added && (self.inner.byte_level || self.is_special(id)) {
            return Some(token.into_bytes());
        }
        Some(bytes::of_token(&token, self.inner.byte_level))
    }

    /// True where ids come by the fast way (a byte-level tokenizer whose splitting expression is known).
    #[must_use]
    pub fn is_fast(&self) -> bool {
        self.inner.fast.is_some()
    }

    /// A decoder for ids that come one by one.
    #[must_use]
    pub fn stream(&self, skip_special: bool) -> DecodeStream {
        DecodeStream { tokenizer: self.clone(), skip_special, ids: Vec::new(), num_emitted: 0 }
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.inner.vocab_size)
            .field("eos_ids", &self.inner.eos_ids)
            .finish_non_exhaustive()
    }
}

/// Decodes ids as they come, never splitting a character: all pieces joined, with what
/// [`finish`](Self::finish) returns, equal the whole decoded at once.
#[derive(Clone, Debug)]
pub struct DecodeStream {
    tokenizer: Tokenizer,
    skip_special: bool,
    /// The last emitted group of ids (some decoders treat a beginning differently) and all later ones.
    ids: Vec<u32>,
    /// How many of `ids` were emitted.
    num_emitted: usize,
}

impl DecodeStream {
    /// Takes one id; returns the text that is complete now, `None` when there is none yet.
    pub fn push(&mut self, id: u32) -> Option<String> {
        self.ids.push(id);
        let (emitted, whole) = self.texts();
        // A text that ends with U+FFFD may still become a character.
        if whole.ends_with('\u{fffd}') {
            return None;
        }
        let piece = whole.get(emitted.len()..).unwrap_or_default().to_string();
        if piece.is_empty() {
            return None;
        }
        self.ids.drain(..self.num_emitted);
        self.num_emitted = self.ids.len();
        Some(piece)
    }

    /// What is still held back (an incomplete character, as U+FFFD), `None` when nothing is.
    pub fn finish(&mut self) -> Option<String> {
        let (emitted, whole) = self.texts();
        let rest = whole.get(emitted.len()..).unwrap_or_default().to_string();
        self.num_emitted = self.ids.len();
        (!rest.is_empty()).then_some(rest)
    }

    fn texts(&self) -> (String, String) {
        let decode = |ids: &[u32]| self.tokenizer.decode(ids, self.skip_special).unwrap_or_default();
        (decode(&self.ids[..self.num_emitted]), decode(&self.ids))
    }
}

/// Reads a JSON file; `None` where there is none.
pub(crate) fn read_json(path: &Path) -> Result<Option<Value>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).with_context(|| format!("read {}", path.display()))?)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("read {}", path.display())),
    }
}

/// `eos_token_id` of a configuration: a number, a list, or nothing.
fn eos_token_id(config: &Value) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match &config["eos_token_id"] {
        Value::Array(ids) => ids.iter().filter_map(id).collect(),
        one => id(one).into_iter().collect(),
    }
}

/// What the post-processor puts before a text, found by comparing one short text with and without it.
fn text_prefix(file: &tokenizers::Tokenizer) -> Result<Vec<u32>> {
    let encode = |special| file.encode("a", special).map_err(|e| anyhow!("tokenize a probe: {e}"));
    let (bare, special) = (encode(false)?, encode(true)?);
    let (bare, special) = (bare.get_ids(), special.get_ids());
    let start = special.windows(bare.len().max(1)).position(|window| window == bare).unwrap_or(0);
    Ok(special[..start].to_vec())
}

/// The special token that the template prints after an answer. A template that cannot render the probe
/// gives none.
fn turn_end(tokenizer: &Tokenizer, template: &crate::template::ChatTemplate) -> Option<u32> {
    use crate::example::Message;
    const PROBE: &str = "Zebra";
    let messages = [Message::new("user", "a"), Message::new("assistant", PROBE)];
    let input = crate::template::RenderInput {
        messages: &messages,
        tools: None,
        add_generation_prompt: false,
        kwargs: &serde_json::Map::new(),
    };
    let rendered = template.render(&input).ok()?;
    let after = rendered.rfind(PROBE)? + PROBE.len();
    let ids = tokenizer.encode(&rendered[after..]).ok()?;
    ids.into_iter().find(|id| tokenizer.is_special(*id))
}

#[cfg(test)]
mod tests;
