//! Loading a model and trying it before anybody is answered by it.

use crate::engine_thread::Loaded;
use crate::served::Served;
use anyhow::{Context, Result, ensure};
use hone_data::Message;
use hone_data::tokenize::{completion_prompt_ids, prompt_ids};
use hone_generate::{Engine, EngineOptions, GenRequest, Output};
use hone_pipeline::wire::DeployRequest;
use std::path::Path;
use std::sync::Arc;
use tracing::info;

/// What a model must be able to continue.
const SMOKE_PROMPTS: [&str; 2] = ["Hello", "What is 2 + 2? Answer in one word."];
/// What the loss of a format of weights is measured on: several kinds of text, so that no part of a model is left out.
const PASSAGE: &str = include_str!("passage.txt");
/// Tokens of each try.
const SMOKE_TOKENS: usize = 4;

/// Loads and tries. Errors say what is wrong with the model.
pub fn load(id: u64, request: &DeployRequest, model_dir: &Path, options: &EngineOptions) -> Result<Loaded> {
    let mut engine = Engine::new(model_dir, options).context("load the model")?;
    let mut served = Served::load(id, request, model_dir, engine.max_context(), engine.weight_format())?;
    ensure!(served.context.tokenizer.vocab_size() > 0, "the tokenizer has no tokens");
    let prompts = SMOKE_PROMPTS.iter().map(|text| smoke_prompt(&served, text)).collect::<Result<Vec<_>>>()?;
    let requests: Vec<GenRequest> = prompts
        .into_iter()
        .map(|prompt| GenRequest { prompt, max_tokens: SMOKE_TOKENS, top_logprobs: Some(1), ..GenRequest::default() })
        .collect();
    let outputs = engine.generate(&requests).context("answer a smoke prompt")?;
    outputs.iter().try_for_each(check_output)?;
    let loss = Engine::format_loss(model_dir, options, &served.context.tokenizer, PASSAGE);
    served.format_loss = loss.context("measure what the weights' format costs")?;
    if let Some(loss) = &served.format_loss {
        let (dtype, nll_difference) = (served.weights.name(), loss.difference());
        info!(dtype, tokens = loss.tokens, nll_stored = loss.nll_stored, nll_difference, "weights rounded");
    }
    Ok(Loaded { served: Arc::new(served), engine })
}

fn smoke_prompt(served: &Served, text: &str) -> Result<Vec<u32>> {
    let context = &served.context;
    let ids = if context.template.is_some() {
        prompt_ids(context, &[Message::new("user", text)], None, None).context("render a smoke prompt")?
    } else {
        completion_prompt_ids(context, text).context("encode a smoke prompt")?
    };
    ensure!(!ids.is_empty(), "a smoke prompt has no tokens");
    ensure!(
        ids.len() + SMOKE_TOKENS <= served.max_context,
        "a smoke prompt has {} tokens and the context holds {}",
        ids.len(),
        served.max_context
    );
    Ok(ids)
}

fn check_output(output: &Output) -> Result<()> {
    ensure!(output.num_tokens > 0, "a smoke prompt got no token");
    let finite = output.logprobs.iter().all(|position| position.chosen.logprob.is_finite());
    ensure!(finite, "a smoke prompt got numbers that are not finite");
    Ok(())
}
