//! The decoder's arena and its pass: the layers of [`crate::model`], with attention over the cache.

use super::weights::{Layer, Weights};
use super::{CACHE_BLOCK, DecoderOptions, WeightSource};
use crate::config::Config;
use crate::device::{Cache, CacheFormat, CacheRows, Device, HeadNorms, Heads, Room, Rotation, Span, WeightMatrix};
use crate::model::{Cursor, product_room};
use anyhow::{Context, Result, ensure};

/// Most rows of prompts that go through the model together.
const PREFILL_ROWS: usize = 256;
/// Most numbers of an arena: 1 TiB.
const MOST_NUMBERS: u128 = 1 << 38;

/// A decoder laid out in a device's arena.
pub(super) struct Model {
    pub(super) config: Config,
    layout: Layout,
}

/// Rows that go through the model together.
pub(super) struct Pass<'a> {
    ids: &'a [u32],
    rows: CacheRows<'a>,
    positions: Vec<u32>,
    /// Whether the sums of one row must not depend on the number of rows.
    by_row: bool,
}

/// Where everything stands. `N` is `max_rows`.
struct Layout {
    /// Numbers in all.
    len: usize,
    max_rows: usize,
    /// Blocks of the cache.
    num_blocks: usize,
    weights: Weights,
    /// `[max_context, D]`; see [`crate::Rope::table`].
    rope_table: Span,
    /// One for each layer.
    caches: Vec<Cache>,
    /// The residual, `[N,H]`.
    hidden: Span,
    /// `[N,H]`.
    normed: Span,
    /// What is added to the residual when rows are computed by row, `[slots,H]`.
    added: Span,
    /// `[N]`.
    scale: Span,
    /// `[N,(A+2K)D]`.
    qkv: Span,
    /// `[N,(A+K)D]`.
    rotated: Span,
    /// `[N,A+K]`.
    head_scale: Span,
    /// `[N,AD]`.
    attended: Span,
    /// `[N,2I]`.
    gate_up: Span,
    /// `[N,I]`.
    active: Span,
    /// `[slots,V]`.
    logits: Span,
}

impl<'a> Pass<'a> {
    pub(super) fn new(ids: &'a [u32], rows: CacheRows<'a>, by_row: bool) -> Pass<'a> {
        // Positions are below the context length, which fits.
        let positions = rows.rows.iter().map(|row| row.position as u32).collect();
        Pass { ids, rows, positions, by_row }
    }
}

impl Model {
    pub(super) fn plan(
        config: &Config,
        options: &DecoderOptions,
        num_blocks: usize,
        cache: CacheFormat,
    ) -> Result<Model> {
        Ok(Model { config: config.clone(), layout: Layout::plan(config, options, num_blocks, cache)? })
    }

    pub(super) fn num_blocks(&self) -> usize {
        self.layout.num_blocks
    }

    /// The tokens of these blocks also stand in those of `to`, in every layer, up to `num_tokens` in all.
    pub(super) fn copy_cache(&self, device: &mut dyn Device, from: &[u32], to: &[u32], num_tokens: usize) {
        let width = heads(&self.config).kv_width();
        let place = |block: u32| block as usize * CACHE_BLOCK * width;
        let spans: Vec<Span> = self.layout.caches.iter().flat_map(|cache| [cache.keys, cache.values]).collect();
        let pairs: Vec<(u32, u32)> = from.iter().copied().zip(to.iter().copied()).collect();
        let mut left = num_tokens;
        // Blocks that follow each other go together.
        for stretch in pairs.chunk_by(|a, b| a.0 + 1 == b.0 && a.1 + 1 == b.1) {
            let count = left.min(stretch.len() * CACHE_BLOCK);
            let part = |span: &Span, block: u32| span.part(place(block), count * width);
            for span in &spans {
                device.copy(part(span, stretch[0].1), part(span, stretch[0].0));
            }
            left -= count;
        }
        assert_eq!(left, 0, "both have blocks for {num_tokens} tokens");
    }

    pub(super) fn num_bytes(&self) -> u64 {
        self.layout.len as u64 * 4
    }

    pub(super) fn weights(&self) -> &Weights {
        &self.layout.weights
    }

    pub(super) fn max_rows(&self) -> usize {
        self.layout.max_rows
    }

