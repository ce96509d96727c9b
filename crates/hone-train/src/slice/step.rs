//! One optimizer step.

use super::load::add_to_digest;
use super::{SPEED_SMOOTHING, Slice};
use crate::{Refusal, clock, schedule};
use anyhow::Result;
use hone_data::TokenRow;
use hone_data::pack::pack;
use hone_model::{AdamW, Batch, BatchStats};
use hone_pipeline::wire::WorkerMessage;
use serde::Serialize;
use std::time::Instant;

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPS: f64 = 1e-8;
/// Refused updates in a row after which a job fails.
const MAX_NONFINITE: u32 = 3;
/// Rows that a warning about a refused update names.
const MAX_NAMED_ROWS: usize = 64;

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepRecord {
    /// Global step, as in `checkpoint-N`.
    pub step: u64,
    /// Step within the job, from 1.
    pub job_step: u64,
    /// Mean loss per trained token; absent when the update was refused as not finite.
    pub loss: Option<f64>,
    /// Share of trained tokens whose argmax was right.
    pub token_accuracy: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Gradient norm before clipping; absent when the update was refused as not finite.
    pub grad_norm: Option<f64>,
    /// Tokens of the step.
    pub tokens: u64,
    /// Tokens that carried loss.
    pub trained_tokens: u64,
    /// Duration in milliseconds.
    pub ms: f64,
    /// Examples trained by the job before this step and after it.
    pub rows: (u64, u64),
    /// When it ended, in milliseconds since the epoch. Absent in records of older versions.
    pub at_ms: u64,
}

impl Slice<'_> {
    /// Trains the examples `indices` and advances the position, whether or not the update was finite.
    ///
    /// # Errors
    /// A [`Refusal`] after [`MAX_NONFINITE`] refused updates in a row; the engine's own.
    pub(super) fn step(&mut self, indices: &[usize], report: &mut dyn FnMut(WorkerMessage)) -> Result<StepRecord> {
        let started = Instant::now();
        let settings = &self.request.settings;
        let tokens: u64 = indices.iter().map(|i| self.examples.list[*i].tokens.ids.len() as u64).sum();
        let (stats, grad_norm) = self.gradients(indices)?;
        let loss = stats.loss_sum / stats.trained_tokens as f64;
        let learning_rate =
            schedule::learning_rate(settings, self.state.position.job_step, self.state.position.total_steps);
        let is_finite = loss.is_finite() && grad_norm.is_finite();
        if is_finite {
            let clipped = settings.max_grad_norm > 0.0 && grad_norm > settings.max_grad_norm;
            self.state.optimizer_step += 1;
            self.trainer.adamw_step(&AdamW {
                lr: learning_rate,
                beta1: BETA1,
                beta2: BETA2,
                eps: EPS,
                weight_decay: settings.weight_decay,
                step: self.state.optimizer_step,
                grad_scale: if clipped { settings.max_grad_norm / grad_norm } else { 1.0 },
            })?;
            self.state.last_loss = loss;
            self.state.nonfinite_in_a_row = 0;
        } else {
            self.state.nonfinite_in_a_row += 1;
        }
        let rows_before = self.state.position.rows_trained;
        self.state.position.job_step += 1;
        self.state.position.rows_trained += indices.len() as u64;
        self.state.steps_from_base += 1;
        add_to_digest(&mut self.digest, &self.examples, indices);
        let seconds = started.elapsed().as_secs_f64();
        let per_s = |count: u64| count as f64 / seconds.max(1e-9);
        self.speed = (smoothed(self.speed.0, per_s(tokens)), smoothed(self.speed.1, per_s(stats.trained_tokens)));
        let record = StepRecord {
            step: self.global_step(),
            job_step: self.state.position.job_step,
            loss: is_finite.then_some(loss),
            token_accuracy: stats.correct as f64 / stats.trained_tokens as f64,
            learning_rate,
            grad_norm: is_finite.then_some(grad_norm),
            tokens,
            trained_tokens: stats.trained_tokens,
            ms: (seconds * 1e6).round() / 1e3,
            rows: (rows_before, self.state.position.rows_trained),
            at_ms: clock::now_ms(),
        };
        hone_disk::append_line(&self.request.run_dir.join("metrics.jsonl"), &serde_json::to_string(&record)?)?;
        self.records.push(record.clone());
        if !is_finite {
            self.refuse_update(indices, loss, grad_norm, report)?;
        }
        Ok(record)
    }

    /// Gradients of the mean loss over all trained tokens of the step; their norm.
    fn gradients(&mut self, indices: &[usize]) -> Result<(BatchStats, f64)> {
        let examples = &self.examples.list;
        let trained: usize = indices.iter().map(|i| examples[*i].tokens.num_trained()).sum();
        let loss_scale = 1.0 / trained as f32;
        let mut sum = BatchStats::default();
        self.trainer.zero_grad();
        for micro in indices.chunks(self.micro_rows) {
            let rows: Vec<&TokenRow> = micro.iter().map(|i| &examples[*i].tokens).collect();
            let packed = pack(&rows);
            let batch = Batch { ids: packed.ids, targets: packed.targets, segments: packed.segments };
            let stats = self.trainer.accumulate(&batch, loss_scale)?;
            sum.loss_sum += stats.loss_sum;
            sum.trained_tokens += stats.trained_tokens;
            sum.correct += stats.correct;
        }
        assert_eq!(sum.trained_tokens, trained as u64, "the mask survives packing");
        Ok((sum, self.trainer.grad_norm()?))
    }

    /// Names the rows of a refused update; fails after too many in a row.
    fn refuse_update(
        &self,
        indices: &[usize],
        loss: f64,
        grad_norm: f64,
        report: &mut dyn FnMut(WorkerMessage),
    ) -> Result<()> {
        let mut rows: Vec<String> = indices.iter().take(MAX_NAMED_ROWS).map(|i| self.examples.name(*i)).collect();
        if indices.len() > MAX_NAMED_ROWS {
            rows.push(format!("{} more", indices.len() - MAX_NAMED_ROWS));
        }
        let (step, in_a_row) = (self.global_step(), self.state.nonfinite_in_a_row);
        let message = format!(
            "step {step}: loss {loss} and gradient norm {grad_norm} are not both finite, the update is refused \
             ({in_a_row} in a row); rows: {}",
            rows.join(", ")
        );
        report(WorkerMessage::Warning { code: "nonfinite_update".to_string(), message: message.clone() });
        if in_a_row >= MAX_NONFINITE {
            return Err(Refusal(format!("{message} (hint: lower learning_rate, or look at these rows)")).into());
        }
        Ok(())
    }
}

/// The first value, or the average that leans on the newest.
fn smoothed(before: f64, newest: f64) -> f64 {
    if before == 0.0 { newest } else { before + SPEED_SMOOTHING * (newest - before) }
}
