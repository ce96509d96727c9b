//! The engine: a bounded queue of requests in front of the cache slots of one model.

mod intake;
mod pool;
mod prefixes;
mod running;
mod whole;

use crate::memory;
use crate::request::{GenEvent, GenEventKind, GenRequest, Refusal, RequestId};
use anyhow::{Context, Result, ensure};
use hone_data::Tokenizer;
use hone_model::device::WeightFormat;
use hone_model::{CACHE_BLOCK, Config, Decoder, DecoderOptions, FormatLoss, HostWeights, Region, WeightSource};
use pool::Pool;
use prefixes::{Prefixes, num_common};
use running::Running;
use std::collections::VecDeque;
use std::path::Path;

pub use whole::AfterStep;

/// Context of a slot when none is asked for and the model's own limit is higher.
const DEFAULT_MAX_CONTEXT: usize = 2048;
/// Sizes and device of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// Device name: `cpu` or `reference`.
    pub device: String,
    /// Threads for arithmetic; 0 uses all processors.
    pub threads: usize,
    /// How weights are held; none: the smallest format that holds those of the model's files exactly.
    pub weights: Option<WeightFormat>,
    /// Requests that run together; at least 1.
    pub slots: usize,
    /// Tokens that prompt and answer may have together; 0 takes the model's own limit, or what `cache_bytes` holds when that
    /// is less (at most 2048 where that is 0 too). More than the model's own limit is cut to it.
    pub max_context: usize,
    /// Bytes of keys and values, for all requests together: each takes what its prompt and `max_tokens` need, and waits until
    /// there is room. 0: every slot can hold `max_context` tokens.
    pub cache_bytes: u64,
    /// Whether sequences stay in the cache after their end, so that a prompt that begins alike is not computed again.
    pub reuse_prefixes: bool,
    /// Requests that may wait for a slot; at least 1.
    pub max_waiting: usize,
    /// So many slots must be free before waiting requests start beside running ones: prompts that are taken in together
    /// cost less than one after the other, but they wait for it. 0 or 1: each starts as soon as it can.
    pub start_together: usize,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions {
            device: "cpu".into(),
            threads: 0,
            weights: None,
            slots: 8,
            max_context: 0,
            cache_bytes: 0,
            reuse_prefixes: false,
            max_waiting: 64,
            start_together: 1,
        }
    }
}

/// One model that generates for many requests at once.
pub struct Engine {
    decoder: Decoder,
    tokenizer: Tokenizer,
    max_waiting: usize,
    start_together: usize,
    waiting: VecDeque<(RequestId, GenRequest)>,
    /// By slot.
    running: Vec<Option<Running>>,
    /// By slot: where its sequence stands in the cache.
    regions: Vec<Option<Region>>,
    pool: Pool,
    num_blocks: usize,
    /// `None`: nothing is kept.
    prefixes: Option<Prefixes>,
    /// Prompt tokens that were looked for in the cache, and those that were there.
    prefix_counts: (u64, u64),
}

impl Engine {
    /// Loads a Hugging Face model directory: configuration, weights, tokenizer, end tokens.
    ///
    /// # Errors
    /// A missing or unreadable file, an unsupported architecture, an unknown device, sizes of 0.
    pub fn new(model_dir: &Path, options: &EngineOptions) -> Result<Engine> {
        let config = Config::from_dir(model_dir)?;
        let tokenizer = Tokenizer::from_dir(model_dir)?;
        // A tokenizer's file takes several times the memory while it is read; the weights come after that is given back.
        memory::give_back();
        let format = options.weights.map_or_else(|| WeightFormat::stored(model_dir), Ok)?;
        Engine::build(&config, WeightSource::Folder(model_dir), tokenizer, options, format)
    }

    /// Bytes that [`Engine::new`] will take on the device for weights, cache and buffers.
    ///
    /// # Errors
    /// As there, but for the weights and the device, which are not touched.
    pub fn planned_bytes(model_dir: &Path, options: &EngineOptions) -> Result<u64> {
        let config = Config::from_dir(model_dir)?;
        let format = options.weights.map_or_else(|| WeightFormat::stored(model_dir), Ok)?;
        let (max_context, num_blocks) = plan_cache(&config, options)?;
        let cache = hone_model::device::cache_format(&options.device);
        let decoder_options = DecoderOptions { slots: options.slots, max_context, format };
        let whole = Decoder::planned_bytes(&config, &decoder_options, cache)?;
        let blocks_less = options.slots.saturating_mul(max_context.div_ceil(CACHE_BLOCK)) - num_blocks;
        Ok(whole - (blocks_less * CACHE_BLOCK) as u64 * Decoder::bytes_per_token(&config, cache))
    }

