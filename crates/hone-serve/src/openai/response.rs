//! Whole answers.

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
    /// The text so far.
    pub text: String,
    /// One for each reported token.
    pub logprobs: Vec<TokenLogprobs>,
    /// Characters of the tokens reported so far.
    pub reported_chars: usize,
    /// Why it ended; `None` while it runs.
    pub reason: Option<FinishReason>,
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

/// `stop` or `length`.
pub fn reason_name(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

fn one(head: &Head, index: usize, choice: &Choice) -> Value {
    let reason = choice.reason.map(reason_name);
    match head.endpoint {
        Endpoint::Chat => json!({
            "index": index,
            "message": {"role": "assistant", "content": choice.text, "refusal": null},
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
