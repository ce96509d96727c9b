//! Attention by blocks of queries: probabilities of one block of one head at a time, computed again in the backward
//! pass from the logarithms of their sums. Memory grows with the length of a segment, never with its square.

use super::matmul::{PACKING, Product, Sizes, View};
use super::simd::{self, vectorised};
use crate::device::Heads;
use rayon::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Queries of a block.
const BLOCK: usize = 64;

/// What both passes read.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    /// `[N,(A+K)D]`.
    pub(super) rotated: &'a [f32],
    /// `[N,(A+2K)D]`.
    pub(super) qkv: &'a [f32],
    pub(super) segments: &'a [usize],
    pub(super) heads: Heads,
}

/// What the backward pass reads beside: `[N,AD]`, `[N,AD]`, `[A,N]`.
#[derive(Clone, Copy)]
pub(super) struct Results<'a> {
    pub(super) dout: &'a [f32],
    pub(super) out: &'a [f32],
    pub(super) lse: &'a [f32],
}

/// A segment: its first row and its length.
#[derive(Clone, Copy)]
struct Segment {
    first: usize,
    length: usize,
}

/// One block of queries of one head.
#[derive(Clone, Copy)]
struct Block {
    segment: Segment,
    head: usize,
    /// First query, counted from the segment's first row.
    query: usize,
}

/// What the gradients of a block's scores need of its rows.
struct BlockRows<'a> {
    /// One for each query.
    lse: &'a [f32],
    /// Result and its gradient: a row of `head_dim` numbers every `row_stride`.
    out: &'a [f32],
    dout: &'a [f32],
    row_stride: usize,
    head_dim: usize,
    /// Row `r` sees `first + r + 1` keys.
    first: usize,
    scale: f32,
}

/// A pointer that several threads write through, each at places of its own.
#[derive(Clone, Copy)]
struct Shared(*mut f32);
// SAFETY: every use writes places that belong to one task only, as said there.
#[expect(unsafe_code, reason = "tasks write interleaved columns of one matrix")]
unsafe impl Send for Shared {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "tasks write interleaved columns of one matrix")]
unsafe impl Sync for Shared {}

impl Shared {
    /// The place `offset` numbers on, inside the slice that the pointer came from.
    fn at(self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}

impl Block {
    fn num_queries(&self) -> usize {
        BLOCK.min(self.segment.length - self.query)
    }

    /// Keys that the block's last query sees; the first sees `query + 1`.
    fn num_keys(&self) -> usize {
        self.query + self.num_queries()
    }

    fn row(&self) -> usize {
        self.segment.first + self.query
    }
}

impl Inputs<'_> {
    fn num_rows(&self) -> usize {
        self.rotated.len() / self.heads.rotated_width()
    }

    fn kv_head(&self, head: usize) -> usize {
        head / (self.heads.num_heads / self.heads.num_kv_heads)
    }

    fn scale(&self) -> f32 {
        1.0 / (self.heads.head_dim as f32).sqrt()
    }

    /// Queries of a block, `[queries, D]`.
    fn queries(&self, block: &Block) -> View<*const f32> {
        let start = block.row() * self.heads.rotated_width() + block.head * self.heads.head_dim;
        View::new(self.rotated[start..].as_ptr(), self.heads.rotated_width(), 1)
    }

    /// Keys of a segment, `[keys, D]`.
    fn keys(&self, segment: Segment, kv_head: usize) -> View<*const f32> {
        let column = self.heads.query_width() + kv_head * self.heads.head_dim;
        let start = segment.first * self.heads.rotated_width() + column;
        View::new(self.rotated[start..].as_ptr(), self.heads.rotated_width(), 1)
    }

    /// Values of a segment, `[keys, D]`.
    fn values(&self, segment: Segment, kv_head: usize) -> View<*const f32> {
        let column = self.heads.rotated_width() + kv_head * self.heads.head_dim;
        let start = segment.first * self.heads.qkv_width() + column;
        View::new(self.qkv[start..].as_ptr(), self.heads.qkv_width(), 1)
    }

