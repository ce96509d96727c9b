//! With AVX2 and FMA: tiles of a few rows by a few outputs, one vector of sums for each pair. The outputs of a tile are far
//! apart, so that each one's weights are read in the order in which they lie in memory: a few long streams are what the
//! machine's own prefetching is best at. Neighbouring outputs at once reach two thirds of the bandwidth.

use super::{LANES, Outputs, simd};
use crate::device::weights::GROUP;
use std::arch::x86_64::{
    __m256, _MM_HINT_T0, _mm_loadl_epi64, _mm_loadu_si128, _mm_prefetch, _mm256_castsi256_ps, _mm256_cvtepi8_epi32,
    _mm256_cvtepi32_ps, _mm256_cvtepu16_epi32, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_mul_ps, _mm256_set1_ps,
    _mm256_setzero_ps, _mm256_slli_epi32, _mm256_storeu_ps,
};
use std::ops::Range;

/// Bytes that weights are asked for ahead of their use.
const AHEAD: usize = 1024;

/// A format's numbers, read 8 at a time.
pub(super) trait Weights {
    /// Weights of a cache line; those of a row from a multiple of it on share a factor.
    const RUN: usize;

    /// Address of the weight at `index`, which need not exist.
    fn address(&self, index: usize) -> *const i8;

    /// Factor of the weights of `row`, which are `cols` wide, in the run that column `at` is in; 1 where a format has none.
    #[inline(always)]
    fn scale(&self, _row: usize, _cols: usize, _at: usize) -> f32 {
        1.0
    }

    /// Weights `index..index + 8`, of which `scale` holds the factor 8 times.
    ///
    /// # Safety
    /// They must exist, and the machine must have AVX2.
    #[expect(unsafe_code, reason = "vector loads take pointers")]
    unsafe fn load(&self, index: usize, scale: __m256) -> __m256;

    /// One weight.
    fn one(&self, index: usize, scale: f32) -> f32;
}

pub(super) struct F32<'a>(pub(super) &'a [f32]);

pub(super) struct Bf16<'a>(pub(super) &'a [u16]);

pub(super) struct Int8<'a> {
    pub(super) codes: &'a [i8],
    pub(super) scales: &'a [f32],
}

impl Weights for F32<'_> {
    const RUN: usize = 16;

    #[inline(always)]
    fn address(&self, index: usize) -> *const i8 {
        self.0.as_ptr().wrapping_add(index).cast()
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "vector loads take pointers")]
    unsafe fn load(&self, index: usize, _: __m256) -> __m256 {
        // SAFETY: the caller's promise. No alignment is asked for.
        unsafe { _mm256_loadu_ps(self.address(index).cast()) }
    }

    #[inline(always)]
    fn one(&self, index: usize, _: f32) -> f32 {
        self.0[index]
    }
}

impl Weights for Bf16<'_> {
    const RUN: usize = 32;

    #[inline(always)]
    fn address(&self, index: usize) -> *const i8 {
        self.0.as_ptr().wrapping_add(index).cast()
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "vector loads take pointers")]
    unsafe fn load(&self, index: usize, _: __m256) -> __m256 {
        // SAFETY: the caller's promise. No alignment is asked for.
        unsafe {
            let halves = _mm_loadu_si128(self.address(index).cast());
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
        }
    }

    #[inline(always)]
    fn one(&self, index: usize, _: f32) -> f32 {
        f32::from_bits(u32::from(self.0[index]) << 16)
    }
}

impl Weights for Int8<'_> {
    const RUN: usize = GROUP;

    #[inline(always)]
    fn address(&self, index: usize) -> *const i8 {
        self.codes.as_ptr().wrapping_add(index)
    }

    #[inline(always)]
    fn scale(&self, row: usize, cols: usize, at: usize) -> f32 {
        self.scales[row * cols.div_ceil(GROUP) + at / GROUP]
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "vector loads take pointers")]
    unsafe fn load(&self, index: usize, scale: __m256) -> __m256 {
        // SAFETY: the caller's promise. No alignment is asked for.
        unsafe {
            let codes = _mm_loadl_epi64(self.address(index).cast());
            _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes)), scale)
        }
    }

    #[inline(always)]
    fn one(&self, index: usize, scale: f32) -> f32 {
        f32::from(self.codes[index]) * scale
    }
}

/// # Safety
/// As for [`super::dots`]; rows are `cols` numbers, and the outputs' weights exist.
#[target_feature(enable = "avx2,fma")]
#[expect(unsafe_code, reason = "columns of a matrix, by pointer and stride")]
pub(super) unsafe fn dots<W: Weights>(out: Outputs, rows: &[&[f32]], w: &W, cols: usize, outputs: Range<usize>) {
    // SAFETY: the caller's promise: these outputs, and no others.
    unsafe {
        // As many sums at once as hide the latency of an addition.
        match rows {
            [row] => streams::<W, 4>(out, &[row], w, cols, outputs),
            _ => streams::<W, 2>(out, rows, w, cols, outputs),
        }
    }
}

