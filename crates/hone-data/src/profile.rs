//! Data profiles: how rows are decorated for training, prompts for the model, and answers read back.
//!
//! A profile is pure, deterministic per row id and idempotent. It is used alike in training, preview,
//! evaluation and by the server's stop strings and logit rules; the server never rewrites a client's prompt.

use crate::example::{Message, Row};
use std::sync::Arc;

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
    /// The row as it is trained. `apply(apply(row)) = apply(row)`.
    fn apply(&self, row: &Row) -> Row;
    /// A prompt as previews and evaluations ask it.
    fn prompt(&self, messages: &[Message]) -> Vec<Message>;
    /// The answer inside a response; a skill judges only this. `extract(decorated answer) = answer`.
    fn extract(&self, response: &str) -> String;
    /// Strings that end a generation.
    fn stop_strings(&self) -> Vec<String>;
    /// Token penalties while generating.
    fn penalties(&self) -> Vec<TokenPenalty>;
}

/// A profile that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// It belongs to the product and this version does not have it.
    #[error("profile {0:?} is not available in this version (available: plain)")]
    NotAvailable(String),
    /// No such profile.
    #[error("profile {0:?} is not known (available: plain)")]
    Unknown(String),
}

/// The profile with this name.
pub fn find(name: &str) -> Result<Arc<dyn Profile>, ProfileError> {
    match name {
        "plain" => Ok(Arc::new(Plain)),
        "emoji_think" | "regime3" => Err(ProfileError::NotAvailable(name.to_string())),
        _ => Err(ProfileError::Unknown(name.to_string())),
    }
}

/// Leaves everything as it is.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

impl Profile for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn apply(&self, row: &Row) -> Row {
        row.clone()
    }

    fn prompt(&self, messages: &[Message]) -> Vec<Message> {
        messages.to_vec()
    }

    fn extract(&self, response: &str) -> String {
        response.to_string()
    }

    fn stop_strings(&self) -> Vec<String> {
        Vec::new()
    }

    fn penalties(&self) -> Vec<TokenPenalty> {
        Vec::new()
    }
}
