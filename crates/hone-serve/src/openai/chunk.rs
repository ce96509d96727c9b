//! Chunks of a streamed answer, as server-sent events.

use super::calls::Call;
use super::logprobs;
use super::request::Endpoint;
use super::response::{Head, TotalUsage};
use crate::error::ApiError;
use hone_generate::TokenLogprobs;
use serde_json::{Value, json};

/// The event that ends a stream.
pub const DONE: &str = "data: [DONE]\n\n";

/// What a chunk adds to one choice.
#[derive(Clone, Debug)]
pub enum Delta<'a> {
    /// The first chunk of a chat answer: who speaks.
    Role,
    /// Text, possibly empty when it carries log-probabilities only.
    Text {
        /// The text.
        text: &'a str,
        /// Of the tokens that it came with.
        logprobs: &'a [TokenLogprobs],
        /// Characters of the tokens reported before.
        offset: usize,
    },
    /// A tool call begins: its name.
    Call {
        /// Which of the choice's calls.
        index: usize,
        /// Its id.
        id: &'a str,
        /// The call.
        call: &'a Call,
    },
    /// The arguments of a call.
    Arguments {
        /// Which of the choice's calls.
        index: usize,
        /// JSON text.
        arguments: &'a str,
    },
    /// The last chunk, with its reason.
    Finish(&'static str),
}

/// One event about one choice.
pub fn event(head: &Head, index: usize, delta: &Delta) -> String {
    let reason = match delta {
        Delta::Finish(reason) => Some(*reason),
        _ => None,
    };
    let probabilities = match delta {
        Delta::Text { logprobs: positions, offset, .. } if head.logprobs && !positions.is_empty() => {
            match head.endpoint {
                Endpoint::Chat => logprobs::chat(positions),
                Endpoint::Completions => logprobs::completion(positions, *offset),
            }
        }
        _ => Value::Null,
    };
    let choice = match head.endpoint {
        Endpoint::Chat => {
            let delta = match delta {
                Delta::Role => json!({"role": "assistant", "content": ""}),
                Delta::Text { text, .. } => json!({"content": text}),
                Delta::Call { index, id, call } => json!({"tool_calls": [{
                    "index": index, "id": id, "type": "function", "function": {"name": call.name, "arguments": ""},
                }]}),
                Delta::Arguments { index, arguments } => {
                    json!({"tool_calls": [{"index": index, "function": {"arguments": arguments}}]})
                }
                Delta::Finish(_) => json!({}),
            };
            json!({"index": index, "delta": delta, "logprobs": probabilities, "finish_reason": reason})
        }
        Endpoint::Completions => {
            let text = match delta {
                Delta::Text { text, .. } => text,
                _ => "",
            };
            json!({"index": index, "text": text, "logprobs": probabilities, "finish_reason": reason})
        }
    };
    encode(&chunk(head, json!([choice]), None))
}

/// The event with the usage, after the last chunk of every choice.
pub fn usage_event(head: &Head, usage: TotalUsage) -> String {
    encode(&chunk(head, json!([]), Some(usage)))
}

/// The event that breaks a stream off; nothing but the end follows.
pub fn error_event(error: &ApiError) -> String {
    encode(&error.body())
}

fn chunk(head: &Head, choices: Value, usage: Option<TotalUsage>) -> Value {
    let object = match head.endpoint {
        Endpoint::Chat => "chat.completion.chunk",
        Endpoint::Completions => "text_completion",
    };
    let mut value = json!({
        "id": head.id,
        "object": object,
        "created": head.created_s,
        "model": head.model,
        "system_fingerprint": head.system_fingerprint,
        "choices": choices,
    });
    if head.include_usage {
        value["usage"] = usage.map_or(Value::Null, TotalUsage::to_json);
    }
    value
}

fn encode(value: &Value) -> String {
    format!("data: {value}\n\n")
}
