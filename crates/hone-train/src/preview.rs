//! Previews: greedy answers to a few fixed validation prompts while a job trains. They read the weights and
//! change nothing: training with and without them gives the same bits.

use crate::refuse;
use anyhow::Result;
use hone_data::tokenize::{ChatContext, completion_prompt_ids, prompt_ids};
use hone_data::{Example, Row};
use hone_generate::{Engine, EngineOptions, GenRequest};
use hone_model::{Config, HostWeights};
use hone_pipeline::config::TrainSettings;
use hone_pipeline::wire::{TrainFile, WorkerMessage};

/// Prompts that are answered.
pub const MAX_PROMPTS: usize = 2;
/// Rows of a file that are tried.
const MAX_TRIED: usize = 100;
/// Most tokens of an answer.
pub const MAX_TOKENS: usize = 48;

/// One prompt.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// `file:line`.
    source: String,
    /// What a person sees as the question.
    question: String,
    /// What the file says.
    expected: String,
    /// The prompt's ids.
    ids: Vec<u32>,
}

/// The prompts of a job of so many steps; none where it ends before its first preview.
///
/// # Errors
/// As [`prompts`].
pub fn of_job(
    ctx: &ChatContext,
    files: &[TrainFile],
    settings: &TrainSettings,
    config: &Config,
    total_steps: u64,
) -> Result<Vec<Prompt>> {
    if settings.preview_steps == 0 || settings.preview_steps > total_steps {
        return Ok(Vec::new());
    }
    prompts(ctx, files, config.max_positions).map_err(refuse)
}

/// The first prompts of `files` that leave room for an answer in `max_context` tokens.
///
/// # Errors
/// A row that cannot be read. One that cannot be rendered is left out.
pub fn prompts(ctx: &ChatContext, files: &[TrainFile], max_context: usize) -> Result<Vec<Prompt>> {
    let mut prompts = Vec::new();
    for file in files {
        for row in hone_data::rows(&file.path, &file.schema_id)?.take(MAX_TRIED) {
            if prompts.len() == MAX_PROMPTS {
                return Ok(prompts);
            }
            let row = row?;
            let source = format!("{}:{}", file.name, row.line);
            // Training does not depend on what it shows.
            let found = prompt(ctx, &row, &source).unwrap_or_else(|error| {
                tracing::warn!(source, "not previewed: failed to {error:#}");
                None
            });
            prompts.extend(found.filter(|p| p.ids.len() + MAX_TOKENS <= max_context));
        }
    }
    Ok(prompts)
}

/// Greedy answers to all prompts, in their order, by the weights as they are now and under the profile, as an evaluation
/// generates them. Meanwhile it takes memory for the weights once more.
///
/// # Errors
/// The engine's own.
pub fn answers(
    weights: HostWeights,
    config: &Config,
    settings: &TrainSettings,
    ctx: &ChatContext,
    prompts: &[Prompt],
) -> Result<Vec<String>> {
    let options = EngineOptions {
        device: settings.device.clone(),
        threads: settings.threads,
        slots: prompts.len().max(1),
        max_context: prompts.iter().map(|p| p.ids.len() + MAX_TOKENS).max().unwrap_or(1),
        ..EngineOptions::default()
    };
    let mut engine = Engine::from_parts(config, &weights, ctx.tokenizer.clone(), &options)?;
    drop(weights);
    let request =
        |prompt: &Prompt| GenRequest::under_profile(&*ctx.profile, &ctx.tokenizer, prompt.ids.clone(), MAX_TOKENS);
    let outputs = engine.generate(&prompts.iter().map(request).collect::<Vec<_>>())?;
    Ok(outputs.into_iter().map(|output| output.text).collect())
}

/// The message about one answer.
#[must_use]
pub fn message(prompt: &Prompt, answer: String, step: u64) -> WorkerMessage {
    WorkerMessage::Preview {
        step,
        source: prompt.source.clone(),
        prompt: prompt.question.clone(),
        answer,
        expected: prompt.expected.clone(),
    }
}

/// The question before a row's last answer; `None` for a text without a prompt.
fn prompt(ctx: &ChatContext, row: &Row, source: &str) -> Result<Option<Prompt>> {
    let (question, expected, ids) = match &row.example {
        Example::Chat { messages, tools } => {
            let Some(last) = messages.iter().rposition(|m| m.role == "assistant") else { return Ok(None) };
            let asked = ctx.profile.prompt(row.id, &messages[..last]);
            let question = messages[..last].iter().rfind(|m| m.role == "user").map(|m| m.content.clone());
            let ids = prompt_ids(ctx, &asked, tools.as_ref(), None)?;
            (question.unwrap_or_default(), messages[last].content.clone(), ids)
        }
        Example::Completion { prompt: Some(prompt), completion } => {
            (prompt.clone(), completion.clone(), completion_prompt_ids(ctx, prompt)?)
        }
        Example::Completion { prompt: None, .. } => return Ok(None),
    };
    Ok((!ids.is_empty()).then(|| Prompt { source: source.to_string(), question, expected, ids }))
}

#[cfg(test)]
mod tests;
