//! A full training step: forward, loss, backward, accumulated gradients, AdamW.

use crate::batch::{Batch, BatchStats};
use crate::config::{Config, ParameterSpec};
use crate::device::{AdamWUpdate, Device, Span};
use crate::lora::Adapter;
use crate::method::Method;
use crate::model::{Layout, Model, Pass, Purpose, Training, mix};
use crate::weights::{Dtype, HostWeights};
use anyhow::{Context, Result, ensure};

mod state;

pub use state::Stored;
pub(crate) use state::check_names;

/// What is planned before the first step.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainerOptions {
    /// Most tokens of a micro-batch.
    pub max_tokens: usize,
    /// Most tokens of one segment.
    pub max_segment_tokens: usize,
    /// What is trained, and what is kept for the backward pass. Scoring takes no notice of it.
    pub method: Method,
}

impl TrainerOptions {
    /// These sizes; every parameter is trained and all activations are kept.
    #[must_use]
    pub const fn full(max_tokens: usize, max_segment_tokens: usize) -> TrainerOptions {
        TrainerOptions { max_tokens, max_segment_tokens, method: Method::full() }
    }
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

/// What AdamW remembers of each trained tensor, in the order of [`Config::parameters`] or of
/// [`crate::LoraConfig::parameters`].
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
    /// Micro-batches since the last [`Trainer::zero_grad`]; names the masks of dropout.
    micro_batches: u64,
}

impl Trainer {
    /// Plans all buffers and loads the weights. With LoRA, the adapter is a new one ([`Adapter::new`] of the method's seed).
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
        let (config, options) = (config.clone(), options.clone());
        let mut trainer = Trainer { device, config, options, model, dtype: weights.dtype, step: 0, micro_batches: 0 };
        if let Some(lora) = &trainer.options.method.lora {
            let adapter = Adapter::new(&trainer.config, lora, trainer.options.method.seed);
            trainer.load_adapter(&adapter)?;
        }
        Ok(trainer)
    }

    /// Bytes of all buffers that [`Trainer::new`] makes on this device: peak use of memory beside the program itself
    /// and the weights that are loaded.
    ///
    /// # Errors
    /// Sizes that do not fit the model.
    pub fn planned_bytes(config: &Config, options: &TrainerOptions, device: &dyn Device) -> Result<u64> {
        Ok(device.bytes(&Layout::plan(config, options, Purpose::Train, device)?.room))
    }

    /// Gradients := 0.
    pub fn zero_grad(&mut self) {
        let gradients = self.training().gradients;
        self.device.fill(gradients, 0.0);
        self.micro_batches = 0;
    }

    /// Gradients += `loss_scale` times the gradient of the sum of the losses of this micro-batch's trained tokens;
    /// `loss_scale` is one over the trained tokens of the whole step. A batch without trained tokens changes nothing.
    ///
    /// # Errors
    /// A batch that does not fit the plan or the vocabulary; a fault of the device.
    pub fn accumulate(&mut self, batch: &Batch, loss_scale: f32) -> Result<BatchStats> {
        batch.check(self.config.vocab_size, self.options.max_tokens, self.options.max_segment_tokens)?;
        let pass = Pass::with_targets(batch).with_dropout(self.dropout_seed());
        self.micro_batches += 1;
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

    /// Euclidean norm of the gradients of all that is trained.
    ///
    /// # Errors
    /// A fault of the device.
    pub fn grad_norm(&mut self) -> Result<f64> {
        let gradients = self.training().gradients;
        let mut sum = 0.0;
        for Run { values, start, .. } in runs(self.training(), false) {
            sum += self.device.sum_of_squares(gradients.part(start, values.len))?;
        }
        Ok(sum.sqrt())
    }

    /// One update of all parameters.
    ///
    /// # Errors
    /// A fault of the device.
    pub fn adamw_step(&mut self, update: &AdamW) -> Result<()> {
        ensure!(update.step >= 1, "the number of an AdamW update starts at 1");
        let Training { gradients, first_moments, second_moments, .. } = *self.training();
        for Run { values, start, decay } in runs(self.training(), true) {
            let part = |span: Span| span.part(start, values.len);
            let numbers = update.numbers(decay);
            self.device.adamw(values, part(gradients), part(first_moments), part(second_moments), &numbers);
        }
        self.step = update.step;
        self.device.finish()
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

    fn dropout_seed(&self) -> u64 {
        mix(self.options.method.seed ^ mix(self.step ^ mix(self.micro_batches)))
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
    device.reserve(&layout.room)?;
    upload_tensors(device, &config.parameters(), &weights.tensors, layout.parameters).context("load weights")?;
    let table = config.rope.table(layout.rope_table.len / config.head_dim, config.head_dim);
    device.upload(layout.rope_table, &table)
}

pub(crate) fn upload_tensors(
    device: &mut dyn Device,
    specs: &[ParameterSpec],
    tensors: &[(String, Vec<f32>)],
    all: Span,
) -> Result<()> {
    check_names(specs.iter(), tensors)?;
    let mut start = 0;
    for (_, values) in tensors {
        device.upload(all.part(start, values.len()), values)?;
        start += values.len();
    }
    Ok(())
}

/// Trained numbers that stand one after the other, and so do their gradients.
struct Run {
    values: Span,
    /// Where the gradients begin, in those of all.
    start: usize,
    decay: bool,
}

/// The longest runs of trained tensors; inside one all share `decay` when `by_decay`.
fn runs(training: &Training, by_decay: bool) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for tensor in &training.tensors {
        let decay = tensor.spec.decay;
        match runs.last_mut() {
            Some(run)
                if run.values.offset + run.values.len == tensor.values.offset
                    && run.start + run.values.len == tensor.start
                    && (run.decay == decay || !by_decay) =>
            {
                run.values.len += tensor.values.len;
            }
            _ => runs.push(Run { values: tensor.values, start: tensor.start, decay }),
        }
    }
    runs
}
