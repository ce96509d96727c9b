//! With AVX-512: two neighbouring tiles at once, because the sums of one alone would be too few to hide the latency of an
//! addition: twelve vectors of sums, two of b, one of a. Not run on hardware yet.

use super::{COLS, Left, Output, ROWS, tile};
use crate::device::cpu::simd;
use std::arch::x86_64::{
    _MM_HINT_T0, _mm_prefetch, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mul_ps, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_storeu_ps,
};
use std::sync::OnceLock;

/// Steps and distance of rows of the operands that the two kernels are compared on.
const STEPS: usize = 67;
const ROW: usize = 2 * COLS + 3;

/// Whether the machine has AVX-512; then, whether the kernel has the same bits there as [`tile`] and so is used. Looked at
/// once, because it was not run on hardware yet.
pub(in crate::device::cpu) fn agrees() -> Option<bool> {
    static ANSWER: OnceLock<Option<bool>> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let has_it = std::arch::is_x86_feature_detected!("avx512f") && simd::has_avx2();
        let agrees = has_it.then(has_bits_of_tiles);
        if agrees == Some(false) {
            tracing::warn!("the AVX-512 kernel of products has other bits than the AVX2 kernel here: AVX2 is used");
        }
        agrees
    })
}

/// Whether both kernels give the same on operands that fill every bit of their fractions. The machine must have AVX-512.
fn has_bits_of_tiles() -> bool {
    let numbers =
        |len: usize, seed: usize| -> Vec<f32> { (0..len).map(|i| ((i + seed) as f32 * 0.731).sin()).collect() };
    let (a, b) = (numbers(STEPS * ROWS, 1), numbers(2 * STEPS * COLS, 2));
    [false, true].into_iter().all(|accumulate| {
        let mut results = [numbers(ROWS * ROW, 3), numbers(ROWS * ROW, 3)];
        let [found, expected] =
            results.each_mut().map(|c| Output { c: c.as_mut_ptr(), row_stride: ROW, factor: 0.3, accumulate });
        // SAFETY: the machine has AVX-512, as the caller looked; six rows of 32 of 35 numbers are inside each result.
        #[expect(unsafe_code, reason = "the kernels write through pointers")]
        unsafe {
            pair(found, Left::packed(&a), &b);
            two_tiles(expected, Left::packed(&a), &b);
        }
        results[0] == results[1]
    })
}

/// The twin: one tile after the other.
///
/// # Safety
/// As for [`pair`], but for the machine.
#[expect(unsafe_code, reason = "the result is two tiles inside a matrix, by pointer and stride")]
pub(in crate::device::cpu::matmul) unsafe fn two_tiles(out: Output, a: Left, b: &[f32]) {
    let (left, right) = b.split_at(b.len() / 2);
    // SAFETY: the caller's promise.
    unsafe {
        tile(out, a, left);
        tile(Output { c: out.c.add(COLS), ..out }, a, right);
    }
}

/// c `[ROWS,2·COLS]` := or += factor · a · b for a `[ROWS,k]` and two panels b `[2,k,COLS]`. Each sum runs over k in order.
///
/// # Safety
/// As for [`tile`], for `2·COLS` numbers side by side in each row; the machine must have AVX-512.
#[target_feature(enable = "avx512f")]
#[expect(unsafe_code, reason = "vector loads and stores take pointers")]
pub(in crate::device::cpu::matmul) unsafe fn pair(out: Output, a: Left, b: &[f32]) {
    let panel = b.len() / 2;
    // SAFETY: reads of a panel stay below its steps; the rest is the caller's promise; a prefetch faults nowhere.
    unsafe {
        for r in 0..ROWS {
            let row = out.c.wrapping_add(r * out.row_stride);
            _mm_prefetch::<_MM_HINT_T0>(row.cast());
            _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(COLS).cast());
            _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(2 * COLS - 1).cast());
        }
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        let Left { rows, step_stride } = a;
        let (mut step, mut b) = (0, b.as_ptr());
        for _ in 0..panel / COLS {
            let columns = [_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(panel))];
            for (row, sums) in rows.iter().zip(&mut sums) {
                let x = _mm512_set1_ps(*row.add(step));
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = _mm512_fmadd_ps(x, column, *sum);
                }
            }
            step += step_stride;
            b = b.add(COLS);
        }
        let factor = _mm512_set1_ps(out.factor);
        for (r, sums) in sums.iter().enumerate() {
            for (i, &sum) in sums.iter().enumerate() {
                let place = out.c.add(r * out.row_stride + i * COLS);
                let mut value = _mm512_mul_ps(sum, factor);
                if out.accumulate {
                    value = _mm512_add_ps(_mm512_loadu_ps(place), value);
                }
                _mm512_storeu_ps(place, value);
            }
        }
    }
}
