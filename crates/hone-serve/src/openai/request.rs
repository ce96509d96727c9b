//! Bodies of `/v1/chat/completions` and `/v1/completions`, read strictly: unknown fields are ignored, known ones with a
//! wrong type or value are refused, and what this server cannot do is refused rather than left out.

use super::fields::{Fields, whole_number, wrong_type};
use super::format::{ResponseFormat, Tools, read_response_format, read_tools};
use super::messages;
use crate::error::ApiError;
use hone_data::Message;
use hone_generate::Sampling;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Most stop strings of a request.
pub const MAX_STOP_STRINGS: usize = 4;
/// Longest stop string in bytes.
const MAX_STOP_BYTES: usize = 1024;
/// Most alternatives that are reported for each token.
const MAX_TOP_LOGPROBS: usize = 20;
/// Most tokens with a bias.
const MAX_BIASED_TOKENS: usize = 1024;
/// What `/v1/completions` generates when no limit is named, as OpenAI has it.
const COMPLETION_MAX_TOKENS: usize = 16;

/// Limits that the server sets for a request.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most choices: `n` times the number of prompts.
    pub max_choices: usize,
    /// Tokens of a chat answer whose request names no limit; 0 = what the context leaves.
    pub default_max_tokens: usize,
}

/// What to continue.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A conversation, to be rendered by the model's own template.
    Chat {
        /// At least one message.
        messages: Vec<Message>,
        /// Passed to the template.
        tools: Option<Tools>,
        /// What the text must be.
        format: Box<ResponseFormat>,
        /// Laid over the deployment's own template variables.
        template_kwargs: Map<String, Value>,
    },
    /// Plain prompts, at least one.
    Prompts(Vec<Prompt>),
}

/// One prompt of `/v1/completions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Text, taken as it is.
    Text(String),
    /// Token ids.
    Ids(Vec<u32>),
}

/// A request for an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiRequest {
    /// What to continue.
    pub input: Input,
    /// The model's name, when given.
    pub model: Option<String>,
    /// Most tokens of each answer; `None` = what the context leaves.
    pub max_tokens: Option<usize>,
    /// How tokens are chosen; the seed is set by `seed` below.
    pub sampling: Sampling,
    /// The client's seed.
    pub seed: Option<u64>,
    /// Strings that end an answer.
    pub stop: Vec<String>,
    /// Answers for each prompt.
    pub num_answers: usize,
    /// Alternatives reported for each token, when log-probabilities are wanted.
    pub top_logprobs: Option<usize>,
    /// Chunks as they come.
    pub stream: bool,
    /// A last chunk with the usage.
    pub include_usage: bool,
}

/// Which of the two routes a body came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completions,
}

/// Reads a body. Errors name the field.
pub fn parse(endpoint: Endpoint, body: &[u8], limits: &Limits) -> Result<ApiRequest, ApiError> {
    let value: Value =
        serde_json::from_slice(body).map_err(|e| ApiError::bad_request(format!("the body is not valid JSON: {e}")))?;
    let Value::Object(map) = &value else {
        return Err(ApiError::bad_request("the body must be a JSON object"));
    };
    let fields = Fields(map);
    let input = match endpoint {
        Endpoint::Chat => read_chat(&fields)?,
        Endpoint::Completions => Input::Prompts(read_prompts(&fields, limits.max_choices)?),
    };
    let num_answers = fields.count("n", 1..=limits.max_choices)?.unwrap_or(1);
    if let Input::Prompts(prompts) = &input
        && prompts.len() * num_answers > limits.max_choices
    {
        let message = format!("`n` times the number of prompts must be at most {}", limits.max_choices);
        return Err(ApiError::invalid("n", message));
    }
    let stream = fields.flag("stream")?.unwrap_or(false);
    Ok(ApiRequest {
        input,
        model: fields.text("model")?.map(str::to_string),
        max_tokens: read_max_tokens(endpoint, &fields, limits)?,
        sampling: read_sampling(&fields)?,
        seed: fields.integer("seed", i64::MIN..=i64::MAX)?.map(|seed| seed as u64),
        stop: read_stop(&fields)?,
        num_answers,
        top_logprobs: read_logprobs(endpoint, &fields)?,
        stream,
        include_usage: read_include_usage(&fields, stream)?,
    })
}

