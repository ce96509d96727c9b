//! Loading a slice: data, weights, optimizer state; and every check before the first step.

use super::Slice;
use crate::order::{Order, RowsDigest};
use crate::plan::Sizer;
use crate::resume::{self, ResumeState, Resumed};
use crate::rows::{self, Examples};
use crate::{Refusal, clock, preview, refuse, selfcheck};
use anyhow::{Context, Result};
use hone_data::ChatContext;
use hone_model::device::{self, Device};
use hone_model::{Config, Dtype, HostWeights, LoraConfig, Method, Target, Trainer, TrainerOptions};
use hone_pipeline::config::{LoraSettings, TrainSettings};
use hone_pipeline::ids::{CheckpointId, JobId};
use hone_pipeline::state::Position;
use hone_pipeline::wire::{TrainRequest, WIRE_FORMAT_VERSION, WorkerMessage};

impl<'a> Slice<'a> {
    /// # Errors
    /// A [`Refusal`] when data, model, settings and position do not fit together.
    pub(super) fn load(request: &'a TrainRequest, report: &mut dyn FnMut(WorkerMessage)) -> Result<Slice<'a>> {
        if request.format_version != WIRE_FORMAT_VERSION {
            let version = request.format_version;
            return Err(Refusal(format!("the request has format {version}, expected {WIRE_FORMAT_VERSION}")).into());
        }
        hone_disk::create_dir(&request.run_dir)?;
        let settings = &request.settings;
        let config = Config::from_dir(&request.model_dir).map_err(|e| refuse(e.into()))?;
        let ctx = ChatContext::from_dir(&request.model_dir, &settings.profile, &settings.chat_template_kwargs)
            .map_err(refuse)?;
        let limits =
            rows::Limits { max_length: settings.max_length.min(config.max_positions), overlong: settings.overlong };
        let replay = request.replay.as_ref();
        let selection =
            rows::Selection { seed: settings.seed, job: request.job, replay, kept_back: &request.kept_back };
        let examples = rows::load_with(&ctx, &request.files, limits, selection, report)?;
        selfcheck::check_share(&examples, settings)?;
        let order = job_order(&examples, settings, request.job);
        let prompts = preview::of_job(&ctx, &request.preview_files, settings, &config, order.total_steps())?;
        let (position, digest) = position(request, &order, &examples)?;

        report(WorkerMessage::Alive { phase: "loading".to_string() });
        let device = device::open(&settings.device, settings.threads).map_err(refuse)?;
        let sizer = Sizer {
            config: &config,
            order: &order,
            examples: &examples,
            settings,
            device: &*device,
            previews: !prompts.is_empty(),
            resident_bytes: clock::resident_bytes(),
        };
        let mut start = start(request, &config, report)?;
        start.state.rows_digest = digest.hex();
        start.state.position = position;
        let micro_rows = sizer.micro_rows(start.state.micro_batch)?;
        start.state.micro_batch = micro_rows;
        let options = sizer.options(micro_rows)?;
        let (trainer, state, dtype) = start.trainer(&config, device, &options)?;
        let records = Vec::new();
        let speed = (0.0, 0.0);
        Ok(Slice {
            request,
            config,
            ctx,
            examples,
            order,
            prompts,
            trainer,
            dtype,
            micro_rows,
            digest,
            state,
            records,
            speed,
        })
    }
}

/// The order of a job's examples.
pub(crate) fn job_order(examples: &Examples, settings: &TrainSettings, job: JobId) -> Order {
    Order {
        num_examples: examples.list.len(),
        examples_per_step: settings.rows_per_step(),
        epochs: settings.epochs,
        seed: settings.seed,
        job,
    }
}

/// What is trained.
///
/// # Errors
/// A [`Refusal`] of a target that no product has.
pub(crate) fn method(settings: &TrainSettings) -> Result<Method> {
    let lora = settings.lora.as_ref().map(|lora| -> Result<LoraConfig> {
        let targets = Target::parse_list(&lora.targets).context("use lora.targets").map_err(refuse)?;
        Ok(LoraConfig { rank: lora.rank, alpha: lora.alpha, dropout: lora.dropout, targets })
    });
    Ok(Method {
        recompute: settings.recompute,
        frozen: settings.freeze.clone(),
        lora: lora.transpose()?,
        seed: settings.seed,
    })
}

/// Sizes that hold every micro-batch of `micro_rows` rows of the job, whichever slice trains it.
pub(crate) fn trainer_options(order: &Order, examples: &Examples, micro_rows: usize, method: Method) -> TrainerOptions {
    let tokens = |micro: &[usize]| micro.iter().map(|i| examples.list[*i].tokens.ids.len()).sum::<usize>();
    let largest_of = |step: Vec<usize>| step.chunks(micro_rows).map(tokens).max().unwrap_or(0);
    let max_tokens = order.steps_from(0).map(largest_of).max().unwrap_or(0);
    TrainerOptions { max_tokens, max_segment_tokens: examples.longest(), method }
}

/// What a slice starts from.
struct Start {
    /// Present when training goes on with the optimizer of before.
    resumed: Option<Resumed>,
    /// Present when it does not.
    fresh: Option<HostWeights>,
    state: ResumeState,
}

impl Start {
    /// The trainer with everything in it, the counters, and the number type of the published weights.
    fn trainer(
        self,
        config: &Config,
        device: Box<dyn Device>,
        options: &TrainerOptions,
    ) -> Result<(Trainer, ResumeState, Dtype)> {
        let mut state = self.state;
        let new = |weights: &HostWeights| Trainer::new(device, config, weights, options).context("prepare the trainer");
        let (mut trainer, dtype) = match (self.resumed, self.fresh) {
            (Some(mut resumed), _) => {
                let mut trainer = new(&resumed.weights)?;
                let dtype = resumed.weights.dtype;
                resumed.weights.tensors = Vec::new();
                resumed.put_into(&mut trainer).map_err(refuse)?;
                (trainer, dtype)
            }
            (None, Some(weights)) => (new(&weights)?, weights.dtype),
            (None, None) => unreachable!("a start has weights"),
        };
        let trained = trainer.num_trained_tensors() as u64;
        if state.trained_tensors != 0 && state.trained_tensors != trained {
            let before = state.trained_tensors;
            return Err(Refusal(format!("{before} tensors were trained before, {trained} would be now")).into());
        }
        state.trained_tensors = trained;
        trainer.zero_grad();
        Ok((trainer, state, dtype))
    }
}

/// Weights, optimizer state and counters to start from.
fn start(request: &TrainRequest, config: &Config, report: &mut dyn FnMut(WorkerMessage)) -> Result<Start> {
    let settings = &request.settings;
    let mut state = ResumeState {
        format_version: resume::FORMAT_VERSION,
        checkpoint: request.parent,
        job: request.job,
        position: Position::default(),
        rows_digest: String::new(),
        optimizer_step: 0,
        steps_from_base: 0,
        nonfinite_in_a_row: 0,
        last_loss: 0.0,
        dtype: String::new(),
        lora: settings.lora.clone(),
        freeze: settings.freeze.clone(),
        trained_tensors: 0,
        micro_batch: 0,
        base_model: request.model_dir.display().to_string(),
    };
    if let Some(dir) = &request.resume_dir {
        let before = resume::read_state(dir, request.parent).map_err(refuse)?;
        let Some(change) = change(&before, settings) else {
            let micro_batch = if before.job == request.job { before.micro_batch } else { 0 };
            let state = ResumeState {
                job: request.job,
                nonfinite_in_a_row: if before.job == request.job { before.nonfinite_in_a_row } else { 0 },
                micro_batch,
                lora: settings.lora.clone(),
                ..before.clone()
            };
            let resumed = Some(resume::load(dir, config, before).map_err(refuse)?);
            return Ok(Start { resumed, fresh: None, state });
        };
        if before.job == request.job && request.position.job_step > 0 {
            return Err(Refusal(format!("{} cannot go on: {change}", request.job)).into());
        }
        let message = format!(
            "{change}: training starts from the published weights of {} with new optimizer state",
            request.parent
        );
        report(WorkerMessage::Warning { code: "optimizer_reset".to_string(), message });
        state.steps_from_base = before.steps_from_base;
        state.last_loss = before.last_loss;
    } else if let Some(steps_from_base) = steps_of(request) {
        let message = format!(
            "the optimizer state of {} is not here any more: training goes on from its published weights with a new one",
            request.parent
        );
        report(WorkerMessage::Warning { code: "optimizer_reset".to_string(), message });
        state.steps_from_base = steps_from_base;
    }
    let weights = HostWeights::load(&request.model_dir, config).map_err(refuse)?;
    state.dtype = weights.dtype.name().to_string();
    Ok(Start { resumed: None, fresh: Some(weights), state })
}

/// The steps behind the parent, where it is a checkpoint of this workspace that was trained; none for a base model.
fn steps_of(request: &TrainRequest) -> Option<u64> {
    let bytes = std::fs::read(request.model_dir.join("lineage.json")).ok()?;
    let lineage: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    let checkpoint: CheckpointId = serde_json::from_value(lineage["checkpoint"].clone()).ok()?;
    lineage["steps_from_base"].as_u64().filter(|_| checkpoint == request.parent)
}

/// Why the optimizer state of before does not fit these settings; none when it does.
fn change(before: &ResumeState, settings: &TrainSettings) -> Option<String> {
    let shape = |lora: &Option<LoraSettings>| match lora {
        None => "full fine-tuning".to_string(),
        Some(lora) => {
            let targets = Target::parse_list(&lora.targets).unwrap_or_default();
            let names: Vec<&str> = targets.into_iter().map(Target::name).collect();
            format!("LoRA of rank {} and alpha {} on {}", lora.rank, lora.alpha, names.join(", "))
        }
    };
    let (old, new) = (shape(&before.lora), shape(&settings.lora));
    if old != new {
        return Some(format!("this job asks for {new}, the steps before it were {old}"));
    }
    let (old, new) = (before.freeze.join(", "), settings.freeze.join(", "));
    (old != new).then(|| format!("this job freezes [{new}], the steps before it froze [{old}]"))
}

/// The position to begin at and the digest of the rows before it, held against what the request says: if the
/// data or the settings are not those that the earlier slices saw, going on would train other rows.
fn position(request: &TrainRequest, order: &Order, examples: &Examples) -> Result<(Position, RowsDigest)> {
    let asked = &request.position;
    let total_steps = order.total_steps();
    let mut digest = RowsDigest::default();
    let mut rows_trained = 0;
    for step in order.steps_from(0).take(usize::try_from(asked.job_step).unwrap_or(usize::MAX)) {
        rows_trained += step.len() as u64;
        add_to_digest(&mut digest, examples, &step);
    }
    let changed = |what: &str| {
        let (job, step) = (request.job, asked.job_step);
        let reason = format!("{job} cannot go on at step {step}: {what} (its files or settings changed)");
        anyhow::Error::from(Refusal(reason))
    };
    if total_steps == 0 {
        return Err(Refusal(format!("{} has no step to take: epochs is 0", request.job)).into());
    }
    if asked.total_steps != 0 && asked.total_steps != total_steps {
        return Err(changed(&format!("it had {} steps and now has {total_steps}", asked.total_steps)));
    }
    if asked.job_step >= total_steps {
        return Err(changed(&format!("it has only {total_steps} steps")));
    }
    if asked.rows_trained != rows_trained {
        return Err(changed(&format!("{} rows were trained, the order gives {rows_trained}", asked.rows_trained)));
    }
    if asked.job_step > 0 && !request.rows_digest.is_empty() && request.rows_digest != digest.hex() {
        return Err(changed("the digest of its trained rows differs"));
    }
    Ok((Position { job_step: asked.job_step, rows_trained, total_steps }, digest))
}

pub(super) fn add_to_digest(digest: &mut RowsDigest, examples: &Examples, step: &[usize]) {
    for index in step {
        let example = &examples.list[*index];
        digest.add(&examples.files[example.file], example.tokens.line, example.tokens.row.0, example.part);
    }
}
