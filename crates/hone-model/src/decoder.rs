//! Generation with a cache: keys and values of several sequences stand in slots, and each call adds tokens to them.
//!
//! [`Decoder::prefill`] takes many tokens of one sequence, [`Decoder::decode`] one token of each of several. A decoded row's
//! numbers do not depend on which other sequences share the call; on the CPU they have the same bits. No sampling, no text.

mod format_loss;
mod model;
mod region;
mod weights;

use crate::config::Config;
use crate::device::{CacheFormat, CacheRow, CacheRows, Device, WeightFormat};
use crate::weights::HostWeights;
use anyhow::{Result, ensure};
pub use format_loss::FormatLoss;
use model::{Model, Pass};
pub use region::Region;
pub use weights::WeightSource;

/// Tokens of a block: the cache is given out in blocks.
pub const CACHE_BLOCK: usize = 16;

/// A sequence is cut between passes at multiples of this alone, which is what attention takes together at most: so the rows
/// beside a row, and with them its bits, are the same wherever a call begins and whatever shares a pass.
const PASS_PART: usize = 64;

/// Sizes that are planned at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderOptions {
    /// Sequences that are held at once.
    pub slots: usize,
    /// Tokens that a slot holds.
    pub max_context: usize,
    /// How matrices of weights are held.
    pub format: WeightFormat,
}

/// A model with a cache.
pub struct Decoder {
    device: Box<dyn Device>,
    model: Model,
    options: DecoderOptions,
    /// Where the sequence of each slot stands; `None` where it has no room yet.
    regions: Vec<Option<Region>>,
    /// Tokens in each slot.
    lengths: Vec<usize>,
}

impl Decoder {
    /// Plans all buffers and loads the weights. Every slot has room for `max_context` tokens.
    ///
    /// # Errors
    /// Sizes that do not fit the model, weights of another model, not enough memory.
    pub fn new(
        device: Box<dyn Device>,
        config: &Config,
        weights: &HostWeights,
        options: &DecoderOptions,
    ) -> Result<Decoder> {
        let each = options.max_context.div_ceil(CACHE_BLOCK);
        let source = WeightSource::Host(weights);
        let mut decoder = Decoder::with_cache(device, config, source, options, options.slots.saturating_mul(each))?;
        for (slot, region) in decoder.regions.iter_mut().enumerate() {
            *region = Some(Region::run(slot * each, each));
        }
        Ok(decoder)
    }

    /// As [`Decoder::new`], with a cache of so many blocks, which [`Decoder::attach`] gives to slots.
    ///
    /// # Errors
    /// As there.
    pub fn with_cache(
        mut device: Box<dyn Device>,
        config: &Config,
        source: WeightSource<'_>,
        options: &DecoderOptions,
        num_blocks: usize,
    ) -> Result<Decoder> {
        let model = Model::plan(config, options, num_blocks, device.cache_format())?;
        model.load(&mut *device, source)?;
        let (regions, lengths) = (vec![None; options.slots], vec![0; options.slots]);
        Ok(Decoder { device, model, options: *options, regions, lengths })
    }

    /// Bytes that [`Decoder::new`] makes on a device that holds its cache so. The cache's share is touched only as far as it
    /// is filled.
    ///
    /// # Errors
    /// Sizes that do not fit the model.
    pub fn planned_bytes(config: &Config, options: &DecoderOptions, cache: CacheFormat) -> Result<u64> {
        let num_blocks = options.slots.saturating_mul(options.max_context.div_ceil(CACHE_BLOCK));
        Ok(Model::plan(config, options, num_blocks, cache)?.num_bytes())
    }

    /// Bytes that one token takes in the cache.
    #[must_use]
    pub fn bytes_per_token(config: &Config, cache: CacheFormat) -> u64 {
        (config.num_layers * 2 * config.num_kv_heads * config.head_dim * cache.numbers.size()) as u64
    }

    /// Whether a region's blocks may stand anywhere in the cache.
    pub fn is_paged(&self) -> bool {
        self.device.cache_format().is_paged
    }

    /// Gives a region to a slot, whose sequence are the first `length` tokens there (of an earlier sequence or of
    /// [`Decoder::copy`]). Slots may share blocks that are full: nobody writes into them any more.
    ///
    /// # Panics
    /// When there is no such slot or block, the region is too short, or not a run although the device is not paged.
    pub fn attach(&mut self, slot: usize, region: Region, length: usize) {
        let num_blocks = self.model.num_blocks();
        assert!(region.blocks().iter().all(|block| (*block as usize) < num_blocks), "{region:?} is inside the cache");
        assert!(length <= region.capacity(), "{length} tokens fit {region:?}");
        assert!(self.is_paged() || region.is_run(), "{region:?} is a run: the device is not paged");
        self.regions[slot] = Some(region);
        self.lengths[slot] = length;
    }

