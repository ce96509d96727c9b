//! Loss of a model on files, and its answers to questions. The same rows for every checkpoint: what is left
//! out depends on the model's context length alone, never on settings of training.

mod kept;

use crate::kept_back::{self, SUITE};
use crate::{Refusal, refuse};
use anyhow::{Context, Result, anyhow, bail};
use hone_data::pack::pack;
use hone_data::tokenize::{ChatContext, TokenRow, prompt_ids, tokenize};
use hone_data::{Message, RowId};
use hone_generate::{Engine, EngineOptions, FinishReason, GenRequest, Output};
use hone_model::{Batch, CACHE_BLOCK, Config, Decoder, HostWeights, Scorer, TrainerOptions, device};
use hone_pipeline::config::TrainSettings;
use hone_pipeline::state::{EvaluationSpeed, SuiteResult};
use hone_pipeline::wire::{Answer, EvalRequest, KeptBack, Question, TrainFile, WIRE_FORMAT_VERSION, WorkerMessage};
use kept::Kept;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::time::{Duration, Instant};

#[cfg(test)]
pub(crate) mod tests;

/// Tokens of one scored batch (more only for a single longer row).
const BATCH_TOKENS: usize = 2048;
/// Questions that are answered side by side, as far as their keys and values fit [`ANSWER_CACHE_BYTES`].
const ANSWER_SLOTS: usize = 48;
/// Questions that start together when others ended.
const ANSWERS_TOGETHER: usize = 12;
/// Keys and values of all questions that are answered side by side; more only for one that needs more alone.
const ANSWER_CACHE_BYTES: u64 = 1 << 30;
/// Longest silence while answers are generated.
const ALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// A suite as tokens.
struct Suite {
    name: String,
    hash: String,
    /// One entry per row: its examples.
    rows: Vec<Vec<TokenRow>>,
    rows_skipped: u64,
}

impl Suite {
    /// A row's examples, or none of them where one is longer than the model's context.
    fn add(&mut self, parts: Vec<TokenRow>, max_context: usize) {
        if parts.iter().any(|part| part.ids.len() > max_context) {
            self.rows_skipped += 1;
        } else {
            self.rows.push(parts);
        }
    }
}

/// A model that is being evaluated.
struct Session<'a> {
    model_dir: &'a Path,
    ctx: ChatContext,
    settings: &'a TrainSettings,
    started: Instant,
    max_ms: u64,
    report: &'a mut dyn FnMut(WorkerMessage),
    /// What earlier tries have done.
    kept: Kept,
    /// What this one takes.
    speed: EvaluationSpeed,
}

/// Evaluates a checkpoint on its suites, answers its questions, and returns `WorkerMessage::Evaluated`.
///
/// # Errors
/// A [`Refusal`] for a suite that cannot be read or a loss that is not finite. More than `max_ms` is none: what is done is kept.
pub fn evaluate(request: &EvalRequest, report: &mut dyn FnMut(WorkerMessage)) -> Result<WorkerMessage> {
    if request.format_version != WIRE_FORMAT_VERSION {
        let version = request.format_version;
        return Err(Refusal(format!("the request has format {version}, expected {WIRE_FORMAT_VERSION}")).into());
    }
    let mut session = Session::start(&request.model_dir, &request.settings, request.max_ms, report)?;
    session.kept = Kept::open(request.keep_dir.as_deref(), conditions(request, &session.ctx))?;
    let suites = session.score_files(&request.suites, &request.kept_back)?;
    let answers = session.answer(&request.questions, request.max_answer_tokens)?;
    let template_hash = session.ctx.fingerprint();
    Ok(WorkerMessage::Evaluated {
        manifest_hash: request.manifest_hash.clone(),
        template_hash,
        dtype: device::dtype(&request.settings.device).to_string(),
        engine: engine_of(&request.settings),
        suites,
        answers,
        speed: Some(session.speed),
    })
}

/// The kept answers to the questions of `request`, in their order, under everything that an answer depends on. Questions
/// that were never answered so are left out. Nothing is generated; weights are not read.
///
/// # Errors
/// The template or tokenizer cannot be read.
pub fn kept_answers(request: &EvalRequest) -> Result<Vec<Answer>> {
    let Some(dir) = request.keep_dir.as_deref().filter(|dir| dir.is_dir()) else { return Ok(Vec::new()) };
    let EvalRequest { model_dir, settings, .. } = request;
    let ctx = ChatContext::from_dir(model_dir, &settings.profile, &settings.chat_template_kwargs)?;
    let answers = Kept::open(Some(dir), conditions(request, &ctx))?.answers();
    let key = |question: &Question| Kept::answer_key(question, request.max_answer_tokens);
    Ok(request.questions.iter().filter_map(|question| answers.get(&key(question)).cloned()).collect())
}

