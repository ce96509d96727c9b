//! Attention of one query over cached keys and values, for the heads that share them. Decoding over long contexts spends its
//! time here.
//!
//! Keys and values are loaded once for up to [`MOST_HEADS`] heads. Each head's sums are its own: products of a query and a key
//! in 16 lanes, those of weights and values over all positions in order, both with fused multiply-adds where the machine has
//! them. So a head's result depends neither on the heads beside it nor on other rows.

use crate::device::cpu::simd::{self, LANES};

/// Positions that are asked for ahead of their use.
const AHEAD: usize = 8;
/// Most heads that are computed side by side: more sums would not fit the registers.
const MOST_HEADS: usize = 4;

/// Keys and values of one head of them, from its first position on.
#[derive(Clone, Copy)]
pub(super) struct Cached<'a> {
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
    /// Numbers from one position to the next.
    pub(super) row_stride: usize,
}

/// For each head of D numbers: out := softmax(q · kᵀ / √D) · v over `num_positions` positions. `queries` and `out` hold the heads
/// side by side. `scores` is of any size.
pub(super) fn attend(
    out: &mut [f32],
    queries: &[f32],
    d: usize,
    cached: Cached<'_>,
    num_positions: usize,
    scores: &mut Vec<f32>,
) {
    assert!(d > 0 && out.len() == queries.len() && out.len().is_multiple_of(d), "heads are whole");
    scores.resize(MOST_HEADS * num_positions, 0.0);
    for (out, queries) in out.chunks_mut(MOST_HEADS * d).zip(queries.chunks(MOST_HEADS * d)) {
        let scores = &mut scores[..out.len() / d * num_positions];
        #[cfg(target_arch = "x86_64")]
        if simd::has_avx2() {
            // SAFETY: the machine has the features that `wide` is compiled for; it is safe otherwise.
            #[expect(unsafe_code, reason = "calling code for features that were found at run time")]
            unsafe {
                wide(out, queries, d, cached, scores);
            }
            continue;
        }
        // Without the instruction a fused multiply-add would be a call for each number.
        some_heads::<{ cfg!(any(target_arch = "aarch64", target_feature = "fma")) }>(out, queries, d, cached, scores);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn wide(out: &mut [f32], queries: &[f32], d: usize, cached: Cached<'_>, scores: &mut [f32]) {
    some_heads::<true>(out, queries, d, cached, scores);
}

/// At most [`MOST_HEADS`] heads; `scores` has a number for each head and position.
#[inline(always)]
fn some_heads<const FUSED: bool>(out: &mut [f32], queries: &[f32], d: usize, cached: Cached<'_>, scores: &mut [f32]) {
    // As many keys or columns of values at once as hide the latency of an addition.
    match out.len() / d {
        1 => heads::<FUSED, 1, 4, 32>(out, queries, d, cached, scores),
        2 => heads::<FUSED, 2, 2, 32>(out, queries, d, cached, scores),
        3 => heads::<FUSED, 3, 2, 32>(out, queries, d, cached, scores),
        _ => heads::<FUSED, MOST_HEADS, 1, 16>(out, queries, d, cached, scores),
    }
}

/// `G` heads, with `K` keys and `V` columns of the values at once.
#[inline(always)]
fn heads<const FUSED: bool, const G: usize, const K: usize, const V: usize>(
    out: &mut [f32],
    queries: &[f32],
    d: usize,
    cached: Cached<'_>,
    scores: &mut [f32],
) {
    let Cached { keys, values, row_stride } = cached;
    let num_positions = scores.len() / G;
    let scale = 1.0 / (d as f32).sqrt();
    let key = |t: usize| &keys[t * row_stride..][..d];
    let queries: [&[f32]; G] = std::array::from_fn(|g| &queries[g * d..][..d]);
    let whole = num_positions / K * K;
    for t in (0..whole).step_by(K) {
        let some_keys: [&[f32]; K] = std::array::from_fn(|k| key(t + k));
        for key in some_keys {
            simd::ask_for(key.as_ptr().wrapping_add(AHEAD * row_stride).cast(), size_of_val(key));
        }
        for (g, products) in products::<FUSED, G, K>(&queries, &some_keys).iter().enumerate() {
            for (k, product) in products.iter().enumerate() {
                scores[g * num_positions + t + k] = product * scale;
            }
        }
    }
    for t in whole..num_positions {
        for (g, [product]) in products::<FUSED, G, 1>(&queries, &[key(t)]).iter().enumerate() {
            scores[g * num_positions + t] = product * scale;
        }
    }
    for scores in scores.chunks_exact_mut(num_positions) {
        softmax(scores);
    }
    let scores: [&[f32]; G] = std::array::from_fn(|g| &scores[g * num_positions..][..num_positions]);
    let mut col = 0;
    while col + V <= d {
        let sums = weighted::<FUSED, G, V>(&scores, &values[col..], row_stride);
        for (g, sums) in sums.iter().enumerate() {
            out[g * d + col..][..V].copy_from_slice(sums);
        }
        col += V;
    }
    for col in col..d {
        let sums = weighted::<FUSED, G, 1>(&scores, &values[col..], row_stride);
        for (g, [sum]) in sums.into_iter().enumerate() {
            out[g * d + col] = sum;
        }
    }
}

/// Each query's product with each key.
#[inline(always)]
fn products<const FUSED: bool, const G: usize, const K: usize>(
    queries: &[&[f32]; G],
    keys: &[&[f32]; K],
) -> [[f32; K]; G] {
    let d = keys[0].len();
    let mut lanes = [[[0.0f32; LANES]; K]; G];
    for at in (0..d / LANES * LANES).step_by(LANES) {
        let part = |x: &[f32]| *x[at..].first_chunk::<LANES>().expect("queries and keys have one length");
        let keys = keys.map(part);
        for (lanes, query) in lanes.iter_mut().zip(queries) {
            let query = part(query);
            for (lanes, key) in lanes.iter_mut().zip(&keys) {
                for j in 0..LANES {
                    lanes[j] = multiply_add::<FUSED>(query[j], key[j], lanes[j]);
                }
            }
        }
    }
    let mut sums = [[0.0; K]; G];
    for g in 0..G {
        for k in 0..K {
            let rest = queries[g].iter().zip(keys[k]).skip(d / LANES * LANES);
            sums[g][k] = rest.fold(simd::fold(&lanes[g][k]), |sum, (a, b)| multiply_add::<FUSED>(*a, *b, sum));
        }
    }
    sums
}

/// For each head: the sum of the first `V` columns of all values, weighted with its scores.
#[inline(always)]
fn weighted<const FUSED: bool, const G: usize, const V: usize>(
    scores: &[&[f32]; G],
    values: &[f32],
    row_stride: usize,
) -> [[f32; V]; G] {
    let mut sums = [[0.0f32; V]; G];
    for t in 0..scores[0].len() {
        let value = values[t * row_stride..].first_chunk::<V>().expect("a value of a position is whole");
        simd::ask_for(value.as_ptr().wrapping_add(AHEAD * row_stride).cast(), size_of_val(value));
        for (sums, scores) in sums.iter_mut().zip(scores) {
            for j in 0..V {
                sums[j] = multiply_add::<FUSED>(scores[t], value[j], sums[j]);
            }
        }
    }
    sums
}

#[inline(always)]
fn softmax(scores: &mut [f32]) {
    let max = simd::max(scores);
    for score in scores.iter_mut() {
        *score = simd::exp_share(*score - max);
    }
    let factor = 1.0 / simd::sum(scores);
    for score in scores.iter_mut() {
        *score *= factor;
    }
}

#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, sum: f32) -> f32 {
    if FUSED { a.mul_add(b, sum) } else { a * b + sum }
}

#[cfg(test)]
mod tests;
