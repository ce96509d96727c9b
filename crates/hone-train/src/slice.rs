//! One slice of a training job: from the position of the last checkpoint to the next one.
//!
//! A step, in order: zero the gradients, accumulate its micro-batches (each one packed stream of tokens),
//! refuse the update if loss or gradient norm is not finite, clip, AdamW. A slice ends with a complete
//! checkpoint in staging folders when `save_steps` divides the job's step, at the job's last step, or at the
//! first step after it was asked to yield. Beside it, every step appends one JSON line to
//! `<run_dir>/metrics.jsonl` (see [`StepRecord`]).

mod load;
mod stage;
mod step;

pub(crate) use load::{job_order, method, trainer_options};
pub use step::StepRecord;

use crate::clock;
use crate::order::{Order, RowsDigest};
use crate::preview::{self, Prompt};
use crate::resume::ResumeState;
use crate::rows::Examples;
use anyhow::Result;
use hone_data::ChatContext;
use hone_model::{Config, Dtype, Trainer};
use hone_pipeline::state::Progress;
use hone_pipeline::wire::{TrainRequest, WorkerMessage};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// `Step` messages are at least this far apart, but for the last one of a slice.
const STEP_MESSAGE_INTERVAL: Duration = Duration::from_millis(100);
/// Share of the newest step in the smoothed tokens per second.
const SPEED_SMOOTHING: f64 = 0.2;

/// Set from outside to end a slice at its next optimizer step, with a checkpoint.
#[derive(Clone, Debug, Default)]
pub struct YieldFlag(Arc<AtomicBool>);

impl YieldFlag {
    /// Asks the slice to end.
    pub fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether it was asked to.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// A loaded slice between two steps.
struct Slice<'a> {
    request: &'a TrainRequest,
    config: Config,
    ctx: ChatContext,
    examples: Examples,
    order: Order,
    prompts: Vec<Prompt>,
    trainer: Trainer,
    dtype: Dtype,
    /// Rows of a micro-batch.
    micro_rows: usize,
    digest: RowsDigest,
    /// Position, optimizer step and the like as the next checkpoint will hold them.
    state: ResumeState,
    records: Vec<StepRecord>,
    /// Smoothed tokens per second, all and trained.
    speed: (f64, f64),
}

/// Trains from `request.position` to the next checkpoint and stages it. `report` gets `Alive`, `Step`,
/// `Preview`, `Warning` and, last, `Staged`. The checkpoint's number is the highest one given so far (after a rewind
/// not the parent's) plus the steps taken.
///
/// # Errors
/// A deterministic failure holds a [`crate::Refusal`]; any other error may pass when tried again.
pub fn train_slice(
    request: &TrainRequest,
    report: &mut dyn FnMut(WorkerMessage),
    yield_flag: &YieldFlag,
) -> Result<()> {
    let mut slice = Slice::load(request, report)?;
    report(WorkerMessage::Alive { phase: "training".to_string() });
    let order = slice.order.clone();
    let mut last_message: Option<Instant> = None;
    for indices in order.steps_from(request.position.job_step) {
        let record = slice.step(&indices, report)?;
        let position = &slice.state.position;
        let yielded = yield_flag.is_set();
        let ends_job = position.job_step == position.total_steps;
        let save_steps = request.settings.save_steps;
        let ends = yielded || ends_job || (save_steps > 0 && position.job_step.is_multiple_of(save_steps));
        let due = last_message.is_none_or(|at| at.elapsed() >= STEP_MESSAGE_INTERVAL);
        if record.loss.is_some() && (due || ends) {
            report(WorkerMessage::Step(slice.progress(&record)));
            last_message = Some(Instant::now());
        }
        slice.previews(report)?;
        if ends {
            report(WorkerMessage::Alive { phase: "writing checkpoint".to_string() });
            let staged = slice.stage(ends_job, yielded)?;
            report(WorkerMessage::Staged(staged));
            return Ok(());
        }
    }
    unreachable!("the last step of the order ends the job");
}

impl Slice<'_> {
    fn progress(&self, record: &StepRecord) -> Progress {
        Progress {
            step: record.step,
            job_step: record.job_step,
            total_steps: self.state.position.total_steps,
            loss: record.loss.unwrap_or(self.state.last_loss),
            learning_rate: record.learning_rate,
            grad_norm: record.grad_norm.unwrap_or(0.0),
            tokens_per_s: self.speed.0,
            trained_tokens_per_s: self.speed.1,
            memory_bytes: clock::resident_bytes(),
            at_ms: clock::now_ms(),
        }
    }

    fn previews(&mut self, report: &mut dyn FnMut(WorkerMessage)) -> Result<()> {
        let settings = &self.request.settings;
        let every = settings.preview_steps;
        if every == 0 || self.prompts.is_empty() || !self.state.position.job_step.is_multiple_of(every) {
            return Ok(());
        }
        report(WorkerMessage::Alive { phase: "previewing".to_string() });
        let weights = self.trainer.weights()?;
        let answers = preview::answers(weights, &self.config, settings, &self.ctx, &self.prompts)?;
        let step = self.global_step();
        for (prompt, answer) in self.prompts.iter().zip(answers) {
            report(preview::message(prompt, answer, step));
        }
        report(WorkerMessage::Alive { phase: "training".to_string() });
        Ok(())
    }

    /// The step that the newest checkpoint of the workspace would be named after.
    fn global_step(&self) -> u64 {
        self.request.number_from.unwrap_or(self.request.parent).0
            + (self.state.position.job_step - self.request.position.job_step)
    }
}
