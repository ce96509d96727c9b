//! What a job will take, before it starts: rows, tokens and steps; memory at its peak and time for each micro-batch.
//!
//! Memory is what this process holds when the data are loaded, and on top of it the highest of: the engine's buffers and
//! one tensor on its way to disk; the weights on the host while they go into the buffers; buffers, weights and a decoder
//! during previews. Time is that of the job's own first micro-batches and of updates, measured.

use crate::order::Order;
use crate::rows::Examples;
use crate::slice::{job_order, method, trainer_options};
use crate::{Refusal, clock, preview, refuse, rows};
use anyhow::{Result, bail};
use hone_data::pack::pack;
use hone_data::{ChatContext, TokenRow};
use hone_generate::memory::{SHARE_OF_AVAILABLE, available_bytes};
use hone_model::device::{self, Device};
use hone_model::{AdamW, Batch, Config, HostWeights, Trainer, TrainerOptions};
use hone_pipeline::config::TrainSettings;
use hone_pipeline::ids::JobId;
use hone_pipeline::wire::TrainFile;
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, Instant};

/// The size of a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Plan {
    /// Rows of all files.
    pub rows: u64,
    /// Rows left out: longer than `max_length`, or not to be tokenised with a mask.
    pub rows_skipped: u64,
    /// Training examples: rows, or assistant turns where the template needs one example per turn.
    pub examples: u64,
    /// Tokens of one pass.
    pub tokens: u64,
    /// Tokens of one pass that carry loss.
    pub trained_tokens: u64,
    /// Passes.
    pub epochs: u32,
    /// Optimizer steps of the whole job.
    pub steps: u64,
    /// Rows of one step.
    pub rows_per_step: u64,
    /// Tokens of the longest example.
    pub longest: u64,
    /// Memory that a run may plan for, in bytes; 0 where the system does not tell.
    pub memory_limit_bytes: u64,
    /// Every micro-batch, the largest first.
    pub micro_batches: Vec<MicroBatchPlan>,
    /// Rows of the micro-batch that the run would take.
    pub chosen: Option<u64>,
}

/// What one size of the micro-batch takes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MicroBatchPlan {
    /// Its rows.
    pub rows: u64,
    /// Tokens of the largest one, for the order of job 1.
    pub largest_tokens: u64,
    /// The engine's buffers: weights, gradients, optimizer and activations, in bytes.
    pub planned_bytes: u64,
    /// Resident memory of the whole process at its peak, in bytes.
    pub peak_bytes: u64,
    /// Whether that is within the limit.
    pub fits: bool,
    /// Tokens per second, updates included; absent when nothing was measured.
    pub tokens_per_s: Option<f64>,
    /// Duration of all steps of the job, without loading, saving and previews.
    pub seconds: Option<f64>,
}

/// What decides about the size of micro-batches.
pub(crate) struct Sizer<'a> {
    pub(crate) config: &'a Config,
    pub(crate) order: &'a Order,
    pub(crate) examples: &'a Examples,
    pub(crate) settings: &'a TrainSettings,
    pub(crate) device: &'a dyn Device,
    /// Whether previews will be made.
    pub(crate) previews: bool,
    /// Resident memory before any weight is loaded.
    pub(crate) resident_bytes: u64,
}

impl Sizer<'_> {
    /// Rows of a micro-batch: as configured; with `batch_size` "auto", those that the job began with (0 = it begins), or the
    /// largest that fits, at most as many as are allowed after a worker ran out of memory.
    ///
    /// # Errors
    /// Not even one row fits.
    pub(crate) fn micro_rows(&self, begun_with: usize) -> Result<usize> {
        if !self.settings.auto_batch {
            return Ok(self.settings.micro_rows());
        }
        let most = if self.settings.micro_batch > 0 { self.settings.micro_batch } else { usize::MAX };
        if (1..=most).contains(&begun_with) {
            return Ok(begun_with);
        }
        let limit = memory_limit(self.settings, self.device);
        for rows in self.candidates().into_iter().filter(|rows| *rows <= most) {
            if limit == 0 || self.peak_bytes(rows)? <= limit {
                return Ok(rows);
            }
        }
        let needed = self.peak_bytes(1)?;
        bail!(
            "one row at a time needs {} MB of memory, {} MB may be used (hint: a smaller max_length, recompute, LoRA, or \
             limits.max_memory_gb)",
            needed / 1_000_000,
            limit / 1_000_000
        )
    }

    /// The rows of a step, halved again and again.
    fn candidates(&self) -> Vec<usize> {
        let largest = self.settings.rows_per_step().min(self.order.num_examples.max(1));
        std::iter::successors(Some(largest), |rows| (*rows > 1).then(|| rows.div_ceil(2))).collect()
    }

    pub(crate) fn options(&self, micro_rows: usize) -> Result<TrainerOptions> {
        Ok(trainer_options(self.order, self.examples, micro_rows, method(self.settings)?))
    }

    fn peak_bytes(&self, micro_rows: usize) -> Result<u64> {
        let options = self.options(micro_rows)?;
        let arena = Trainer::planned_bytes(self.config, &options, self.device)?;
        let parameters = self.config.parameters();
        let weights = 4 * self.config.num_parameters() as u64;
        let largest = 4 * parameters.iter().map(hone_model::ParameterSpec::len).max().unwrap_or(0) as u64;
        if self.device.free_memory().is_some() {
            // The arena stands in the device's own memory, beside the previews' weights and cache.
            return Ok(arena + if self.previews { 2 * weights } else { 0 });
        }
        let loading = 2 * weights;
        let previewing = if self.previews { arena + 2 * weights } else { 0 };
        Ok(self.resident_bytes + loading.max(arena + largest).max(previewing))
    }
}

