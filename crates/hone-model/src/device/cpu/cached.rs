//! Decoding: products and attention whose result for a row does not depend on the rows beside it.

mod attend;
mod dots;

use super::attention::{self, Stretch, share_out};
use super::matmul::View;
use super::team::Team;
use crate::device::weights::Held;
use crate::device::{CacheRow, CacheRows, Heads, Matrix, WeightMatrix};
use attend::{Cached, attend};
use dots::Outputs;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Parts of a product that each thread computes on average: few, because long streams of weights are read faster than short
/// ones; not one, because a thread may be kept from its processor.
const PARTS_PER_THREAD: usize = 4;
/// Outputs of a part are a multiple of this.
const OUTPUTS: usize = 16;
/// Tasks of attention that each thread needs so that none of them waits for long.
const TASKS_PER_THREAD: usize = 8;

/// Keys and values of all sequences, and how they are laid out.
#[derive(Clone, Copy)]
pub(super) struct CacheData<'a> {
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
    pub(super) block_len: usize,
    pub(super) heads: Heads,
}

/// y `[N,O]` := x `[N,I]` · w `[O,I]`ᵀ on slices that begin at each matrix's first element.
pub(super) fn linear_by_row(
    team: &mut Team,
    y: (&mut [f32], Matrix),
    x: (&[f32], Matrix),
    w: (WeightMatrix, Held<'_>),
) {
    let ((y, y_shape), (x, x_shape), (w, held)) = (y, x, w);
    assert!(y_shape.rows == x_shape.rows && y_shape.cols == w.rows && x_shape.cols == w.cols, "sizes agree");
    assert!(x_shape.col_stride == 1 && y_shape.col_stride == 1, "rows are contiguous");
    assert!(y.len() >= y_shape.span().len, "the slice holds the matrix");
    let rows: Vec<&[f32]> = (0..x_shape.rows).map(|r| &x[r * x_shape.row_stride..][..w.cols]).collect();
    let out = Outputs { pointer: y.as_mut_ptr(), row_stride: y_shape.row_stride };
    let next = AtomicUsize::new(0);
    let part = w.rows.div_ceil(team.size() * PARTS_PER_THREAD).next_multiple_of(OUTPUTS);
    team.share(rows.len() * w.rows * w.cols, &|_| {
        loop {
            let first = next.fetch_add(part, Ordering::Relaxed);
            if first >= w.rows {
                return;
            }
            // SAFETY: y holds every output of every row, and each round has outputs of its own.
            #[expect(unsafe_code, reason = "columns of a matrix, by pointer and stride")]
            unsafe {
                dots::dots(out, &rows, w, held, first..w.rows.min(first + part));
            }
        }
    });
}

/// Puts keys and values of rows at their places.
pub(super) fn store(
    keys: &mut [f32],
    values: &mut [f32],
    block_len: usize,
    rotated: &[f32],
    qkv: &[f32],
    rows: CacheRows<'_>,
    heads: Heads,
) {
    let width = heads.kv_width();
    for (i, row) in rows.rows.iter().enumerate() {
        let place = (rows.start(block_len, *row) + row.position) * width;
        keys[place..place + width]
            .copy_from_slice(&rotated[i * heads.rotated_width() + heads.query_width()..][..width]);
        values[place..place + width].copy_from_slice(&qkv[i * heads.qkv_width() + heads.rotated_width()..][..width]);
    }
}

/// out `[n,AD]` := attention of each row over its sequence. `workspace` is [`attention::forward_scratch`] numbers for each thread.
pub(super) fn attention(
    team: &mut Team,
    out: &mut [f32],
    rotated: &[f32],
    in_cache: CacheRows<'_>,
    cache: &CacheData<'_>,
    workspace: &mut [f32],
) {
    let (heads, rows) = (cache.heads, in_cache.rows);
    assert_eq!(out.len(), rows.len() * heads.query_width(), "out holds every row");
    assert_eq!(rotated.len(), rows.len() * heads.rotated_width(), "rotated holds every row");
    let (mut singles, mut stretches) = (Vec::new(), Vec::new());
    let mut first = 0;
    while first < rows.len() {
        let count = run_length(&rows[first..]);
        if count == 1 {
            singles.push(first);
        } else {
            let start = in_cache.start(cache.block_len, rows[first]);
            (0..heads.num_kv_heads).for_each(|kv_head| {
                stretches.push(stretch(out, rotated, cache, (first, count), (start, rows[first].position), kv_head));
            });
        }
        first += count;
    }
    stretches.sort_by_key(|stretch| std::cmp::Reverse(stretch.first));
    share_out(workspace, attention::forward_scratch(heads), &stretches, |scratch, stretch| {
        // SAFETY: `stretch` holds the lengths, so the views' elements are inside their slices; each stretch writes the
        // rows and columns of `out` that are its own.
        #[expect(unsafe_code, reason = "matrices inside matrices, by pointer and stride")]
        unsafe {
            stretch.run(scratch);
        }
    });
    attend_singles(team, out, rotated, in_cache, cache, &singles);
}

/// How many rows from the first on follow each other in one sequence, up to the end of a block of queries.
fn run_length(rows: &[CacheRow]) -> usize {
    let follows =
        |(i, row): &(usize, &CacheRow)| row.sequence == rows[0].sequence && row.position == rows[0].position + i;
    let most = attention::QUERIES - rows[0].position % attention::QUERIES;
    rows.iter().enumerate().take(most).take_while(follows).count()
}

/// Rows `first..first + count`, the first of which is at `position` of the sequence that begins at token `start` of the cache,
/// for the heads of one key/value head.
fn stretch(
    out: &mut [f32],
    rotated: &[f32],
    cache: &CacheData<'_>,
    (first, count): (usize, usize),
    (start, position): (usize, usize),
    kv_head: usize,
) -> Stretch {
    let (heads, d) = (cache.heads, cache.heads.head_dim);
    let head = kv_head * (heads.num_heads / heads.num_kv_heads);
    let start = start * heads.kv_width();
    let positions = start..start + (position + count) * heads.kv_width();
    let view = |x: &[f32]| View::new(x[positions.clone()][kv_head * d..].as_ptr(), heads.kv_width(), 1);
    let (query, result) = (first * heads.rotated_width() + head * d, first * heads.query_width() + head * d);
    Stretch {
        heads,
        queries: View::new(rotated[query..].as_ptr(), heads.rotated_width(), 1),
        keys: view(cache.keys),
        values: view(cache.values),
        out: View::new_mut(out[result..].as_mut_ptr(), heads.query_width()),
        lse: (std::ptr::null_mut(), 0),
        first: position,
        count,
    }
}

/// Rows that stand alone, as in decoding.
fn attend_singles(
    team: &mut Team,
    out: &mut [f32],
    rotated: &[f32],
    in_cache: CacheRows<'_>,
    cache: &CacheData<'_>,
    singles: &[usize],
) {
    let (heads, d, rows) = (cache.heads, cache.heads.head_dim, in_cache.rows);
    let group = heads.num_heads / heads.num_kv_heads;
    // Heads that share keys and values go together, unless some threads would have nothing to do then.
    let enough = singles.len() * heads.num_kv_heads >= team.size() * TASKS_PER_THREAD;
    let at_once = if enough { group } else { 1 };
    let tasks_of_row = heads.num_heads / at_once;
    let num_positions: usize = singles.iter().map(|&row| rows[row].position + 1).sum();
    let outs = Outputs { pointer: out.as_mut_ptr(), row_stride: heads.query_width() };
    let next = AtomicUsize::new(0);
    team.share(num_positions * heads.query_width() * 2, &|_| {
        let mut scores = Vec::new();
        loop {
            let task = next.fetch_add(1, Ordering::Relaxed);
            let Some(&row) = singles.get(task / tasks_of_row) else { return };
            let head = task % tasks_of_row * at_once;
            let queries = &rotated[row * heads.rotated_width() + head * d..][..at_once * d];
            let start = in_cache.start(cache.block_len, rows[row]) * heads.kv_width() + head / group * d;
            let cached =
                Cached { keys: &cache.keys[start..], values: &cache.values[start..], row_stride: heads.kv_width() };
            // SAFETY: out holds `num_heads` times `d` numbers for each row, and each task has heads of a row of its own.
            #[expect(unsafe_code, reason = "heads of rows are shared out to threads")]
            let out = unsafe { std::slice::from_raw_parts_mut(outs.place(row, head * d), at_once * d) };
            attend(out, queries, d, cached, rows[row].position + 1, &mut scores);
        }
    });
}
