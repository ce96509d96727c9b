//! Decoding: products and attention whose result for a row does not depend on the rows beside it.

mod dots;

use super::attention::{self, Stretch, share_out};
use super::matmul::View;
use super::simd::{self, vectorised};
use crate::device::{CacheRow, Heads, Matrix};
use rayon::prelude::*;

/// Outputs that one task computes.
const OUTPUTS: usize = 32;

/// Keys and values of all slots, and how they are laid out.
#[derive(Clone, Copy)]
pub(super) struct CacheData<'a> {
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
    pub(super) max_context: usize,
    pub(super) heads: Heads,
}

/// y `[N,O]` := x `[N,I]` · w `[O,I]`ᵀ on slices that begin at each matrix's first element.
pub(super) fn linear_by_row(y: (&mut [f32], Matrix), x: (&[f32], Matrix), w: (&[f32], Matrix)) {
    let ((y, y_shape), (x, x_shape), (w, w_shape)) = (y, x, w);
    assert!(y_shape.rows == x_shape.rows && y_shape.cols == w_shape.rows && x_shape.cols == w_shape.cols);
    assert!(x_shape.col_stride == 1 && w_shape.col_stride == 1, "rows are contiguous");
    let width = x_shape.cols;
    let rows: Vec<&[f32]> = (0..x_shape.rows).map(|r| &x[r * x_shape.row_stride..][..width]).collect();
    // [tasks, N, OUTPUTS]: a task's outputs stand together, so that no two threads share a row of y.
    let results: Vec<Vec<f32>> = (0..w_shape.rows.div_ceil(OUTPUTS))
        .into_par_iter()
        .map(|task| {
            let first = task * OUTPUTS;
            let count = OUTPUTS.min(w_shape.rows - first);
            let mut results = vec![0.0; rows.len() * count];
            dots::dots(&mut results, &rows, &w[first * w_shape.row_stride..], w_shape.row_stride, count);
            results
        })
        .collect();
    for (task, results) in results.iter().enumerate() {
        let count = results.len() / rows.len().max(1);
        for (r, results) in results.chunks_exact(count.max(1)).enumerate() {
            for (c, &value) in results.iter().enumerate() {
                y[r * y_shape.row_stride + (task * OUTPUTS + c) * y_shape.col_stride] = value;
            }
        }
    }
}

/// Puts keys and values of rows at their places.
pub(super) fn store(
    keys: &mut [f32],
    values: &mut [f32],
    max_context: usize,
    rotated: &[f32],
    qkv: &[f32],
    rows: &[CacheRow],
    heads: Heads,
) {
    let width = heads.kv_width();
    for (i, row) in rows.iter().enumerate() {
        let place = (row.slot * max_context + row.position) * width;
        keys[place..place + width]
            .copy_from_slice(&rotated[i * heads.rotated_width() + heads.query_width()..][..width]);
        values[place..place + width].copy_from_slice(&qkv[i * heads.qkv_width() + heads.rotated_width()..][..width]);
    }
}

/// out `[n,AD]` := attention of each row over its slot. `workspace` is [`attention::forward_scratch`] numbers for each thread.
pub(super) fn attention(
    out: &mut [f32],
    rotated: &[f32],
    rows: &[CacheRow],
    cache: &CacheData<'_>,
    workspace: &mut [f32],
) {
    let heads = cache.heads;
    assert_eq!(out.len(), rows.len() * heads.query_width(), "out holds every row");
    assert_eq!(rotated.len(), rows.len() * heads.rotated_width(), "rotated holds every row");
    let (mut singles, mut stretches) = (Vec::new(), Vec::new());
    let mut first = 0;
    while first < rows.len() {
        let count = run_length(&rows[first..]);
        if count == 1 {
            singles.push(first);
        } else {
            (0..heads.num_kv_heads).for_each(|kv_head| {
                stretches.push(stretch(out, rotated, cache, (first, count), rows[first], kv_head));
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
    attend_singles(out, rotated, rows, cache, &singles);
}

/// How many rows from the first on follow each other in one slot; at most a block of queries.
fn run_length(rows: &[CacheRow]) -> usize {
    let follows = |(i, row): &(usize, &CacheRow)| row.slot == rows[0].slot && row.position == rows[0].position + i;
    rows.iter().enumerate().take(attention::QUERIES).take_while(follows).count()
}

/// Rows `first..first + count`, the first of which is `row`, for the heads of one key/value head.
fn stretch(
    out: &mut [f32],
    rotated: &[f32],
    cache: &CacheData<'_>,
    (first, count): (usize, usize),
    row: CacheRow,
    kv_head: usize,
) -> Stretch {
    let (heads, d) = (cache.heads, cache.heads.head_dim);
    let head = kv_head * (heads.num_heads / heads.num_kv_heads);
    let start = row.slot * cache.max_context * heads.kv_width();
    let positions = start..start + (row.position + count) * heads.kv_width();
    let view = |x: &[f32]| View::new(x[positions.clone()][kv_head * d..].as_ptr(), heads.kv_width(), 1);
    let (query, result) = (first * heads.rotated_width() + head * d, first * heads.query_width() + head * d);
    Stretch {
        heads,
        queries: View::new(rotated[query..].as_ptr(), heads.rotated_width(), 1),
        keys: view(cache.keys),
        values: view(cache.values),
        out: View::new_mut(out[result..].as_mut_ptr(), heads.query_width()),
        lse: (std::ptr::null_mut(), 0),
        first: row.position,
        count,
    }
}

/// Rows that stand alone, as in decoding.
fn attend_singles(out: &mut [f32], rotated: &[f32], rows: &[CacheRow], cache: &CacheData<'_>, singles: &[usize]) {
    let (heads, d) = (cache.heads, cache.heads.head_dim);
    let group = heads.num_heads / heads.num_kv_heads;
    let single = |row: &usize| singles.binary_search(row).is_ok();
    let outs = out.par_chunks_mut(heads.query_width()).enumerate().filter(|(row, _)| single(row));
    outs.flat_map(|(row, out)| out.par_chunks_mut(d).enumerate().map(move |(head, out)| (row, head, out)))
        .for_each_init(Vec::new, |scores, (row, head, out)| {
            let query = &rotated[row * heads.rotated_width() + head * d..][..d];
            let CacheRow { slot, position } = rows[row];
            let start = slot * cache.max_context * heads.kv_width() + head / group * d;
            scores.resize(position + 1, 0.0);
            attend(out, query, &cache.keys[start..], &cache.values[start..], heads.kv_width(), scores);
        });
}

vectorised! {
    /// softmax(q · kᵀ / √D) · v over as many cached positions as there are `scores`.
    fn attend(out: &mut [f32], query: &[f32], keys: &[f32], values: &[f32], row_stride: usize, scores: &mut [f32]) {
        let d = query.len();
        let scale = 1.0 / (d as f32).sqrt();
        for (t, score) in scores.iter_mut().enumerate() {
            *score = simd::dot(query, &keys[t * row_stride..][..d]) * scale;
        }
        let max = simd::max(scores);
        for score in scores.iter_mut() {
            *score = simd::exp_share(*score - max);
        }
        let factor = 1.0 / simd::sum(scores);
        out.fill(0.0);
        for (t, score) in scores.iter().enumerate() {
            let weight = score * factor;
            for (out, value) in out.iter_mut().zip(&values[t * row_stride..][..d]) {
                *out += weight * value;
            }
        }
    }
}
