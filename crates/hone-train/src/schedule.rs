//! The learning rate of each step of a job. The horizon is the job, never the whole lineage.

use hone_pipeline::config::{LrSchedule, TrainSettings};

#[cfg(test)]
mod tests;

/// Learning rate of the step with index `job_step` (from 0) of a job of `total_steps` steps.
///
/// Warm-up rises in a straight line: step `s` of `w` warm-up steps has the share `(s + 1) / (w + 1)`, so
/// that no step has rate zero and the first step after it has the peak. A falling schedule would reach
/// zero right *after* the last step.
#[must_use]
pub fn learning_rate(settings: &TrainSettings, job_step: u64, total_steps: u64) -> f64 {
    let peak = settings.learning_rate;
    let warmup = settings.warmup_steps;
    if job_step < warmup {
        return peak * (job_step + 1) as f64 / (warmup + 1) as f64;
    }
    let total = total_steps.max(job_step + 1);
    let share = match settings.lr_schedule {
        LrSchedule::Constant => 1.0,
        LrSchedule::Linear => 1.0 - progress(job_step, warmup, total),
        LrSchedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress(job_step, warmup, total)).cos()),
        LrSchedule::WarmupStableDecay => {
            let decay_start = (total - total.div_ceil(5)).max(warmup);
            if job_step < decay_start { 1.0 } else { 1.0 - progress(job_step, decay_start, total) }
        }
    };
    peak * share
}

/// How far `step` is from `start` (0) to `end` (1).
fn progress(step: u64, start: u64, end: u64) -> f64 {
    (step - start) as f64 / (end - start).max(1) as f64
}
