//! Decoding: PyTorch's greedy answers, and for each format of the weights a whole pass over the same tokens.

use super::{Run, leniency};
use crate::batch::Batch;
use crate::config::Config;
use crate::decoder::{Decoder, DecoderOptions};
use crate::device::{self, WeightFormat};
use crate::score::Scorer;
use crate::train::TrainerOptions;
use crate::weights::HostWeights;
use anyhow::{Context, Result};

/// A greedy token counts where PyTorch's first and second logit differ by more than this, on a device that computes in f32.
const CLEAR_MARGIN: f64 = 1e-3;

impl Run<'_> {
    /// Of PyTorch's greedy tokens that have a clear margin, the share that decoding chooses, too. Each is gone on from
    /// PyTorch's own.
    pub(super) fn greedy(&self) -> Result<f64> {
        let mut decoder = self.decoder(WeightFormat::F32)?;
        let mut logits = decoder.prefill(0, &self.ids("greedy_prompt")?)?;
        let (mut compared, mut same) = (0, 0);
        for (step, id) in self.ids("greedy")?.into_iter().enumerate() {
            if self.number("greedy_margins", step)? > CLEAR_MARGIN * leniency(self.device) {
                compared += 1;
                same += usize::from(argmax(&logits) == Some(id));
            }
            logits = decoder.decode(&[(0, id)])?.remove(0);
        }
        Ok(f64::from(u32::try_from(same)?) / f64::from(compared))
    }

    /// The largest relative distance, over the tokens of the greedy answer, of decoded logits from those of a whole pass over the
    /// weights that the format stands for.
    pub(super) fn distance(&self, format: WeightFormat) -> Result<f64> {
        let prompt = self.ids("greedy_prompt")?;
        let ids: Vec<u32> = prompt.iter().copied().chain(self.ids("greedy")?).collect();
        let weights = rounded(&self.config, &self.weights, format);
        let (options, device) = (TrainerOptions::full(ids.len(), ids.len()), device::open(self.device, self.threads)?);
        let whole = Scorer::new(device, &self.config, &weights, &options)?.logits(&Batch::plain(&ids))?;
        let mut decoder = self.decoder(format)?;
        let mut logits = decoder.prefill(0, &prompt)?;
        let mut largest = 0.0;
        for (at, expected) in whole.chunks_exact(self.config.vocab_size).enumerate().skip(prompt.len() - 1) {
            let distance = relative_distance(&logits, expected);
            // No number is farther than any.
            largest = if distance.is_nan() || distance > largest { distance } else { largest };
            if let Some(&id) = ids.get(at + 1).filter(|_| !largest.is_nan()) {
                logits = decoder.decode(&[(0, id)])?.remove(0);
            } else {
                break;
            }
        }
        Ok(largest)
    }

    fn decoder(&self, format: WeightFormat) -> Result<Decoder> {
        let options = DecoderOptions { slots: 1, max_context: 64, format };
        Decoder::new(device::open(self.device, self.threads)?, &self.config, &self.weights, &options)
    }

    fn ids(&self, key: &str) -> Result<Vec<u32>> {
        serde_json::from_value(self.expect[key].clone()).with_context(|| format!("read `{key}`"))
    }
}

/// The weights that a format stands for.
pub(crate) fn rounded(config: &Config, weights: &HostWeights, format: WeightFormat) -> HostWeights {
    let mut weights = weights.clone();
    for (spec, (_, values)) in config.parameters().iter().zip(&mut weights.tensors) {
        if let Some(&columns) = spec.shape.get(1) {
            values.chunks_exact_mut(columns).for_each(|row| format.round(row));
        }
    }
    weights
}

fn argmax(logits: &[f32]) -> Option<u32> {
    let (index, _) = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1))?;
    u32::try_from(index).ok()
}

/// Norm of the difference over norm.
pub(crate) fn relative_distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len(), "both are the logits of one model");
    let difference: f64 = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    let norm: f64 = expected.iter().map(|b| f64::from(*b).powi(2)).sum();
    (difference / norm).sqrt()
}