    /// Reserves the arena and fills in the weights and the table of positions.
    pub(super) fn load(&self, device: &mut dyn Device, source: WeightSource<'_>) -> Result<()> {
        self.reserve(device)?;
        self.weights().load(device, &self.config, source).context("load weights")
    }

    /// Reserves the arena and fills in the table of positions.
    pub(super) fn reserve(&self, device: &mut dyn Device) -> Result<()> {
        device.reserve(&Room { len: self.layout.len, ..product_room(&self.config, self.layout.max_rows) })?;
        let head_dim = self.config.head_dim;
        device.upload(self.layout.rope_table, &self.config.rope.table(self.layout.rope_table.len / head_dim, head_dim))
    }

    /// Embedding and all layers; keys and values of the rows are in the cache afterwards, the residual in `hidden`.
    pub(super) fn forward(&self, device: &mut dyn Device, pass: &Pass<'_>) {
        self.embed(device, pass);
        self.layers(device, pass);
    }

    /// The rows' embeddings become the residual.
    pub(super) fn embed(&self, device: &mut dyn Device, pass: &Pass<'_>) {
        let hidden = self.layout.hidden.first(pass.ids.len() * self.config.hidden_size);
        device.gather_weights(hidden, self.layout.weights.embedding, pass.ids);
    }

    /// All layers, over the residual.
    pub(super) fn layers(&self, device: &mut dyn Device, pass: &Pass<'_>) {
        for (w, cache) in self.layout.weights.layers.iter().zip(&self.layout.caches) {
            self.layer(device, pass, w, *cache);
        }
    }

    fn layer(&self, device: &mut dyn Device, pass: &Pass<'_>, w: &Layer, cache: Cache) {
        let (n, h, i) = (pass.ids.len(), self.config.hidden_size, self.config.intermediate_size);
        let (layout, eps) = (&self.layout, self.config.norm_eps);
        let heads = heads(&self.config);
        let [hidden, normed] = [layout.hidden, layout.normed].map(|span| span.first(n * h));
        let scale = layout.scale.first(n);
        device.rms_norm(normed, scale, hidden, w.input_norm, eps);
        let qkv = layout.qkv.first(n * heads.qkv_width());
        product(device, pass, qkv, normed, w.qkv);
        if let Some(bias) = w.qkv_bias {
            device.add_bias(qkv, bias);
        }
        let norms = w.head_norms.map(|(query, key)| HeadNorms { query, key, eps });
        let rotation = Rotation { table: layout.rope_table, positions: &pass.positions, norms };
        let rotated = layout.rotated.first(n * heads.rotated_width());
        let head_scale = layout.head_scale.first(n * (heads.num_heads + heads.num_kv_heads));
        device.rotate(rotated, head_scale, qkv, &rotation, heads);
        device.cache_store(cache, rotated, qkv, pass.rows, heads);
        let attended = layout.attended.first(n * heads.query_width());
        device.cache_attention(attended, rotated, cache, pass.rows, heads);
        self.add_product(device, pass, attended, w.out);
        device.rms_norm(normed, scale, hidden, w.middle_norm, eps);
        let (gate_up, active) = (layout.gate_up.first(n * 2 * i), layout.active.first(n * i));
        product(device, pass, gate_up, normed, w.gate_up);
        device.swiglu(active, gate_up, i);
        self.add_product(device, pass, active, w.down);
    }

    /// The residual += x · wᵀ.
    fn add_product(&self, device: &mut dyn Device, pass: &Pass<'_>, x: Span, w: WeightMatrix) {
        let hidden = self.layout.hidden.first(pass.ids.len() * w.rows);
        if pass.by_row {
            let added = self.layout.added.first(hidden.len);
            device.linear_by_row(added.matrix(w.rows), x.matrix(w.cols), w);
            // One row that is as wide as all: plain addition.
            device.add_bias(hidden, added);
        } else {
            device.linear(hidden.matrix(w.rows), x.matrix(w.cols), w, true);
        }
    }

