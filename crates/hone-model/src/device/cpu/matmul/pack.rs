//! Copies a part of a matrix into the order in which the kernel reads it: panels of `W` lanes (rows of a, columns of b), in
//! a panel the `W` numbers of each step of the sum side by side; lanes beyond the matrix are zero.

/// Steps of the sum that are copied for all panels before the next ones, when lanes are contiguous: streams to read.
const STEPS: usize = 16;
/// Steps and lanes of a block that is transposed in registers.
#[cfg(target_arch = "x86_64")]
const BLOCK: usize = 8;

/// Element (lane, step) stands at `lane * lane_stride + step * step_stride`.
#[derive(Clone, Copy)]
pub(in crate::device::cpu) struct Source {
    pub(in crate::device::cpu) pointer: *const f32,
    pub(in crate::device::cpu) lane_stride: usize,
    pub(in crate::device::cpu) step_stride: usize,
    pub(in crate::device::cpu) lanes: usize,
    pub(in crate::device::cpu) steps: usize,
}

impl Source {
    fn at(&self, lane: usize, step: usize) -> *const f32 {
        self.pointer.wrapping_add(lane * self.lane_stride + step * self.step_stride)
    }
}

/// packed := panels `[steps,W]` of the elements of x, `panel` numbers from one to the next.
///
/// # Safety
/// Every element of x must be valid to read.
#[expect(unsafe_code, reason = "parts of matrices by pointer and stride")]
pub(in crate::device::cpu) unsafe fn pack<const W: usize>(packed: &mut [f32], panel: usize, x: &Source) {
    #[cfg(target_arch = "x86_64")]
    if crate::device::cpu::simd::has_avx2() {
        // SAFETY: the machine has the features; the rest is the caller's promise.
        return unsafe { wide::pack::<W>(packed, panel, x) };
    }
    // SAFETY: the caller's promise.
    unsafe { plain::<W>(packed, panel, x) }
}

/// # Safety
/// As for [`pack`].
#[inline(always)]
#[expect(unsafe_code, reason = "parts of matrices by pointer and stride")]
unsafe fn plain<const W: usize>(packed: &mut [f32], panel: usize, x: &Source) {
    if x.lane_stride == 1 {
        // SAFETY: the caller's promise.
        return unsafe { contiguous_lanes::<W>(packed, panel, x) };
    }
    for i in 0..x.lanes.div_ceil(W) {
        let panel = &mut packed[i * panel..][..W * x.steps];
        // SAFETY: the caller's promise.
        unsafe { some_steps::<W>(panel, x, i * W, 0) };
    }
}

/// The steps of one panel from `first` on, one number at a time.
///
/// # Safety
/// As for [`pack`].
#[inline(always)]
#[expect(unsafe_code, reason = "parts of matrices by pointer and stride")]
unsafe fn some_steps<const W: usize>(panel: &mut [f32], x: &Source, lane: usize, first: usize) {
    let lanes = W.min(x.lanes - lane);
    for (step, numbers) in panel.as_chunks_mut::<W>().0.iter_mut().enumerate().skip(first) {
        for (i, number) in numbers.iter_mut().enumerate() {
            // SAFETY: the lane and the step are inside x.
            *number = if i < lanes { unsafe { *x.at(lane + i, step) } } else { 0.0 };
        }
    }
}