fn read_chat(fields: &Fields) -> Result<Input, ApiError> {
    let Some(list) = fields.list("messages")? else {
        return Err(ApiError::invalid("messages", "`messages` is missing"));
    };
    refuse_chat_only(fields)?;
    let (tools, format) = (read_tools(fields)?, read_response_format(fields)?);
    if tools.is_some() && format != ResponseFormat::Text {
        let message = "`response_format` together with `tools` is not supported; set `tool_choice` to \"none\"";
        return Err(ApiError::unsupported("response_format", message));
    }
    Ok(Input::Chat {
        messages: messages::read(list)?,
        tools,
        format: Box::new(format),
        template_kwargs: fields.object("chat_template_kwargs")?.cloned().unwrap_or_default(),
    })
}

/// Older names of `tools`: to leave them out silently would be a wrong answer.
fn refuse_chat_only(fields: &Fields) -> Result<(), ApiError> {
    for name in ["functions", "function_call"] {
        if fields.get(name).is_some() {
            return Err(ApiError::unsupported(name, format!("`{name}` is not supported; use `tools`")));
        }
    }
    Ok(())
}

/// `{"token id": bias}`.
fn read_logit_bias(fields: &Fields) -> Result<BTreeMap<u32, f32>, ApiError> {
    let Some(map) = fields.object("logit_bias")? else { return Ok(BTreeMap::new()) };
    if map.len() > MAX_BIASED_TOKENS {
        let message = format!("`logit_bias` must name at most {MAX_BIASED_TOKENS} tokens");
        return Err(ApiError::invalid("logit_bias", message));
    }
    let read = |(token, bias): (&String, &Value)| {
        let token = token.parse::<u32>().map_err(|_| {
            ApiError::invalid("logit_bias", format!("the keys of `logit_bias` are token ids, not {token:?}"))
        })?;
        let bias = bias.as_f64().ok_or_else(|| wrong_type("logit_bias", "a number for each token", bias))?;
        if !(-100.0..=100.0).contains(&bias) {
            return Err(ApiError::invalid("logit_bias", format!("a bias must be from -100 to 100, not {bias}")));
        }
        Ok((token, bias as f32))
    };
    map.iter().map(read).collect()
}

fn read_prompts(fields: &Fields, max_prompts: usize) -> Result<Vec<Prompt>, ApiError> {
    if fields.flag("echo")? == Some(true) {
        return Err(ApiError::unsupported("echo", "`echo` is not supported"));
    }
    if fields.text("suffix")?.is_some_and(|suffix| !suffix.is_empty()) {
        return Err(ApiError::unsupported("suffix", "`suffix` is not supported"));
    }
    if fields.integer("best_of", 1..=i64::MAX)?.is_some_and(|best_of| best_of > 1) {
        return Err(ApiError::unsupported("best_of", "`best_of` above 1 is not supported; use `n`"));
    }
    let expected = "a string, a list of strings, a list of token ids, or a list of such lists";
    let prompts = match fields.get("prompt") {
        None => return Err(ApiError::invalid("prompt", "`prompt` is missing")),
        Some(Value::String(text)) => vec![Prompt::Text(text.clone())],
        Some(Value::Array(items)) => match items.first() {
            Some(Value::Number(_)) => vec![Prompt::Ids(read_ids("prompt", items)?)],
            _ => items.iter().enumerate().map(|(i, item)| read_prompt(i, item)).collect::<Result<_, _>>()?,
        },
        Some(other) => return Err(wrong_type("prompt", expected, other)),
    };
    if prompts.is_empty() {
        return Err(ApiError::invalid("prompt", "`prompt` is an empty list"));
    }
    if prompts.len() > max_prompts {
        return Err(ApiError::invalid("prompt", format!("`prompt` must hold at most {max_prompts} prompts")));
    }
    Ok(prompts)
}

fn read_prompt(index: usize, item: &Value) -> Result<Prompt, ApiError> {
    let param = format!("prompt[{index}]");
    match item {
        Value::String(text) => Ok(Prompt::Text(text.clone())),
        Value::Array(ids) => Ok(Prompt::Ids(read_ids(&param, ids)?)),
        other => Err(wrong_type(&param, "a string or a list of token ids", other)),
    }
}

