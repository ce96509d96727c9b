//! Dot products of several rows with the rows of a weight matrix, which is what decoding spends its time on.
//!
//! Decoding is bound by memory, so weights are widened in registers as they come, and a weight that was loaded is used for up
//! to six rows. Each sum is its own: 8 lanes, fused multiply-adds, folded by halves, then the products after the last whole 8
//! one by one. It depends neither on the other rows nor on their number, nor on how the weights are held: only on the numbers
//! that they stand for. By hand, because the compiler turns the same loops into scalar code
//! (for aarch64: into half-filled vectors, one sum at a time).

use crate::device::WeightMatrix;
use crate::device::cpu::simd;
use crate::device::weights::Held;
use std::ops::Range;

/// Lanes of a sum.
const LANES: usize = 8;

/// Where the outputs of a few rows go: output `o` of row `r` at `r * row_stride + o`.
#[derive(Clone, Copy)]
pub(super) struct Outputs {
    pub(super) pointer: *mut f32,
    pub(super) row_stride: usize,
}
// SAFETY: whoever shares one out writes places of its own in each thread.
#[expect(unsafe_code, reason = "columns of one matrix are written by several threads")]
unsafe impl Sync for Outputs {}

impl Outputs {
    /// Where an output of a row goes.
    #[inline(always)]
    pub(super) fn place(&self, row: usize, output: usize) -> *mut f32 {
        self.pointer.wrapping_add(row * self.row_stride + output)
    }
}

/// Outputs `outputs` of each row := its dot products with these rows of w, given w's numbers.
///
/// # Safety
/// These outputs of as many rows as there are must be valid to write, by this thread alone.
#[expect(unsafe_code, reason = "columns of a matrix, by pointer and stride")]
pub(super) unsafe fn dots(out: Outputs, rows: &[&[f32]], w: WeightMatrix, held: Held<'_>, outputs: Range<usize>) {
    assert!(outputs.end <= w.rows && rows.iter().all(|row| row.len() == w.cols), "operands agree");
    #[cfg(target_arch = "x86_64")]
    if simd::has_avx2() {
        // SAFETY: the machine has the features; the rest is the caller's promise and what was asserted.
        return unsafe {
            match held {
                Held::F32(weights) => wide::dots(out, rows, &wide::F32(weights), w.cols, outputs),
                Held::Bf16(weights) => wide::dots(out, rows, &wide::Bf16(weights), w.cols, outputs),
                Held::Int8 { codes, scales } => {
                    wide::dots(out, rows, &wide::Int8 { codes, scales }, w.cols, outputs);
                }
            }
        };
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: every aarch64 has NEON; the rest is the caller's promise and what was asserted.
    return unsafe { neon::dots(out, rows, held, w.cols, outputs) };
    // Without the instruction a fused multiply-add would be a call for each number.
    #[cfg(not(target_arch = "aarch64"))]
    // SAFETY: the caller's promise.
    unsafe {
        plain::<{ cfg!(target_feature = "fma") }>(out, rows, w, held, outputs);
    }
}

/// The twin in plain code; with `FUSED` it has the same bits.
///
/// # Safety
/// As for [`dots`].
#[expect(unsafe_code, reason = "columns of a matrix, by pointer and stride")]
#[cfg(any(test, not(target_arch = "aarch64")))]
unsafe fn plain<const FUSED: bool>(
    out: Outputs,
    rows: &[&[f32]],
    w: WeightMatrix,
    held: Held<'_>,
    outputs: Range<usize>,
) {
    let multiply_add = |a: f32, b: f32, sum: f32| if FUSED { a.mul_add(b, sum) } else { a * b + sum };
    let mut weights = vec![0.0; w.cols];
    let whole = w.cols / LANES * LANES;
    for output in outputs {
        held.read(w.cols, output, 0, &mut weights);
        for (r, row) in rows.iter().enumerate() {
            let mut lanes = [0.0f32; LANES];
            for (row, weights) in row.as_chunks::<LANES>().0.iter().zip(weights.as_chunks::<LANES>().0) {
                for (lane, (a, b)) in lanes.iter_mut().zip(row.iter().zip(weights)) {
                    *lane = multiply_add(*a, *b, *lane);
                }
            }
            let rest = row[whole..].iter().zip(&weights[whole..]);
            let sum = rest.fold(simd::fold_half(&lanes), |sum, (a, b)| multiply_add(*a, *b, sum));
            // SAFETY: the caller's promise.
            unsafe { *out.place(r, output) = sum };
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod wide;

#[cfg(test)]
mod tests;