/// What every result depends on, beside the suite.
fn conditions(request: &EvalRequest, ctx: &ChatContext) -> String {
    let dtype = device::dtype(&request.settings.device);
    [&request.manifest_hash, &ctx.fingerprint(), dtype, &engine_of(&request.settings)].join("\n")
}

/// What computes with these settings: the version and the device. Results of two engines are not compared.
#[must_use]
pub fn engine_of(settings: &TrainSettings) -> String {
    format!("{} {}", env!("CARGO_PKG_VERSION"), device::resolve(&settings.device))
}

/// Evaluates any model folder on any file, without a time limit. The suite's name is the file's name.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_file(model_dir: &Path, file: &Path, schema_id: &str, settings: &TrainSettings) -> Result<SuiteResult> {
    let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
    let files = [TrainFile { name, path: file.to_path_buf(), schema_id: schema_id.to_string() }];
    let mut results = Session::start(model_dir, settings, u64::MAX, &mut |_| {})?.score_files(&files, &[])?;
    Ok(results.remove(0))
}

impl<'a> Session<'a> {
    fn start(
        model_dir: &'a Path,
        settings: &'a TrainSettings,
        max_ms: u64,
        report: &'a mut dyn FnMut(WorkerMessage),
    ) -> Result<Session<'a>> {
        let ctx = ChatContext::from_dir(model_dir, &settings.profile, &settings.chat_template_kwargs);
        let (ctx, started) = (ctx.map_err(refuse)?, Instant::now());
        let kept = Kept::open(None, String::new())?;
        Ok(Session { model_dir, ctx, settings, started, max_ms, report, kept, speed: EvaluationSpeed::default() })
    }

    /// Losses on files and on the rows that are kept back; the weights are freed before it returns.
    fn score_files(&mut self, files: &[TrainFile], kept_back: &[KeptBack]) -> Result<Vec<SuiteResult>> {
        let config = Config::from_dir(self.model_dir).map_err(|e| refuse(e.into()))?;
        let mut suites = Vec::with_capacity(files.len());
        for file in files {
            let suite = self.read_suite(file, config.max_positions);
            suites.push(suite.with_context(|| format!("read suite {}", file.name)).map_err(refuse)?);
        }
        suites.extend(self.read_kept_back(kept_back, config.max_positions).map_err(refuse)?);
        if suites.is_empty() {
            return Ok(Vec::new());
        }
        self.sign_of_life("loading".to_string());
        let longest = suites.iter().flat_map(|s| s.rows.iter().flatten()).map(|row| row.ids.len()).max().unwrap_or(1);
        let options = TrainerOptions::full(longest.max(BATCH_TOKENS), longest);
        let weights = HostWeights::load(self.model_dir, &config).map_err(refuse)?;
        let device = device::open(&self.settings.device, self.settings.threads).map_err(refuse)?;
        let mut scorer = Scorer::new(device, &config, &weights, &options).context("prepare the scorer")?;
        drop(weights);
        suites.iter().map(|suite| self.score(&mut scorer, suite, options.max_tokens)).collect()
    }

    fn read_suite(&mut self, file: &TrainFile, max_context: usize) -> Result<Suite> {
        self.sign_of_life(format!("tokenizing {}", file.name));
        let (_, hash) = hone_disk::hash_file(&file.path)?;
        let mut suite = Suite { name: file.name.clone(), hash, rows: Vec::new(), rows_skipped: 0 };
        for row in hone_data::rows(&file.path, &file.schema_id)? {
            self.check_time(&suite.name)?;
            suite.add(tokenize(&self.ctx, &row?)?, max_context);
        }
        if suite.rows.is_empty() {
            return Err(anyhow!("no row of it fits the model's context of {max_context} tokens"));
        }
        Ok(suite)
    }

    /// One suite of the rows that are kept back from training, in the order of files and lines; `None` where there are none.
    /// A row that cannot be tokenised would not have been trained either: it is skipped.
    fn read_kept_back(&mut self, files: &[KeptBack], max_context: usize) -> Result<Option<Suite>> {
        let mut suite = Suite { name: SUITE.to_string(), hash: String::new(), rows: Vec::new(), rows_skipped: 0 };
        for from in files {
            self.sign_of_life(format!("tokenizing {} of {}", suite.name, from.file.name));
            let chosen = kept_back::choose(from, &mut || self.sign_of_life("choosing rows".to_string()))?;
            let lines: BTreeSet<u64> = chosen.values().copied().collect();
            for row in hone_data::rows(&from.file.path, &from.file.schema_id)? {
                self.check_time(&suite.name)?;
                let row = row?;
                match lines.contains(&row.line).then(|| tokenize(&self.ctx, &row)) {
                    None => {}
                    Some(Ok(parts)) => suite.add(parts, max_context),
                    Some(Err(_)) => suite.rows_skipped += 1,
                }
            }
            let keys = chosen.into_keys().flatten().collect::<Vec<u8>>();
            suite.hash = hone_disk::hash_bytes(format!("{}{}", suite.hash, hone_disk::hash_bytes(&keys)).as_bytes());
        }
        Ok((!suite.rows.is_empty()).then_some(suite))
    }

    fn score(&mut self, scorer: &mut Scorer, suite: &Suite, max_tokens: usize) -> Result<SuiteResult> {
        let parts: Vec<(usize, &TokenRow)> =
            suite.rows.iter().enumerate().flat_map(|(row, parts)| parts.iter().map(move |part| (row, part))).collect();
        let mut row_nll = vec![(0.0, 0u32); suite.rows.len()];
        let mut correct = 0;
        let mut add = |batch: &kept::Batch| {
            for ((row, _), (nll, tokens)) in parts[batch.from..].iter().zip(&batch.scores) {
                row_nll[*row].0 += nll;
                row_nll[*row].1 += tokens;
            }
            correct += batch.correct;
            batch.from + batch.scores.len()
        };
        let kept = self.kept.batches(&suite.hash, parts.len());
        let done = kept.iter().map(&mut add).last().unwrap_or(0);
        let mut rest = &parts[done..];
        while !rest.is_empty() {
            self.check_time(&suite.name)?;
            let done = parts.len() - rest.len();
            self.sign_of_life(format!("evaluating {}: {done} of {}", suite.name, parts.len()));
            let (batch, next) = rest.split_at(batch_len(rest, max_tokens));
            rest = next;
            let packed = pack(&batch.iter().map(|(_, part)| *part).collect::<Vec<_>>());
            let (begun, num_tokens) = (Instant::now(), packed.ids.len() as u64);
            let scores =
                scorer.score(&Batch { ids: packed.ids, targets: packed.targets, segments: packed.segments })?;
            self.speed.scored_tokens += num_tokens;
            self.speed.scoring_ms += begun.elapsed().as_millis() as u64;
            let tokens = |tokens| u32::try_from(tokens).expect("a row has fewer than 2^32 tokens");
            let scored = kept::Batch {
                from: done,
                scores: scores.iter().map(|score| (score.nll_sum, tokens(score.tokens))).collect(),
                correct: scores.iter().map(|score| score.correct).sum(),
            };
            if scored.scores.iter().any(|(nll, _)| !nll.is_finite()) {
                return Err(Refusal(format!("the model's loss on {} is not finite", suite.name)).into());
            }
            add(&scored);
            self.kept.add_batch(&suite.hash, &scored)?;
        }
        let nll: f64 = row_nll.iter().map(|(nll, _)| nll).sum();
        let tokens: u64 = row_nll.iter().map(|(_, tokens)| u64::from(*tokens)).sum();
        Ok(SuiteResult {
            suite: suite.name.clone(),
            suite_hash: suite.hash.clone(),
            rows: suite.rows.len() as u64,
            rows_skipped: suite.rows_skipped,
            trained_tokens: tokens,
            mean_nll: nll / tokens as f64,
            token_accuracy: correct as f64 / tokens as f64,
            row_nll,
            answers: None,
        })
    }

    /// Greedy answers to all questions, batched, in their order.
    fn answer(&mut self, questions: &[Question], max_tokens: usize) -> Result<Vec<Answer>> {
        let keys: Vec<String> = questions.iter().map(|question| Kept::answer_key(question, max_tokens)).collect();
        let mut answers = self.kept.answers();
        let open: Vec<(&String, &Question)> =
            keys.iter().zip(questions).filter(|(key, _)| !answers.contains_key(*key)).collect();
        if !open.is_empty() {
            self.answer_open(&open, max_tokens, &mut answers)?;
        }
        let taken = keys.iter().map(|key| answers.get(key).cloned().context("find the answer to a question"));
        taken.collect()
    }

    /// Answers questions that no earlier try has answered; each answer is kept as soon as it is complete. An answer is cut
    /// where the model's context ends as well; a question that fills it has an empty answer, cut before it began.
    fn answer_open(
        &mut self,
        open: &[(&String, &Question)],
        max_tokens: usize,
        answers: &mut HashMap<String, Answer>,
    ) -> Result<()> {
        let config = Config::from_dir(self.model_dir).map_err(|e| refuse(e.into()))?;
        let max_context = config.max_positions;
        let (mut asked, mut requests) = (Vec::new(), Vec::new());
        for (key, question) in open.iter().copied() {
            let mut request = question_request(&self.ctx, question, max_tokens)?;
            request.max_tokens = max_tokens.min(max_context.saturating_sub(request.prompt.len()));
            if request.max_tokens > 0 {
                asked.push((key, question));
                requests.push(request);
                continue;
            }
            let (id, finish_reason) = (question.id.clone(), "length".to_string());
            let answer = Answer { id, text: String::new(), finish_reason, num_tokens: 0 };
            self.kept.add_answer(key, &answer)?;
            answers.insert(key.clone(), answer);
        }
        if requests.is_empty() {
            return Ok(());
        }
        let begun = Instant::now();
        let mut engine =
            Engine::new(self.model_dir, &self.engine_options(&config, &requests)).context("load the engine")?;
        self.check_time("the questions")?;
        let num_open = requests.len();
        self.sign_of_life(format!("answering: 0 of {num_open}"));
        let (mut num_done, mut num_tokens, mut told) = (0, 0, Instant::now());
        let mut after_step = |ended: Vec<(usize, Output)>| {
            let is_news = !ended.is_empty() || told.elapsed() >= ALIVE_INTERVAL;
            for (index, output) in ended {
                let (key, question) = asked[index];
                let answer = answer_of(question, output);
                self.kept.add_answer(key, &answer)?;
                num_tokens += answer.num_tokens;
                answers.insert(key.clone(), answer);
                num_done += 1;
            }
            if num_done == num_open {
                return Ok(());
            }
            self.check_time("the questions")?;
            if is_news {
                self.sign_of_life(format!("answering: {num_done} of {num_open}"));
                told = Instant::now();
            }
            Ok(())
        };
        engine.generate_each(&requests, &mut after_step).context("answer questions")?;
        self.speed.answers += num_open as u64;
        self.speed.answer_tokens += num_tokens;
        self.speed.answering_ms += begun.elapsed().as_millis() as u64;
        Ok(())
    }

    /// A cache slot holds the longest question and its answer, not the model's whole context. Questions that begin alike
    /// compute their beginning once, which changes no bit of an answer.
    fn engine_options(&self, config: &Config, requests: &[GenRequest]) -> EngineOptions {
        let max_context = requests.iter().map(|r| r.prompt.len() + r.max_tokens).max().unwrap_or(0);
        let longest_bytes = max_context.next_multiple_of(CACHE_BLOCK) as u64
            * Decoder::bytes_per_token(config, device::cache_format(&self.settings.device));
        EngineOptions {
            device: self.settings.device.clone(),
            threads: self.settings.threads,
            slots: ANSWER_SLOTS.min(requests.len()),
            max_context,
            cache_bytes: ANSWER_CACHE_BYTES.max(longest_bytes),
            reuse_prefixes: true,
            max_waiting: ANSWER_SLOTS,
            start_together: ANSWERS_TOGETHER,
            ..EngineOptions::default()
        }
    }

    fn sign_of_life(&mut self, phase: String) {
        (self.report)(WorkerMessage::Alive { phase });
    }

    fn check_time(&self, what: &str) -> Result<()> {
        if self.started.elapsed() <= Duration::from_millis(self.max_ms) {
            return Ok(());
        }
        // No refusal: the next try goes on from what is done.
        let limit = limit_in_words(self.max_ms);
        bail!(
            "evaluate within the time limit: it took more than its {limit} and ended within {what} (hint: what is done is \
             kept, and the next try goes on from there; else raise evaluation.max_minutes, or lower \
             evaluation.sealed_questions)"
        )
    }
}

/// `10 min`, `1.5 min`, `30 s`.
fn limit_in_words(ms: u64) -> String {
    match ms {
        0..60_000 => format!("{} s", ms / 1000),
        _ => format!("{} min", (ms as f64 / 6000.0).round() / 10.0),
    }
}

fn answer_of(question: &Question, output: Output) -> Answer {
    let finish_reason = match output.reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    };
    Answer {
        id: question.id.clone(),
        text: output.text,
        finish_reason: finish_reason.to_string(),
        num_tokens: output.num_tokens as u64,
    }
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

fn question_request(ctx: &ChatContext, question: &Question, max_tokens: usize) -> Result<GenRequest> {
    let name = || format!("question {}", question.id);
    let messages: Vec<Message> =
        serde_json::from_value(question.messages.clone()).with_context(name).map_err(refuse)?;
    let asked = ctx.profile.prompt(RowId::of_name(&question.id), &messages);
    let prompt = prompt_ids(ctx, &asked, None, None).with_context(name).map_err(refuse)?;
    Ok(GenRequest::under_profile(&*ctx.profile, &ctx.tokenizer, prompt, max_tokens))
}
