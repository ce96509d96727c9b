//! Decoding kernels for the CPU: products and attention where the order of the sum behind one number depends on the length of
//! that sum alone. So a row's result has the same bits whatever other rows share the call, however many threads work.
//!
//! Decoding is bound by memory: each weight is read once for all rows. A sum runs in [`LANES`] partial sums (lane `j` adds the
//! products at `j`, `j + LANES`, …), then halves are added to halves, then the rest one by one. Each kernel is one body,
//! compiled twice: with AVX2 and FMA, chosen at run time, and plain.

use rayon::prelude::*;

/// Partial sums of one sum.
const LANES: usize = 16;
/// Outputs of one task.
const OUTPUTS_PER_TASK: usize = 64;
/// Multiplications below which threads are not worth waking.
const SERIAL_WORK: usize = 1 << 15;
/// On these a fused multiply-add is an instruction; elsewhere it would be a call, and the plain body rounds twice.
const PLAIN_FUSES: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));

/// y `[n,O]` := x `[n,I]` · w `[O,I]`ᵀ, all contiguous; `inputs` = `I`. `turned` is scratch that is kept between calls.
pub(super) fn linear_by_row(y: &mut [f32], x: &[f32], w: &[f32], inputs: usize, turned: &mut Vec<f32>) {
    let (num_rows, outputs) = (x.len() / inputs, w.len() / inputs);
    assert!(x.len() == num_rows * inputs && w.len() == outputs * inputs && y.len() == num_rows * outputs);
    if num_rows == 1 {
        return outputs_of_rows(y, x, w, inputs);
    }
    // One task writes some outputs of all rows: contiguous in the transpose of y.
    turned.clear();
    turned.resize(y.len(), 0.0);
    outputs_of_rows(turned, x, w, inputs);
    let turn = |(row, y): (usize, &mut [f32])| {
        for (output, y) in y.iter_mut().enumerate() {
            *y = turned[output * num_rows + row];
        }
    };
    if y.len() < SERIAL_WORK {
        y.chunks_mut(outputs).enumerate().for_each(turn);
    } else {
        y.par_chunks_mut(outputs).enumerate().for_each(turn);
    }
}

/// Sizes of [`cache_attention`].
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) num_heads: usize,
    pub(super) num_kv_heads: usize,
    pub(super) head_dim: usize,
}

/// One row's operands: its queries `[A,D]`, and the keys and values `[T,K,D]` that it sees.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) queries: &'a [f32],
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
}

