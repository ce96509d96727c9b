//! With AVX2 and FMA: tiles of a few rows by a few outputs, one vector of sums for each pair. The outputs of a tile are far
//! apart, so that each one's weights are read in the order in which they lie in memory: a few long streams are what the
//! machine's own prefetching is best at. Neighbouring outputs at once reach two thirds of the bandwidth.

use super::{LANES, Outputs, simd};
use crate::device::weights::GROUP;
use std::arch::x86_64::{
    __m256, _MM_HINT_T0, _mm_add_ps, _mm_loadl_epi64, _mm_loadu_si128, _mm_movehl_ps, _mm_movelh_ps, _mm_prefetch,
    _mm_storeu_ps, _mm_unpackhi_ps, _mm_unpacklo_ps, _mm256_castps256_ps128, _mm256_castsi256_ps, _mm256_cvtepi8_epi32,
    _mm256_cvtepi32_ps, _mm256_cvtepu16_epi32, _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_mul_ps,
    _mm256_set1_ps, _mm256_setzero_ps, _mm256_slli_epi32, _mm256_storeu_ps,
};
use std::ops::Range;

/// Bytes that weights are asked for ahead of their use.
const AHEAD: usize = 1024;
/// Bytes of weights that several tiles of rows use one after the other: they stay in the second-level cache, and the rows of a
/// tile in the first.
const BLOCK_BYTES: usize = 64 * 1024;
/// Most rows of a tile.
const MOST_ROWS: usize = 6;
/// So few rows wait for the weights, which are read fastest in the order in which they lie in memory. Tiles of more go through
/// some columns of several outputs, then through the next, so that the rows' part stays in the first-level cache.
const FEW_ROWS: usize = 8;
/// These columns: a multiple of every [`Weights::RUN`].
const COLS_AT_ONCE: usize = 768;
/// Tiles whose sums are kept meanwhile.
const KEPT: usize = 16;

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
    let block = (BLOCK_BYTES * W::RUN / (simd::CACHE_LINE * C * cols.max(1))).max(1);
    let (mut first, end) = (outputs.start, outputs.start + part);
    // SAFETY: the caller's promise.
    unsafe {
        while first < end {
            let next = end.min(first + block);
            all_rows::<W, C>(out, rows, w, cols, (first..next, part));
            first = next;
        }
        all_rows::<W, 1>(out, rows, w, cols, (outputs.start + part * C..outputs.end, 0));
    }
}

/// All rows, with the outputs of a range and of `C - 1` further ones, each `part` behind the last. The weights of all of them
/// are read again for each tile of rows.
///
/// # Safety
/// As for [`dots`].
#[inline]
#[target_feature(enable = "avx2,fma")]
#[expect(unsafe_code, reason = "columns of a matrix, by pointer and stride")]
unsafe fn all_rows<W: Weights, const C: usize>(
    out: Outputs,
    rows: &[&[f32]],
    w: &W,
    cols: usize,
    (outputs, part): (Range<usize>, usize),
) {
    // As few tiles as hold the rows, all of about one size: each of them reads all weights.
    let num_tiles = rows.len().div_ceil(MOST_ROWS);
    let in_order = rows.len() <= FEW_ROWS || cols <= COLS_AT_ONCE;
    let mut first = 0;
    for i in 1..=num_tiles {
        let next = rows.len() * i / num_tiles;
        let (out, rows) = (Outputs { pointer: out.place(first, 0), ..out }, &rows[first..next]);
        let work = (outputs.clone(), part);
        // SAFETY: the caller's promise.
        unsafe {
            match rows.len() {
                1 => tiles::<W, 1, C>(out, rows, (w, cols), work, in_order),
                2 => tiles::<W, 2, C>(out, rows, (w, cols), work, in_order),
                3 => tiles::<W, 3, C>(out, rows, (w, cols), work, in_order),
                4 => tiles::<W, 4, C>(out, rows, (w, cols), work, in_order),
                5 => tiles::<W, 5, C>(out, rows, (w, cols), work, in_order),
                _ => tiles::<W, MOST_ROWS, C>(out, rows, (w, cols), work, in_order),
            }
        }
        first = next;
    }
}

/// `R` rows, with the outputs as in [`all_rows`]; `in_order` or some columns of several outputs at a time.
///
/// # Safety
/// As for [`dots`].
#[inline]
#[target_feature(enable = "avx2,fma")]
#[expect(unsafe_code, reason = "rows of a matrix, by pointer and stride")]
unsafe fn tiles<W: Weights, const R: usize, const C: usize>(
    out: Outputs,
    rows: &[&[f32]],
    (w, cols): (&W, usize),
    (outputs, part): (Range<usize>, usize),
    in_order: bool,
) {
    let rows: [&[f32]; R] = std::array::from_fn(|r| rows[r]);
    let whole = cols / LANES * LANES;
    let of_tile = |first: usize| std::array::from_fn::<usize, C, _>(|c| first + c * part);
    let none = [[_mm256_setzero_ps(); C]; R];
    if in_order {
        for first in outputs {
            let (outputs, mut sums) = (of_tile(first), none);
            // SAFETY: the caller's promise.
            unsafe {
                advance(&mut sums, &rows, w, (&outputs, cols), 0..whole);
                finish(out, &rows, w, (&outputs, cols), &sums);
            }
        }
        return;
    }
    for kept in outputs.clone().step_by(KEPT) {
        let outputs = kept..outputs.end.min(kept + KEPT);
        let mut all_sums = [none; KEPT];
        // SAFETY: the caller's promise.
        unsafe {
            for col in (0..whole).step_by(COLS_AT_ONCE) {
                for (kept, first) in all_sums.iter_mut().zip(outputs.clone()) {
                    // A copy stays in registers.
                    let mut sums = *kept;
                    advance(&mut sums, &rows, w, (&of_tile(first), cols), col..whole.min(col + COLS_AT_ONCE));
                    *kept = sums;
                }
            }
            for (sums, first) in all_sums.iter().zip(outputs) {
                finish(out, &rows, w, (&of_tile(first), cols), sums);
            }
        }
    }
}

