//! What it costs to hold weights in a smaller format: the mean loss on a passage, with the weights as they are stored and as
//! they are held. Layers are loaded one after the other, so it takes the memory of an embedding and one layer, not of a model.

use super::model::{Model, Pass};
use super::{CACHE_BLOCK, DecoderOptions, Region};
use crate::config::{Config, ParameterSpec};
use crate::device::{CacheRow, CacheRows, Device, WeightFormat};
use crate::weights::read_tensors_of;
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// Most tokens of a passage.
const MOST_TOKENS: usize = 256;
/// Tokens whose logits are computed together.
const LOGITS_ROWS: usize = 16;
/// How the names of a layer's tensors begin, but for its number.
const LAYER: &str = "model.layers.";

/// Mean negative log-likelihoods of a passage, in nats per token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FormatLoss {
    /// Tokens that were predicted.
    pub tokens: usize,
    /// With the weights as they are stored.
    pub nll_stored: f64,
    /// With the weights as they are held.
    pub nll_held: f64,
}

impl FormatLoss {
    /// Measures what holding the weights of a model folder in `format` costs on the passage `ids` (of which at most 256 are
    /// used). `open` opens a device; one at a time is used.
    ///
    /// # Errors
    /// A passage of less than two tokens, files that cannot be read, a fault of the device.
    pub fn measure(
        dir: &Path,
        config: &Config,
        format: WeightFormat,
        ids: &[u32],
        open: &dyn Fn() -> Result<Box<dyn Device>>,
    ) -> Result<FormatLoss> {
        let ids = &ids[..ids.len().min(MOST_TOKENS).min(config.max_positions)];
        ensure!(ids.len() > 1, "a passage needs two tokens");
        let nll_stored = mean_nll(dir, config, WeightFormat::stored(dir)?, ids, &mut *open()?)?;
        let nll_held = mean_nll(dir, config, format, ids, &mut *open()?)?;
        Ok(FormatLoss { tokens: ids.len() - 1, nll_stored, nll_held })
    }

    /// Nats per token that the format costs; negative when the passage happens to be likelier.
    #[must_use]
    pub fn difference(&self) -> f64 {
        self.nll_held - self.nll_stored
    }
}

fn mean_nll(dir: &Path, config: &Config, format: WeightFormat, ids: &[u32], device: &mut dyn Device) -> Result<f64> {
    // Every layer takes the place of the only one.
    let one_layer = Config { num_layers: 1, ..config.clone() };
    let options = DecoderOptions { slots: LOGITS_ROWS, max_context: ids.len(), format };
    let region = Region::run(0, ids.len().div_ceil(CACHE_BLOCK));
    let model = Model::plan(&one_layer, &options, region.blocks().len(), device.cache_format())?;
    model.reserve(device)?;
    let load = |device: &mut dyn Device, layer: usize, wanted: &dyn Fn(&str) -> bool| {
        let specs = one_layer.parameters();
        let of_layer: Vec<(usize, ParameterSpec)> =
            specs.into_iter().enumerate().filter(|(_, spec)| wanted(&spec.name)).collect();
        let named: Vec<ParameterSpec> = of_layer.iter().map(|(_, spec)| of(layer, spec)).collect();
        let mut filling = model.weights().filling();
        let mut take = |index: usize, numbers: &[f32]| filling.take(device, of_layer[index].0, numbers);
        read_tensors_of(dir, &named, &mut take).with_context(|| format!("load layer {layer}"))
    };
    load(device, 0, &|name| !name.starts_with(LAYER))?;
    let rows: Vec<CacheRow> = (0..ids.len()).map(|position| CacheRow { sequence: 0, position }).collect();
    let tables = [region.blocks()];
    let pass = Pass::new(ids, CacheRows { rows: &rows, tables: &tables }, false);
    device.run(&mut |device| model.embed(device, &pass));
    for layer in 0..config.num_layers {
        load(device, layer, &|name| name.starts_with(LAYER))?;
        device.run(&mut |device| model.layers(device, &pass));
    }
    let mut sum = 0.0;
    let mut logits = vec![0.0; config.vocab_size];
    for first in (0..ids.len() - 1).step_by(LOGITS_ROWS) {
        let count = LOGITS_ROWS.min(ids.len() - 1 - first);
        let rows: Vec<usize> = (first..first + count).collect();
        device.run(&mut |device| model.logits(device, &rows));
        for row in 0..count {
            model.read_logits(device, row, &mut logits)?;
            sum += nll(&logits, ids[first + row + 1]);
        }
    }
    device.finish()?;
    Ok(sum / (ids.len() - 1) as f64)
}

/// The parameter of the only layer, as it is called in layer `layer`.
fn of(layer: usize, spec: &ParameterSpec) -> ParameterSpec {
    let rest = spec.name.strip_prefix(LAYER).and_then(|name| name.split_once('.'));
    let name = rest.map_or_else(|| spec.name.clone(), |(_, rest)| format!("{LAYER}{layer}.{rest}"));
    ParameterSpec { name, ..spec.clone() }
}

fn nll(logits: &[f32], target: u32) -> f64 {
    let most = logits.iter().fold(f32::NEG_INFINITY, |most, logit| most.max(*logit));
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - most).exp()).sum();
    sum.ln() - f64::from(logits[target as usize] - most)
}

#[cfg(test)]
mod tests;
