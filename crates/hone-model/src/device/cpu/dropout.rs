//! What adapters need beside products: a factor on every number, and dropout.

use crate::device::Dropout;
use rayon::prelude::*;

/// Numbers in a piece.
const PIECE: usize = 1 << 14;

pub(super) fn scale(x: &mut [f32], factor: f32) {
    x.par_chunks_mut(PIECE).for_each(|piece| piece.iter_mut().for_each(|x| *x *= factor));
}

pub(super) fn dropout(y: &mut [f32], x: &[f32], dropout: Dropout, accumulate: bool) {
    assert_eq!(y.len(), x.len(), "lengths agree");
    y.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE)).enumerate().for_each(|(piece, (y, x))| {
        for (i, (y, x)) in y.iter_mut().zip(x).enumerate() {
            let before = if accumulate { *y } else { 0.0 };
            *y = before + x * dropout.factor(piece * PIECE + i);
        }
    });
}
