//! A full training step: forward, loss, backward, accumulated gradients, AdamW.

use crate::batch::{Batch, BatchStats};
use crate::config::Config;
use crate::device::Device;
use crate::weights::HostWeights;
use anyhow::{Result, anyhow};

/// Sizes that are planned before the first step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainerOptions {
    /// Most tokens of a micro-batch.
    pub max_tokens: usize,
    /// Most tokens of one segment.
    pub max_segment_tokens: usize,
}

/// Numbers of one AdamW step (decoupled weight decay, bias correction).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Weight decay, for parameters with [`crate::ParameterSpec::decay`].
    pub weight_decay: f64,
    /// Number of this update, from 1; for the bias correction.
    pub step: u64,
    /// Gradients are multiplied by this first (clipping).
    pub grad_scale: f64,
}

/// What AdamW remembers, in the order of [`Config::parameters`].
#[derive(Clone, Debug, PartialEq)]
pub struct OptimizerState {
    /// Number of the last update.
    pub step: u64,
    /// First moments.
    pub m: Vec<(String, Vec<f32>)>,
    /// Second moments.
    pub v: Vec<(String, Vec<f32>)>,
}

/// A model that is trained.
pub struct Trainer {}

impl Trainer {
    /// Plans all buffers and loads the weights.
    ///
    /// # Errors
    /// Not enough memory, or sizes that do not fit the model.
    pub fn new(
        _device: Box<dyn Device>,
        _config: &Config,
        _weights: &HostWeights,
        _options: &TrainerOptions,
    ) -> Result<Trainer> {
        Err(anyhow!("not built yet"))
    }

    /// Bytes of all buffers that [`Trainer::new`] makes on this device.
    pub fn planned_bytes(_config: &Config, _options: &TrainerOptions, _device: &dyn Device) -> u64 {
        0
    }

    /// Gradients := 0.
    pub fn zero_grad(&mut self) {}

    /// Gradients += `loss_scale` times the gradient of the sum of the losses of this micro-batch's trained tokens;
    /// `loss_scale` is one over the trained tokens of the whole step.
    ///
    /// # Errors
    /// A batch that does not fit the plan or the vocabulary.
    pub fn accumulate(&mut self, _batch: &Batch, _loss_scale: f32) -> Result<BatchStats> {
        Err(anyhow!("not built yet"))
    }

    /// Euclidean norm of all gradients.
    ///
    /// # Errors
    /// A fault of the device.
    pub fn grad_norm(&mut self) -> Result<f64> {
        Err(anyhow!("not built yet"))
    }

    /// One update of all parameters.
    ///
    /// # Errors
    /// A fault of the device.
    pub fn adamw_step(&mut self, _update: &AdamW) -> Result<()> {
        Err(anyhow!("not built yet"))
    }

    /// The weights as they are now (f32 masters).
    ///
    /// # Errors
    /// A fault of the device.
    pub fn weights(&mut self) -> Result<HostWeights> {
        Err(anyhow!("not built yet"))
    }

    /// The gradients as they are now, in the order of [`Config::parameters`].
    ///
    /// # Errors
    /// A fault of the device.
    pub fn gradients(&mut self) -> Result<Vec<(String, Vec<f32>)>> {
        Err(anyhow!("not built yet"))
    }

    /// What AdamW remembers.
    ///
    /// # Errors
    /// A fault of the device.
    pub fn optimizer_state(&mut self) -> Result<OptimizerState> {
        Err(anyhow!("not built yet"))
    }

    /// Puts back what [`Trainer::optimizer_state`] gave.
    ///
    /// # Errors
    /// Tensors that are not those of this model, by name.
    pub fn load_optimizer_state(&mut self, _state: &OptimizerState) -> Result<()> {
        Err(anyhow!("not built yet"))
    }

    /// Logits of the token after `ids`, `V`: a plain forward pass over at most `max_segment_tokens` ids.
    ///
    /// # Errors
    /// Ids that do not fit the plan or the vocabulary.
    pub fn next_logits(&mut self, _ids: &[u32]) -> Result<Vec<f32>> {
        Err(anyhow!("not built yet"))
    }
}
