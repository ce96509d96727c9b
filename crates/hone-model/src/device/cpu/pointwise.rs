//! Operations without products of matrices: copies, biases, SwiGLU, cross-entropy, sums, AdamW. Work is cut into pieces
//! of fixed size, so that results do not depend on which thread does which.

use super::simd::{self, LANES, vectorised};
use crate::device::AdamWUpdate;
use rayon::prelude::*;

/// Numbers in a piece.
const PIECE: usize = 1 << 15;

pub(super) fn fill(dst: &mut [f32], value: f32) {
    dst.par_chunks_mut(PIECE).for_each(|piece| piece.fill(value));
}

pub(super) fn copy(dst: &mut [f32], src: &[f32]) {
    assert_eq!(dst.len(), src.len(), "lengths agree");
    dst.par_chunks_mut(PIECE).zip(src.par_chunks(PIECE)).for_each(|(dst, src)| dst.copy_from_slice(src));
}

pub(super) fn gather_rows(y: &mut [f32], x: &[f32], rows: &[u32]) {
    if rows.is_empty() {
        return;
    }
    let width = y.len() / rows.len();
    y.par_chunks_mut(width).with_min_len(rows_per_piece(width)).zip(rows).for_each(|(y, &row)| {
        let start = row as usize * width;
        y.copy_from_slice(&x[start..start + width]);
    });
}

pub(super) fn scatter_add_rows(x: &mut [f32], y: &[f32], rows: &[u32]) {
    if rows.is_empty() {
        return;
    }
    // One thread: rows may repeat, and their order is the order of the sum.
    let width = y.len() / rows.len();
    for (y, &row) in y.chunks(width).zip(rows) {
        let start = row as usize * width;
        for (x, y) in x[start..start + width].iter_mut().zip(y) {
            *x += y;
        }
    }
}

pub(super) fn add_bias(y: &mut [f32], bias: &[f32]) {
    y.par_chunks_mut(bias.len()).with_min_len(rows_per_piece(bias.len())).for_each(|row| {
        for (y, b) in row.iter_mut().zip(bias) {
            *y += b;
        }
    });
}

pub(super) fn add_bias_backward(dbias: &mut [f32], dy: &[f32]) {
    let width = dbias.len();
    // Columns are shared out, so each sum runs over the rows in order.
    dbias.par_chunks_mut(64).enumerate().for_each(|(i, dbias)| {
        for row in dy.chunks(width) {
            for (sum, dy) in dbias.iter_mut().zip(&row[i * 64..]) {
                *sum += dy;
            }
        }
    });
}

pub(super) fn swiglu(y: &mut [f32], gate_up: &[f32], intermediate: usize) {
    let rows = rows_per_piece(intermediate);
    y.par_chunks_mut(rows * intermediate)
        .zip(gate_up.par_chunks(rows * 2 * intermediate))
        .for_each(|(y, gate_up)| swiglu_rows(y, gate_up, intermediate));
}

pub(super) fn swiglu_backward(y: &mut [f32], gate_up: &mut [f32], intermediate: usize) {
    let rows = rows_per_piece(intermediate);
    y.par_chunks_mut(rows * intermediate)
        .zip(gate_up.par_chunks_mut(rows * 2 * intermediate))
        .for_each(|(y, gate_up)| swiglu_backward_rows(y, gate_up, intermediate));
}

pub(super) fn cross_entropy(
    logits: &mut [f32],
    losses: &mut [f32],
    correct: &mut [f32],
    targets: &[u32],
    grad_scale: Option<f32>,
) {
    if targets.is_empty() {
        return;
    }
    let width = logits.len() / targets.len();
    logits.par_chunks_mut(width).zip(losses).zip(correct).zip(targets).with_min_len(rows_per_piece(width)).for_each(
        |(((row, loss), correct), &target)| {
            let target = target as usize;
            let found = row[target];
            let (max, sum) = softmax_parts(row);
            *loss = sum.ln() - (found - max);
            *correct = if found >= max { 1.0 } else { 0.0 };
            if let Some(grad_scale) = grad_scale {
                scale_row(row, grad_scale / sum);
                row[target] -= grad_scale;
            }
        },
    );
}

