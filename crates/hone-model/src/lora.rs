//! Low-rank adapters (LoRA): small matrices beside the frozen weights of a layer's products. A product of input `x` gives
//! `W x + alpha / rank · B A dropout(x)`, with `A [rank, I]` and `B [O, rank]`.
//!
//! [`Adapter`] holds their numbers on the host under the names that `peft` uses, reads and writes `peft`'s two files
//! (`adapter_config.json`, `adapter_model.safetensors`), and merges itself into weights.

mod peft;

use crate::config::{Config, ParameterSpec};
use crate::weights::{HostWeights, Uniform};
use anyhow::{Result, bail, ensure};
use rayon::prelude::*;

/// Prefix of a parameter's name in `peft` files.
const PREFIX: &str = "base_model.model.";

/// A product that an adapter may stand beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// Queries.
    Query,
    /// Keys.
    Key,
    /// Values.
    Value,
    /// The output of attention.
    Output,
    /// The gate of the feed-forward part.
    Gate,
    /// What the gate multiplies.
    Up,
    /// The output of the feed-forward part.
    Down,
}

/// Targets that read the same input, in the order in which their outputs stand side by side.
pub(crate) const GROUPS: [&[Target]; 4] =
    [&[Target::Query, Target::Key, Target::Value], &[Target::Output], &[Target::Gate, Target::Up], &[Target::Down]];

/// What is adapted, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// Columns of `B`, rows of `A`.
    pub rank: usize,
    /// The adapter's output is multiplied by `alpha / rank`.
    pub alpha: f64,
    /// Share of the adapter's inputs that a training pass leaves out, in 0..1. Targets that read one input (query, key
    /// and value; gate and up) share its mask.
    pub dropout: f64,
    /// Which products of every layer; sorted, each once.
    pub targets: Vec<Target>,
}

/// The numbers of an adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// What it adapts.
    pub lora: LoraConfig,
    /// Name (as in `peft`) and numbers, in the order of [`LoraConfig::parameters`].
    pub tensors: Vec<(String, Vec<f32>)>,
}

impl Target {
    /// All targets.
    pub const ALL: [Target; 7] =
        [Target::Query, Target::Key, Target::Value, Target::Output, Target::Gate, Target::Up, Target::Down];

    /// The name in `target_modules` of `peft`, e.g. `q_proj`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Target::Query => "q_proj",
            Target::Key => "k_proj",
            Target::Value => "v_proj",
            Target::Output => "o_proj",
            Target::Gate => "gate_proj",
            Target::Up => "up_proj",
            Target::Down => "down_proj",
        }
    }

    /// The targets that `names` name; `all-linear` (alone) means all of them.
    ///
    /// # Errors
    /// No name, or an unknown one.
    pub fn parse_list(names: &[impl AsRef<str>]) -> Result<Vec<Target>> {
        if let [only] = names
            && only.as_ref() == "all-linear"
        {
            return Ok(Target::ALL.to_vec());
        }
        ensure!(!names.is_empty(), "LoRA needs at least one target (known: {})", known_targets());
        let mut targets = Vec::new();
        for name in names {
            let name = name.as_ref();
            let Some(target) = Target::ALL.into_iter().find(|target| target.name() == name) else {
                bail!("LoRA target `{name}` is unknown (known: {}, or all-linear alone)", known_targets());
            };
            targets.push(target);
        }
        targets.sort_unstable();
        targets.dedup();
        Ok(targets)
    }

    /// Input and output width.
    #[must_use]
    pub fn widths(self, config: &Config) -> (usize, usize) {
        let (h, i) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
        match self {
            Target::Query => (h, q),
            Target::Key | Target::Value => (h, kv),
            Target::Output => (q, h),
            Target::Gate | Target::Up => (h, i),
            Target::Down => (i, h),
        }
    }

    /// Name of the adapted weight.
    fn weight(self, layer: usize) -> String {
        let part = match self {
            Target::Gate | Target::Up | Target::Down => "mlp",
            _ => "self_attn",
        };
        format!("model.layers.{layer}.{part}.{}.weight", self.name())
    }

    /// Name of one of its matrices (`A` or `B`) in `peft` files.
    fn matrix(self, layer: usize, matrix: char) -> String {
        let weight = self.weight(layer);
        format!("{PREFIX}{}.lora_{matrix}.weight", weight.trim_end_matches(".weight"))
    }
}

fn known_targets() -> String {
    Target::ALL.map(Target::name).join(", ")
}

