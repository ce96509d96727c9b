//! Matrices of weights that are only read: how their numbers are held in an arena, and the plain code that puts them there and
//! takes them out. Every format stands for exact f32 numbers, so products are those of f32 whatever holds the weights.
//!
//! All are row-major, one output's weights after the other. `f32` is itself. `bf16` is the upper half of each number, rounded to
//! nearest, ties to even. `int8` is symmetric by groups of [`GROUP`] weights of a row (the last may be shorter): a code in
//! -127..=127 times the group's f32 scale, its greatest magnitude over 127; all codes first, then all scales.

use super::Span;
use crate::weights::{Dtype, stored_dtype};
use anyhow::Result;
use std::path::Path;

/// Weights of a row that share a scale.
pub(crate) const GROUP: usize = 64;
/// The greatest code.
const LARGEST_CODE: f32 = 127.0;
/// 1.5 · 2²³: numbers of this size have no fraction.
const ROUND: f32 = 12_582_912.0;

/// How weights are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WeightFormat {
    /// 32 bits.
    #[default]
    F32,
    /// The upper half of 32 bits.
    Bf16,
    /// 8 bits and a scale for each group.
    Int8,
}

/// A matrix of weights `[O,I]` in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightMatrix {
    /// [`WeightFormat::len`] numbers of the arena.
    pub span: Span,
    /// `O`.
    pub rows: usize,
    /// `I`.
    pub cols: usize,
    /// How they are held.
    pub format: WeightFormat,
}

/// The numbers of a matrix, as they are held.
#[derive(Clone, Copy)]
pub(super) enum Held<'a> {
    F32(&'a [f32]),
    Bf16(&'a [u16]),
    Int8 { codes: &'a [i8], scales: &'a [f32] },
}

impl WeightFormat {
    /// All of them, the smallest last.
    pub const ALL: [WeightFormat; 3] = [WeightFormat::F32, WeightFormat::Bf16, WeightFormat::Int8];

    /// `f32`, `bf16` or `int8`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            WeightFormat::F32 => "f32",
            WeightFormat::Bf16 => "bf16",
            WeightFormat::Int8 => "int8",
        }
    }

    /// The format of a name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<WeightFormat> {
        WeightFormat::ALL.into_iter().find(|format| format.name() == name)
    }

    /// The smallest format that holds the weights of a model folder exactly, as far as its files' types tell.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn stored(dir: &Path) -> Result<WeightFormat> {
        Ok(match stored_dtype(dir)? {
            Dtype::Bf16 => WeightFormat::Bf16,
            Dtype::F32 | Dtype::F16 => WeightFormat::F32,
        })
    }

    /// Numbers of the arena that a matrix takes.
    #[must_use]
    pub fn len(self, rows: usize, cols: usize) -> usize {
        match self {
            WeightFormat::F32 => rows * cols,
            WeightFormat::Bf16 => (rows * cols).div_ceil(2),
            WeightFormat::Int8 => (rows * cols).div_ceil(4) + rows * cols.div_ceil(GROUP),
        }
    }

    /// What the weights of one row become when they are held so.
    pub fn round(self, row: &mut [f32]) {
        let matrix = WeightMatrix { span: Span::default(), rows: 1, cols: row.len(), format: self };
        let mut held = vec![0.0; self.len(1, row.len())];
        matrix.store(&mut held, 0, row);
        matrix.held(&held).read(row.len(), 0, 0, row);
    }
}

impl WeightMatrix {
    /// The numbers, given those of the span.
    pub(super) fn held(self, numbers: &[f32]) -> Held<'_> {
        let count = self.rows * self.cols;
        match self.format {
            WeightFormat::F32 => Held::F32(&numbers[..count]),
            WeightFormat::Bf16 => Held::Bf16(&halves(numbers)[..count]),
            WeightFormat::Int8 => {
                let (codes, scales) = numbers.split_at(count.div_ceil(4));
                Held::Int8 { codes: &bytes(codes)[..count], scales }
            }
        }
    }

    /// Puts whole rows from `first_row` on into the span's numbers.
    pub(super) fn store(self, numbers: &mut [f32], first_row: usize, values: &[f32]) {
        let first = first_row * self.cols;
        let count = self.rows * self.cols;
        assert!(values.len().is_multiple_of(self.cols) && first + values.len() <= count, "whole rows of the matrix");
        match self.format {
            WeightFormat::F32 => numbers[first..first + values.len()].copy_from_slice(values),
            WeightFormat::Bf16 => {
                let places = &mut halves_mut(numbers)[first..first + values.len()];
                places.iter_mut().zip(values).for_each(|(place, value)| *place = upper_half(*value));
            }
            WeightFormat::Int8 => {
                let (codes, scales) = numbers.split_at_mut(count.div_ceil(4));
                let codes = &mut bytes_mut(codes)[first..first + values.len()];
                let groups = self.cols.div_ceil(GROUP);
                let scales = scales[first_row * groups..].chunks_mut(groups);
                for ((row, codes), scales) in values.chunks(self.cols).zip(codes.chunks_mut(self.cols)).zip(scales) {
                    for ((group, codes), scale) in row.chunks(GROUP).zip(codes.chunks_mut(GROUP)).zip(scales) {
                        *scale = quantise(codes, group);
                    }
                }
            }
        }
    }
}

