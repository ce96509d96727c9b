//! What is trained, and what is kept for the backward pass.

use crate::config::ParameterSpec;
use crate::lora::LoraConfig;
use anyhow::{Result, ensure};

/// How a model is trained; the default trains every parameter and keeps all activations.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Method {
    /// Keep only each layer's input and compute the rest of the layer again in the backward pass: less memory, about a
    /// third more time, the same gradients bit for bit.
    pub recompute: bool,
    /// Parameters that stay as they are: names, or patterns in which `*` stands for any characters, such as
    /// `model.layers.0.*` or `*norm.weight`.
    pub frozen: Vec<String>,
    /// Train these adapters and no parameter of the model.
    pub lora: Option<LoraConfig>,
    /// Seed of a new adapter's numbers and of dropout.
    pub seed: u64,
}

impl Method {
    /// Every parameter, all activations kept.
    #[must_use]
    pub const fn full() -> Method {
        Method { recompute: false, frozen: Vec::new(), lora: None, seed: 0 }
    }

    /// Which of the model's parameters are trained.
    ///
    /// # Errors
    /// A pattern that fits no parameter; nothing left to train; patterns beside LoRA, which freezes everything.
    pub(crate) fn trained(&self, specs: &[ParameterSpec]) -> Result<Vec<bool>> {
        if self.lora.is_some() {
            ensure!(
                self.frozen.is_empty(),
                "LoRA freezes every parameter of the model: patterns of frozen ones have no use"
            );
            return Ok(vec![false; specs.len()]);
        }
        for pattern in &self.frozen {
            ensure!(
                specs.iter().any(|spec| fits(pattern, &spec.name)),
                "the pattern `{pattern}` of frozen parameters fits none; names look like `{}` and `{}`",
                specs[0].name,
                specs[specs.len() / 2].name
            );
        }
        let is_trained = |spec: &ParameterSpec| !self.frozen.iter().any(|pattern| fits(pattern, &spec.name));
        let trained: Vec<bool> = specs.iter().map(is_trained).collect();
        ensure!(trained.contains(&true), "every parameter is frozen, nothing is left to train");
        Ok(trained)
    }
}

/// Whether the whole `name` fits `pattern`.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == name };
    let Some(rest) = name.strip_prefix(before) else { return false };
    (0..=rest.len()).filter(|&i| rest.is_char_boundary(i)).any(|i| fits(after, &rest[i..]))
}

#[cfg(test)]
mod tests;
