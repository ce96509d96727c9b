//! Previews: greedy answers to a few fixed validation prompts while a job trains. They read the weights and
//! change nothing: training with and without them gives the same bits.

use anyhow::Result;
use hone_data::tokenize::{ChatContext, completion_prompt_ids, prompt_ids};
use hone_data::{Example, Row};
use hone_model::{Config, Decoder, DecoderOptions, HostWeights, device};
use hone_pipeline::config::TrainSettings;
use hone_pipeline::wire::{TrainFile, WorkerMessage};

/// Prompts that are answered.
pub const MAX_PROMPTS: usize = 2;
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

/// The first prompts of `files` that leave room for an answer in `max_context` tokens.
///
/// # Errors
/// A row that cannot be read or rendered.
pub fn prompts(ctx: &ChatContext, files: &[TrainFile], max_context: usize) -> Result<Vec<Prompt>> {
    let mut prompts = Vec::new();
    for file in files {
        for row in hone_data::rows(&file.path, &file.schema_id)? {
            if prompts.len() == MAX_PROMPTS {
                return Ok(prompts);
            }
            let row = row?;
            let found = prompt(ctx, &row, &format!("{}:{}", file.name, row.line))?;
            prompts.extend(found.filter(|p| p.ids.len() + MAX_TOKENS <= max_context));
        }
    }
    Ok(prompts)
}

/// A decoder of the weights as they are now. Until it is dropped it takes memory for the weights once more.
///
/// # Errors
/// The engine's own.
pub fn decoder(
    weights: &HostWeights,
    config: &Config,
    settings: &TrainSettings,
    prompts: &[Prompt],
) -> Result<Decoder> {
    let max_context = prompts.iter().map(|p| p.ids.len() + MAX_TOKENS).max().unwrap_or(1);
    let options = DecoderOptions { slots: prompts.len().max(1), max_context };
    Decoder::new(device::open(&settings.device, settings.threads)?, config, weights, &options)
}

/// Greedy answers to all prompts, in their order.
///
/// # Errors
/// The engine's own.
pub fn answers(decoder: &mut Decoder, ctx: &ChatContext, prompts: &[Prompt]) -> Result<Vec<String>> {
    let mut answers = Vec::with_capacity(prompts.len());
    for (slot, prompt) in prompts.iter().enumerate() {
        let mut ids = Vec::new();
        let mut logits = decoder.prefill(slot, &prompt.ids)?;
        while ids.len() < MAX_TOKENS {
            let next = argmax(&logits);
            if ctx.tokenizer.eos_ids().contains(&next) {
                break;
            }
            ids.push(next);
            logits = decoder.decode(&[(slot, next)])?.remove(0);
        }
        answers.push(ctx.tokenizer.decode(&ids, true)?);
    }
    Ok(answers)
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

/// The lowest id among those with the highest logit.
fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best as u32
}

/// The question before a row's last answer; `None` for a text without a prompt.
fn prompt(ctx: &ChatContext, row: &Row, source: &str) -> Result<Option<Prompt>> {
    let (question, expected, ids) = match &row.example {
        Example::Chat { messages, tools } => {
            let Some(last) = messages.iter().rposition(|m| m.role == "assistant") else { return Ok(None) };
            let asked = ctx.profile.prompt(&messages[..last]);
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
