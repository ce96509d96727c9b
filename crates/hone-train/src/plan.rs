//! What a job will take, before it starts.

use crate::slice::{job_order, trainer_options};
use crate::{refuse, rows};
use anyhow::Result;
use hone_data::ChatContext;
use hone_model::{Config, Trainer, device};
use hone_pipeline::config::TrainSettings;
use hone_pipeline::ids::JobId;
use hone_pipeline::wire::TrainFile;
use serde::Serialize;
use std::path::Path;

/// The size of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
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
    /// Optimizer steps of the whole job.
    pub steps: u64,
    /// Tokens of the longest example.
    pub longest: u64,
    /// Tokens of the largest micro-batch, for the order of job 1.
    pub largest_micro_batch: u64,
    /// Memory that the engine plans for weights, gradients, optimizer and activations, in bytes.
    pub planned_bytes: u64,
}

/// Reads and tokenises the files and counts; trains nothing.
///
/// # Errors
/// As [`crate::train_slice`] would fail before its first step, but for the self-check of shares.
pub fn plan(model_dir: &Path, files: &[TrainFile], settings: &TrainSettings) -> Result<Plan> {
    let config = Config::from_dir(model_dir).map_err(|e| refuse(e.into()))?;
    let ctx = ChatContext::from_dir(model_dir, &settings.profile, &settings.chat_template_kwargs).map_err(refuse)?;
    let limits =
        rows::Limits { max_length: settings.max_length.min(config.max_positions), overlong: settings.overlong };
    let examples = rows::load(&ctx, files, limits, &mut |_| {})?;
    let order = job_order(&examples, settings, JobId(1));
    let options = trainer_options(&order, &examples, settings);
    let device = device::open(&settings.device, settings.threads).map_err(refuse)?;
    Ok(Plan {
        rows: examples.rows,
        rows_skipped: examples.rows_overlong + examples.rows_refused,
        examples: examples.list.len() as u64,
        tokens: examples.num_tokens(),
        trained_tokens: examples.num_trained_tokens(),
        steps: order.total_steps(),
        longest: examples.longest() as u64,
        largest_micro_batch: options.max_tokens as u64,
        planned_bytes: Trainer::planned_bytes(&config, &options, device.as_ref())?,
    })
}
