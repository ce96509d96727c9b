//! The texts of a row that a model reads or learns, with who says each: what content checks look at. Pure.

use super::json::Json;
use super::{Mapping, Role, Spec};

/// A text of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<'a> {
    /// Who says it.
    pub speaker: Speaker,
    /// Number of the message from 1; 0 where the text is a column.
    pub message: usize,
    /// Its key: a column, or the key of the message's text.
    pub key: &'static str,
    /// The text.
    pub text: &'a str,
    /// True where something else stands in for an empty text (tool calls, reasoning).
    pub may_be_empty: bool,
}

/// Who says a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// A message of a conversation.
    Role(Role),
    /// A prompt that is completed.
    Prompt,
    /// What is trained outside a conversation.
    Completion,
}

impl Speaker {
    /// How many speakers there are.
    pub const COUNT: usize = 6;

    /// A number below [`Speaker::COUNT`] for each, the same for ever: hashes of rows contain it.
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Speaker::Role(Role::System) => 0,
            Speaker::Role(Role::User) => 1,
            Speaker::Role(Role::Assistant) => 2,
            Speaker::Role(Role::Tool) => 3,
            Speaker::Prompt => 4,
            Speaker::Completion => 5,
        }
    }
}

impl Spec {
    /// The texts of a row in order; those of a row that has the format's shape are complete.
    #[must_use]
    pub fn texts<'a>(&self, row: &'a Json<'a>) -> Vec<Text<'a>> {
        let column = |speaker, key: &'static str, may_be_empty| {
            let text = row.get(key)?.as_str()?;
            Some(Text { speaker, message: 0, key, text, may_be_empty })
        };
        match &self.mapping {
            Mapping::Conversation(conversation) => {
                let mut texts: Vec<_> =
                    column(Speaker::Role(Role::System), conversation.system, true).into_iter().collect();
                let messages = row.get(conversation.messages).map(Json::items).unwrap_or_default();
                for (i, message) in messages.iter().enumerate() {
                    let Some(role) = conversation.role_of(message) else { continue };
                    let Some(text) = message.get(conversation.content).and_then(Json::as_str) else { continue };
                    let calls = message.get("tool_calls").is_some_and(|calls| !calls.items().is_empty());
                    texts.push(Text {
                        speaker: Speaker::Role(role),
                        message: i + 1,
                        key: conversation.content,
                        text,
                        may_be_empty: calls || role == Role::Tool || role == Role::System,
                    });
                }
                texts
            }
            Mapping::Instruction { instruction, input, output, system } => [
                column(Speaker::Role(Role::System), system, true),
                column(Speaker::Role(Role::User), instruction, false),
                column(Speaker::Role(Role::User), input, true),
                column(Speaker::Role(Role::Assistant), output, false),
            ]
            .into_iter()
            .flatten()
            .collect(),
            Mapping::Completion { text, prompt, completion } => [
                column(Speaker::Completion, text, false),
                column(Speaker::Prompt, prompt, true),
                column(Speaker::Completion, completion, false),
            ]
            .into_iter()
            .flatten()
            .collect(),
        }
    }
}
