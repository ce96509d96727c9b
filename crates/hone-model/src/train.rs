//! A full training step: forward, loss, backward, accumulated gradients, AdamW.

use crate::batch::{Batch, BatchStats};
use crate::config::Config;
use crate::device::{AdamWUpdate, Device, Span};
use crate::model::{Layout, Model, Pass, Purpose, Training};
use crate::weights::{Dtype, HostWeights};
use anyhow::{Context, Result, ensure};

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
pub struct Trainer {
    device: Box<dyn Device>,
    config: Config,
    options: TrainerOptions,
    model: Model,
    dtype: Dtype,
    /// Number of the last update.
    step: u64,
}

impl Trainer {
    /// Plans all buffers and loads the weights.
    ///
    /// # Errors
    /// Not enough memory, sizes that do not fit the model, or weights of another model.
    pub fn new(
        mut device: Box<dyn Device>,
        config: &Config,
        weights: &HostWeights,
        options: &TrainerOptions,
    ) -> Result<Trainer> {
        let layout = Layout::plan(config, options, Purpose::Train, &*device)?;
        load_model(&mut *device, config, weights, &layout)?;
        let model = Model::new(config, layout);
        Ok(Trainer { device, config: config.clone(), options: options.clone(), model, dtype: weights.dtype, step: 0 })
    }

    /// Bytes of all buffers that [`Trainer::new`] makes on this device: peak use of memory beside the program itself
    /// and the weights that are loaded.
    ///
    /// # Errors
    /// Sizes that do not fit the model.
    pub fn planned_bytes(config: &Config, options: &TrainerOptions, device: &dyn Device) -> Result<u64> {
        Ok(Layout::plan(config, options, Purpose::Train, device)?.len as u64 * 4)
    }

    /// Gradients := 0.
    pub fn zero_grad(&mut self) {
        let gradients = self.training().gradients;
        self.device.fill(gradients, 0.0);
    }

    /// Gradients += `loss_scale` times the gradient of the sum of the losses of this micro-batch's trained tokens;
    /// `loss_scale` is one over the trained tokens of the whole step. A batch without trained tokens changes nothing.
    ///
    /// # Errors
    /// A batch that does not fit the plan or the vocabulary; a fault of the device.
    pub fn accumulate(&mut self, batch: &Batch, loss_scale: f32) -> Result<BatchStats> {
        batch.check(self.config.vocab_size, self.options.max_tokens, self.options.max_segment_tokens)?;
        let pass = Pass::with_targets(batch);
        if pass.num_rows() == 0 {
            return Ok(BatchStats::default());
        }
        let model = &self.model;
        self.device.run(&mut |device| {
            model.forward(device, &pass);
            model.losses_and_gradients(device, &pass, loss_scale);
        });
        let rows = model.row_results(&mut *self.device, &pass)?;
        Ok(BatchStats {
            loss_sum: rows.losses.iter().map(|&loss| f64::from(loss)).sum(),
            trained_tokens: rows.losses.len() as u64,
            correct: rows.correct.iter().filter(|&&flag| flag > 0.0).count() as u64,
        })
    }

    /// Euclidean norm of all gradients.
    ///
    /// # Errors
    /// A fault of the device.
    pub fn grad_norm(&mut self) -> Result<f64> {
        let gradients = self.training().gradients;
        Ok(self.device.sum_of_squares(gradients)?.sqrt())
    }

    /// One update of all parameters.
    ///
    /// # Errors
    /// A fault of the device.
    pub fn adamw_step(&mut self, update: &AdamW) -> Result<()> {
        ensure!(update.step >= 1, "the number of an AdamW update starts at 1");
        let Training { gradients, first_moments, second_moments, .. } = *self.training();
        let parameters = self.model.layout.parameters;
        for (start, len, decay) in runs_of_equal_decay(&self.config) {
            let part = |span: Span| span.part(start, len);
            let numbers = update.numbers(decay);
            self.device.adamw(part(parameters), part(gradients), part(first_moments), part(second_moments), &numbers);
        }
        self.step = update.step;
        self.device.finish()
    }

    /// The weights as they are now (f32 masters); `dtype` is the one of the weights that were loaded.
    ///
    /// # Errors
    /// A fault of the device.
    pub fn weights(&mut self) -> Result<HostWeights> {
        let parameters = self.model.layout.parameters;
        Ok(HostWeights { tensors: self.read_tensors(parameters)?, dtype: self.dtype })
    }

    /// The gradients as they are now, in the order of [`Config::parameters`].
    ///
    /// # Errors
    /// A fault of the device.
    pub fn gradients(&mut self) -> Result<Vec<(String, Vec<f32>)>> {
        let gradients = self.training().gradients;
        self.read_tensors(gradients)
    }

