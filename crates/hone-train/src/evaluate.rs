//! Loss of a model on files, and its answers to questions. The same rows for every checkpoint: what is left
//! out depends on the model's context length alone, never on settings of training.

use crate::{Refusal, refuse};
use anyhow::{Context, Result, anyhow};
use hone_data::Message;
use hone_data::pack::pack;
use hone_data::tokenize::{ChatContext, TokenRow, prompt_ids, tokenize};
use hone_generate::{Engine, EngineOptions, FinishReason, GenRequest, Sampling};
use hone_model::{Batch, Config, HostWeights, Scorer, TrainerOptions, device};
use hone_pipeline::config::TrainSettings;
use hone_pipeline::state::SuiteResult;
use hone_pipeline::wire::{Answer, EvalRequest, Question, TrainFile, WIRE_FORMAT_VERSION, WorkerMessage};
use std::path::Path;
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// Tokens of one scored batch (more only for a single longer row).
const BATCH_TOKENS: usize = 2048;
/// Questions that are answered side by side.
const ANSWER_SLOTS: usize = 16;
/// Questions between two looks at the clock.
const QUESTIONS_PER_ROUND: usize = 64;

/// A suite as tokens.
struct Suite {
    name: String,
    hash: String,
    /// One entry per row: its examples.
    rows: Vec<Vec<TokenRow>>,
    rows_skipped: u64,
}

/// When an evaluation must have ended.
struct Deadline {
    started: Instant,
    max_ms: u64,
}

/// Evaluates a checkpoint on its suites, answers its questions, and returns `WorkerMessage::Evaluated`.
///
/// # Errors
/// A [`Refusal`] for a suite that cannot be read, a loss that is not finite, or more than `max_ms`.
pub fn evaluate(request: &EvalRequest, report: &mut dyn FnMut(WorkerMessage)) -> Result<WorkerMessage> {
    if request.format_version != WIRE_FORMAT_VERSION {
        let version = request.format_version;
        return Err(Refusal(format!("the request has format {version}, expected {WIRE_FORMAT_VERSION}")).into());
    }
    let deadline = Deadline { started: Instant::now(), max_ms: request.max_ms };
    let ctx = context(&request.model_dir, &request.settings)?;
    let suites = score_files(&request.model_dir, &ctx, &request.suites, &request.settings, &deadline, report)?;
    let answers = answer(request, &ctx, &deadline, report)?;
    let template_hash = ctx.template.as_ref().map_or(String::new(), |template| template.hash().to_string());
    Ok(WorkerMessage::Evaluated { manifest_hash: request.manifest_hash.clone(), template_hash, suites, answers })
}

/// Evaluates any model folder on any file, without a time limit. The suite's name is the file's name.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_file(model_dir: &Path, file: &Path, schema_id: &str, settings: &TrainSettings) -> Result<SuiteResult> {
    let ctx = context(model_dir, settings)?;
    let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
    let files = [TrainFile { name, path: file.to_path_buf(), schema_id: schema_id.to_string() }];
    let deadline = Deadline { started: Instant::now(), max_ms: u64::MAX };
    let mut results = score_files(model_dir, &ctx, &files, settings, &deadline, &mut |_| {})?;
    Ok(results.remove(0))
}

fn context(model_dir: &Path, settings: &TrainSettings) -> Result<ChatContext> {
    ChatContext::from_dir(model_dir, &settings.profile, &settings.chat_template_kwargs).map_err(refuse)
}

/// Losses on files; the weights are freed before it returns.
fn score_files(
    model_dir: &Path,
    ctx: &ChatContext,
    files: &[TrainFile],
    settings: &TrainSettings,
    deadline: &Deadline,
    report: &mut dyn FnMut(WorkerMessage),
) -> Result<Vec<SuiteResult>> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let config = Config::from_dir(model_dir).map_err(|e| refuse(e.into()))?;
    let mut suites = Vec::with_capacity(files.len());
    for file in files {
        let suite = read_suite(ctx, file, config.max_positions, deadline, report);
        suites.push(suite.with_context(|| format!("read suite {}", file.name)).map_err(refuse)?);
    }
    report(WorkerMessage::Alive { phase: "loading".to_string() });
    let longest = suites.iter().flat_map(|s| s.rows.iter().flatten()).map(|row| row.ids.len()).max().unwrap_or(1);
    let options = TrainerOptions { max_tokens: longest.max(BATCH_TOKENS), max_segment_tokens: longest };
    let weights = HostWeights::load(model_dir, &config).map_err(refuse)?;
    let device = device::open(&settings.device, settings.threads).map_err(refuse)?;
    let mut scorer = Scorer::new(device, &config, &weights, &options).context("prepare the scorer")?;
    drop(weights);
    suites.iter().map(|suite| score(&mut scorer, suite, options.max_tokens, deadline, report)).collect()
}

fn read_suite(
    ctx: &ChatContext,
    file: &TrainFile,
    max_context: usize,
    deadline: &Deadline,
    report: &mut dyn FnMut(WorkerMessage),
) -> Result<Suite> {
    report(WorkerMessage::Alive { phase: format!("tokenizing {}", file.name) });
    let (_, hash) = hone_disk::hash_file(&file.path)?;
    let mut suite = Suite { name: file.name.clone(), hash, rows: Vec::new(), rows_skipped: 0 };
    for row in hone_data::rows(&file.path, &file.schema_id)? {
        deadline.check(&suite.name)?;
        let parts = tokenize(ctx, &row?)?;
        if parts.iter().any(|part| part.ids.len() > max_context) {
            suite.rows_skipped += 1;
        } else {
            suite.rows.push(parts);
        }
    }
    if suite.rows.is_empty() {
        return Err(anyhow!("no row of it fits the model's context of {max_context} tokens"));
    }
    Ok(suite)
}

