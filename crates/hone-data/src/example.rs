//! What a row of a data file means: a conversation or a text to complete. Pure; no tokens here.

use hone_pipeline::spec::json::Json;
use hone_pipeline::spec::{Conversation, Mapping, Role, Spec};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;

/// Names under which data sets keep an assistant's reasoning, the usual one first.
pub const REASONING_KEYS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Names a row independently of its file's name: from its bytes and its line number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RowId(pub u64);

impl RowId {
    /// For what is no row of a file but has a name of its own, such as a skill's question.
    #[must_use]
    pub fn of_name(name: &str) -> RowId {
        crate::reader::row_id(0, name.as_bytes())
    }
}

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

impl Example {
    /// What a row means. `None` where the row has not the format's shape: hold it against
    /// [`Spec::problems`] before.
    #[must_use]
    pub fn from_json(spec: &Spec, row: &Json<'_>) -> Option<Example> {
        let text = |column: &str| Some(row.get(column)?.as_str()?.to_string());
        match &spec.mapping {
            Mapping::Conversation(conversation) => conversation_example(conversation, row),
            Mapping::Instruction { instruction, input, output, system } => {
                let mut messages: Vec<_> = text(system).map(|text| Message::new("system", text)).into_iter().collect();
                let question = match text(input).filter(|input| !input.is_empty()) {
                    Some(input) => format!("{}\n\n{input}", text(instruction)?),
                    None => text(instruction)?,
                };
                messages.extend([Message::new("user", question), Message::new("assistant", text(output)?)]);
                Some(Example::Chat { messages, tools: None })
            }
            Mapping::Completion { text: whole, prompt, completion } => Some(match text(whole) {
                Some(completion) => Example::Completion { prompt: None, completion },
                None => Example::Completion { prompt: text(prompt), completion: text(completion)? },
            }),
        }
    }
}

fn conversation_example(conversation: &Conversation, row: &Json<'_>) -> Option<Example> {
    let mut messages = Vec::new();
    for message in row.get(conversation.messages)?.items() {
        let role = conversation.role_of(message)?;
        let mut read = Message::new(role.name(), message.get(conversation.content)?.as_str()?);
        for key in conversation.other_keys {
            if let Some(value) = message.get(key).filter(|value| **value != Json::Null) {
                read.extra.insert((*key).to_string(), value.to_value());
            }
        }
        messages.push(read);
    }
    let system = row.get(conversation.system).and_then(Json::as_str);
    if let Some(system) = system.filter(|_| messages.first().is_none_or(|first| first.role != Role::System.name())) {
        messages.insert(0, Message::new(Role::System.name(), system));
    }
    let tools = conversation.tools.and_then(|column| row.get(column)).filter(|tools| !tools.items().is_empty());
    Some(Example::Chat { messages, tools: tools.map(Json::to_value) })
}
