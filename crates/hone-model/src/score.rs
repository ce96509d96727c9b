//! Scoring without training: losses per segment, whole logits. Keeps no activations for a backward pass.

use crate::batch::{Batch, SegmentScore};
use crate::config::Config;
use crate::device::Device;
use crate::model::{Layout, Model, Pass, Purpose, RowResults};
use crate::train::{TrainerOptions, load_model};
use crate::weights::HostWeights;
use anyhow::Result;

/// A model that is only read.
pub struct Scorer {
    device: Box<dyn Device>,
    config: Config,
    options: TrainerOptions,
    model: Model,
}

impl Scorer {
    /// Plans all buffers and loads the weights.
    ///
    /// # Errors
    /// Not enough memory, sizes that do not fit the model, or weights of another model.
    pub fn new(
        mut device: Box<dyn Device>,
        config: &Config,
        weights: &HostWeights,
        options: &TrainerOptions,
    ) -> Result<Scorer> {
        let layout = Layout::plan(config, options, Purpose::Score, &*device)?;
        load_model(&mut *device, config, weights, &layout)?;
        let model = Model::new(config, layout);
        Ok(Scorer { device, config: config.clone(), options: options.clone(), model })
    }

    /// Bytes of all buffers that [`Scorer::new`] makes on this device.
    ///
    /// # Errors
    /// Sizes that do not fit the model.
    pub fn planned_bytes(config: &Config, options: &TrainerOptions, device: &dyn Device) -> Result<u64> {
        Ok(device.bytes(&Layout::plan(config, options, Purpose::Score, device)?.room))
    }

    /// Losses of each segment, in order.
    ///
    /// # Errors
    /// A batch that does not fit the plan or the vocabulary; a fault of the device.
    pub fn score(&mut self, batch: &Batch) -> Result<Vec<SegmentScore>> {
        let rows = self.rows(batch)?;
        let mut results = rows.losses.iter().zip(&rows.correct);
        let mut scores = Vec::with_capacity(batch.segments.len());
        let mut targets = batch.targets.as_slice();
        for &length in &batch.segments {
            let (segment, rest) = targets.split_at(length);
            targets = rest;
            let mut score = SegmentScore::default();
            for _ in segment.iter().filter(|&&target| target >= 0) {
                let (&loss, &correct) = results.next().expect("every target has a result");
                score.nll_sum += f64::from(loss);
                score.tokens += 1;
                score.correct += u64::from(correct > 0.0);
            }
            scores.push(score);
        }
        Ok(scores)
    }

    /// Loss of each token with a target, in order of tokens.
    ///
    /// # Errors
    /// A batch that does not fit the plan or the vocabulary; a fault of the device.
    pub fn token_losses(&mut self, batch: &Batch) -> Result<Vec<f32>> {
        Ok(self.rows(batch)?.losses)
    }

    /// Logits of every token, row-major `[N, V]`.
    ///
    /// # Errors
    /// A batch that does not fit the plan or the vocabulary; a fault of the device.
    pub fn logits(&mut self, batch: &Batch) -> Result<Vec<f32>> {
        batch.check(self.config.vocab_size, self.options.max_tokens, self.options.max_segment_tokens)?;
        let pass = Pass::for_logits(batch, (0..batch.ids.len() as u32).collect());
        let (model, vocab_size) = (&self.model, self.config.vocab_size);
        let mut logits = vec![0.0; batch.ids.len() * vocab_size];
        let mut result = Ok(());
        self.device.run(&mut |device| {
            model.forward(device, &pass);
            model.logits(device, &pass, &mut |device, start, block| {
                let values = &mut logits[start * vocab_size..start * vocab_size + block.len];
                if let Err(e) = device.download(block, values) {
                    result = Err(e);
                }
            });
        });
        result.map(|()| logits)
    }

    fn rows(&mut self, batch: &Batch) -> Result<RowResults> {
        batch.check(self.config.vocab_size, self.options.max_tokens, self.options.max_segment_tokens)?;
        let pass = Pass::with_targets(batch);
        let model = &self.model;
        self.device.run(&mut |device| {
            model.forward(device, &pass);
            model.losses(device, &pass);
        });
        model.row_results(&mut *self.device, &pass)
    }
}