    /// What holding the weights of a model directory in `format` costs on a passage; `None` where the files hold them in it
    /// already.
    ///
    /// # Errors
    /// As for [`Engine::new`]; a passage of less than two tokens.
    pub fn format_loss(
        model_dir: &Path,
        options: &EngineOptions,
        tokenizer: &Tokenizer,
        passage: &str,
    ) -> Result<Option<FormatLoss>> {
        let Some(format) = options.weights else { return Ok(None) };
        if format == WeightFormat::F32 || format == WeightFormat::stored(model_dir)? {
            return Ok(None);
        }
        let config = Config::from_dir(model_dir)?;
        let ids = tokenizer.encode(passage)?;
        let open = || hone_model::device::open(&options.device, options.threads);
        FormatLoss::measure(model_dir, &config, format, &ids, &open).map(Some)
    }

    /// An engine of parts that are in memory already. The weights are copied to the device, in f32 unless the options say
    /// otherwise.
    ///
    /// # Errors
    /// An unknown device, sizes of 0, weights of another model, a tokenizer with more tokens than the model.
    pub fn from_parts(
        config: &Config,
        weights: &HostWeights,
        tokenizer: Tokenizer,
        options: &EngineOptions,
    ) -> Result<Engine> {
        let format = options.weights.unwrap_or_default();
        Engine::build(config, WeightSource::Host(weights), tokenizer, options, format)
    }

    fn build(
        config: &Config,
        source: WeightSource<'_>,
        tokenizer: Tokenizer,
        options: &EngineOptions,
        format: WeightFormat,
    ) -> Result<Engine> {
        ensure!(options.slots > 0 && options.max_waiting > 0, "slots and max_waiting must be above 0");
        ensure!(
            tokenizer.vocab_size() <= config.vocab_size,
            "the tokenizer has {} tokens, the model only {}",
            tokenizer.vocab_size(),
            config.vocab_size
        );
        let (max_context, num_blocks) = plan_cache(config, options)?;
        let device = hone_model::device::open(&options.device, options.threads)?;
        let decoder_options = DecoderOptions { slots: options.slots, max_context, format };
        let decoder = Decoder::with_cache(device, config, source, &decoder_options, num_blocks)?;
        let pool = Pool::new(num_blocks, decoder.is_paged());
        Ok(Engine {
            decoder,
            tokenizer,
            max_waiting: options.max_waiting,
            start_together: options.start_together,
            waiting: VecDeque::new(),
            running: (0..options.slots).map(|_| None).collect(),
            regions: vec![None; options.slots],
            pool,
            num_blocks,
            prefixes: options.reuse_prefixes.then(Prefixes::default),
            prefix_counts: (0, 0),
        })
    }

    /// Puts a request into the waiting queue. It starts in the next [`Engine::step`] with a free slot, in order of arrival.
    ///
    /// # Errors
    /// A [`Refusal`], after which the engine is unchanged.
    pub fn submit(&mut self, id: RequestId, request: GenRequest) -> Result<(), Refusal> {
        request.check(self.decoder.config().vocab_size)?;
        let (limit, need) = (self.max_context(), request.prompt.len().saturating_add(request.max_tokens));
        if need > limit {
            return Err(Refusal::ContextOverflow { limit, need });
        }
        if self.waiting.iter().any(|(other, _)| *other == id) || self.running().any(|running| running.id == id) {
            return Err(Refusal::Duplicate { id: id.0 });
        }
        if self.waiting.len() >= self.max_waiting {
            return Err(Refusal::Full { limit: self.max_waiting });
        }
        self.waiting.push_back((id, request));
        Ok(())
    }

