//! From a body to prompts as token ids: parsing, rendering, tokenizing. Runs on its own thread, because it may take
//! milliseconds; its queue is bounded by the permits of the requests that wait in it.

use crate::clock::random_u64;
use crate::error::ApiError;
use crate::openai::calls::CallFormat;
use crate::openai::format::{ResponseFormat, ToolChoice};
use crate::openai::request::{ApiRequest, Endpoint, Input, Limits, Prompt, parse};
use crate::served::Served;
use axum::body::Bytes;
use axum::http::StatusCode;
use hone_data::tokenize::{completion_prompt_ids, prompt_ids};
use hone_generate::{GenRequest, Grammar};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// A body on its way to the engine.
pub struct PrepareOrder {
    /// The route it came by.
    pub endpoint: Endpoint,
    /// As the client sent it.
    pub body: Bytes,
    /// The model that the prompts are made for.
    pub served: Arc<Served>,
    /// Where the result goes.
    pub reply: oneshot::Sender<Result<Prepared, ApiError>>,
}

/// What the engine needs, and what the answer's shape needs.
#[derive(Debug)]
pub struct Prepared {
    /// One per choice, prompt by prompt.
    pub requests: Vec<GenRequest>,
    /// How many there are.
    pub num_choices: usize,
    /// Tokens of all prompts, each counted once.
    pub prompt_tokens: usize,
    /// Chunks as they come.
    pub stream: bool,
    /// A last chunk with the usage.
    pub include_usage: bool,
    /// Whether log-probabilities are reported.
    pub logprobs: bool,
    /// How tool calls are written, where there may be some.
    pub calls: Option<CallFormat>,
    /// Whether an answer ends with its first call.
    pub one_call: bool,
}

/// Body of the thread: ends when the last sender is gone.
pub fn run(mut orders: mpsc::Receiver<PrepareOrder>, model_name: &str, limits: &Limits) {
    while let Some(order) = orders.blocking_recv() {
        if order.reply.is_closed() {
            continue;
        }
        let result = prepare(order.endpoint, &order.body, &order.served, model_name, limits);
        // The client may be gone by now.
        let _ = order.reply.send(result);
    }
}

/// Parses a body and makes its prompts.
pub fn prepare(
    endpoint: Endpoint,
    body: &[u8],
    served: &Served,
    model_name: &str,
    limits: &Limits,
) -> Result<Prepared, ApiError> {
    let request = parse(endpoint, body, limits)?;
    if let Some(model) = &request.model
        && model != model_name
    {
        return Err(ApiError::model_not_found(model));
    }
    let prompts = tokenize(&request.input, served)?;
    let calls = call_format(&request.input, served)?;
    let context = &served.context;
    let held = GenRequest::under_profile(&*context.profile, &context.tokenizer, Vec::new(), 0);
    let held = GenRequest {
        stop: [&request.stop[..], &held.stop].concat(),
        top_logprobs: request.top_logprobs,
        grammar: grammar(&request.input, calls, served)?,
        ..held
    };
    let seed = request.seed.unwrap_or_else(random_u64);
    let mut requests = Vec::with_capacity(prompts.len() * request.num_answers);
    for prompt in &prompts {
        let max_tokens = answer_limit(&request, prompt.len(), served.max_context)?;
        for _ in 0..request.num_answers {
            let mut sampling = request.sampling.clone();
            sampling.seed = seed.wrapping_add(requests.len() as u64);
            requests.push(GenRequest { prompt: prompt.clone(), max_tokens, sampling, ..held.clone() });
        }
    }
    Ok(Prepared {
        num_choices: requests.len(),
        requests,
        prompt_tokens: prompts.iter().map(Vec::len).sum(),
        stream: request.stream,
        include_usage: request.include_usage,
        logprobs: request.top_logprobs.is_some(),
        calls,
        one_call: matches!(&request.input, Input::Chat { tools: Some(tools), .. } if !tools.parallel),
    })
}

/// How the model writes calls, where the request allows some.
fn call_format(input: &Input, served: &Served) -> Result<Option<CallFormat>, ApiError> {
    let Input::Chat { tools: Some(_), .. } = input else { return Ok(None) };
    let source = served.context.template.as_ref().map_or("", |template| template.source_with_tools());
    match CallFormat::of_template(source) {
        Some(format) => Ok(Some(format)),
        None => Err(ApiError::unsupported("tools", "the served model's chat template takes no tools")),
    }
}

/// What the answer is held to.
fn grammar(input: &Input, calls: Option<CallFormat>, served: &Served) -> Result<Option<Grammar>, ApiError> {
    let Input::Chat { tools, format, .. } = input else { return Ok(None) };
    if let (Some(tools), Some(calls)) = (tools, calls)
        && tools.choice != ToolChoice::Auto
    {
        let grammar = served.grammars.lark(&calls.forced(tools));
        return grammar
            .map(Some)
            .map_err(|e| ApiError::invalid("tools", format!("a tool's parameters cannot be used: {e}")));
    }
    let ResponseFormat::Json(schema) = &**format else { return Ok(None) };
    let grammar = served.grammars.json_schema(schema);
    grammar.map(Some).map_err(|e| ApiError::invalid("response_format", format!("the schema cannot be used: {e}")))
}

fn tokenize(input: &Input, served: &Served) -> Result<Vec<Vec<u32>>, ApiError> {
    let context = &served.context;
    match input {
        Input::Chat { messages, tools, template_kwargs, .. } => {
            if context.template.is_none() {
                let message = "the served model has no chat template; use /v1/completions";
                return Err(ApiError::new(StatusCode::BAD_REQUEST, "no_chat_template", message));
            }
            let ids = prompt_ids(context, messages, tools.as_ref().map(|tools| &tools.list), Some(template_kwargs))
                .map_err(|error| {
                    let message = format!("the model's chat template refuses the conversation: {}", error.root_cause());
                    ApiError::invalid("messages", message)
                })?;
            if ids.is_empty() {
                return Err(ApiError::invalid("messages", "the conversation renders to no token at all"));
            }
            Ok(vec![ids])
        }
        Input::Prompts(prompts) => prompts.iter().map(|prompt| tokenize_prompt(prompt, served)).collect(),
    }
}

fn tokenize_prompt(prompt: &Prompt, served: &Served) -> Result<Vec<u32>, ApiError> {
    let ids = match prompt {
        Prompt::Ids(ids) => ids.clone(),
        Prompt::Text(text) => completion_prompt_ids(&served.context, text)
            .map_err(|_| ApiError::invalid("prompt", "the tokenizer cannot encode the prompt"))?,
    };
    let vocab_size = served.context.tokenizer.vocab_size();
    if let Some(id) = ids.iter().find(|id| **id as usize >= vocab_size) {
        return Err(ApiError::invalid("prompt", format!("token id {id} is not below {vocab_size}")));
    }
    if ids.is_empty() {
        return Err(ApiError::invalid("prompt", "the prompt is empty"));
    }
    Ok(ids)
}

/// Tokens that the answer may have: as asked for, else what the context leaves.
fn answer_limit(request: &ApiRequest, prompt_tokens: usize, limit: usize) -> Result<usize, ApiError> {
    let param = match request.input {
        Input::Chat { .. } => "messages",
        Input::Prompts(_) => "prompt",
    };
    let wanted = request.max_tokens.unwrap_or_else(|| limit.saturating_sub(prompt_tokens).max(1));
    if prompt_tokens.saturating_add(wanted) > limit {
        return Err(ApiError::context_overflow(param, limit, prompt_tokens, wanted));
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests;