pub(super) fn sum_of_squares(x: &[f32]) -> f64 {
    let pieces: Vec<f64> = x.par_chunks(PIECE).map(squares).collect();
    pieces.iter().sum()
}

pub(super) fn adamw(w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], update: &AdamWUpdate) {
    w.par_chunks_mut(PIECE)
        .zip(g.par_chunks(PIECE))
        .zip(m.par_chunks_mut(PIECE))
        .zip(v.par_chunks_mut(PIECE))
        .for_each(|(((w, g), m), v)| adamw_piece(w, g, m, v, update));
}

/// Rows of `width` numbers that make up about a piece.
pub(super) fn rows_per_piece(width: usize) -> usize {
    (PIECE / width.max(1)).max(1)
}

vectorised! {
    fn swiglu_rows(y: &mut [f32], gate_up: &[f32], intermediate: usize) {
        for (y, row) in y.chunks_exact_mut(intermediate).zip(gate_up.chunks_exact(2 * intermediate)) {
            let (gate, up) = row.split_at(intermediate);
            for ((y, &g), &u) in y.iter_mut().zip(gate).zip(up) {
                *y = g * simd::sigmoid(g) * u;
            }
        }
    }

    fn swiglu_backward_rows(y: &mut [f32], gate_up: &mut [f32], intermediate: usize) {
        for (y, row) in y.chunks_exact_mut(intermediate).zip(gate_up.chunks_exact_mut(2 * intermediate)) {
            let (gate, up) = row.split_at_mut(intermediate);
            // Lanes in arrays of their own: three slices written at once are not seen to be apart.
            let (y, y_rest) = y.as_chunks_mut::<LANES>();
            let (gate, gate_rest) = gate.as_chunks_mut::<LANES>();
            let (up, up_rest) = up.as_chunks_mut::<LANES>();
            for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
                (*y, *gate, *up) = swiglu_backward_lanes(*y, *gate, *up);
            }
            for ((y, gate), up) in y_rest.iter_mut().zip(gate_rest).zip(up_rest) {
                ([*y], [*gate], [*up]) = swiglu_backward_lanes([*y], [*gate], [*up]);
            }
        }
    }

    /// Turns a row into e^(x - max); the greatest number and the sum.
    fn softmax_parts(row: &mut [f32]) -> (f32, f32) {
        let max = simd::max(row);
        for x in row.iter_mut() {
            *x = simd::exp_share(*x - max);
        }
        (max, simd::sum(row))
    }

    fn scale_row(row: &mut [f32], factor: f32) {
        for x in row {
            *x *= factor;
        }
    }

    fn squares(x: &[f32]) -> f64 {
        let mut lanes = [0.0f64; LANES];
        let chunks = x.chunks_exact(LANES);
        let rest = chunks.remainder();
        for x in chunks {
            for j in 0..LANES {
                lanes[j] += f64::from(x[j]) * f64::from(x[j]);
            }
        }
        let rest: f64 = rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        lanes.iter().sum::<f64>() + rest
    }

    fn adamw_piece(w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], update: &AdamWUpdate) {
        let AdamWUpdate { grad_scale, beta1, beta2, step_size, second_correction, eps, keep } = *update;
        let (new1, new2) = (1.0 - beta1, 1.0 - beta2);
        for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
            let g = g * grad_scale;
            *m = beta1 * *m + new1 * g;
            *v = beta2 * *v + new2 * g * g;
            *w = *w * keep - step_size * *m / (v.sqrt() * second_correction + eps);
        }
    }
}

/// (result, gradient of gate, gradient of up) for the gradient of the result, gate and up.
#[inline(always)]
fn swiglu_backward_lanes<const N: usize>(dy: [f32; N], gate: [f32; N], up: [f32; N]) -> ([f32; N], [f32; N], [f32; N]) {
    let (mut y, mut dgate, mut dup) = ([0.0; N], [0.0; N], [0.0; N]);
    for j in 0..N {
        let s = simd::sigmoid(gate[j]);
        let silu = gate[j] * s;
        y[j] = silu * up[j];
        dgate[j] = dy[j] * up[j] * (s + silu * (1.0 - s));
        dup[j] = dy[j] * silu;
    }
    (y, dgate, dup)
}