    /// Forgets a request, waiting or running, at once; its slot is free for the next step. False if it is not known.
    pub fn cancel(&mut self, id: RequestId) -> bool {
        let known = self.num_waiting() + self.num_running();
        self.waiting.retain(|(other, _)| *other != id);
        for slot in 0..self.running.len() {
            if let Some(running) = self.running[slot].take_if(|running| running.id == id) {
                self.release(slot, &running);
            }
        }
        self.num_waiting() + self.num_running() < known
    }

    /// Generates one token for every running request, then admits waiting requests into free slots, where each gets its
    /// first token with the end of its prompt. At most 512 prompt tokens are taken in: a longer prompt needs several steps.
    /// Events of one request are in order.
    ///
    /// # Errors
    /// Only for faults of the engine as a whole (the device); the engine should then be dropped.
    pub fn step(&mut self) -> Result<Vec<GenEvent>> {
        let mut events = Vec::new();
        self.advance(&mut events)?;
        self.admit(&mut events)?;
        Ok(events)
    }

    /// True if nothing waits and nothing runs.
    pub fn idle(&self) -> bool {
        self.waiting.is_empty() && self.num_running() == 0
    }

    /// Requests that hold a slot.
    pub fn num_running(&self) -> usize {
        self.running().count()
    }

    /// Requests that wait for a slot.
    pub fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Tokens that prompt and answer may have together.
    pub fn max_context(&self) -> usize {
        self.decoder.options().max_context
    }

    /// How the weights are held.
    pub fn weight_format(&self) -> WeightFormat {
        self.decoder.options().format
    }

    /// Share of the cache that running requests hold.
    pub fn cache_use(&self) -> f64 {
        self.held_blocks().iter().filter(|held| **held).count() as f64 / self.num_blocks as f64
    }

    /// Prompt tokens so far that were looked for in the cache, and those that were there.
    pub fn prefix_counts(&self) -> (u64, u64) {
        self.prefix_counts
    }

