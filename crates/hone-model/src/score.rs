//! Scoring without training: losses per segment, whole logits. Keeps no activations for a backward pass.

use crate::batch::{Batch, SegmentScore};
use crate::config::Config;
use crate::device::Device;
use crate::train::TrainerOptions;
use crate::weights::HostWeights;
use anyhow::{Result, anyhow};

/// A model that is only read.
pub struct Scorer {}

impl Scorer {
    /// Plans all buffers and loads the weights.
    ///
    /// # Errors
    /// Not enough memory, or sizes that do not fit the model.
    pub fn new(
        _device: Box<dyn Device>,
        _config: &Config,
        _weights: &HostWeights,
        _options: &TrainerOptions,
    ) -> Result<Scorer> {
        Err(anyhow!("not built yet"))
    }

    /// Bytes of all buffers that [`Scorer::new`] makes on this device.
    pub fn planned_bytes(_config: &Config, _options: &TrainerOptions, _device: &dyn Device) -> u64 {
        0
    }

    /// Losses of each segment, in order.
    ///
    /// # Errors
    /// A batch that does not fit the plan or the vocabulary.
    pub fn score(&mut self, _batch: &Batch) -> Result<Vec<SegmentScore>> {
        Err(anyhow!("not built yet"))
    }

    /// Loss of each token with a target, in order of tokens.
    ///
    /// # Errors
    /// A batch that does not fit the plan or the vocabulary.
    pub fn token_losses(&mut self, _batch: &Batch) -> Result<Vec<f32>> {
        Err(anyhow!("not built yet"))
    }

    /// Logits of every token, row-major `[N, V]`.
    ///
    /// # Errors
    /// A batch that does not fit the plan or the vocabulary.
    pub fn logits(&mut self, _batch: &Batch) -> Result<Vec<f32>> {
        Err(anyhow!("not built yet"))
    }
}
