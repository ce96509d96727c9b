//! With NEON: tiles of a few rows by a few outputs, two vectors of sums for each pair of them.

use super::{LANES, Outputs, simd};
use crate::device::weights::{GROUP, Held};
use std::arch::aarch64::{
    float32x4_t, vcvtq_f32_s32, vdupq_n_f32, vfmaq_f32, vget_high_s16, vget_low_s16, vget_low_u16, vld1_s8, vld1q_f32,
    vld1q_u16, vmovl_s8, vmovl_s16, vmulq_n_f32, vreinterpretq_f32_u32, vshll_high_n_u16, vshll_n_u16, vst1q_f32,
};
use std::ops::Range;

/// Numbers in a vector.
const HALF: usize = LANES / 2;

/// As many numbers as a sum has lanes.
type Eight = [float32x4_t; 2];

/// The product, `cols` wide.
#[derive(Clone, Copy)]
struct Product<'a> {
    out: Outputs,
    rows: &'a [&'a [f32]],
    held: Held<'a>,
    cols: usize,
}

/// # Safety
/// As for [`super::dots`]; rows are `cols` numbers, and the outputs' weights exist.
#[target_feature(enable = "neon")]
#[expect(unsafe_code, reason = "vector loads take pointers")]
pub(super) unsafe fn dots(out: Outputs, rows: &[&[f32]], held: Held<'_>, cols: usize, outputs: Range<usize>) {
    let product = Product { out, rows, held, cols };
    // SAFETY: the caller's promise; loads are asked for eight columns of an output that exist.
    unsafe {
        match held {
            Held::F32(weights) => product.all(outputs, |output, at| eight(weights.as_ptr().add(output * cols + at))),
            Held::Bf16(weights) => product.all(outputs, |output, at| {
                let halves = vld1q_u16(weights.as_ptr().add(output * cols + at));
                [vshll_n_u16::<16>(vget_low_u16(halves)), vshll_high_n_u16::<16>(halves)]
                    .map(|x| vreinterpretq_f32_u32(x))
            }),
            Held::Int8 { codes, scales } => product.all(outputs, |output, at| {
                let scale = scales[output * cols.div_ceil(GROUP) + at / GROUP];
                let codes = vmovl_s8(vld1_s8(codes.as_ptr().add(output * cols + at)));
                let halves = [vmovl_s16(vget_low_s16(codes)), vmovl_s16(vget_high_s16(codes))];
                halves.map(|half| vmulq_n_f32(vcvtq_f32_s32(half), scale))
            }),
        }
    }
}

/// # Safety
/// Eight numbers must be there.
#[inline]
#[target_feature(enable = "neon")]
#[expect(unsafe_code, reason = "vector loads take pointers")]
unsafe fn eight(from: *const f32) -> Eight {
    // SAFETY: the caller's promise.
    unsafe { [vld1q_f32(from), vld1q_f32(from.add(HALF))] }
}

impl Product<'_> {
    /// # Safety
    /// As for [`dots`].
    #[inline]
    #[target_feature(enable = "neon")]
    #[expect(unsafe_code, reason = "columns of a matrix, by pointer and stride")]
    unsafe fn all(self, outputs: Range<usize>, load: impl Fn(usize, usize) -> Eight) {
        // SAFETY: the caller's promise.
        unsafe {
            // As many sums at once as hide the latency of an addition.
            match self.rows {
                [_] => self.columns::<4>(outputs, &load),
                _ => self.columns::<2>(outputs, &load),
            }
        }
    }

    /// The outputs, `C` at once; all rows after each other, while the weights are near.
    ///
    /// # Safety
    /// As for [`dots`].
    #[inline]
    #[target_feature(enable = "neon")]
    #[expect(unsafe_code, reason = "columns of a matrix, by pointer and stride")]
    unsafe fn columns<const C: usize>(self, outputs: Range<usize>, load: &impl Fn(usize, usize) -> Eight) {
        let whole = outputs.len() / C * C;
        let (fours, ones) = self.rows.as_chunks::<4>();
        // SAFETY: the caller's promise.
        unsafe {
            for first in outputs.clone().take(whole).step_by(C) {
                for (i, rows) in fours.iter().enumerate() {
                    self.tile::<4, C>((4 * i, *rows), first, load);
                }
                for (i, row) in ones.iter().enumerate() {
                    self.tile::<1, C>((4 * fours.len() + i, [*row]), first, load);
                }
            }
            for output in outputs.skip(whole) {
                for (i, row) in self.rows.iter().enumerate() {
                    self.tile::<1, 1>((i, [*row]), output, load);
                }
            }
        }
    }

    /// `C` outputs of `R` rows.
    ///
    /// # Safety
    /// As for [`dots`].
    #[inline]
    #[target_feature(enable = "neon")]
    #[expect(unsafe_code, reason = "columns of a matrix, by pointer and stride")]
    unsafe fn tile<const R: usize, const C: usize>(
        self,
        (first_row, rows): (usize, [&[f32]; R]),
        first: usize,
        load: &impl Fn(usize, usize) -> Eight,
    ) {
        let whole = self.cols / LANES * LANES;
        let mut sums = [[[vdupq_n_f32(0.0); 2]; C]; R];
        for at in (0..whole).step_by(LANES) {
            let weights: [Eight; C] = std::array::from_fn(|c| load(first + c, at));
            for (row, sums) in rows.iter().zip(&mut sums) {
                // SAFETY: `at + 8 <= whole <= cols`, which the row has.
                let x = unsafe { eight(row.as_ptr().add(at)) };
                for (sum, w) in sums.iter_mut().zip(&weights) {
                    *sum = [vfmaq_f32(sum[0], x[0], w[0]), vfmaq_f32(sum[1], x[1], w[1])];
                }
            }
        }
        for c in 0..C {
            let mut rest = [0.0; LANES];
            let rest = &mut rest[..self.cols - whole];
            self.held.read(self.cols, first + c, whole, rest);
            for r in 0..R {
                let products = rows[r][whole..].iter().zip(&*rest);
                let sum = products.fold(fold(sums[r][c]), |sum, (x, w)| x.mul_add(*w, sum));
                // SAFETY: the caller's promise.
                unsafe { *self.out.place(first_row + r, first + c) = sum };
            }
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
#[expect(unsafe_code, reason = "vector stores take pointers")]
fn fold(sum: Eight) -> f32 {
    let mut lanes = [0.0; LANES];
    // SAFETY: the lanes hold as many numbers as two vectors.
    unsafe {
        vst1q_f32(lanes.as_mut_ptr(), sum[0]);
        vst1q_f32(lanes[HALF..].as_mut_ptr(), sum[1]);
    }
    simd::fold_half(&lanes)
}