    /// What AdamW remembers.
    ///
    /// # Errors
    /// A fault of the device.
    pub fn optimizer_state(&mut self) -> Result<OptimizerState> {
        let Training { first_moments, second_moments, .. } = *self.training();
        Ok(OptimizerState {
            step: self.step,
            m: self.read_tensors(first_moments)?,
            v: self.read_tensors(second_moments)?,
        })
    }

    /// Puts back what [`Trainer::optimizer_state`] gave.
    ///
    /// # Errors
    /// Tensors that are not those of this model, by name.
    pub fn load_optimizer_state(&mut self, state: &OptimizerState) -> Result<()> {
        let Training { first_moments, second_moments, .. } = *self.training();
        upload_tensors(&mut *self.device, &self.config, &state.m, first_moments).context("load first moments")?;
        upload_tensors(&mut *self.device, &self.config, &state.v, second_moments).context("load second moments")?;
        self.step = state.step;
        Ok(())
    }

    /// Logits of the token after `ids`, `V`: a plain forward pass over at most `max_segment_tokens` ids.
    ///
    /// # Errors
    /// Ids that do not fit the plan or the vocabulary; a fault of the device.
    pub fn next_logits(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        let batch = Batch::plain(ids);
        batch.check(self.config.vocab_size, self.options.max_tokens, self.options.max_segment_tokens)?;
        let pass = Pass::for_logits(&batch, vec![ids.len() as u32 - 1]);
        let model = &self.model;
        self.device.run(&mut |device| {
            model.forward(device, &pass);
            model.logits(device, &pass, &mut |_, _, _| {});
        });
        let mut logits = vec![0.0; self.config.vocab_size];
        self.device.download(model.layout.scratch.logits.first(logits.len()), &mut logits)?;
        Ok(logits)
    }

    fn training(&self) -> &Training {
        self.model.layout.training.as_ref().expect("the layout is one for training")
    }

    fn read_tensors(&mut self, all: Span) -> Result<Vec<(String, Vec<f32>)>> {
        let mut tensors = Vec::new();
        let mut start = 0;
        for spec in self.config.parameters() {
            let mut values = vec![0.0; spec.len()];
            self.device.download(all.part(start, spec.len()), &mut values)?;
            start += spec.len();
            tensors.push((spec.name, values));
        }
        Ok(tensors)
    }
}

impl AdamW {
    fn numbers(&self, decay: bool) -> AdamWUpdate {
        let correction = |beta: f64| 1.0 - beta.powf(self.step as f64);
        let weight_decay = if decay { self.weight_decay } else { 0.0 };
        AdamWUpdate {
            grad_scale: self.grad_scale as f32,
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            step_size: (self.lr / correction(self.beta1)) as f32,
            second_correction: (1.0 / correction(self.beta2).sqrt()) as f32,
            eps: self.eps as f32,
            keep: (1.0 - self.lr * weight_decay) as f32,
        }
    }
}

/// Makes the arena and fills in weights and the table of positions.
pub(crate) fn load_model(
    device: &mut dyn Device,
    config: &Config,
    weights: &HostWeights,
    layout: &Layout,
) -> Result<()> {
    device.reserve(layout.len)?;
    upload_tensors(device, config, &weights.tensors, layout.parameters).context("load weights")?;
    let table = config.rope.table(layout.rope_table.len / config.head_dim, config.head_dim);
    device.upload(layout.rope_table, &table)
}

pub(crate) fn upload_tensors(
    device: &mut dyn Device,
    config: &Config,
    tensors: &[(String, Vec<f32>)],
    all: Span,
) -> Result<()> {
    let specs = config.parameters();
    ensure!(tensors.len() == specs.len(), "{} tensors given, the model has {}", tensors.len(), specs.len());
    let mut start = 0;
    for (spec, (name, values)) in specs.iter().zip(tensors) {
        ensure!(spec.name == *name, "tensor `{name}` stands where `{}` is expected", spec.name);
        ensure!(values.len() == spec.len(), "tensor `{name}` has {} numbers, expected {}", values.len(), spec.len());
        device.upload(all.part(start, spec.len()), values)?;
        start += spec.len();
    }
    Ok(())
}

/// (start, length, decay) of the longest runs of parameters that share `decay`.
fn runs_of_equal_decay(config: &Config) -> Vec<(usize, usize, bool)> {
    let mut runs: Vec<(usize, usize, bool)> = Vec::new();
    let mut start = 0;
    for spec in config.parameters() {
        match runs.last_mut() {
            Some((_, len, decay)) if *decay == spec.decay => *len += spec.len(),
            _ => runs.push((start, spec.len(), spec.decay)),
        }
        start += spec.len();
    }
    runs
}