    /// Final norm and head for these rows of the residual, at most `slots`.
    pub(super) fn logits(&self, device: &mut dyn Device, rows: &[usize]) {
        let (h, layout) = (self.config.hidden_size, &self.layout);
        let normed = layout.normed.first(rows.len() * h);
        let mut next = 0;
        // Rows that follow each other go together: all of them when decoding.
        for stretch in rows.chunk_by(|a, b| a + 1 == *b) {
            let (normed, hidden) =
                (normed.part(next * h, stretch.len() * h), layout.hidden.part(stretch[0] * h, stretch.len() * h));
            let scale = layout.scale.first(stretch.len());
            device.rms_norm(normed, scale, hidden, layout.weights.final_norm, self.config.norm_eps);
            next += stretch.len();
        }
        let logits = layout.logits.first(rows.len() * self.config.vocab_size);
        device.linear_by_row(logits.matrix(self.config.vocab_size), normed.matrix(h), layout.weights.head);
    }

    /// A row that [`Model::logits`] left, `[V]`.
    pub(super) fn read_logits(&self, device: &mut dyn Device, row: usize, values: &mut [f32]) -> Result<()> {
        device.download(self.layout.logits.part(row * values.len(), values.len()), values)
    }
}

impl Layout {
    fn plan(config: &Config, options: &DecoderOptions, num_blocks: usize, cache: CacheFormat) -> Result<Layout> {
        let DecoderOptions { slots, max_context, format } = *options;
        ensure!(slots > 0 && max_context > 0, "slots and max_context must be above 0");
        ensure!(
            max_context <= config.max_positions,
            "a context of {max_context} tokens is longer than the model's {} positions (max_position_embeddings)",
            config.max_positions
        );
        let heads = heads(config);
        let factors = [num_blocks, CACHE_BLOCK, heads.kv_width(), 2, config.num_layers];
        let numbers: u128 = factors.iter().map(|&factor| factor as u128).product();
        ensure!(
            numbers < MOST_NUMBERS,
            "the cache of {slots} slots of {max_context} tokens needs {} GiB; ask for fewer or shorter slots",
            (numbers * cache.numbers.size() as u128) >> 30
        );
        let mut cursor = Cursor::default();
        let weights = Weights::plan(&mut cursor, config, format);
        let rope_table = cursor.take(max_context * config.head_dim);
        // Prompts of several slots share a pass: short contexts are no reason for short passes, each of which packs all weights.
        let n = slots.max(PREFILL_ROWS.min(max_context.saturating_mul(slots)));
        let (h, i) = (config.hidden_size, config.intermediate_size);
        let (hidden, normed, added) = (cursor.take(n * h), cursor.take(n * h), cursor.take(slots * h));
        let scale = cursor.take(n);
        // What attention needs is of no use when the feed-forward part begins, which stands in the same place.
        let mut attention = cursor.clone();
        let mut layout = Layout {
            len: 0,
            max_rows: n,
            num_blocks,
            weights,
            rope_table,
            caches: Vec::new(),
            hidden,
            normed,
            added,
            scale,
            qkv: attention.take(n * heads.qkv_width()),
            rotated: attention.take(n * heads.rotated_width()),
            head_scale: attention.take(n * (heads.num_heads + heads.num_kv_heads)),
            attended: attention.take(n * heads.query_width()),
            gate_up: cursor.take(n * 2 * i),
            active: cursor.take(n * i),
            logits: Span::default(),
        };
        cursor.join(&attention);
        layout.logits = cursor.take(slots * config.vocab_size);
        // Last, because only this part grows with use: memory that was never written is not yet taken from the system.
        let size = num_blocks * CACHE_BLOCK * heads.kv_width();
        layout.caches = (0..config.num_layers)
            .map(|_| {
                let mut take = || cursor.take_as(size, cache.numbers);
                Cache { keys: take(), values: take(), block_len: CACHE_BLOCK }
            })
            .collect();
        layout.len = cursor.taken();
        Ok(layout)
    }
}

fn heads(config: &Config) -> Heads {
    Heads { num_heads: config.num_heads, num_kv_heads: config.num_kv_heads, head_dim: config.head_dim }
}

/// y := x · wᵀ, row by row.
fn product(device: &mut dyn Device, pass: &Pass<'_>, y: Span, x: Span, w: WeightMatrix) {
    let (y, x) = (y.matrix(w.rows), x.matrix(w.cols));
    if pass.by_row {
        device.linear_by_row(y, x, w);
    } else {
        device.linear(y, x, w, false);
    }
}
