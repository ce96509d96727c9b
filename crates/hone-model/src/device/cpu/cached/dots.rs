//! Dot products of several rows with the rows of a weight matrix, which is what decoding spends its time on.
//!
//! Decoding is bound by memory, so a weight that was loaded is used for up to four rows. Each sum is its own: 16 lanes, fused
//! multiply-adds, folded as [`simd::fold`] folds, then the numbers after the last whole 16 one by one. It depends neither on
//! the other rows nor on their number. By hand, because the compiler turns the same loops into scalar code (3.7 instead of
//! 40 GFLOP/s for 8 rows of 576 on one core of an AMD EPYC with AVX2).

use crate::device::cpu::simd::{self, LANES};

/// results `[rows, count]` := dot products of `rows` with the first `count` rows of w.
pub(super) fn dots(results: &mut [f32], rows: &[&[f32]], w: &[f32], row_stride: usize, count: usize) {
    #[cfg(target_arch = "x86_64")]
    if simd::has_avx2() {
        // SAFETY: the machine has the features that the function is compiled for; it is safe otherwise.
        #[expect(unsafe_code, reason = "calling code for features that were found at run time")]
        return unsafe { wide::dots(results, rows, w, row_stride, count) };
    }
    // Without the instruction a fused multiply-add would be a call for each number.
    plain::<{ cfg!(any(target_arch = "aarch64", target_feature = "fma")) }>(results, rows, w, row_stride, count);
}

/// The twin in plain code; with `FUSED` it has the same bits.
fn plain<const FUSED: bool>(results: &mut [f32], rows: &[&[f32]], w: &[f32], row_stride: usize, count: usize) {
    let multiply_add = |a: f32, b: f32, sum: f32| if FUSED { a.mul_add(b, sum) } else { a * b + sum };
    for (row, results) in rows.iter().zip(results.chunks_exact_mut(count)) {
        for (c, result) in results.iter_mut().enumerate() {
            let w = &w[c * row_stride..][..row.len()];
            let whole = row.len() / LANES * LANES;
            let mut lanes = [0.0f32; LANES];
            for start in (0..whole).step_by(LANES) {
                for (j, lane) in lanes.iter_mut().enumerate() {
                    *lane = multiply_add(row[start + j], w[start + j], *lane);
                }
            }
            *result = (whole..row.len()).fold(simd::fold(&lanes), |sum, j| multiply_add(row[j], w[j], sum));
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    //! With AVX2 and FMA.

    use super::{LANES, simd};
    use std::arch::x86_64::{__m256, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps};

    /// Numbers in a vector; two make the lanes.
    const HALF: usize = LANES / 2;

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn dots(results: &mut [f32], rows: &[&[f32]], w: &[f32], row_stride: usize, count: usize) {
        for c in 0..count {
            let w = &w[c * row_stride..];
            let mut r = 0;
            while r < rows.len() {
                match rows.len() - r {
                    4.. => r += columns::<4>(&mut results[r * count + c..], count, &rows[r..], w),
                    2 | 3 => r += columns::<2>(&mut results[r * count + c..], count, &rows[r..], w),
                    _ => r += columns::<1>(&mut results[r * count + c..], count, &rows[r..], w),
                }
            }
        }
    }

    /// One output of `R` rows, written `count` apart; returns `R`.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn columns<const R: usize>(results: &mut [f32], count: usize, rows: &[&[f32]], w: &[f32]) -> usize {
        let len = rows[0].len();
        let (rows, w): ([&[f32]; R], &[f32]) = (std::array::from_fn(|r| &rows[r][..len]), &w[..len]);
        let whole = len / LANES * LANES;
        let mut sums = [[_mm256_setzero_ps(); R]; 2];
        for start in (0..whole).step_by(LANES) {
            for (half, sums) in sums.iter_mut().enumerate() {
                let at = start + half * HALF;
                let weights = load(w, at);
                for (sum, row) in sums.iter_mut().zip(rows) {
                    *sum = _mm256_fmadd_ps(load(row, at), weights, *sum);
                }
            }
        }
        for (r, row) in rows.into_iter().enumerate() {
            let folded = fold([sums[0][r], sums[1][r]]);
            results[r * count] = (whole..len).fold(folded, |sum, j| row[j].mul_add(w[j], sum));
        }
        R
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    #[expect(unsafe_code, reason = "vector loads take pointers")]
    fn load(x: &[f32], at: usize) -> __m256 {
        debug_assert!(at + HALF <= x.len());
        // SAFETY: `columns` gives slices of `len` numbers, and `at + HALF <= whole <= len`. No alignment is asked for.
        unsafe { _mm256_loadu_ps(x.as_ptr().add(at)) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    #[expect(unsafe_code, reason = "vector stores take pointers")]
    fn fold([low, high]: [__m256; 2]) -> f32 {
        let mut lanes = [0.0; LANES];
        let (first, second) = lanes.split_at_mut(HALF);
        // SAFETY: each half of the lanes holds as many numbers as a vector.
        unsafe {
            _mm256_storeu_ps(first.as_mut_ptr(), low);
            _mm256_storeu_ps(second.as_mut_ptr(), high);
        }
        simd::fold(&lanes)
    }
}

#[cfg(test)]
mod tests;