    fn check(&self) {
        let rows: usize = self.segments.iter().sum();
        assert_eq!(self.rotated.len(), rows * self.heads.rotated_width(), "rotated holds the segments' rows");
        assert_eq!(self.qkv.len(), rows * self.heads.qkv_width(), "qkv holds the segments' rows");
    }

    fn segments(&self) -> impl Iterator<Item = Segment> {
        self.segments.iter().scan(0, |next, &length| {
            let first = *next;
            *next += length;
            Some(Segment { first, length })
        })
    }
}

/// Numbers of workspace for `threads` threads.
pub(super) fn workspace(threads: usize, max_segment: usize, heads: Heads) -> usize {
    threads * (PACKING + 2 * BLOCK * max_segment + 2 * max_segment * heads.head_dim)
}

pub(super) fn forward(out: &mut [f32], lse: &mut [f32], io: &Inputs<'_>, workspace: &mut [f32]) {
    io.check();
    let (num_rows, heads) = (io.num_rows(), io.heads);
    assert_eq!(out.len(), num_rows * heads.query_width(), "out holds every row");
    assert_eq!(lse.len(), num_rows * heads.num_heads, "lse holds every row and head");
    let mut blocks = Vec::new();
    for segment in io.segments() {
        for head in 0..heads.num_heads {
            blocks.extend((0..segment.length).step_by(BLOCK).map(|query| Block { segment, head, query }));
        }
    }
    // The longest first, so that no thread is left with one at the end.
    blocks.sort_by_key(|block| std::cmp::Reverse(block.num_keys()));
    let (out, lse) = (Shared(out.as_mut_ptr()), Shared(lse.as_mut_ptr()));
    share_out(workspace, &blocks, |scratch, block| forward_block(out, lse, io, block, scratch));
}

/// dqkv `[N,(A+2K)D]` := the gradient.
pub(super) fn backward(dqkv: &mut [f32], io: &Inputs<'_>, results: &Results<'_>, workspace: &mut [f32]) {
    io.check();
    let (num_rows, heads) = (io.num_rows(), io.heads);
    assert_eq!(dqkv.len(), num_rows * heads.qkv_width(), "dqkv holds every row");
    assert_eq!(results.dout.len(), num_rows * heads.query_width(), "dout holds every row");
    assert_eq!(results.out.len(), num_rows * heads.query_width(), "out holds every row");
    assert_eq!(results.lse.len(), num_rows * heads.num_heads, "lse holds every row and head");
    let mut tasks: Vec<(Segment, usize)> =
        io.segments().flat_map(|segment| (0..heads.num_kv_heads).map(move |kv_head| (segment, kv_head))).collect();
    tasks.sort_by_key(|(segment, _)| std::cmp::Reverse(segment.length));
    let dqkv = Shared(dqkv.as_mut_ptr());
    share_out(workspace, &tasks, |scratch, &(segment, kv_head)| {
        backward_kv_head(dqkv, io, results, segment, kv_head, scratch);
    });
}

/// Runs `work` on every task, each thread with a part of the workspace. Which thread does which task does not matter
/// to the result: a task writes places of its own, and its own scratch before it reads it.
pub(super) fn share_out<T: Sync>(workspace: &mut [f32], tasks: &[T], work: impl Fn(&mut [f32], &T) + Sync) {
    let part = workspace.len() / rayon::current_num_threads();
    if let [task] = tasks {
        return work(&mut workspace[..part], task);
    }
    let next = AtomicUsize::new(0);
    workspace.par_chunks_exact_mut(part.max(1)).for_each(|scratch| {
        while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(scratch, task);
        }
    });
}

