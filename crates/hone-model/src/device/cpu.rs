//! The fast device: products by packed tiles, vectorised loops for the rest, a pool of threads of its own.
//!
//! Results depend on the number of threads in a few sums (weights of norms), on nothing else.

mod arena;
mod attention;
mod cached;
mod dropout;
mod matmul;
mod norms;
mod pointwise;
mod simd;
mod team;

use super::{
    AdamWUpdate, Attention, Cache, CacheRows, Device, Dropout, HeadNorms, Heads, Matrix, Room, Rotation, Span,
    WeightMatrix,
};
use anyhow::{Context, Result};
use arena::Arena;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::Arc;
use team::Team;

/// What of the kernels for this processor was tested without such hardware, in a sentence; `None` where all of them were run on it.
#[must_use]
pub fn not_run_on_hardware() -> Option<&'static str> {
    #[cfg(target_arch = "x86_64")]
    return matmul::pairs_agree().map(|agree| {
        if agree {
            "the AVX-512 kernel of products was compiled, not yet run on hardware; it has the bits of the AVX2 kernel here and is used"
        } else {
            "the AVX-512 kernel of products was compiled, not yet run on hardware; it has OTHER bits than the AVX2 kernel here, which is used"
        }
    });
    #[cfg(not(target_arch = "x86_64"))]
    cfg!(target_arch = "aarch64")
        .then_some("hone for aarch64 was compiled and tested in an emulator, not yet run on hardware")
}

/// The device `cpu`.
pub(super) struct Cpu {
    pool: Arc<ThreadPool>,
    /// For decoding, as many threads as the pool has.
    team: Team,
    arena: Arena,
    /// Room for packed operands of products, an equal part for each thread.
    packing: Vec<f32>,
}

impl Cpu {
    pub(super) fn new(threads: usize) -> Result<Cpu> {
        let builder = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("cpu-{i}"));
        let pool = builder.build().context("start threads")?;
        let packing = vec![0.0; pool.current_num_threads() * matmul::PACKING];
        let team = Team::new(pool.current_num_threads())?;
        Ok(Cpu { pool: Arc::new(pool), team, arena: Arena::empty(), packing })
    }

    /// The pool, and disjoint parts of the arena.
    fn parts<const N: usize>(&mut self, spans: [Span; N]) -> (&ThreadPool, [&mut [f32]; N]) {
        let parts = self.arena.numbers().get_disjoint_mut(spans.map(Span::range));
        (&self.pool, parts.expect("operands are inside the arena and do not overlap"))
    }
}