fn read_ids(param: &str, items: &[Value]) -> Result<Vec<u32>, ApiError> {
    items
        .iter()
        .map(|item| {
            whole_number(item).and_then(|id| u32::try_from(id).ok()).ok_or_else(|| wrong_type(param, "token ids", item))
        })
        .collect()
}

fn read_max_tokens(endpoint: Endpoint, fields: &Fields, limits: &Limits) -> Result<Option<usize>, ApiError> {
    let newer = fields.count("max_completion_tokens", 1..=usize::MAX)?;
    let given = newer.or(fields.count("max_tokens", 1..=usize::MAX)?);
    Ok(given.or(match endpoint {
        Endpoint::Completions => Some(COMPLETION_MAX_TOKENS),
        Endpoint::Chat if limits.default_max_tokens > 0 => Some(limits.default_max_tokens),
        Endpoint::Chat => None,
    }))
}

/// OpenAI's defaults: temperature 1, nothing cut, no penalty.
fn read_sampling(fields: &Fields) -> Result<Sampling, ApiError> {
    let top_p = fields.number("top_p", 0.0..=1.0)?.unwrap_or(1.0);
    if top_p <= 0.0 {
        return Err(ApiError::invalid("top_p", "`top_p` must be above 0"));
    }
    Ok(Sampling {
        temperature: fields.number("temperature", 0.0..=2.0)?.unwrap_or(1.0),
        top_p,
        // -1 is what other servers take for "off".
        top_k: fields.integer("top_k", -1..=i64::from(u32::MAX))?.unwrap_or(0).max(0) as usize,
        min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(0.0),
        seed: 0,
        presence_penalty: fields.number("presence_penalty", -2.0..=2.0)?.unwrap_or(0.0),
        frequency_penalty: fields.number("frequency_penalty", -2.0..=2.0)?.unwrap_or(0.0),
        // Logits are divided by it: the engine takes no less.
        repetition_penalty: fields.number("repetition_penalty", 0.01..=2.0)?.unwrap_or(1.0),
        logit_bias: read_logit_bias(fields)?,
    })
}

fn read_stop(fields: &Fields) -> Result<Vec<String>, ApiError> {
    let items = match fields.get("stop") {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| item.as_str().map(str::to_string).ok_or_else(|| wrong_type("stop", "a list of strings", item)))
            .collect::<Result<_, _>>()?,
        Some(other) => return Err(wrong_type("stop", "a string or a list of strings", other)),
    };
    if items.len() > MAX_STOP_STRINGS {
        return Err(ApiError::invalid("stop", format!("`stop` must hold at most {MAX_STOP_STRINGS} strings")));
    }
    if items.iter().any(|item| item.is_empty() || item.len() > MAX_STOP_BYTES) {
        return Err(ApiError::invalid("stop", format!("a stop string must have 1 to {MAX_STOP_BYTES} bytes")));
    }
    Ok(items)
}

fn read_logprobs(endpoint: Endpoint, fields: &Fields) -> Result<Option<usize>, ApiError> {
    if endpoint == Endpoint::Completions {
        return fields.count("logprobs", 0..=MAX_TOP_LOGPROBS);
    }
    let wanted = fields.flag("logprobs")?.unwrap_or(false);
    let top = fields.count("top_logprobs", 0..=MAX_TOP_LOGPROBS)?;
    match (wanted, top) {
        (false, Some(1..)) => Err(ApiError::invalid("top_logprobs", "`top_logprobs` needs `logprobs` to be true")),
        (false, _) => Ok(None),
        (true, top) => Ok(Some(top.unwrap_or(0))),
    }
}

fn read_include_usage(fields: &Fields, stream: bool) -> Result<bool, ApiError> {
    let Some(options) = fields.object("stream_options")? else { return Ok(false) };
    if !stream {
        return Err(ApiError::invalid("stream_options", "`stream_options` needs `stream` to be true"));
    }
    match options.get("include_usage") {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(other) => Err(wrong_type("stream_options.include_usage", "a boolean", other)),
    }
}