/// Writes `out` at the block's rows and the columns of its head, and `lse` there: places of this task alone.
fn forward_block(out: Shared, lse: Shared, io: &Inputs<'_>, block: &Block, scratch: &mut [f32]) {
    let (heads, d) = (io.heads, io.heads.head_dim);
    let (queries, keys) = (block.num_queries(), block.num_keys());
    let kv_head = io.kv_head(block.head);
    let (packing, rest) = scratch.split_at_mut(PACKING);
    let (probabilities, rest) = rest.split_at_mut(queries * keys);
    let sums = &mut rest[..queries];
    let out_view = View::new_mut(out.at(block.row() * heads.query_width() + block.head * d), heads.query_width());
    let key_columns = io.keys(block.segment, kv_head).transposed();
    // SAFETY: `check` and the asserts of `forward` hold the lengths, so the views' elements are inside their slices;
    // `probabilities` has queries * keys numbers; the part of `out` and `lse` is this task's own.
    #[expect(unsafe_code, reason = "matrices inside matrices, by pointer and stride")]
    unsafe {
        let c = View::new_mut(probabilities.as_mut_ptr(), keys);
        let sizes = Sizes { m: queries, n: keys, k: d };
        product(sizes, c, io.queries(block), key_columns, io.scale()).run(packing);
        softmax_rows(probabilities, sums, keys, block.query);
        let sizes = Sizes { m: queries, n: d, k: keys };
        let view = View::new(probabilities.as_ptr(), keys, 1);
        product(sizes, out_view, view, io.values(block.segment, kv_head), 1.0).run(packing);
        let lse = lse.at(block.head * io.num_rows() + block.row());
        std::ptr::copy_nonoverlapping(sums.as_ptr(), lse, queries);
    }
}

/// Writes `dqkv` at the segment's rows and the columns of this key/value head and of its query heads: places of this
/// task alone.
fn backward_kv_head(
    dqkv: Shared,
    io: &Inputs<'_>,
    results: &Results<'_>,
    segment: Segment,
    kv_head: usize,
    scratch: &mut [f32],
) {
    let (heads, d) = (io.heads, io.heads.head_dim);
    let group = heads.num_heads / heads.num_kv_heads;
    let (packing, rest) = scratch.split_at_mut(PACKING);
    let (dkeys, rest) = rest.split_at_mut(segment.length * d);
    let (dvalues, rest) = rest.split_at_mut(segment.length * d);
    dkeys.fill(0.0);
    dvalues.fill(0.0);
    for head in kv_head * group..(kv_head + 1) * group {
        for query in (0..segment.length).step_by(BLOCK) {
            backward_block(dqkv, io, results, &Block { segment, head, query }, (packing, dkeys, dvalues, rest));
        }
    }
    for (i, (dkey, dvalue)) in dkeys.chunks_exact(d).zip(dvalues.chunks_exact(d)).enumerate() {
        let row = (segment.first + i) * heads.qkv_width() + kv_head * d;
        // SAFETY: the row is inside `dqkv` by the asserts of `backward`, and these columns are this task's own.
        #[expect(unsafe_code, reason = "tasks write interleaved columns of one matrix")]
        unsafe {
            std::ptr::copy_nonoverlapping(dkey.as_ptr(), dqkv.at(row + heads.query_width()), d);
            std::ptr::copy_nonoverlapping(dvalue.as_ptr(), dqkv.at(row + heads.rotated_width()), d);
        }
    }
}

