//! Text to token ids and back, by a model's own `tokenizer.json`.

use anyhow::{Result, anyhow};
use std::path::Path;
use std::sync::Arc;

/// A model's tokenizer. Cheap to clone (shared inside), safe between threads.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    eos_ids: Vec<u32>,
    bos_id: Option<u32>,
    vocab_size: usize,
}

impl Tokenizer {
    /// Reads `tokenizer.json`, and the end tokens from `generation_config.json`, `config.json` and
    /// `tokenizer_config.json`.
    ///
    /// # Errors
    /// A missing or broken file, by name.
    pub fn from_dir(model_dir: &Path) -> Result<Self> {
        Err(anyhow!("not built yet: {model_dir:?}"))
    }

    /// Token ids of a text. Special tokens written in the text are recognised; none are added.
    ///
    /// # Errors
    /// The tokenizer's own failure.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Err(anyhow!("not built yet: {}", text.len()))
    }

    /// The text of ids; incomplete UTF-8 becomes U+FFFD.
    ///
    /// # Errors
    /// The tokenizer's own failure.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        Err(anyhow!("not built yet: {} {skip_special}", ids.len()))
    }

    /// Ids that end an answer, sorted.
    #[must_use]
    pub fn eos_ids(&self) -> &[u32] {
        &self.inner.eos_ids
    }

    /// Id of the beginning-of-text token, if the model has one.
    #[must_use]
    pub fn bos_id(&self) -> Option<u32> {
        self.inner.bos_id
    }

    /// Number of ids: one more than the greatest.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.inner.vocab_size
    }

    /// Id of a token by its text (`<|im_end|>`), if it is one token of the vocabulary.
    #[must_use]
    pub fn token_id(&self, token: &str) -> Option<u32> {
        let _ = token;
        None
    }

    /// A decoder for ids that come one by one.
    #[must_use]
    pub fn stream(&self, skip_special: bool) -> DecodeStream {
        DecodeStream { tokenizer: self.clone(), skip_special }
    }
}

/// Decodes ids as they come, never splitting a character: all pieces joined equal the whole decoded.
#[derive(Clone, Debug)]
pub struct DecodeStream {
    tokenizer: Tokenizer,
    skip_special: bool,
}

impl DecodeStream {
    /// Takes one id; returns the text that is complete now, `None` when there is none yet.
    pub fn push(&mut self, id: u32) -> Option<String> {
        self.tokenizer.decode(&[id], self.skip_special).ok()
    }

    /// What is still held back (an incomplete character, as U+FFFD), `None` when nothing is.
    pub fn finish(&mut self) -> Option<String> {
        None
    }
}
