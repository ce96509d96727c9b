//! The one chat template: a model's own Jinja template, rendered as `transformers` renders it.

use crate::example::Message;
use anyhow::{Result, anyhow};
use serde_json::{Map, Value};
use std::path::Path;

/// A compiled chat template with the special tokens it prints. Cheap to clone, shared between threads.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    hash: String,
}

/// What is rendered.
#[derive(Clone, Copy, Debug)]
pub struct RenderInput<'a> {
    /// The conversation.
    pub messages: &'a [Message],
    /// Function schemas.
    pub tools: Option<&'a Value>,
    /// Whether the header of the assistant's next turn is appended.
    pub add_generation_prompt: bool,
    /// Extra variables (`chat_template_kwargs`).
    pub kwargs: &'a Map<String, Value>,
}

impl ChatTemplate {
    /// The template of a model folder: `chat_template.jinja`, else `chat_template` of `tokenizer_config.json`.
    ///
    /// # Errors
    /// The folder has no template, or it does not compile.
    pub fn from_dir(model_dir: &Path) -> Result<Self> {
        Err(anyhow!("not built yet: {model_dir:?}"))
    }

    /// A template from its text; `bos` and `eos` become `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// The text does not compile.
    pub fn from_source(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self> {
        Err(anyhow!("not built yet: {} {bos:?} {eos:?}", source.len()))
    }

    /// The conversation as text.
    ///
    /// # Errors
    /// The template refuses the conversation (`raise_exception`) or fails.
    pub fn render(&self, input: &RenderInput<'_>) -> Result<String> {
        Err(anyhow!("not built yet: {}", input.messages.len()))
    }

    /// BLAKE3 of the template's text, hex.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }
}