/// Scratch: gradients of the segment's keys and values (added to), and room for two blocks of probabilities.
fn backward_block(
    dqkv: Shared,
    io: &Inputs<'_>,
    results: &Results<'_>,
    block: &Block,
    scratch: (&mut [f32], &mut [f32], &mut [f32], &mut [f32]),
) {
    let (heads, d) = (io.heads, io.heads.head_dim);
    let (queries, keys) = (block.num_queries(), block.num_keys());
    let kv_head = io.kv_head(block.head);
    let (packing, dkeys, dvalues, rest) = scratch;
    let (p, rest) = rest.split_at_mut(queries * keys);
    let ds = &mut rest[..queries * keys];
    let out_start = block.row() * heads.query_width() + block.head * d;
    let (out, dout) = (&results.out[out_start..], &results.dout[out_start..]);
    let lse = &results.lse[block.head * io.num_rows() + block.row()..][..queries];
    let rows = BlockRows {
        lse,
        out,
        dout,
        row_stride: heads.query_width(),
        head_dim: d,
        first: block.query,
        scale: io.scale(),
    };
    let (key_rows, value_rows) = (io.keys(block.segment, kv_head), io.values(block.segment, kv_head));
    let dout_view = View::new(dout.as_ptr(), heads.query_width(), 1);
    let dquery = View::new_mut(dqkv.at(block.row() * heads.qkv_width() + block.head * d), heads.qkv_width());
    assert!(dkeys.len() >= keys * d && dvalues.len() >= keys * d, "scratch holds the segment");
    // SAFETY: `check` and the asserts of `backward` hold the lengths, so the views' elements are inside their slices; `p`
    // and `ds` have queries * keys numbers; `dquery` is this task's own.
    #[expect(unsafe_code, reason = "matrices inside matrices, by pointer and stride")]
    unsafe {
        let scores = Sizes { m: queries, n: keys, k: d };
        let p_out = View::new_mut(p.as_mut_ptr(), keys);
        product(scores, p_out, io.queries(block), key_rows.transposed(), io.scale()).run(packing);
        let ds_out = View::new_mut(ds.as_mut_ptr(), keys);
        product(scores, ds_out, dout_view, value_rows.transposed(), 1.0).run(packing);
        softmax_backward_rows(p, ds, &rows);
        let to_keys = Sizes { m: keys, n: d, k: queries };
        let columns = |x: &[f32]| View::new(x.as_ptr(), 1, keys);
        let dvalues = View::new_mut(dvalues.as_mut_ptr(), d);
        Product { accumulate: true, ..product(to_keys, dvalues, columns(p), dout_view, 1.0) }.run(packing);
        let dkeys = View::new_mut(dkeys.as_mut_ptr(), d);
        Product { accumulate: true, ..product(to_keys, dkeys, columns(ds), io.queries(block), 1.0) }.run(packing);
        let to_queries = Sizes { m: queries, n: d, k: keys };
        let ds_view = View::new(ds.as_ptr(), keys, 1);
        product(to_queries, dquery, ds_view, key_rows, 1.0).run(packing);
    }
}

/// c := factor · a · b.
fn product(sizes: Sizes, c: View<*mut f32>, a: View<*const f32>, b: View<*const f32>, factor: f32) -> Product {
    Product { sizes, c, a, b, factor, accumulate: false }
}

vectorised! {
    /// Rows of scores become probabilities; row `r` sees `first + r + 1` keys. sums := logarithms of the softmax's sums.
    fn softmax_rows(scores: &mut [f32], sums: &mut [f32], keys: usize, first: usize) {
        for (r, (row, log_sum)) in scores.chunks_exact_mut(keys).zip(sums).enumerate() {
            let (seen, unseen) = row.split_at_mut(first + r + 1);
            let max = simd::max(seen);
            for x in seen.iter_mut() {
                *x = simd::exp_share(*x - max);
            }
            let sum = simd::sum(seen);
            let factor = 1.0 / sum;
            for x in seen.iter_mut() {
                *x *= factor;
            }
            unseen.fill(0.0);
            *log_sum = max + sum.ln();
        }
    }

    /// `p`: scores become probabilities. `ds`: gradients of the probabilities become gradients of the scores.
    fn softmax_backward_rows(p: &mut [f32], ds: &mut [f32], rows: &BlockRows<'_>) {
        let keys = p.len() / rows.lse.len();
        for (r, (p, ds)) in p.chunks_exact_mut(keys).zip(ds.chunks_exact_mut(keys)).enumerate() {
            let place = r * rows.row_stride..r * rows.row_stride + rows.head_dim;
            let mean = simd::dot(&rows.out[place.clone()], &rows.dout[place]);
            let log_sum = rows.lse[r];
            let (p_seen, p_unseen) = p.split_at_mut(rows.first + r + 1);
            let (ds_seen, ds_unseen) = ds.split_at_mut(rows.first + r + 1);
            for (p, ds) in p_seen.iter_mut().zip(ds_seen) {
                *p = simd::exp_share(*p - log_sum);
                *ds = *p * (*ds - mean) * rows.scale;
            }
            p_unseen.fill(0.0);
            ds_unseen.fill(0.0);
        }
    }
}