/// Reads and tokenises the files and counts. With `calibrate`, measures the micro-batches that fit for about that time, each at
/// least once; the model folder is only read. `preview_files` are those that the job will preview.
///
/// # Errors
/// As [`crate::train_slice`] would fail before its first step, but for the self-check of shares.
pub fn plan(
    model_dir: &Path,
    files: &[TrainFile],
    preview_files: &[TrainFile],
    settings: &TrainSettings,
    calibrate: Option<Duration>,
) -> Result<Plan> {
    let config = Config::from_dir(model_dir).map_err(|e| refuse(e.into()))?;
    let ctx = ChatContext::from_dir(model_dir, &settings.profile, &settings.chat_template_kwargs).map_err(refuse)?;
    let limits =
        rows::Limits { max_length: settings.max_length.min(config.max_positions), overlong: settings.overlong };
    let examples = rows::load(&ctx, files, limits, &mut |_| {})?;
    if examples.list.is_empty() {
        let (rows, overlong, longest) = (examples.rows, examples.rows_overlong, limits.max_length);
        return Err(Refusal(format!(
            "no row is left to train: of {rows} rows, {overlong} are longer than {longest} tokens (max_length, and no more than \
             the model's context) and {} cannot be tokenised with a mask",
            examples.rows_refused
        ))
        .into());
    }
    let order = job_order(&examples, settings, JobId(1));
    let device = device::open(&settings.device, settings.threads).map_err(refuse)?;
    let sizer = Sizer {
        config: &config,
        order: &order,
        examples: &examples,
        settings,
        device: &*device,
        previews: !preview::of_job(&ctx, preview_files, settings, &config, order.total_steps())?.is_empty(),
        resident_bytes: clock::resident_bytes(),
    };
    let limit = memory_limit(settings, &*device);
    let mut candidates = sizer.candidates();
    candidates.extend((!settings.auto_batch).then(|| settings.micro_rows()));
    candidates.sort_unstable_by_key(|rows| std::cmp::Reverse(*rows));
    candidates.dedup();
    let mut micro_batches = Vec::new();
    for rows in candidates {
        let options = sizer.options(rows)?;
        let peak_bytes = sizer.peak_bytes(rows)?;
        micro_batches.push(MicroBatchPlan {
            rows: rows as u64,
            largest_tokens: options.max_tokens as u64,
            planned_bytes: Trainer::planned_bytes(&config, &options, &*device)?,
            peak_bytes,
            fits: limit == 0 || peak_bytes <= limit,
            ..MicroBatchPlan::default()
        });
    }
    let mut plan = Plan {
        rows: examples.rows,
        rows_skipped: examples.rows_overlong + examples.rows_refused,
        examples: examples.list.len() as u64,
        tokens: examples.num_tokens(),
        trained_tokens: examples.num_trained_tokens(),
        epochs: settings.epochs,
        steps: order.total_steps(),
        rows_per_step: settings.rows_per_step() as u64,
        longest: examples.longest() as u64,
        memory_limit_bytes: limit,
        chosen: sizer.micro_rows(0).ok().map(|rows| rows as u64),
        micro_batches,
    };
    if let Some(time) = calibrate {
        let weights = HostWeights::load(model_dir, &config).map_err(refuse)?;
        measure(&sizer, &weights, &mut plan, time)?;
    }
    Ok(plan)
}

/// What was measured of one size of the micro-batch.
struct Measured<'a> {
    rows: usize,
    /// The job's micro-batches of this size, again and again.
    next: Box<dyn Iterator<Item = Batch> + 'a>,
    tokens: usize,
    seconds: f64,
}