/// The sums of `C` outputs of `R` rows over whole lanes of further columns; the first of them is at a multiple of
/// `W::RUN`.
///
/// # Safety
/// As for [`dots`].
#[inline]
#[target_feature(enable = "avx2,fma")]
#[expect(unsafe_code, reason = "rows of a matrix, by pointer and stride")]
unsafe fn advance<W: Weights, const R: usize, const C: usize>(
    sums: &mut [[__m256; C]; R],
    rows: &[&[f32]; R],
    w: &W,
    (outputs, cols): (&[usize; C], usize),
    part: Range<usize>,
) {
    let starts = outputs.map(|output| output * cols);
    let factors = |at: usize| outputs.map(|output| _mm256_set1_ps(w.scale(output, cols, at)));
    let mut run = part.start;
    // SAFETY: `run + W::RUN`, and below `at + LANES`, are at most `part.end <= cols`, so the weights and the numbers of the
    // rows exist.
    unsafe {
        while run + W::RUN <= part.end {
            let scales = factors(run);
            for start in starts {
                _mm_prefetch::<_MM_HINT_T0>(w.address(start + run).wrapping_add(AHEAD));
            }
            for step in 0..const { W::RUN / LANES } {
                lanes(sums, rows, w, (&starts, run + step * LANES), &scales);
            }
            run += W::RUN;
        }
        if run < part.end {
            let scales = factors(run);
            while run < part.end {
                lanes(sums, rows, w, (&starts, run), &scales);
                run += LANES;
            }
        }
    }
}

/// `C` outputs of `R` rows, given the sums over all whole lanes.
///
/// # Safety
/// As for [`dots`].
#[inline]
#[target_feature(enable = "avx2,fma")]
#[expect(unsafe_code, reason = "rows of a matrix, by pointer and stride")]
unsafe fn finish<W: Weights, const R: usize, const C: usize>(
    out: Outputs,
    rows: &[&[f32]; R],
    w: &W,
    (outputs, cols): (&[usize; C], usize),
    sums: &[[__m256; C]; R],
) {
    let sums = folded(sums);
    let is_whole = cols.is_multiple_of(LANES);
    for (r, (row, sums)) in rows.iter().zip(&sums).enumerate() {
        for (&sum, &output) in sums.iter().zip(outputs) {
            let sum = if is_whole { sum } else { with_rest(sum, row, w, output) };
            // SAFETY: the caller's promise.
            unsafe { *out.place(r, output) = sum };
        }
    }
}

/// The sum with the products behind the last whole lanes.
#[inline(never)]
#[target_feature(enable = "avx2,fma")]
fn with_rest<W: Weights>(sum: f32, row: &[f32], w: &W, output: usize) -> f32 {
    let cols = row.len();
    let rest = row.iter().enumerate().skip(cols / LANES * LANES);
    rest.fold(sum, |sum, (at, x)| x.mul_add(w.one(output * cols + at, w.scale(output, cols, at)), sum))
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

/// The lanes of each sum added up as [`simd::fold_half`] does, four sums at a time.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn folded<const R: usize, const C: usize>(sums: &[[__m256; C]; R]) -> [[f32; C]; R] {
    let mut folded = [[0.0; C]; R];
    let (fours, rest) = sums.as_flattened().as_chunks::<4>();
    let (to_fours, to_rest) = folded.as_flattened_mut().as_chunks_mut::<4>();
    for (to, four) in to_fours.iter_mut().zip(fours) {
        *to = fold_four(*four);
    }
    for (to, sum) in to_rest.iter_mut().zip(rest) {
        *to = fold(*sum);
    }
    folded
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn fold_four(sums: [__m256; 4]) -> [f32; 4] {
    // Lanes `i` and `i + 4`.
    let [a, b, c, d] = sums.map(|sum| _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum)));
    // Then `i` and `i + 2`: of a and b in turn, of c and d in turn.
    let ab = _mm_add_ps(_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
    let cd = _mm_add_ps(_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
    let all = _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab));
    let mut four = [0.0; 4];
    // SAFETY: four numbers have room for a vector of four.
    #[expect(unsafe_code, reason = "vector stores take pointers")]
    unsafe {
        _mm_storeu_ps(four.as_mut_ptr(), all);
    }
    four
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
