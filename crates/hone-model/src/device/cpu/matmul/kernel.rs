//! The innermost product: a tile of [`ROWS`] × [`COLS`] outputs from packed operands.

/// Rows of a tile.
pub(in crate::device::cpu) const ROWS: usize = 6;
/// Columns of a tile.
pub(in crate::device::cpu) const COLS: usize = 16;

/// What happens to a tile's sums.
#[derive(Clone, Copy)]
pub(in crate::device::cpu) struct Output {
    /// Element (0, 0) of the tile.
    pub(in crate::device::cpu) c: *mut f32,
    pub(in crate::device::cpu) row_stride: usize,
    pub(in crate::device::cpu) factor: f32,
    pub(in crate::device::cpu) accumulate: bool,
}

/// c `[ROWS,COLS]` := or += factor · aᵀ · b, for packed a `[k,ROWS]` and b `[k,COLS]`. Each sum runs over k in order.
///
/// # Safety
/// The tile of `out` must be valid to read and write, `COLS` numbers side by side in each row.
#[expect(unsafe_code, reason = "the result is a tile inside a matrix, by pointer and stride")]
pub(in crate::device::cpu) unsafe fn tile(out: Output, a: &[f32], b: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    if crate::device::cpu::simd::has_avx2() {
        // SAFETY: the machine has the features; the rest is the caller's promise.
        return unsafe { wide::tile(out, a, b) };
    }
    // SAFETY: the caller's promise.
    unsafe { plain::<{ cfg!(any(target_arch = "aarch64", target_feature = "fma")) }>(out, a, b) }
}

/// The twin in plain code; with `FUSED` it has the same bits.
///
/// # Safety
/// As for [`tile`].
#[expect(unsafe_code, reason = "the result is a tile inside a matrix, by pointer and stride")]
pub(super) unsafe fn plain<const FUSED: bool>(out: Output, a: &[f32], b: &[f32]) {
    let mut sums = [[0.0f32; COLS]; ROWS];
    for (a, b) in a.as_chunks::<ROWS>().0.iter().zip(b.as_chunks::<COLS>().0) {
        for (sums, &a) in sums.iter_mut().zip(a) {
            for (sum, &b) in sums.iter_mut().zip(b) {
                *sum = if FUSED { a.mul_add(b, *sum) } else { a * b + *sum };
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        // SAFETY: the caller's promise.
        let row = unsafe { std::slice::from_raw_parts_mut(out.c.add(r * out.row_stride), COLS) };
        for (c, sum) in row.iter_mut().zip(sums) {
            let value = sum * out.factor;
            *c = if out.accumulate { *c + value } else { value };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    //! With AVX2 and FMA: twelve vectors of sums, two of b, one of a.

    use super::{COLS, Output, ROWS};
    use std::arch::x86_64::{
        _MM_HINT_T0, _mm_prefetch, _mm256_add_ps, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_mul_ps,
        _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    };

    /// Numbers in a vector.
    const HALF: usize = COLS / 2;

    /// # Safety
    /// As for [`super::tile`].
    #[target_feature(enable = "avx2,fma")]
    #[expect(unsafe_code, reason = "vector loads and stores take pointers")]
    pub(super) unsafe fn tile(out: Output, a: &[f32], b: &[f32]) {
        let k = a.len() / ROWS;
        assert!(b.len() >= k * COLS);
        // SAFETY: reads of a and b stay below k rows of each; the tile is the caller's promise; a prefetch faults nowhere.
        unsafe {
            for r in 0..ROWS {
                let row = out.c.wrapping_add(r * out.row_stride);
                _mm_prefetch::<_MM_HINT_T0>(row.cast());
                _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(COLS - 1).cast());
            }
            let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
            let (mut a, mut b) = (a.as_ptr(), b.as_ptr());
            for _ in 0..k {
                let (low, high) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(HALF)));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = _mm256_broadcast_ss(&*a.add(r));
                    sums[0] = _mm256_fmadd_ps(x, low, sums[0]);
                    sums[1] = _mm256_fmadd_ps(x, high, sums[1]);
                }
                a = a.add(ROWS);
                b = b.add(COLS);
            }
            let factor = _mm256_set1_ps(out.factor);
            for (r, sums) in sums.iter().enumerate() {
                for (half, &sum) in sums.iter().enumerate() {
                    let place = out.c.add(r * out.row_stride + half * HALF);
                    let mut value = _mm256_mul_ps(sum, factor);
                    if out.accumulate {
                        value = _mm256_add_ps(_mm256_loadu_ps(place), value);
                    }
                    _mm256_storeu_ps(place, value);
                }
            }
        }
    }
}