fn score(
    scorer: &mut Scorer,
    suite: &Suite,
    max_tokens: usize,
    deadline: &Deadline,
    report: &mut dyn FnMut(WorkerMessage),
) -> Result<SuiteResult> {
    let parts: Vec<(usize, &TokenRow)> =
        suite.rows.iter().enumerate().flat_map(|(row, parts)| parts.iter().map(move |part| (row, part))).collect();
    let mut row_nll = vec![(0.0, 0u32); suite.rows.len()];
    let (mut tokens, mut correct) = (0u64, 0u64);
    let mut rest = &parts[..];
    while !rest.is_empty() {
        deadline.check(&suite.name)?;
        let done = parts.len() - rest.len();
        report(WorkerMessage::Alive { phase: format!("evaluating {}: {done} of {}", suite.name, parts.len()) });
        let (batch, next) = rest.split_at(batch_len(rest, max_tokens));
        rest = next;
        let packed = pack(&batch.iter().map(|(_, part)| *part).collect::<Vec<_>>());
        let scores = scorer.score(&Batch { ids: packed.ids, targets: packed.targets, segments: packed.segments })?;
        for ((row, _), score) in batch.iter().zip(&scores) {
            row_nll[*row].0 += score.nll_sum;
            row_nll[*row].1 += u32::try_from(score.tokens).expect("a row has fewer than 2^32 tokens");
            tokens += score.tokens;
            correct += score.correct;
        }
    }
    let nll: f64 = row_nll.iter().map(|(nll, _)| nll).sum();
    if !nll.is_finite() {
        return Err(Refusal(format!("the model's loss on {} is not finite", suite.name)).into());
    }
    Ok(SuiteResult {
        suite: suite.name.clone(),
        suite_hash: suite.hash.clone(),
        rows: suite.rows.len() as u64,
        rows_skipped: suite.rows_skipped,
        trained_tokens: tokens,
        mean_nll: nll / tokens as f64,
        token_accuracy: correct as f64 / tokens as f64,
        row_nll,
    })
}

/// How many of the next parts fit one batch; at least one.
fn batch_len(parts: &[(usize, &TokenRow)], max_tokens: usize) -> usize {
    let mut tokens = 0;
    let fitting = parts.iter().take_while(|(_, part)| {
        tokens += part.ids.len();
        tokens <= max_tokens
    });
    fitting.count().max(1)
}

/// Greedy answers to all questions, batched, in their order.
fn answer(
    request: &EvalRequest,
    ctx: &ChatContext,
    deadline: &Deadline,
    report: &mut dyn FnMut(WorkerMessage),
) -> Result<Vec<Answer>> {
    if request.questions.is_empty() {
        return Ok(Vec::new());
    }
    let settings = &request.settings;
    let options = EngineOptions {
        device: settings.device.clone(),
        threads: settings.threads,
        slots: ANSWER_SLOTS,
        max_context: 0,
        max_waiting: QUESTIONS_PER_ROUND,
    };
    let requests = request
        .questions
        .iter()
        .map(|question| question_request(ctx, question, request.max_answer_tokens))
        .collect::<Result<Vec<GenRequest>>>()?;
    // A cache slot holds the longest question and its answer, not the model's whole context.
    let need = requests.iter().map(|r| r.prompt.len() + r.max_tokens).max().unwrap_or(0);
    let options = EngineOptions { max_context: need, ..options };
    let mut engine = Engine::new(&request.model_dir, &options).context("load the engine")?;
    let mut answers = Vec::with_capacity(requests.len());
    let rounds = requests.chunks(QUESTIONS_PER_ROUND).zip(request.questions.chunks(QUESTIONS_PER_ROUND));
    for (round, questions) in rounds {
        deadline.check("the questions")?;
        let phase = format!("answering: {} of {}", answers.len(), requests.len());
        report(WorkerMessage::Alive { phase });
        for (question, output) in questions.iter().zip(engine.generate(round).context("answer questions")?) {
            let finish_reason = match output.reason {
                FinishReason::Stop => "stop",
                FinishReason::Length => "length",
            };
            answers.push(Answer {
                id: question.id.clone(),
                text: output.text,
                finish_reason: finish_reason.to_string(),
                num_tokens: output.num_tokens as u64,
            });
        }
    }
    Ok(answers)
}

fn question_request(ctx: &ChatContext, question: &Question, max_tokens: usize) -> Result<GenRequest> {
    let name = || format!("question {}", question.id);
    let messages: Vec<Message> =
        serde_json::from_value(question.messages.clone()).with_context(name).map_err(refuse)?;
    let prompt = prompt_ids(ctx, &ctx.profile.prompt(&messages), None, None).with_context(name).map_err(refuse)?;
    Ok(GenRequest {
        prompt,
        max_tokens,
        sampling: Sampling::default(),
        stop: ctx.profile.stop_strings(),
        top_logprobs: None,
    })
}

impl Deadline {
    fn check(&self, what: &str) -> Result<()> {
        if self.started.elapsed() <= Duration::from_millis(self.max_ms) {
            return Ok(());
        }
        let limit = self.max_ms;
        Err(Refusal(format!("the evaluation took more than its {limit} ms and ended within {what}")).into())
    }
}