/// Fills in the speed of every micro-batch that fits. They take turns in the buffers of the largest one, so that a slow moment of
/// the machine meets all of them; the chosen one has half of the time.
fn measure(sizer: &Sizer<'_>, weights: &HostWeights, plan: &mut Plan, time: Duration) -> Result<()> {
    if plan.steps == 0 {
        return Ok(());
    }
    let fitting = plan.micro_batches.iter().filter(|micro| micro.fits).map(|micro| micro.rows as usize);
    let mut sizes: Vec<Measured<'_>> = fitting.map(|rows| Measured::new(sizer, rows)).collect();
    let Some(largest) = sizes.iter().map(|size| size.rows).max() else { return Ok(()) };
    let chosen = plan.chosen.map(|rows| rows as usize).filter(|rows| sizes.iter().any(|size| size.rows == *rows));
    let chosen = chosen.unwrap_or(largest);
    let num_others = sizes.len().saturating_sub(1).max(1) as f64;
    sizes.sort_by_key(|size| size.rows != chosen);
    let device = device::open(&sizer.settings.device, sizer.settings.threads).map_err(refuse)?;
    let mut trainer = Trainer::new(device, sizer.config, weights, &sizer.options(largest)?)?;
    // The first one touches most pages for the first time.
    let mut warm = Measured::new(sizer, largest);
    warm.run(&mut trainer)?;
    update(&mut trainer, 1)?;
    let (begun, mut updates) = (Instant::now(), Vec::new());
    while begun.elapsed() < time || sizes.iter().any(|size| size.tokens == 0) {
        let share = |size: &Measured<'_>| size.seconds * if size.rows == chosen { 1.0 } else { num_others };
        let next = sizes.iter_mut().min_by(|a, b| share(a).total_cmp(&share(b))).expect("one size fits");
        next.run(&mut trainer)?;
        if next.rows == chosen || updates.is_empty() {
            let started = Instant::now();
            update(&mut trainer, updates.len() as u64 + 2)?;
            updates.push(started.elapsed().as_secs_f64());
        }
    }
    let per_update = updates.iter().sum::<f64>() / updates.len() as f64;
    let num_tokens = (plan.tokens * u64::from(plan.epochs)) as f64;
    for micro in &mut plan.micro_batches {
        let Some(size) = sizes.iter().find(|size| size.rows as u64 == micro.rows) else { continue };
        let seconds = num_tokens * size.seconds / size.tokens as f64 + plan.steps as f64 * per_update;
        micro.seconds = Some(seconds);
        micro.tokens_per_s = Some(num_tokens / seconds);
    }
    Ok(())
}

impl<'a> Measured<'a> {
    fn new(sizer: &'a Sizer<'a>, rows: usize) -> Measured<'a> {
        let passes = std::iter::repeat_with(move || sizer.order.steps_from(0)).flatten();
        let batches = passes.flat_map(move |indices| {
            let batches: Vec<Batch> = indices.chunks(rows).map(|micro| batch(sizer.examples, micro)).collect();
            batches
        });
        Measured { rows, next: Box::new(batches), tokens: 0, seconds: 0.0 }
    }

    /// The next micro-batch, as [`crate::slice`] makes it.
    fn run(&mut self, trainer: &mut Trainer) -> Result<()> {
        let batch = self.next.next().expect("a job has examples");
        let started = Instant::now();
        trainer.accumulate(&batch, 1.0)?;
        self.seconds += started.elapsed().as_secs_f64();
        self.tokens += batch.ids.len();
        Ok(())
    }
}

fn batch(examples: &Examples, micro: &[usize]) -> Batch {
    let rows: Vec<&TokenRow> = micro.iter().map(|i| &examples.list[*i].tokens).collect();
    let packed = pack(&rows);
    Batch { ids: packed.ids, targets: packed.targets, segments: packed.segments }
}

/// The end of a step, with a learning rate of 0.
fn update(trainer: &mut Trainer, step: u64) -> Result<()> {
    trainer.grad_norm()?;
    let rest = AdamW { lr: 0.0, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, step, grad_scale: 1.0 };
    trainer.adamw_step(&rest)?;
    trainer.zero_grad();
    Ok(())
}

/// Memory that a run may plan for; 0 where neither the settings nor the system tell. The setting is about the host's memory.
fn memory_limit(settings: &TrainSettings, device: &dyn Device) -> u64 {
    let share = |free: u64| (free as f64 * SHARE_OF_AVAILABLE) as u64;
    match (device.free_memory(), settings.max_memory_bytes) {
        (Some(free), _) => share(free),
        (None, 0) => share(available_bytes()),
        (None, bytes) => bytes,
    }
}