/// The outputs in `C` parts that are gone through side by side.
///
/// # Safety
/// As for [`dots`].
#[inline]
#[target_feature(enable = "avx2,fma")]
#[expect(unsafe_code, reason = "columns of a matrix, by pointer and stride")]
unsafe fn streams<W: Weights, const C: usize>(
    out: Outputs,
    rows: &[&[f32]],
    w: &W,
    cols: usize,
    outputs: Range<usize>,
) {
    let part = outputs.len() / C;
    // SAFETY: the caller's promise.
    unsafe {
        for first in outputs.start..outputs.start + part {
            all_rows::<W, C>(out, rows, w, cols, std::array::from_fn(|c| first + c * part));
        }
        for output in outputs.start + part * C..outputs.end {
            all_rows::<W, 1>(out, rows, w, cols, [output]);
        }
    }
}

/// `C` outputs of all rows.
///
/// # Safety
/// As for [`dots`].
#[inline]
#[target_feature(enable = "avx2,fma")]
#[expect(unsafe_code, reason = "columns of a matrix, by pointer and stride")]
unsafe fn all_rows<W: Weights, const C: usize>(out: Outputs, rows: &[&[f32]], w: &W, cols: usize, outputs: [usize; C]) {
    let from = |r: usize| Outputs { pointer: out.place(r, 0), ..out };
    let (fours, rest) = rows.as_chunks::<4>();
    let (twos, ones) = rest.as_chunks::<2>();
    // SAFETY: the caller's promise.
    unsafe {
        for (i, rows) in fours.iter().enumerate() {
            tile::<W, 4, C>(from(4 * i), *rows, w, cols, outputs);
        }
        for rows in twos {
            tile::<W, 2, C>(from(4 * fours.len()), *rows, w, cols, outputs);
        }
        for row in ones {
            tile::<W, 1, C>(from(rows.len() - 1), [*row], w, cols, outputs);
        }
    }
}

/// `C` outputs of `R` rows.
///
/// # Safety
/// As for [`dots`].
#[inline]
#[target_feature(enable = "avx2,fma")]
#[expect(unsafe_code, reason = "rows of a matrix, by pointer and stride")]
unsafe fn tile<W: Weights, const R: usize, const C: usize>(
    out: Outputs,
    rows: [&[f32]; R],
    w: &W,
    cols: usize,
    outputs: [usize; C],
) {
    let whole = cols / LANES * LANES;
    let starts = outputs.map(|output| output * cols);
    let factors = |at: usize| outputs.map(|output| _mm256_set1_ps(w.scale(output, cols, at)));
    let mut sums = [[_mm256_setzero_ps(); C]; R];
    let mut run = 0;
    // SAFETY: `run + W::RUN <= cols`, and below `at + LANES <= whole <= cols`, so the weights and the numbers of the rows
    // exist.
    unsafe {
        while run + W::RUN <= cols {
            let scales = factors(run);
            for start in starts {
                _mm_prefetch::<_MM_HINT_T0>(w.address(start + run).wrapping_add(AHEAD));
            }
            for step in 0..const { W::RUN / LANES } {
                lanes(&mut sums, &rows, w, (&starts, run + step * LANES), &scales);
            }
            run += W::RUN;
        }
        if run < whole {
            let scales = factors(run);
            while run < whole {
                lanes(&mut sums, &rows, w, (&starts, run), &scales);
                run += LANES;
            }
        }
    }
    for (r, (row, sums)) in rows.into_iter().zip(sums).enumerate() {
        for (sum, output) in sums.into_iter().zip(outputs) {
            let mut sum = fold(sum);
            for (at, x) in row.iter().enumerate().skip(whole) {
                sum = x.mul_add(w.one(output * cols + at, w.scale(output, cols, at)), sum);
            }
            // SAFETY: the caller's promise.
            unsafe { *out.place(r, output) = sum };
        }
    }
}

/// One step of all sums, from column `at` on; each output's weights begin at its `starts`.
///
/// # Safety
/// As for [`dots`]; `at + LANES` columns must exist.
#[inline]
#[target_feature(enable = "avx2,fma")]
#[expect(unsafe_code, reason = "vector loads take pointers")]
unsafe fn lanes<W: Weights, const R: usize, const C: usize>(
    sums: &mut [[__m256; C]; R],
    rows: &[&[f32]; R],
    w: &W,
    (starts, at): (&[usize; C], usize),
    scales: &[__m256; C],
) {
    let mut weights = [_mm256_setzero_ps(); C];
    // SAFETY: the caller's promise.
    unsafe {
        for ((weights, start), scale) in weights.iter_mut().zip(starts).zip(scales) {
            *weights = w.load(start + at, *scale);
        }
        for (row, sums) in rows.iter().zip(sums) {
            let x = _mm256_loadu_ps(row.as_ptr().wrapping_add(at));
            for (sum, weights) in sums.iter_mut().zip(weights) {
                *sum = _mm256_fmadd_ps(x, weights, *sum);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
#[expect(unsafe_code, reason = "vector stores take pointers")]
fn fold(sum: __m256) -> f32 {
    let mut lanes = [0.0; LANES];
    // SAFETY: the lanes hold as many numbers as a vector.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sum) };
    simd::fold_half(&lanes)
}