/// out `[n,A,D]` := softmax(q · kᵀ / √D) · v for each row of `seen`.
pub(super) fn cache_attention(out: &mut [f32], seen: &[Seen<'_>], sizes: Sizes) {
    let group = sizes.num_heads / sizes.num_kv_heads * sizes.head_dim;
    let fused = fused_available();
    let work: usize = seen.iter().map(|row| row.keys.len() * sizes.num_heads / sizes.num_kv_heads).sum();
    let head_group = |(task, out): (usize, &mut [f32])| {
        let (row, kv_head) = (task / sizes.num_kv_heads, task % sizes.num_kv_heads);
        let mut scores = Vec::new();
        attend(out, &seen[row], kv_head, sizes, &mut scores, fused);
    };
    if work < SERIAL_WORK {
        out.chunks_mut(group).enumerate().for_each(head_group);
    } else {
        out.par_chunks_mut(group).enumerate().for_each(head_group);
    }
}

/// turned `[O,n]`: each task computes some outputs for all rows.
fn outputs_of_rows(turned: &mut [f32], x: &[f32], w: &[f32], inputs: usize) {
    let num_rows = x.len() / inputs;
    let fused = fused_available();
    let task = |(turned, w): (&mut [f32], &[f32])| block(turned, x, w, inputs, fused);
    let (turned_len, w_len) = (OUTPUTS_PER_TASK * num_rows, OUTPUTS_PER_TASK * inputs);
    if x.len() * (w.len() / inputs) < SERIAL_WORK {
        turned.chunks_mut(turned_len).zip(w.chunks(w_len)).for_each(task);
    } else {
        turned.par_chunks_mut(turned_len).zip(w.par_chunks(w_len)).for_each(task);
    }
}

#[cfg(target_arch = "x86_64")]
fn fused_available() -> bool {
    std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
}

#[cfg(not(target_arch = "x86_64"))]
fn fused_available() -> bool {
    false
}

#[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "calls code compiled for a processor that was asked"))]
fn block(turned: &mut [f32], x: &[f32], w: &[f32], inputs: usize, fused: bool) {
    #[cfg(target_arch = "x86_64")]
    if fused {
        // SAFETY: `fused` comes from `fused_available`, which found AVX2 and FMA on this processor.
        return unsafe { block_avx2(turned, x, w, inputs) };
    }
    let _ = fused;
    block_body::<PLAIN_FUSES>(turned, x, w, inputs);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn block_avx2(turned: &mut [f32], x: &[f32], w: &[f32], inputs: usize) {
    block_body::<true>(turned, x, w, inputs);
}

#[inline(always)]
fn block_body<const FUSED: bool>(turned: &mut [f32], x: &[f32], w: &[f32], inputs: usize) {
    let num_rows = x.len() / inputs;
    // Several outputs and rows at a time keep the arithmetic units busy; each sum is its own.
    let mut outputs = turned.chunks_exact_mut(4 * num_rows).zip(w.chunks_exact(4 * inputs));
    for (turned, w) in &mut outputs {
        let w: [&[f32]; 4] = std::array::from_fn(|i| &w[i * inputs..(i + 1) * inputs]);
        let (first, second, third, fourth) = split_in_four(turned, num_rows);
        for (row, x) in x.chunks_exact(inputs).enumerate() {
            [first[row], second[row], third[row], fourth[row]] = dots::<FUSED, 4>(x, w);
        }
    }
    let done = turned.len() / (4 * num_rows) * 4;
    for (turned, w) in turned[done * num_rows..].chunks_exact_mut(num_rows).zip(w[done * inputs..].chunks_exact(inputs))
    {
        for (y, x) in turned.iter_mut().zip(x.chunks_exact(inputs)) {
            [*y] = dots::<FUSED, 1>(x, [w]);
        }
    }
}

fn split_in_four(turned: &mut [f32], num_rows: usize) -> (&mut [f32], &mut [f32], &mut [f32], &mut [f32]) {
    let (low, high) = turned.split_at_mut(2 * num_rows);
    let ((first, second), (third, fourth)) = (low.split_at_mut(num_rows), high.split_at_mut(num_rows));
    (first, second, third, fourth)
}

/// x · w for N vectors w of x's length.
#[inline(always)]
fn dots<const FUSED: bool, const N: usize>(x: &[f32], w: [&[f32]; N]) -> [f32; N] {
    let mut sums = [[0.0_f32; LANES]; N];
    let whole = x.len() / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        let x: &[f32; LANES] = x[start..start + LANES].try_into().expect("a slice of that length");
        for n in 0..N {
            let w: &[f32; LANES] = w[n][start..start + LANES].try_into().expect("a slice of that length");
            for lane in 0..LANES {
                sums[n][lane] = multiply_add::<FUSED>(x[lane], w[lane], sums[n][lane]);
            }
        }
    }
    std::array::from_fn(|n| {
        let mut total = total(&sums[n]);
        for i in whole..x.len() {
            total = multiply_add::<FUSED>(x[i], w[n][i], total);
        }
        total
    })
}

#[inline(always)]
fn total(sums: &[f32; LANES]) -> f32 {
    let mut sums = *sums;
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
        half /= 2;
    }
    sums[0]
}

#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

#[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "calls code compiled for a processor that was asked"))]
fn attend(out: &mut [f32], seen: &Seen<'_>, kv_head: usize, sizes: Sizes, scores: &mut Vec<f32>, fused: bool) {
    #[cfg(target_arch = "x86_64")]
    if fused {
        // SAFETY: `fused` comes from `fused_available`, which found AVX2 and FMA on this processor.
        return unsafe { attend_avx2(out, seen, kv_head, sizes, scores) };
    }
    let _ = fused;
    attend_body::<PLAIN_FUSES>(out, seen, kv_head, sizes, scores);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn attend_avx2(out: &mut [f32], seen: &Seen<'_>, kv_head: usize, sizes: Sizes, scores: &mut Vec<f32>) {
    attend_body::<true>(out, seen, kv_head, sizes, scores);
}

/// The query heads that share one key/value head, for one row: `out` is `[A/K,D]`.
#[inline(always)]
fn attend_body<const FUSED: bool>(
    out: &mut [f32],
    seen: &Seen<'_>,
    kv_head: usize,
    sizes: Sizes,
    scores: &mut Vec<f32>,
) {
    let (d, width) = (sizes.head_dim, sizes.num_kv_heads * sizes.head_dim);
    let group = sizes.num_heads / sizes.num_kv_heads;
    let scale = 1.0 / (d as f32).sqrt();
    for (i, out) in out.chunks_exact_mut(d).enumerate() {
        let head = kv_head * group + i;
        let query = &seen.queries[head * d..(head + 1) * d];
        scores.clear();
        for key in seen.keys.chunks_exact(width) {
            let [dot] = dots::<FUSED, 1>(query, [&key[kv_head * d..(kv_head + 1) * d]]);
            scores.push(dot * scale);
        }
        let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for score in scores.iter_mut() {
            *score = (*score - most).exp();
            sum += *score;
        }
        out.fill(0.0);
        for (value, probability) in seen.values.chunks_exact(width).zip(scores.iter()) {
            for (out, v) in out.iter_mut().zip(&value[kv_head * d..(kv_head + 1) * d]) {
                *out = multiply_add::<FUSED>(*probability, *v, *out);
            }
        }
        for out in out.iter_mut() {
            *out /= sum;
        }
    }
}

#[cfg(test)]
mod tests;