impl LoraConfig {
    /// Refuses numbers that make no adapter.
    ///
    /// # Errors
    /// Which number, and what is allowed.
    pub fn check(&self, config: &Config) -> Result<()> {
        let widest = config.hidden_size.max(config.intermediate_size);
        ensure!(self.rank >= 1 && self.rank <= widest, "LoRA rank {} is not in 1..={widest}", self.rank);
        ensure!(self.alpha.is_finite() && self.alpha > 0.0, "LoRA alpha {} is not above 0", self.alpha);
        ensure!((0.0..1.0).contains(&self.dropout), "LoRA dropout {} is not in 0..1", self.dropout);
        ensure!(!self.targets.is_empty(), "LoRA needs at least one target (known: {})", known_targets());
        ensure!(self.targets.is_sorted_by(|a, b| a < b), "LoRA targets are sorted, each once");
        Ok(())
    }

    /// What the product of `B` and `A` is multiplied by.
    #[must_use]
    pub fn scaling(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// Whether `target` is adapted.
    #[must_use]
    pub fn has(&self, target: Target) -> bool {
        self.targets.contains(&target)
    }

    /// Layer and target of an adapted weight, by its name.
    pub(crate) fn adapts(&self, config: &Config, name: &str) -> Option<(usize, Target)> {
        let layer = name.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()?;
        let target = self.targets.iter().copied().find(|target| target.weight(layer) == name)?;
        (layer < config.num_layers).then_some((layer, target))
    }

    /// All matrices. The order is fixed: layer by layer; inside a layer, for the targets that read one input, their `A`
    /// one after the other and then their `B`.
    #[must_use]
    pub fn parameters(&self, config: &Config) -> Vec<ParameterSpec> {
        let mut list = Vec::new();
        for layer in 0..config.num_layers {
            for group in GROUPS {
                let targets: Vec<Target> = group.iter().copied().filter(|target| self.has(*target)).collect();
                for target in &targets {
                    let (name, shape) = (target.matrix(layer, 'A'), vec![self.rank, target.widths(config).0]);
                    list.push(ParameterSpec { name, shape, decay: true });
                }
                for target in &targets {
                    let (name, shape) = (target.matrix(layer, 'B'), vec![target.widths(config).1, self.rank]);
                    list.push(ParameterSpec { name, shape, decay: true });
                }
            }
        }
        list
    }
}

impl Adapter {
    /// A new adapter, which changes nothing yet: `A` uniform within 1 / √I (what `peft` draws), `B` zero. Equal seeds give
    /// equal numbers on every machine.
    #[must_use]
    pub fn new(config: &Config, lora: &LoraConfig, seed: u64) -> Adapter {
        let mut uniform = Uniform::new(seed);
        let tensors = lora
            .parameters(config)
            .into_iter()
            .map(|spec| {
                let values = if spec.name.contains(".lora_A.") {
                    let bound = 1.0 / (spec.shape[1] as f64).sqrt();
                    (0..spec.len()).map(|_| ((2.0 * uniform.next() - 1.0) * bound) as f32).collect()
                } else {
                    vec![0.0; spec.len()]
                };
                (spec.name, values)
            })
            .collect();
        Adapter { lora: lora.clone(), tensors }
    }

    /// Adds `alpha / rank · B A` to the weights of every target.
    ///
    /// # Panics
    /// When the weights or the adapter are not those of `config`.
    pub fn merge_into(&self, config: &Config, weights: &mut HostWeights) {
        for (name, values) in &mut weights.tensors {
            self.merge_tensor(config, name, values);
        }
    }

    /// As [`Adapter::merge_into`], for the one weight `name`; one that is not adapted stays as it is.
    pub(crate) fn merge_tensor(&self, config: &Config, name: &str, values: &mut [f32]) {
        let Some((layer, target)) = self.lora.adapts(config, name) else { return };
        let rank = self.lora.rank;
        let (input, _) = target.widths(config);
        let (a, b) = (self.matrix(layer, target, 'A'), self.matrix(layer, target, 'B'));
        let scaling = self.lora.scaling() as f32;
        values.par_chunks_mut(input).zip(b.par_chunks(rank)).for_each(|(row, b)| {
            for (a, b) in a.chunks(input).zip(b) {
                let factor = scaling * b;
                row.iter_mut().zip(a).for_each(|(w, a)| *w += factor * a);
            }
        });
    }

    fn matrix(&self, layer: usize, target: Target, matrix: char) -> &[f32] {
        let name = target.matrix(layer, matrix);
        let found = self.tensors.iter().find(|(found, _)| *found == name);
        &found.expect("an adapter has both matrices of each target").1
    }
}

#[cfg(test)]
mod tests;