    /// Copies the first tokens of a region to the beginning of another one; blocks that both have are left alone. A fault of
    /// the device shows at the next call.
    ///
    /// # Panics
    /// When one of them is too short.
    pub fn copy(&mut self, from: &Region, to: &Region, num_tokens: usize) {
        assert!(num_tokens <= from.capacity() && num_tokens <= to.capacity(), "{num_tokens} tokens fit both regions");
        let used = num_tokens.div_ceil(CACHE_BLOCK);
        let (from, to) = (&from.blocks()[..used], &to.blocks()[..used]);
        let shared = from.iter().zip(to).take_while(|(from, to)| from == to).count();
        let left = num_tokens.saturating_sub(shared * CACHE_BLOCK);
        self.model.copy_cache(&mut *self.device, &from[shared..], &to[shared..], left);
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
    /// As for [`Decoder::prefill_all`].
    pub fn prefill(&mut self, slot: usize, ids: &[u32]) -> Result<Vec<f32>> {
        Ok(self.prefill_all(&[(slot, ids)])?.remove(0))
    }

    /// Adds tokens to several slots, each slot at most once, in as few passes as hold them; returns the logits `[V]` after
    /// each one's last, in order. On the CPU they have the same bits as alone.
    ///
    /// # Errors
    /// No token for a slot, a slot that is absent or stands twice, an id outside the vocabulary, no room: then all slots are
    /// unchanged. A fault of the device.
    pub fn prefill_all(&mut self, parts: &[(usize, &[u32])]) -> Result<Vec<Vec<f32>>> {
        for (i, &(slot, ids)) in parts.iter().enumerate() {
            ensure!(!ids.is_empty(), "no token to add to slot {slot}");
            self.check(slot, ids)?;
            ensure!(parts[..i].iter().all(|&(other, _)| other != slot), "slot {slot} stands twice in one call");
        }
        let mut all = Vec::with_capacity(parts.len());
        let mut joint = JointRows::default();
        for &(slot, ids) in parts {
            let (mut position, mut rest) = (self.lengths[slot], ids);
            loop {
                let count = part_of_pass(position, rest.len(), self.model.max_rows() - joint.ids.len());
                joint.ids.extend_from_slice(&rest[..count]);
                joint.rows.extend((position..position + count).map(|position| CacheRow { sequence: slot, position }));
                (position, rest) = (position + count, &rest[count..]);
                if rest.is_empty() {
                    break;
                }
                self.run_joint(&mut joint, &mut all)?;
            }
            joint.last.push(joint.ids.len() - 1);
            if joint.last.len() == self.options.slots {
                self.run_joint(&mut joint, &mut all)?;
            }
        }
        self.run_joint(&mut joint, &mut all)?;
        self.device.finish()?;
        for &(slot, ids) in parts {
            self.lengths[slot] += ids.len();
        }
        Ok(all)
    }

    /// Runs the rows that were gathered, and forgets them.
    fn run_joint(&mut self, joint: &mut JointRows, all: &mut Vec<Vec<f32>>) -> Result<()> {
        let JointRows { ids, rows, last } = std::mem::take(joint);
        if ids.is_empty() {
            return Ok(());
        }
        let tables = tables(&self.regions);
        let pass = Pass::new(&ids, CacheRows { rows: &rows, tables: &tables }, false);
        self.device.run(&mut |device| {
            self.model.forward(device, &pass);
            if !last.is_empty() {
                self.model.logits(device, &last);
            }
        });
        self.read_logits(last.len(), all)
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
        let rows: Vec<CacheRow> = tokens.iter().map(|&(slot, _)| self.next_row(slot)).collect();
        let tables = tables(&self.regions);
        let pass = Pass::new(&ids, CacheRows { rows: &rows, tables: &tables }, true);
        let every: Vec<usize> = (0..ids.len()).collect();
        self.device.run(&mut |device| {
            self.model.forward(device, &pass);
            self.model.logits(device, &every);
        });
        let mut all = Vec::with_capacity(tokens.len());
        self.read_logits(tokens.len(), &mut all)?;
        self.device.finish()?;
        for &(slot, _) in tokens {
            self.lengths[slot] += 1;
        }
        Ok(all)
    }

    fn read_logits(&mut self, count: usize, all: &mut Vec<Vec<f32>>) -> Result<()> {
        for row in 0..count {
            let mut logits = vec![0.0; self.config().vocab_size];
            self.model.read_logits(&mut *self.device, row, &mut logits)?;
            all.push(logits);
        }
        Ok(())
    }

    /// Where a slot's next token goes.
    fn next_row(&self, slot: usize) -> CacheRow {
        CacheRow { sequence: slot, position: self.lengths[slot] }
    }

    fn check(&self, slot: usize, ids: &[u32]) -> Result<()> {
        ensure!(slot < self.lengths.len(), "there is no slot {slot}: there are {}", self.lengths.len());
        let vocab_size = self.config().vocab_size;
        let limit = self.regions[slot].as_ref().map_or(0, Region::capacity).min(self.options.max_context);
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

/// Rows of several sequences that go through the model in one pass.
#[derive(Default)]
struct JointRows {
    ids: Vec<u32>,
    rows: Vec<CacheRow>,
    /// Of the sequences that end in the pass: the rows of their last tokens.
    last: Vec<usize>,
}

/// Where the sequence of each slot stands.
fn tables(regions: &[Option<Region>]) -> Vec<&[u32]> {
    regions.iter().map(|region| region.as_ref().map_or(&[][..], Region::blocks)).collect()
}

/// How many of the next `rest` tokens of a sequence, which holds `position`, go into a pass with so much room.
fn part_of_pass(position: usize, rest: usize, room: usize) -> usize {
    if rest <= room { rest } else { ((position + room) / PASS_PART * PASS_PART).saturating_sub(position) }
}

#[cfg(test)]
mod tests;