    /// Bytes that weights, cache and buffers take on the device.
    pub fn bytes(&self) -> u64 {
        self.decoder.bytes()
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Of each block of the cache: whether a running request holds it.
    fn held_blocks(&self) -> Vec<bool> {
        let mut held = vec![false; self.num_blocks];
        self.regions.iter().flatten().flat_map(|region| region.blocks()).for_each(|block| held[*block as usize] = true);
        held
    }

    fn running(&self) -> impl Iterator<Item = &Running> {
        self.running.iter().flatten()
    }

    fn advance(&mut self, events: &mut Vec<GenEvent>) -> Result<()> {
        let slots = self.running.iter().enumerate();
        let tokens: Vec<(usize, u32)> = slots
            .filter(|(slot, _)| !self.takes_in(*slot))
            .filter_map(|(slot, running)| Some((slot, running.as_ref()?.last_token)))
            .collect();
        let logits = self.decoder.decode(&tokens).context("decode")?;
        for ((slot, _), logits) in tokens.into_iter().zip(logits) {
            self.take_logits(slot, logits, events);
        }
        Ok(())
    }

    /// Room for a sequence, with the prompt's first tokens that stand in the cache already (`source`). `None`: no room before
    /// another request ends.
    fn place(
        &mut self,
        mut source: Option<(Region, usize)>,
        prompt_len: usize,
        need: usize,
    ) -> Option<(Region, usize)> {
        let mut shared = self.shareable(source.as_ref());
        let held = self.held_blocks();
        let is_held = |block: &&u32| held[**block as usize];
        let num_free = held.iter().filter(|held| !**held).count();
        if need.div_ceil(CACHE_BLOCK) > num_free + shared.iter().filter(is_held).count() {
            // It must wait for running requests: what is kept stays.
            return None;
        }
        let region = loop {
            if let Some(region) = self.pool.allocate(&shared, need) {
                break region;
            }
            let Some(prefixes) = &mut self.prefixes else { return None };
            let dropped = match prefixes.drop_oldest(source.as_ref().map(|(region, _)| region)) {
                Some(region) => region,
                // The last one that could go is the one to copy from.
                None => match prefixes.drop_oldest(None) {
                    Some(region) => {
                        (source, shared) = (None, Vec::new());
                        region
                    }
                    None => return None,
                },
            };
            self.pool.free(&dropped);
        };
        self.prefix_counts.0 += prompt_len as u64;
        let Some((from, num_tokens)) = source else { return Some((region, 0)) };
        self.decoder.copy(&from, &region, num_tokens);
        self.prefix_counts.1 += num_tokens as u64;
        Some((region, num_tokens))
    }

    /// Blocks of a source of a prompt's beginning that need not be copied.
    fn shareable(&self, source: Option<&(Region, usize)>) -> Vec<u32> {
        source.map_or(Vec::new(), |(from, num_tokens)| self.pool.shareable(from, *num_tokens).to_vec())
    }

    /// The prompt in the cache, of an ended or a running request, that shares most tokens with this one; never all of them,
    /// since the last one's logits are wanted. Answers are not taken over: decoding rounds differently.
    fn longest_prefix(&mut self, prompt: &[u32]) -> Option<(Region, usize)> {
        let kept = self.prefixes.as_mut()?.longest(prompt);
        let slots = self.running.iter().zip(&self.regions).enumerate();
        let running = slots.filter_map(|(slot, (running, region))| {
            let common = num_common(running.as_ref()?.prompt(), prompt).min(self.decoder.length(slot));
            Some((region.clone()?, common))
        });
        let (region, common) = running.chain(kept).max_by_key(|(_, common)| *common)?;
        let usable = reusable(common, prompt);
        (usable > 0).then_some((region, usable))
    }

    /// The slot is free; its prompt is kept, the rest of its room given back.
    fn release(&mut self, slot: usize, running: &Running) {
        let Some(region) = self.regions[slot].take() else { return };
        let length = self.decoder.length(slot).min(running.prompt().len()) / prefixes::STEP * prefixes::STEP;
        self.decoder.reset(slot);
        match &mut self.prefixes {
            Some(prefixes) if length >= prefixes::FEWEST_REUSED => {
                let region = self.pool.shrink(&region, length);
                for region in prefixes.keep(running.prompt()[..length].to_vec(), region) {
                    self.pool.free(&region);
                }
            }
            _ => self.pool.free(&region),
        }
    }

    /// Gives logits to the request in a slot; a request that ends leaves its slot.
    fn take_logits(&mut self, slot: usize, logits: Vec<f32>, events: &mut Vec<GenEvent>) {
        let running = self.running[slot].as_mut().expect("only slots with a request were decoded");
        let id = running.id;
        let kinds = running.advance(logits, &self.tokenizer);
        if !matches!(kinds.last(), Some(GenEventKind::Token { .. }))
            && let Some(running) = self.running[slot].take()
        {
            self.release(slot, &running);
        }
        events.extend(kinds.into_iter().map(|kind| GenEvent { id, kind }));
    }
}

/// How many of the `common` first tokens that a prompt shares with a sequence are taken over from it.
fn reusable(common: usize, prompt: &[u32]) -> usize {
    let usable = common.min(prompt.len().saturating_sub(prefixes::FEWEST_COMPUTED)) / prefixes::STEP * prefixes::STEP;
    if usable < prefixes::FEWEST_REUSED { 0 } else { usable }
}

/// Tokens of a request at most, and blocks of the cache.
fn plan_cache(config: &Config, options: &EngineOptions) -> Result<(usize, usize)> {
    let per_token = Decoder::bytes_per_token(config, hone_model::device::cache_format(&options.device));
    let budget = usize::try_from(options.cache_bytes / per_token).unwrap_or(usize::MAX) / CACHE_BLOCK * CACHE_BLOCK;
    let max_context = match (options.max_context, options.cache_bytes) {
        (0, 0) => config.max_positions.min(DEFAULT_MAX_CONTEXT),
        (0, _) => config.max_positions.min(budget),
        (asked, _) => config.max_positions.min(asked),
    };
    let whole = options.slots.saturating_mul(max_context.div_ceil(CACHE_BLOCK));
    if options.cache_bytes == 0 {
        return Ok((max_context, whole));
    }
    ensure!(
        budget >= max_context.max(CACHE_BLOCK),
        "a cache of {} bytes holds {budget} tokens of {per_token} bytes, and a context of {max_context} is asked for; give the \
         cache more memory or ask for a shorter context",
        options.cache_bytes
    );
    Ok((max_context, whole.min(budget / CACHE_BLOCK)))
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("options", &self.decoder.options())
            .field("num_running", &self.num_running())
            .field("num_waiting", &self.num_waiting())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