impl Held<'_> {
    /// Where the weights of a row of `cols` from column `first` on lie, and how many bytes each takes; they need not exist.
    #[inline(always)]
    pub(super) fn address(&self, cols: usize, row: usize, first: usize) -> (*const u8, usize) {
        let (start, size) = match *self {
            Held::F32(numbers) => (numbers.as_ptr().cast(), size_of::<f32>()),
            Held::Bf16(halves) => (halves.as_ptr().cast(), size_of::<u16>()),
            Held::Int8 { codes, .. } => (codes.as_ptr().cast::<u8>(), size_of::<i8>()),
        };
        (start.wrapping_add((row * cols + first) * size), size)
    }

    /// out := the weights of a row of `cols` from column `first` on.
    #[inline(always)]
    pub(super) fn read(&self, cols: usize, row: usize, first: usize, out: &mut [f32]) {
        let start = row * cols + first;
        let end = start + out.len();
        match *self {
            Held::F32(numbers) => out.copy_from_slice(&numbers[start..end]),
            Held::Bf16(halves) => {
                for (out, half) in out.iter_mut().zip(&halves[start..end]) {
                    *out = f32::from_bits(u32::from(*half) << 16);
                }
            }
            Held::Int8 { codes, scales } => {
                let scales = &scales[row * cols.div_ceil(GROUP)..];
                let (mut codes, mut rest, mut at) = (&codes[start..end], out, first);
                while !rest.is_empty() {
                    let count = (GROUP - at % GROUP).min(rest.len());
                    let (group, later) = rest.split_at_mut(count);
                    let scale = scales[at / GROUP];
                    for (out, code) in group.iter_mut().zip(&codes[..count]) {
                        *out = f32::from(*code) * scale;
                    }
                    (codes, rest, at) = (&codes[count..], later, at + count);
                }
            }
        }
    }
}

/// A number as bf16, rounded to nearest, ties to even; without a branch, so that many at once are fast.
#[inline(always)]
fn upper_half(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    // What is no number stays none, and keeps its sign.
    let quiet = (bits >> 16) | 0x40;
    (if value.is_nan() { quiet } else { rounded }) as u16
}

/// The scale of a group, whose codes it fills in.
fn quantise(codes: &mut [i8], group: &[f32]) -> f32 {
    let scale = group.iter().fold(0.0, |most: f32, weight| most.max(weight.abs())) / LARGEST_CODE;
    if scale < f32::MIN_POSITIVE {
        // A group this near to nothing is nothing: codes over a subnormal scale would not be in range.
        codes.fill(0);
        return 0.0;
    }
    // A quotient that was rounded up could lead beyond the greatest number.
    let scale = scale.min(f32::MAX / (LARGEST_CODE + 1.0));
    for (code, weight) in codes.iter_mut().zip(group) {
        // Adding and taking away rounds to a whole number, ties to even.
        *code = ((weight / scale).clamp(-LARGEST_CODE, LARGEST_CODE) + ROUND - ROUND) as i8;
    }
    scale
}

fn halves(numbers: &[f32]) -> &[u16] {
    // SAFETY: every pattern of bits is a u16, and two fit each number without a rest.
    #[expect(unsafe_code, reason = "numbers of the arena are read as halves")]
    unsafe {
        numbers.align_to::<u16>().1
    }
}

fn halves_mut(numbers: &mut [f32]) -> &mut [u16] {
    // SAFETY: as above, and every pattern of bits is an f32.
    #[expect(unsafe_code, reason = "numbers of the arena are written as halves")]
    unsafe {
        numbers.align_to_mut::<u16>().1
    }
}

fn bytes(numbers: &[f32]) -> &[i8] {
    // SAFETY: every pattern of bits is an i8.
    #[expect(unsafe_code, reason = "numbers of the arena are read as bytes")]
    unsafe {
        numbers.align_to::<i8>().1
    }
}

fn bytes_mut(numbers: &mut [f32]) -> &mut [i8] {
    // SAFETY: as above, and every pattern of bits is an f32.
    #[expect(unsafe_code, reason = "numbers of the arena are written as bytes")]
    unsafe {
        numbers.align_to_mut::<i8>().1
    }
}

#[cfg(test)]
mod tests;