impl Device for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    fn reserve(&mut self, room: &Room) -> Result<()> {
        self.arena = Arena::new(room.len)?;
        Ok(())
    }

    fn run(&mut self, work: &mut (dyn FnMut(&mut dyn Device) + Send)) {
        Arc::clone(&self.pool).install(|| work(self));
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }

    fn upload(&mut self, dst: Span, values: &[f32]) -> Result<()> {
        self.arena.numbers()[dst.range()].copy_from_slice(values);
        Ok(())
    }

    fn download(&mut self, src: Span, values: &mut [f32]) -> Result<()> {
        values.copy_from_slice(&self.arena.numbers()[src.range()]);
        Ok(())
    }

    fn fill(&mut self, dst: Span, value: f32) {
        let (pool, [dst]) = self.parts([dst]);
        pool.install(|| pointwise::fill(dst, value));
    }

    fn copy(&mut self, dst: Span, src: Span) {
        let (pool, [dst, src]) = self.parts([dst, src]);
        pool.install(|| pointwise::copy(dst, src));
    }

    fn scale(&mut self, x: Span, factor: f32) {
        let (pool, [x]) = self.parts([x]);
        pool.install(|| dropout::scale(x, factor));
    }

    fn dropout(&mut self, y: Span, x: Span, dropout: Dropout, accumulate: bool) {
        let (pool, [y, x]) = self.parts([y, x]);
        pool.install(|| dropout::dropout(y, x, dropout, accumulate));
    }

    fn matmul(&mut self, c: Matrix, a: Matrix, b: Matrix, accumulate: bool) {
        let parts = self.arena.numbers().get_disjoint_mut([c.span(), a.span(), b.span()].map(Span::range));
        let [c_part, a_part, b_part] = parts.expect("operands are inside the arena and do not overlap");
        let packing = &mut self.packing;
        self.pool.install(|| matmul::matmul((c_part, c), (a_part, a), (b_part, b), accumulate, packing));
    }

    fn store_weights(&mut self, w: WeightMatrix, first_row: usize, values: &[f32]) -> Result<()> {
        w.store(&mut self.arena.numbers()[w.span.range()], first_row, values);
        Ok(())
    }

    fn gather_weights(&mut self, y: Span, w: WeightMatrix, rows: &[u32]) {
        let (_, [y, weights]) = self.parts([y, w.span]);
        let held = w.held(weights);
        for (y, &row) in y.chunks_exact_mut(w.cols).zip(rows) {
            held.read(w.cols, row as usize, 0, y);
        }
    }

    fn linear(&mut self, y: Matrix, x: Matrix, w: WeightMatrix, accumulate: bool) {
        let parts = self.arena.numbers().get_disjoint_mut([y.span(), x.span(), w.span].map(Span::range));
        let [y_part, x_part, w_part] = parts.expect("operands are inside the arena and do not overlap");
        let packing = &mut self.packing;
        self.pool.install(|| matmul::linear((y_part, y), (x_part, x), (w, w.held(w_part)), accumulate, packing));
    }

    fn linear_by_row(&mut self, y: Matrix, x: Matrix, w: WeightMatrix) {
        let parts = self.arena.numbers().get_disjoint_mut([y.span(), x.span(), w.span].map(Span::range));
        let [y_part, x_part, w_part] = parts.expect("operands are inside the arena and do not overlap");
        cached::linear_by_row(&mut self.team, (y_part, y), (x_part, x), (w, w.held(w_part)));
    }

    fn gather_rows(&mut self, y: Span, x: Span, rows: &[u32]) {
        let (pool, [y, x]) = self.parts([y, x]);
        pool.install(|| pointwise::gather_rows(y, x, rows));
    }

    fn scatter_add_rows(&mut self, x: Span, y: Span, rows: &[u32]) {
        let (_, [x, y]) = self.parts([x, y]);
        pointwise::scatter_add_rows(x, y, rows);
    }

    fn add_bias(&mut self, y: Span, bias: Span) {
        let (pool, [y, bias]) = self.parts([y, bias]);
        pool.install(|| pointwise::add_bias(y, bias));
    }

    fn add_bias_backward(&mut self, dbias: Span, dy: Span) {
        let (pool, [dbias, dy]) = self.parts([dbias, dy]);
        pool.install(|| pointwise::add_bias_backward(dbias, dy));
    }

    fn rms_norm(&mut self, y: Span, scale: Span, x: Span, w: Span, eps: f32) {
        let (pool, [y, scale, x, w]) = self.parts([y, scale, x, w]);
        pool.install(|| norms::rms_norm(y, scale, x, w, eps));
    }

    fn rms_norm_again(&mut self, y: Span, scale: Span, x: Span, w: Span) {
        let (pool, [y, scale, x, w]) = self.parts([y, scale, x, w]);
        pool.install(|| norms::rms_norm_again(y, scale, x, w));
    }

    fn rms_norm_backward(&mut self, dx: Span, dw: Span, dy: Span, scale: Span, x: Span, w: Span) {
        let (pool, [dx, dw, dy, scale, x, w]) = self.parts([dx, dw, dy, scale, x, w]);
        pool.install(|| norms::rms_norm_backward(dx, dw, dy, scale, x, w));
    }

    fn rotate(&mut self, rotated: Span, scale: Span, qkv: Span, rotation: &Rotation<'_>, heads: Heads) {
        let Rotation { table, positions, norms } = *rotation;
        let [query, key] = norm_spans(norms);
        let (pool, [rotated, scale, qkv, table, query, key]) = self.parts([rotated, scale, qkv, table, query, key]);
        let norms = norms.map(|norms| norms::NormWeights { query, key, eps: norms.eps });
        pool.install(|| norms::rotate(rotated, scale, qkv, &norms::RotationData { table, positions, norms, heads }));
    }

    fn rotate_backward(
        &mut self,
        dqkv: Span,
        dnorms: Option<HeadNorms>,
        scale: Span,
        qkv: Span,
        rotation: &Rotation<'_>,
        heads: Heads,
    ) {
        let Rotation { table, positions, norms } = *rotation;
        let ([query, key], [dquery, dkey]) = (norm_spans(norms), norm_spans(dnorms));
        let (pool, [dqkv, dquery, dkey, scale, qkv, table, query, key]) =
            self.parts([dqkv, dquery, dkey, scale, qkv, table, query, key]);
        let norms = norms.map(|norms| norms::NormWeights { query, key, eps: norms.eps });
        let dnorms = dnorms.map(|_| (dquery, dkey));
        let data = norms::RotationData { table, positions, norms, heads };
        pool.install(|| norms::rotate_backward(dqkv, dnorms, scale, qkv, &data));
    }

    fn attention_workspace(&self, max_segment: usize, heads: Heads) -> usize {
        attention::workspace(self.threads(), max_segment, heads)
    }

    fn attention(&mut self, io: &Attention<'_>) {
        let (segments, heads) = (io.segments, io.heads);
        let (pool, [out, lse, rotated, qkv, workspace]) =
            self.parts([io.out, io.lse, io.rotated, io.qkv, io.workspace]);
        let inputs = attention::Inputs { rotated, qkv, segments, heads };
        pool.install(|| attention::forward(out, lse, &inputs, workspace));
    }

    fn attention_backward(&mut self, dqkv: Span, dout: Span, io: &Attention<'_>) {
        let (segments, heads) = (io.segments, io.heads);
        let (pool, [dqkv, dout, out, lse, rotated, qkv, workspace]) =
            self.parts([dqkv, dout, io.out, io.lse, io.rotated, io.qkv, io.workspace]);
        let inputs = attention::Inputs { rotated, qkv, segments, heads };
        let results = attention::Results { dout, out, lse };
        pool.install(|| attention::backward(dqkv, &inputs, &results, workspace));
    }

    fn cache_store(&mut self, cache: Cache, rotated: Span, qkv: Span, rows: CacheRows<'_>, heads: Heads) {
        let (_, [keys, values, rotated, qkv]) = self.parts([cache.keys, cache.values, rotated, qkv]);
        cached::store(keys, values, cache.block_len, rotated, qkv, rows, heads);
    }

    fn cache_attention(&mut self, out: Span, rotated: Span, cache: Cache, rows: CacheRows<'_>, heads: Heads) {
        let needed = self.threads() * attention::forward_scratch(heads);
        if self.packing.len() < needed {
            self.packing.resize(needed, 0.0);
        }
        let spans = [out, rotated, cache.keys, cache.values].map(Span::range);
        let parts = self.arena.numbers().get_disjoint_mut(spans);
        let [out, rotated, keys, values] = parts.expect("operands are inside the arena and do not overlap");
        let data = cached::CacheData { keys, values, block_len: cache.block_len, heads };
        let (packing, team) = (&mut self.packing, &mut self.team);
        self.pool.install(|| cached::attention(team, out, rotated, rows, &data, packing));
    }

    fn swiglu(&mut self, y: Span, gate_up: Span, intermediate: usize) {
        let (pool, [y, gate_up]) = self.parts([y, gate_up]);
        pool.install(|| pointwise::swiglu(y, gate_up, intermediate));
    }

    fn swiglu_backward(&mut self, y: Span, gate_up: Span, intermediate: usize) {
        let (pool, [y, gate_up]) = self.parts([y, gate_up]);
        pool.install(|| pointwise::swiglu_backward(y, gate_up, intermediate));
    }

    fn cross_entropy(&mut self, logits: Span, losses: Span, correct: Span, targets: &[u32], grad_scale: Option<f32>) {
        let (pool, [logits, losses, correct]) = self.parts([logits, losses, correct]);
        pool.install(|| pointwise::cross_entropy(logits, losses, correct, targets, grad_scale));
    }

    fn sum_of_squares(&mut self, x: Span) -> Result<f64> {
        let (pool, [x]) = self.parts([x]);
        Ok(pool.install(|| pointwise::sum_of_squares(x)))
    }

    fn adamw(&mut self, w: Span, g: Span, m: Span, v: Span, update: &AdamWUpdate) {
        let (pool, [w, g, m, v]) = self.parts([w, g, m, v]);
        pool.install(|| pointwise::adamw(w, g, m, v, update));
    }
}

/// Spans of the weights of query and key norms; empty without norms.
fn norm_spans(norms: Option<HeadNorms>) -> [Span; 2] {
    norms.map_or([Span::default(); 2], |norms| [norms.query, norms.key])
}
