//! Whole answers.

use super::calls::{Call, CallScanner, Piece};
use super::logprobs;
use super::request::Endpoint;
use hone_generate::{FinishReason, TokenLogprobs};
use serde_json::{Value, json};

/// What every object of one answer says of itself.
#[derive(Clone, Debug)]
pub struct Head {
    /// Which protocol object it is.
    pub endpoint: Endpoint,
    /// Id of the answer.
    pub id: String,
    /// When it was asked for, in seconds since the epoch.
    pub created_s: u64,
    /// The served name.
    pub model: String,
    /// The checkpoint that answers.
    pub system_fingerprint: String,
    /// Whether log-probabilities are reported.
    pub logprobs: bool,
    /// Whether a stream ends with its usage.
    pub include_usage: bool,
}

/// One answer of possibly several.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// The text so far, without tool calls.
    pub text: String,
    /// Where tool calls are looked for.
    pub scanner: Option<CallScanner>,
    /// Whether it ends with its first tool call.
    pub one_call: bool,
    /// What the ids of its tool calls begin with.
    pub call_prefix: String,
    /// Tool calls so far, each with its id.
    pub calls: Vec<(String, Call)>,
    /// One for each reported token.
    pub logprobs: Vec<TokenLogprobs>,
    /// Characters of the tokens reported so far.
    pub reported_chars: usize,
    /// Tokens generated so far, the end token included.
    pub num_tokens: usize,
    /// Why it ended; `None` while it runs.
    pub reason: Option<FinishReason>,
}

impl Choice {
    /// Takes generated text; tells what it means, each new call with its id. Nothing comes after the only call that it may
    /// have.
    pub fn take(&mut self, text: String, ends: bool) -> Vec<Part> {
        let pieces = match &mut self.scanner {
            None if text.is_empty() => Vec::new(),
            None => vec![Piece::Text(text)],
            Some(scanner) => {
                let mut pieces = scanner.push(&text);
                if ends {
                    pieces.extend(scanner.finish());
                }
                pieces
            }
        };
        let mut parts = Vec::with_capacity(pieces.len());
        for piece in pieces {
            if self.has_its_call() {
                break;
            }
            parts.push(match piece {
                Piece::Text(text) => Part::Text(text),
                Piece::Call(call) => {
                    let id = format!("{}_{}", self.call_prefix, self.calls.len());
                    self.calls.push((id, call));
                    Part::Call(self.calls.len() - 1)
                }
            });
        }
        parts
    }

    /// The only call that it may have is there.
    pub fn has_its_call(&self) -> bool {
        self.one_call && !self.calls.is_empty()
    }

    /// `stop`, `length` or `tool_calls`.
    pub fn reason_name(&self) -> Option<&'static str> {
        self.reason.map(|reason| match reason {
            FinishReason::Stop if !self.calls.is_empty() => "tool_calls",
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        })
    }
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text.
    Text(String),
    /// The call with this index.
    Call(usize),
}

/// A call in the protocol's shape.
pub fn call_json((id, call): &(String, Call)) -> Value {
    json!({"id": id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}})
}

/// Tokens of a request: each prompt counts once, all its answers count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TotalUsage {
    /// Tokens of the prompts.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub completion_tokens: usize,
}

impl TotalUsage {
    /// In the protocol's shape.
    pub fn to_json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        })
    }
}

/// The body of an answer that is not streamed.
pub fn whole(head: &Head, choices: &[Choice], usage: TotalUsage) -> Value {
    let object = match head.endpoint {
        Endpoint::Chat => "chat.completion",
        Endpoint::Completions => "text_completion",
    };
    json!({
        "id": head.id,
        "object": object,
        "created": head.created_s,
        "model": head.model,
        "system_fingerprint": head.system_fingerprint,
        "choices": choices.iter().enumerate().map(|(index, choice)| one(head, index, choice)).collect::<Vec<_>>(),
        "usage": usage.to_json(),
    })
}

fn one(head: &Head, index: usize, choice: &Choice) -> Value {
    let reason = choice.reason_name();
    match head.endpoint {
        Endpoint::Chat => json!({
            "index": index,
            "message": message(choice),
            "logprobs": head.logprobs.then(|| logprobs::chat(&choice.logprobs)),
            "finish_reason": reason,
        }),
        Endpoint::Completions => json!({
            "index": index,
            "text": choice.text,
            "logprobs": head.logprobs.then(|| logprobs::completion(&choice.logprobs, 0)),
            "finish_reason": reason,
        }),
    }
}

/// Without text beside calls, the content is `null`.
fn message(choice: &Choice) -> Value {
    if choice.calls.is_empty() {
        return json!({"role": "assistant", "content": choice.text, "refusal": null});
    }
    let content = if choice.text.is_empty() { Value::Null } else { json!(choice.text) };
    let calls: Vec<Value> = choice.calls.iter().map(call_json).collect();
    json!({"role": "assistant", "content": content, "refusal": null, "tool_calls": calls})
}
