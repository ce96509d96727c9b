//! Decoding: products and attention whose result for a row does not depend on the rows beside it.

mod dots;

use super::attention::{self, Stretch, share_out};
use super::matmul::View;
use super::simd::{self, vectorised};
use super::team::Team;
use crate::device::weights::Held;
use crate::device::{CacheRow, Heads, Matrix, WeightMatrix};
use dots::Outputs;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Parts of a product that each thread computes on average: few, because long streams of weights are read faster than short
/// ones; not one, because a thread may be kept from its processor.
const PARTS_PER_THREAD: usize = 4;
/// Outputs of a part are a multiple of this.
const OUTPUTS: usize = 16;

/// Keys and values of all slots, and how they are laid out.
#[derive(Clone, Copy)]
pub(super) struct CacheData<'a> {
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
    pub(super) max_context: usize,
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
    team: &mut Team,
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
    attend_singles(team, out, rotated, rows, cache, &singles);
}

/// How many rows from the first on follow each other in one slot, up to the end of a block of queries.
fn run_length(rows: &[CacheRow]) -> usize {
    let follows = |(i, row): &(usize, &CacheRow)| row.slot == rows[0].slot && row.position == rows[0].position + i;
    let most = attention::QUERIES - rows[0].position % attention::QUERIES;
    rows.iter().enumerate().take(most).take_while(follows).count()
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
fn attend_singles(
    team: &mut Team,
    out: &mut [f32],
    rotated: &[f32],
    rows: &[CacheRow],
    cache: &CacheData<'_>,
    singles: &[usize],
) {
    let (heads, d) = (cache.heads, cache.heads.head_dim);
    let group = heads.num_heads / heads.num_kv_heads;
    let num_positions: usize = singles.iter().map(|&row| rows[row].position + 1).sum();
    let outs = Outputs { pointer: out.as_mut_ptr(), row_stride: heads.query_width() };
    let next = AtomicUsize::new(0);
    team.share(num_positions * heads.query_width() * 2, &|_| {
        let mut scores = Vec::new();
        loop {
            let task = next.fetch_add(1, Ordering::Relaxed);
            let Some(&row) = singles.get(task / heads.num_heads) else { return };
            let head = task % heads.num_heads;
            let query = &rotated[row * heads.rotated_width() + head * d..][..d];
            let CacheRow { slot, position } = rows[row];
            let start = slot * cache.max_context * heads.kv_width() + head / group * d;
            scores.resize(position + 1, 0.0);
            // SAFETY: out holds `num_heads` times `d` numbers for each row, and each task has a head of a row of its own.
            #[expect(unsafe_code, reason = "heads of rows are shared out to threads")]
            let out = unsafe { std::slice::from_raw_parts_mut(outs.place(row, head * d), d) };
            attend(out, query, &cache.keys[start..], &cache.values[start..], heads.kv_width(), &mut scores);
        }
    });
}

/// Keys whose products with a query are summed side by side, so that no addition waits for the one before.
const KEYS_AT_ONCE: usize = 4;
/// Positions that are asked for ahead of their use.
const AHEAD: usize = 8;
/// Numbers of an attention's result that are summed over all positions while they stay in registers.
const VALUES_AT_ONCE: usize = 32;

vectorised! {
    /// softmax(q · kᵀ / √D) · v over as many cached positions as there are `scores`.
    fn attend(out: &mut [f32], query: &[f32], keys: &[f32], values: &[f32], row_stride: usize, scores: &mut [f32]) {
        let d = query.len();
        let scale = 1.0 / (d as f32).sqrt();
        let key = |t: usize| &keys[t * row_stride..][..d];
        let (fours, rest) = scores.as_chunks_mut::<KEYS_AT_ONCE>();
        let num_in_fours = fours.len() * KEYS_AT_ONCE;
        for (i, four) in fours.iter_mut().enumerate() {
            let keys: [&[f32]; KEYS_AT_ONCE] = std::array::from_fn(|k| key(i * KEYS_AT_ONCE + k));
            for key in keys {
                simd::ask_for(key.as_ptr().wrapping_add(AHEAD * row_stride).cast(), size_of_val(key));
            }
            *four = simd::dots(query, &keys).map(|sum| sum * scale);
        }
        for (t, score) in rest.iter_mut().enumerate() {
            *score = simd::dot(query, key(num_in_fours + t)) * scale;
        }
        let max = simd::max(scores);
        for score in scores.iter_mut() {
            *score = simd::exp_share(*score - max);
        }
        let factor = 1.0 / simd::sum(scores);
        for score in scores.iter_mut() {
            *score *= factor;
        }
        let (wide, narrow) = out.as_chunks_mut::<VALUES_AT_ONCE>();
        let first_narrow = wide.len() * VALUES_AT_ONCE;
        for (i, out) in wide.iter_mut().enumerate() {
            let mut sums = [0.0; VALUES_AT_ONCE];
            for (t, weight) in scores.iter().enumerate() {
                let value: &[f32; VALUES_AT_ONCE] = values[t * row_stride + i * VALUES_AT_ONCE..].first_chunk().expect("a value of a position is whole");
                simd::ask_for(value.as_ptr().wrapping_add(AHEAD * row_stride).cast(), size_of_val(value));
                for j in 0..VALUES_AT_ONCE {
                    sums[j] += weight * value[j];
                }
            }
            *out = sums;
        }
        narrow.fill(0.0);
        for (t, weight) in scores.iter().enumerate() {
            for (out, value) in narrow.iter_mut().zip(&values[t * row_stride + first_narrow..t * row_stride + d]) {
                *out += weight * value;
            }
        }
    }
}
