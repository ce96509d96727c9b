//! Data profiles: how rows are decorated for training, prompts for the model, and answers read back.
//!
//! A profile is pure, deterministic per row id and idempotent. It acts on conversations only; a text to complete stays
//! as it is. Training, previews and evaluations decorate through [`Profile::decorate`]; generation is held to its stop
//! strings and token penalties there and at the server alike. The server never rewrites a client's prompt.

mod emoji_think;
mod regime3;

use crate::example::{Example, Message, Row, RowId};
use emoji_think::EmojiThink;
use hone_pipeline::config::ProfileSettings;
use regime3::Regime3;
use std::sync::Arc;

/// Names of all profiles.
pub const NAMES: &[&str] = &["plain", "emoji_think", "regime3"];

/// A rule that changes the score of one token while generating.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenPenalty {
    /// The text whose token is meant; it applies only where the text is exactly one token.
    pub text: String,
    /// `(up to this many generated tokens, subtracted from the logit)`, in order; 0 after the last.
    pub schedule: Vec<(usize, f32)>,
}

/// How rows, prompts and answers are decorated.
pub trait Profile: Send + Sync {
    /// Its name in the configuration.
    fn name(&self) -> &'static str;

    /// Decorates a conversation, or the beginning of one that is asked. What becomes of a message depends on the row's
    /// id, on the message and on those before it alone: a prompt is decorated as the beginning of its row is.
    /// Decorating twice is decorating once.
    fn decorate(&self, id: RowId, messages: &mut Vec<Message>);

    /// The answer inside a response; a skill judges only this. For an answer without marks of the profile,
    /// `extract(decorated answer) = answer`.
    fn extract(&self, response: &str) -> String;

    /// Whether [`problem`](Self::problem) may find one.
    fn may_refuse(&self) -> bool {
        false
    }

    /// Why an assistant's text cannot be decorated: a row that holds it is not trained.
    fn problem(&self, answer: &str) -> Option<String> {
        let _ = answer;
        None
    }

    /// Strings that end a generation.
    fn stop_strings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Token penalties while generating.
    fn penalties(&self) -> Vec<TokenPenalty> {
        Vec::new()
    }

    /// Changes with everything that the profile does: evaluations under different ones are not compared.
    fn fingerprint(&self) -> String;

    /// The row as it is trained.
    fn apply(&self, row: &Row) -> Row {
        let mut row = row.clone();
        if let Example::Chat { messages, .. } = &mut row.example {
            self.decorate(row.id, messages);
        }
        row
    }

    /// A prompt as previews and evaluations ask it.
    fn prompt(&self, id: RowId, messages: &[Message]) -> Vec<Message> {
        let mut messages = messages.to_vec();
        self.decorate(id, &mut messages);
        messages
    }
}

/// A profile that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// No such profile.
    #[error("profile {0:?} is not known (available: {list})", list = NAMES.join(", "))]
    Unknown(String),
    /// It has no use for a system prompt.
    #[error("profile.system_prompt has no meaning for the profile \"plain\" (hint: leave it out, or choose another)")]
    NoSystemPrompt,
}

/// The profile that is configured.
///
/// # Errors
/// There is none of this name, or it has no use for what is configured.
pub fn find(settings: &ProfileSettings) -> Result<Arc<dyn Profile>, ProfileError> {
    let ProfileSettings { name, system_prompt } = settings;
    match (name.as_str(), system_prompt) {
        ("plain", None) => Ok(Arc::new(Plain)),
        ("plain", Some(_)) => Err(ProfileError::NoSystemPrompt),
        ("emoji_think", system) => Ok(Arc::new(EmojiThink { system: system.clone() })),
        ("regime3", system) => Ok(Arc::new(Regime3 { system: system.clone() })),
        _ => Err(ProfileError::Unknown(name.clone())),
    }
}

/// Leaves everything as it is.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

impl Profile for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn decorate(&self, _: RowId, _: &mut Vec<Message>) {}

    fn extract(&self, response: &str) -> String {
        response.to_string()
    }

    fn fingerprint(&self) -> String {
        self.name().to_string()
    }
}

/// Sets the system message, or inserts one.
fn set_system(messages: &mut Vec<Message>, text: &str) {
    match messages.first_mut().filter(|first| first.role == "system") {
        Some(first) => first.content = text.to_string(),
        None => messages.insert(0, Message::new("system", text)),
    }
}

/// True for an assistant's turn whose text is an answer, not words around tool calls.
fn is_answer(message: &Message) -> bool {
    let calls = message.extra.get("tool_calls").and_then(serde_json::Value::as_array);
    message.role == "assistant" && calls.is_none_or(Vec::is_empty)
}

#[cfg(test)]
mod tests;
