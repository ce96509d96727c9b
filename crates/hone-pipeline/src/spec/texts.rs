//! The texts of a row that a model reads or learns, with who says each: what content checks look at. Pure.

use super::json::Json;
use super::{Mapping, Role, Spec};
use serde_json::Value;

const TOOL_CALLS: &str = "tool_calls";
/// Keys of a message that only name something.
const NAMES: [&str; 2] = ["name", "tool_call_id"];

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

/// What a message holds beside its text: reasoning, or tool calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extra {
    /// Number of the message from 1.
    pub message: usize,
    /// Its key.
    pub key: &'static str,
    /// A string as it is, anything else as JSON without escapes: what is looked for in it may stand behind a line break.
    pub text: String,
}

impl Extra {
    /// True for tool calls, which are what a message does; false for reasoning.
    #[must_use]
    pub fn is_calls(&self) -> bool {
        self.key == TOOL_CALLS
    }
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

    /// What the messages of a row hold beside their texts, in order. Arguments of tool calls are an object however they
    /// are written, and the ids of calls are left out.
    #[must_use]
    pub fn extras(&self, row: &Json<'_>) -> Vec<Extra> {
        let Mapping::Conversation(conversation) = &self.mapping else { return Vec::new() };
        let messages = row.get(conversation.messages).map(Json::items).unwrap_or_default();
        let mut extras = Vec::new();
        for (i, message) in messages.iter().enumerate() {
            for key in conversation.other_keys.iter().copied().filter(|key| !NAMES.contains(key)) {
                let text = match message.get(key) {
                    None | Some(Json::Null) => continue,
                    Some(Json::String(text)) => text.to_string(),
                    Some(value) if key == TOOL_CALLS => unescaped(&calls(value)),
                    Some(value) => unescaped(&value.to_value()),
                };
                if !text.is_empty() && text != "[]" {
                    extras.push(Extra { message: i + 1, key, text });
                }
            }
        }
        extras
    }
}

/// Tool calls without their ids, with arguments as templates see them.
fn calls(value: &Json<'_>) -> Value {
    let mut calls = value.to_value();
    for call in calls.as_array_mut().into_iter().flatten() {
        if let Some(fields) = call.as_object_mut() {
            fields.retain(|key, _| key != "id");
        }
        if let Some(arguments) = call.pointer_mut("/function/arguments")
            && let Value::String(text) = &*arguments
            && let Ok(parsed @ Value::Object(_)) = serde_json::from_str::<Value>(text)
        {
            *arguments = parsed;
        }
    }
    calls
}

fn unescaped(value: &Value) -> String {
    let mut out = String::new();
    write(value, &mut out);
    out
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::String(text) => {
            out.push('"');
            out.push_str(text);
            out.push('"');
        }
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write(item, out);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            out.push('{');
            for (i, (key, value)) in fields.iter().enumerate() {
                out.push_str(if i > 0 { ", \"" } else { "\"" });
                out.push_str(key);
                out.push_str("\": ");
                write(value, out);
            }
            out.push('}');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => out.push_str(&value.to_string()),
    }
}
