//! Loading a slice: data, weights, optimizer state; and every check before the first step.

use super::Slice;
use crate::order::{Order, RowsDigest};
use crate::resume::{self, ResumeState};
use crate::rows::{self, Examples};
use crate::{Refusal, preview, refuse, selfcheck};
use anyhow::{Context, Result};
use hone_data::ChatContext;
use hone_model::{Config, HostWeights, OptimizerState, Trainer, TrainerOptions, device};
use hone_pipeline::config::TrainSettings;
use hone_pipeline::ids::JobId;
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
        let selection = rows::Selection { seed: settings.seed, job: request.job, replay };
        let examples = rows::load_with(&ctx, &request.files, limits, selection, report)?;
        selfcheck::check_share(&examples, settings)?;
        let prompts = match settings.preview_steps {
            0 => Vec::new(),
            _ => preview::prompts(&ctx, &request.preview_files, config.max_positions).map_err(refuse)?,
        };
        let order = job_order(&examples, settings, request.job);
        let (position, digest) = position(request, &order, &examples)?;

        report(WorkerMessage::Alive { phase: "loading".to_string() });
        let (weights, optimizer, mut state) = start(request, &config)?;
        state.rows_digest = digest.hex();
        state.position = position;
        let options = trainer_options(&order, &examples, settings);
        let device = device::open(&settings.device, settings.threads).map_err(refuse)?;
        let mut trainer = Trainer::new(device, &config, &weights, &options).context("prepare the trainer")?;
        if let Some(optimizer) = optimizer {
            trainer.load_optimizer_state(&optimizer)?;
        }
        let dtype = weights.dtype;
        let records = Vec::new();
        Ok(Slice { request, config, ctx, examples, order, prompts, trainer, dtype, digest, state, records, speed: 0.0 })
    }
}

/// The order of a job's examples.
pub(crate) fn job_order(examples: &Examples, settings: &TrainSettings, job: JobId) -> Order {
    Order {
        num_examples: examples.list.len(),
        examples_per_step: settings.batch_size.max(1) * settings.gradient_accumulation.max(1),
        epochs: settings.epochs,
        seed: settings.seed,
        job,
    }
}

/// Sizes that hold every micro-batch of the job, whichever slice trains it.
pub(crate) fn trainer_options(order: &Order, examples: &Examples, settings: &TrainSettings) -> TrainerOptions {
    let tokens = |micro: &[usize]| micro.iter().map(|i| examples.list[*i].tokens.ids.len()).sum::<usize>();
    let largest_of = |step: Vec<usize>| step.chunks(settings.batch_size.max(1)).map(tokens).max().unwrap_or(0);
    let max_tokens = order.steps_from(0).map(largest_of).max().unwrap_or(0);
    TrainerOptions::full(max_tokens, examples.longest())
}

/// Weights, optimizer state and counters to start from.
fn start(request: &TrainRequest, config: &Config) -> Result<(HostWeights, Option<OptimizerState>, ResumeState)> {
    if let Some(dir) = &request.resume_dir {
        let resumed = resume::load(dir, config, request.parent).map_err(refuse)?;
        let mut state = resumed.state;
        if state.job != request.job {
            state.nonfinite_in_a_row = 0;
        }
        state.job = request.job;
        return Ok((resumed.masters, Some(resumed.optimizer), state));
    }
    let weights = HostWeights::load(&request.model_dir, config).map_err(refuse)?;
    let state = ResumeState {
        format_version: resume::FORMAT_VERSION,
        checkpoint: request.parent,
        job: request.job,
        position: Position::default(),
        rows_digest: String::new(),
        optimizer_step: 0,
        steps_from_base: 0,
        nonfinite_in_a_row: 0,
        last_loss: 0.0,
        dtype: weights.dtype.name().to_string(),
    };
    Ok((weights, None, state))
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
