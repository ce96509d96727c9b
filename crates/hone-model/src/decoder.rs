//! Generation with a cache: keys and values of several sequences stand in slots, and each call adds tokens to them.
//!
//! [`Decoder::prefill`] takes many tokens of one sequence, [`Decoder::decode`] one token of each of several. A decoded row's
//! numbers do not depend on which other sequences share the call; on the CPU they have the same bits. No sampling, no text.

mod model;

use crate::config::Config;
use crate::device::{CacheRow, Device};
use crate::weights::HostWeights;
use anyhow::{Result, ensure};
use model::{Model, Pass};

/// Sizes that are planned at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderOptions {
    /// Sequences that are held at once.
    pub slots: usize,
    /// Tokens that a slot holds.
    pub max_context: usize,
}

/// A model with a cache.
pub struct Decoder {
    device: Box<dyn Device>,
    model: Model,
    options: DecoderOptions,
    /// Tokens in each slot.
    lengths: Vec<usize>,
}

impl Decoder {
    /// Plans all buffers and loads the weights.
    ///
    /// # Errors
    /// Sizes that do not fit the model, weights of another model, not enough memory.
    pub fn new(
        mut device: Box<dyn Device>,
        config: &Config,
        weights: &HostWeights,
        options: &DecoderOptions,
    ) -> Result<Decoder> {
        let model = Model::plan(config, options)?;
        model.load(&mut *device, weights)?;
        Ok(Decoder { device, model, options: *options, lengths: vec![0; options.slots] })
    }

    /// Bytes that [`Decoder::new`] makes on the device. The cache's share is touched only as far as it is filled.
    ///
    /// # Errors
    /// Sizes that do not fit the model.
    pub fn planned_bytes(config: &Config, options: &DecoderOptions) -> Result<u64> {
        Ok(Model::plan(config, options)?.num_bytes())
    }

    /// Bytes of all buffers on the device.
    pub fn bytes(&self) -> u64 {
        self.model.num_bytes()
    }

    /// The model's configuration.
    pub fn config(&self) -> &Config {
        &self.model.config
    }

    /// The sizes that were planned.
    pub fn options(&self) -> DecoderOptions {
        self.options
    }

    /// Tokens in a slot.
    ///
    /// # Panics
    /// When there is no such slot.
    pub fn length(&self, slot: usize) -> usize {
        self.lengths[slot]
    }

    /// Empties a slot.
    ///
    /// # Panics
    /// When there is no such slot.
    pub fn reset(&mut self, slot: usize) {
        self.lengths[slot] = 0;
    }

    /// Adds tokens to a slot; returns the logits `[V]` after the last one.
    ///
    /// # Errors
    /// No token, no such slot, an id outside the vocabulary, no room: then the slot is unchanged. A fault of the device.
    pub fn prefill(&mut self, slot: usize, ids: &[u32]) -> Result<Vec<f32>> {
        ensure!(!ids.is_empty(), "no token to add to slot {slot}");
        self.check(slot, ids)?;
        let start = self.lengths[slot];
        let (mut position, mut last_row) = (start, 0);
        for ids in ids.chunks(self.model.max_rows()) {
            let rows: Vec<CacheRow> =
                (position..position + ids.len()).map(|position| CacheRow { slot, position }).collect();
            let pass = Pass::new(ids, &rows, false);
            self.device.run(&mut |device| self.model.forward(device, &pass));
            position += ids.len();
            last_row = ids.len() - 1;
        }
        self.device.run(&mut |device| self.model.logits(device, last_row, 1));
        let mut logits = vec![0.0; self.config().vocab_size];
        self.model.read_logits(&mut *self.device, 0, &mut logits)?;
        self.device.finish()?;
        self.lengths[slot] = position;
        Ok(logits)
    }

    /// Adds one token to each of several slots, each slot at most once; returns the logits `[V]` after each, in order.
    ///
    /// # Errors
    /// A slot that is absent or stands twice, an id outside the vocabulary, no room: then all slots are unchanged. A fault
    /// of the device.
    pub fn decode(&mut self, tokens: &[(usize, u32)]) -> Result<Vec<Vec<f32>>> {
        if tokens.is_empty() {
            return Ok(Vec::new());
        }
        for (i, &(slot, id)) in tokens.iter().enumerate() {
            self.check(slot, &[id])?;
            ensure!(tokens[..i].iter().all(|&(other, _)| other != slot), "slot {slot} stands twice in one call");
        }
        let ids: Vec<u32> = tokens.iter().map(|&(_, id)| id).collect();
        let rows: Vec<CacheRow> =
            tokens.iter().map(|&(slot, _)| CacheRow { slot, position: self.lengths[slot] }).collect();
        let pass = Pass::new(&ids, &rows, true);
        self.device.run(&mut |device| {
            self.model.forward(device, &pass);
            self.model.logits(device, 0, ids.len());
        });
        let mut all = Vec::with_capacity(tokens.len());
        for row in 0..tokens.len() {
            let mut logits = vec![0.0; self.config().vocab_size];
            self.model.read_logits(&mut *self.device, row, &mut logits)?;
            all.push(logits);
        }
        self.device.finish()?;
        for &(slot, _) in tokens {
            self.lengths[slot] += 1;
        }
        Ok(all)
    }

    fn check(&self, slot: usize, ids: &[u32]) -> Result<()> {
        let (vocab_size, limit) = (self.config().vocab_size, self.options.max_context);
        ensure!(slot < self.lengths.len(), "there is no slot {slot}: there are {}", self.lengths.len());
        let (held, need) = (self.lengths[slot], self.lengths[slot] + ids.len());
        ensure!(
            need <= limit,
            "slot {slot} holds {held} tokens, with {} more it needs {need}, its limit is {limit}",
            ids.len()
        );
        for &id in ids {
            ensure!((id as usize) < vocab_size, "token id {id} is outside the vocabulary of {vocab_size}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
