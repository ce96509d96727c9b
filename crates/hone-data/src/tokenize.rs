//! Rows to token ids with their loss mask, born together.

use crate::example::{Message, Row, RowId};
use crate::profile::Profile;
use crate::template::ChatTemplate;
use crate::tokenizer::Tokenizer;
use anyhow::{Result, anyhow};
use hone_pipeline::config::Overlong;
use serde_json::{Map, Value};
use std::path::Path;
use std::sync::Arc;

/// Everything that turns a conversation into ids: the same for training, preview, evaluation and serving.
#[derive(Clone)]
pub struct ChatContext {
    /// The model's template; `None` for a model without one (then only completions can be used).
    pub template: Option<ChatTemplate>,
    /// The model's tokenizer.
    pub tokenizer: Tokenizer,
    /// The data profile.
    pub profile: Arc<dyn Profile>,
    /// Configured extra variables of the template.
    pub kwargs: Map<String, Value>,
}

/// A row as token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    /// The row it comes from.
    pub row: RowId,
    /// Its line, from 1.
    pub line: u64,
    /// Token ids.
    pub ids: Vec<u32>,
    /// `mask[i]`: `ids[i]` is trained. `mask[0]` is always false: nothing predicts the first token.
    pub mask: Vec<bool>,
}

impl TokenRow {
    /// How many tokens carry loss.
    #[must_use]
    pub fn num_trained(&self) -> usize {
        self.mask.iter().filter(|trained| **trained).count()
    }
}

/// Why a row cannot be trained on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {kind}")]
pub struct RowError {
    /// Its line, from 1.
    pub line: u64,
    /// The row.
    pub row: RowId,
    /// Why.
    pub kind: RowErrorKind,
}

/// The reasons, each with a stable [`code`](RowErrorKind::code).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowErrorKind {
    /// The model has no chat template.
    #[error("the model has no chat template, so conversations cannot be trained on it")]
    NoTemplate,
    /// The template raised an error.
    #[error("the model's chat template refuses the conversation: {0}")]
    TemplateRefuses(String),
    /// The prompt that the server would send is not the beginning of the rendered conversation.
    #[error("message {turn}: the rendered prompt is not the beginning of the rendered conversation")]
    PromptNotPrefix {
        /// Number of the assistant's message, from 1.
        turn: usize,
    },
    /// No end-of-turn token after an answer.
    #[error("message {turn}: the template prints no end-of-turn token after the answer")]
    NoEndToken {
        /// Number of the assistant's message, from 1.
        turn: usize,
    },
    /// Nothing is left to train.
    #[error("no token of the row would be trained")]
    NothingTrained,
    /// The tokenizer failed.
    #[error("the tokenizer fails: {0}")]
    Tokenizer(String),
}

impl RowErrorKind {
    /// Stable name, used as the code of a finding.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            RowErrorKind::NoTemplate => "template_missing",
            RowErrorKind::TemplateRefuses(_) => "template_refuses",
            RowErrorKind::PromptNotPrefix { .. } => "mask_prompt_not_prefix",
            RowErrorKind::NoEndToken { .. } => "mask_no_end_token",
            RowErrorKind::NothingTrained => "mask_nothing_trained",
            RowErrorKind::Tokenizer(_) => "tokenizer_failed",
        }
    }
}

impl ChatContext {
    /// Loads template and tokenizer of a model folder.
    ///
    /// # Errors
    /// A broken file, or an unknown profile. A missing template is not an error here.
    pub fn from_dir(model_dir: &Path, profile: &str, kwargs: &Map<String, Value>) -> Result<Self> {
        Err(anyhow!("not built yet: {model_dir:?} {profile} {}", kwargs.len()))
    }
}

/// A row as ids and mask; several where the template needs one example per assistant turn.
///
/// # Errors
/// The row cannot be trained on, by name.
pub fn tokenize(ctx: &ChatContext, row: &Row) -> Result<Vec<TokenRow>, RowError> {
    let _ = ctx;
    Err(RowError { line: row.line, row: row.id, kind: RowErrorKind::Tokenizer("not built yet".to_string()) })
}

/// The ids that server, preview and evaluation put before the assistant's next turn: the conversation with
/// generation prompt. `kwargs` of the request win over the configured ones. The profile is *not* applied.
///
/// # Errors
/// The model has no template, or it refuses the conversation.
pub fn prompt_ids(
    ctx: &ChatContext,
    messages: &[Message],
    tools: Option<&Value>,
    kwargs: Option<&Map<String, Value>>,
) -> Result<Vec<u32>> {
    Err(anyhow!("not built yet: {} {} {} {}", ctx.kwargs.len(), messages.len(), tools.is_some(), kwargs.is_some()))
}

/// The ids of a plain prompt (no template), with the tokens that the tokenizer itself puts before a text.
///
/// # Errors
/// The tokenizer's own failure.
pub fn completion_prompt_ids(ctx: &ChatContext, prompt: &str) -> Result<Vec<u32>> {
    ctx.tokenizer.encode(prompt)
}

/// Brings a row to at most `max_length` tokens, or leaves it out (`None`). An answer is never cut: with
/// [`Overlong::TruncatePrompt`] only tokens before the first trained one go.
#[must_use]
pub fn fit(row: TokenRow, max_length: usize, overlong: Overlong) -> Option<TokenRow> {
    if row.ids.len() <= max_length {
        return Some(row);
    }
    if overlong != Overlong::TruncatePrompt {
        return None;
    }
    let first_trained = row.mask.iter().position(|trained| *trained)?;
    let cut = row.ids.len() - max_length;
    // One untrained token must stay: it predicts the first trained one.
    (cut < first_trained).then(|| TokenRow { ids: row.ids[cut..].to_vec(), mask: row.mask[cut..].to_vec(), ..row })
}
