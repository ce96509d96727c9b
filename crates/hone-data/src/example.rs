//! What a row of a data file means: a conversation or a text to complete. Pure; no tokens here.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;

/// Names under which data sets keep an assistant's reasoning, the usual one first.
pub const REASONING_KEYS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Names a row independently of its file's name: from its bytes and its line number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RowId(pub u64);

impl fmt::Display for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "row-{:016x}", self.0)
    }
}

/// One row of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Physical line number, from 1.
    pub line: u64,
    /// Its name.
    pub id: RowId,
    /// What it says.
    pub example: Example,
}

/// What is to be learned from a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Example {
    /// A conversation; the assistant's turns are trained.
    Chat {
        /// Its messages in order.
        messages: Vec<Message>,
        /// Function schemas that the template prints, a list of objects.
        tools: Option<Value>,
    },
    /// A text; with a prompt, only the completion is trained.
    Completion {
        /// What comes before, untrained.
        prompt: Option<String>,
        /// What is trained.
        completion: String,
    },
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// Its text.
    pub content: String,
    /// Further keys that templates know (`name`, `tool_calls`, `tool_call_id`, `reasoning_content`).
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Message {
    /// A message without further keys.
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        Message { role: role.to_string(), content: content.into(), extra: Map::new() }
    }

    /// The reasoning kept beside the content, under any of the names in use; `None` where there is none.
    #[must_use]
    pub fn reasoning(&self) -> Option<&Value> {
        REASONING_KEYS.iter().find_map(|key| self.extra.get(*key).filter(|value| !value.is_null()))
    }
}
