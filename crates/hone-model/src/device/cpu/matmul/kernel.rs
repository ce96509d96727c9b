//! The innermost product: a tile of [`ROWS`] × [`COLS`] outputs, the right operand packed.

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

/// The left operand of a tile: where each row begins, and how far its steps are from each other.
#[derive(Clone, Copy)]
pub(in crate::device::cpu) struct Left {
    pub(in crate::device::cpu) rows: [*const f32; ROWS],
    pub(in crate::device::cpu) step_stride: usize,
}

impl Left {
    /// A packed panel `[k,ROWS]`.
    pub(in crate::device::cpu) fn packed(panel: &[f32]) -> Left {
        Left { rows: std::array::from_fn(|r| panel.as_ptr().wrapping_add(r)), step_stride: ROWS }
    }
}

/// c `[ROWS,COLS]` := or += factor · a · b for a `[ROWS,k]` and packed b `[k,COLS]`. Each sum runs over k in order.
///
/// # Safety
/// The tile of `out` must be valid to read and write, `COLS` numbers side by side in each row, and every row of `a` must be
/// valid to read for as many steps as b has.
#[expect(unsafe_code, reason = "operands are parts of matrices, by pointer and stride")]
pub(in crate::device::cpu) unsafe fn tile(out: Output, a: Left, b: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    if crate::device::cpu::simd::has_avx2() {
        // SAFETY: the machine has the features; the rest is the caller's promise.
        return unsafe { wide::tile(out, a, b) };
    }
    // SAFETY: the caller's promise.
    unsafe { plain::<{ cfg!(any(target_arch = "aarch64", target_feature = "fma")) }>(out, a, b) }
}

/// The twin in plain code; with `FUSED` it has the same bits. For aarch64 the compiler makes of it what one would write by hand
/// for NEON: 24 `fmla` a step, on sums in registers.
///
/// # Safety
/// As for [`tile`].
#[expect(unsafe_code, reason = "operands are parts of matrices, by pointer and stride")]
pub(super) unsafe fn plain<const FUSED: bool>(out: Output, a: Left, b: &[f32]) {
    let mut sums = [[0.0f32; COLS]; ROWS];
    for (step, b) in b.as_chunks::<COLS>().0.iter().enumerate() {
        for (sums, row) in sums.iter_mut().zip(a.rows) {
            // SAFETY: the caller's promise.
            let a = unsafe { *row.add(step * a.step_stride) };
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
pub(super) mod pair;

#[cfg(target_arch = "x86_64")]
mod wide {
    //! With AVX2 and FMA: twelve vectors of sums, two of b, one of a.

    use super::{COLS, Left, Output, ROWS};
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
    pub(super) unsafe fn tile(out: Output, a: Left, b: &[f32]) {
        let k = b.len() / COLS;
        // SAFETY: reads of b stay below its k steps; the rest is the caller's promise; a prefetch faults nowhere.
        unsafe {
            for r in 0..ROWS {
                let row = out.c.wrapping_add(r * out.row_stride);
                _mm_prefetch::<_MM_HINT_T0>(row.cast());
                _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(COLS - 1).cast());
            }
            let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
            let Left { rows, step_stride } = a;
            let (mut step, mut b) = (0, b.as_ptr());
            for _ in 0..k {
                let (low, high) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(HALF)));
                for (row, sums) in rows.iter().zip(&mut sums) {
                    let x = _mm256_broadcast_ss(&*row.add(step));
                    sums[0] = _mm256_fmadd_ps(x, low, sums[0]);
                    sums[1] = _mm256_fmadd_ps(x, high, sums[1]);
                }
                step += step_stride;
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