/// # Safety
/// As for [`pack`].
#[inline(always)]
#[expect(unsafe_code, reason = "parts of matrices by pointer and stride")]
unsafe fn contiguous_lanes<const W: usize>(packed: &mut [f32], panel: usize, x: &Source) {
    for first in (0..x.steps).step_by(STEPS) {
        let steps = STEPS.min(x.steps - first);
        for i in 0..x.lanes.div_ceil(W) {
            let panel = &mut packed[i * panel..][..W * x.steps];
            let lanes = W.min(x.lanes - i * W);
            let part = panel[first * W..(first + steps) * W].as_chunks_mut::<W>().0;
            for (step, numbers) in part.iter_mut().enumerate() {
                let from = x.at(i * W, first + step);
                if lanes == W {
                    // SAFETY: `W` lanes from here are inside x, side by side.
                    *numbers = unsafe { from.cast::<[f32; W]>().read() };
                } else {
                    numbers.fill(0.0);
                    // SAFETY: `lanes` lanes from here are inside x, side by side.
                    numbers[..lanes].copy_from_slice(unsafe { std::slice::from_raw_parts(from, lanes) });
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    //! With AVX2: blocks of 8 × 8 are transposed in registers.

    use super::{BLOCK, Source, contiguous_lanes, plain, some_steps};
    use std::arch::x86_64::{
        __m256, _mm_castps_pd, _mm_storel_pd, _mm_storeu_ps, _mm256_castps256_ps128, _mm256_extractf128_ps,
        _mm256_loadu_ps, _mm256_permute2f128_ps, _mm256_setzero_ps, _mm256_shuffle_ps, _mm256_storeu_ps,
        _mm256_unpackhi_ps, _mm256_unpacklo_ps,
    };

    /// # Safety
    /// As for [`super::pack`].
    #[target_feature(enable = "avx2,fma")]
    #[expect(unsafe_code, reason = "parts of matrices by pointer and stride")]
    pub(super) unsafe fn pack<const W: usize>(packed: &mut [f32], panel: usize, x: &Source) {
        // SAFETY: the caller's promise.
        unsafe {
            if x.lane_stride == 1 {
                return contiguous_lanes::<W>(packed, panel, x);
            }
            if x.step_stride != 1 {
                return plain::<W>(packed, panel, x);
            }
            for i in 0..x.lanes.div_ceil(W) {
                let panel = &mut packed[i * panel..][..W * x.steps];
                let whole = x.steps / BLOCK * BLOCK;
                for step in (0..whole).step_by(BLOCK) {
                    for lane in (0..W).step_by(BLOCK) {
                        block::<W>(panel, x, i * W + lane, lane, step);
                    }
                }
                some_steps::<W>(panel, x, i * W, whole);
            }
        }
    }

    /// Eight steps of up to eight lanes: `lane` counts in x, `place` in the panel.
    ///
    /// # Safety
    /// As for [`super::pack`]; the steps are inside x, side by side.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    #[expect(unsafe_code, reason = "vector loads and stores take pointers")]
    unsafe fn block<const W: usize>(panel: &mut [f32], x: &Source, lane: usize, place: usize, step: usize) {
        let count = BLOCK.min(W - place);
        let present = count.min(x.lanes.saturating_sub(lane));
        let mut rows = [_mm256_setzero_ps(); BLOCK];
        // SAFETY: eight steps of this lane are inside x.
        let load = |i: usize| unsafe { _mm256_loadu_ps(x.at(lane + i, step)) };
        // A loop of unknown length would keep the rows in memory instead of registers.
        if present == BLOCK {
            rows = [load(0), load(1), load(2), load(3), load(4), load(5), load(6), load(7)];
        } else if present == 6 {
            let zero = _mm256_setzero_ps();
            rows = [load(0), load(1), load(2), load(3), load(4), load(5), zero, zero];
        } else {
            rows.iter_mut().enumerate().take(present).for_each(|(i, row)| *row = load(i));
        }
        let columns = transpose(rows);
        let part = &mut panel[step * W..(step + BLOCK) * W];
        for (numbers, column) in part.as_chunks_mut::<W>().0.iter_mut().zip(columns) {
            let numbers = &mut numbers[place..place + count];
            // SAFETY: as many numbers are written as there are: 8, or 4 and 2.
            unsafe {
                match count {
                    8 => _mm256_storeu_ps(numbers.as_mut_ptr(), column),
                    6 => {
                        _mm_storeu_ps(numbers.as_mut_ptr(), _mm256_castps256_ps128(column));
                        let last = _mm_castps_pd(_mm256_extractf128_ps::<1>(column));
                        _mm_storel_pd(numbers[4..].as_mut_ptr().cast(), last);
                    }
                    _ => unreachable!("panels have 6 or 16 lanes"),
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn transpose(r: [__m256; BLOCK]) -> [__m256; BLOCK] {
        let pairs = |a: __m256, b: __m256| (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let ((t0, t1), (t2, t3)) = (pairs(r[0], r[1]), pairs(r[2], r[3]));
        let ((t4, t5), (t6, t7)) = (pairs(r[4], r[5]), pairs(r[6], r[7]));
        let low = |a: __m256, b: __m256| _mm256_shuffle_ps::<0x44>(a, b);
        let high = |a: __m256, b: __m256| _mm256_shuffle_ps::<0xEE>(a, b);
        let (u0, u1, u2, u3) = (low(t0, t2), high(t0, t2), low(t1, t3), high(t1, t3));
        let (u4, u5, u6, u7) = (low(t4, t6), high(t4, t6), low(t5, t7), high(t5, t7));
        let first = |a: __m256, b: __m256| _mm256_permute2f128_ps::<0x20>(a, b);
        let second = |a: __m256, b: __m256| _mm256_permute2f128_ps::<0x31>(a, b);
        [
            first(u0, u4),
            first(u1, u5),
            first(u2, u6),
            first(u3, u7),
            second(u0, u4),
            second(u1, u5),
            second(u2, u6),
            second(u3, u7),
        ]
    }
}
