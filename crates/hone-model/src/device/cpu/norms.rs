//! RMS norms of rows, and norm and rotation of query and key heads.

use super::pointwise::rows_per_piece;
use super::simd::{self, vectorised};
use crate::device::Heads;
use rayon::prelude::*;

/// Weights of the norms of query and key heads.
#[derive(Clone, Copy)]
pub(super) struct NormWeights<'a> {
    pub(super) query: &'a [f32],
    pub(super) key: &'a [f32],
    pub(super) eps: f32,
}

/// What rotation reads beside queries and keys.
#[derive(Clone, Copy)]
pub(super) struct RotationData<'a> {
    pub(super) table: &'a [f32],
    pub(super) positions: &'a [u32],
    pub(super) norms: Option<NormWeights<'a>>,
    pub(super) heads: Heads,
}

pub(super) fn rms_norm(y: &mut [f32], scale: &mut [f32], x: &[f32], w: &[f32], eps: f32) {
    let rows = rows_per_piece(w.len());
    y.par_chunks_mut(rows * w.len())
        .zip(scale.par_chunks_mut(rows))
        .zip(x.par_chunks(rows * w.len()))
        .for_each(|((y, scale), x)| rms_norm_rows(y, scale, x, w, eps));
}

pub(super) fn rms_norm_again(y: &mut [f32], scale: &[f32], x: &[f32], w: &[f32]) {
    let rows = rows_per_piece(w.len());
    y.par_chunks_mut(rows * w.len())
        .zip(scale.par_chunks(rows))
        .zip(x.par_chunks(rows * w.len()))
        .for_each(|((y, scale), x)| rms_norm_again_rows(y, scale, x, w));
}

pub(super) fn rms_norm_backward(dx: &mut [f32], dw: &mut [f32], dy: &[f32], scale: &[f32], x: &[f32], w: &[f32]) {
    let h = w.len();
    let rows = rows_per_part(scale.len());
    let parts: Vec<Vec<f32>> = dx
        .par_chunks_mut(rows * h)
        .zip(dy.par_chunks(rows * h))
        .zip(scale.par_chunks(rows))
        .zip(x.par_chunks(rows * h))
        .map(|(((dx, dy), scale), x)| {
            let mut dw = vec![0.0; h];
            rms_norm_backward_rows(dx, &mut dw, dy, scale, x, w);
            dw
        })
        .collect();
    for part in parts {
        add(dw, &part);
    }
}

pub(super) fn rotate(rotated: &mut [f32], scale: &mut [f32], qkv: &[f32], data: &RotationData<'_>) {
    let heads = data.heads;
    let rows = rows_per_piece(heads.qkv_width());
    rotated
        .par_chunks_mut(rows * heads.rotated_width())
        .zip(scale.par_chunks_mut(rows * (heads.num_heads + heads.num_kv_heads)))
        .zip(qkv.par_chunks(rows * heads.qkv_width()))
        .zip(data.positions.par_chunks(rows))
        .for_each(|(((rotated, scale), qkv), positions)| {
            rotate_rows(rotated, scale, qkv, &RotationData { positions, ..*data });
        });
}

/// Gradients with respect to the norms' weights are added to `dnorms` (query, key).
pub(super) fn rotate_backward(
    dqkv: &mut [f32],
    dnorms: Option<(&mut [f32], &mut [f32])>,
    scale: &[f32],
    qkv: &[f32],
    data: &RotationData<'_>,
) {
    let heads = data.heads;
    let rows = rows_per_part(data.positions.len());
    let parts: Vec<Vec<f32>> = dqkv
        .par_chunks_mut(rows * heads.qkv_width())
        .zip(scale.par_chunks(rows * (heads.num_heads + heads.num_kv_heads)))
        .zip(qkv.par_chunks(rows * heads.qkv_width()))
        .zip(data.positions.par_chunks(rows))
        .map(|(((dqkv, scale), qkv), positions)| {
            let mut dnorms = vec![0.0; 2 * heads.head_dim];
            rotate_backward_rows(dqkv, &mut dnorms, scale, qkv, &RotationData { positions, ..*data });
            dnorms
        })
        .collect();
    if let Some((query, key)) = dnorms {
        for part in parts {
            add(query, &part[..heads.head_dim]);
            add(key, &part[heads.head_dim..]);
        }
    }
}

/// Rows per partial sum: a fixed share for each thread.
fn rows_per_part(rows: usize) -> usize {
    rows.div_ceil(2 * rayon::current_num_threads()).max(1)
}

fn add(sum: &mut [f32], part: &[f32]) {
    for (sum, part) in sum.iter_mut().zip(part) {
        *sum += part;
    }
}

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (simd::dot(x, x) / x.len() as f32 + eps).sqrt()
}

vectorised! {
    fn rms_norm_rows(y: &mut [f32], scale: &mut [f32], x: &[f32], w: &[f32], eps: f32) {
        let rows = y.chunks_exact_mut(w.len()).zip(x.chunks_exact(w.len()));
        for ((y, x), scale) in rows.zip(scale) {
            *scale = inverse_rms(x, eps);
            for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                *y = x * *scale * w;
            }
        }
    }

    fn rms_norm_again_rows(y: &mut [f32], scale: &[f32], x: &[f32], w: &[f32]) {
        let rows = y.chunks_exact_mut(w.len()).zip(x.chunks_exact(w.len()));
        for ((y, x), scale) in rows.zip(scale) {
            for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                *y = x * scale * w;
            }
        }
    }

    fn rms_norm_backward_rows(dx: &mut [f32], dw: &mut [f32], dy: &[f32], scale: &[f32], x: &[f32], w: &[f32]) {
        let h = w.len();
        let rows = dx.chunks_exact_mut(h).zip(dy.chunks_exact(h)).zip(x.chunks_exact(h));
        for (((dx, dy), x), &scale) in rows.zip(scale) {
            let shared = dot3(dy, w, x) * scale * scale * scale / h as f32;
            for ((((dx, dw), dy), x), w) in dx.iter_mut().zip(dw.iter_mut()).zip(dy).zip(x).zip(w) {
                *dx += dy * w * scale - x * shared;
                *dw += dy * x * scale;
            }
        }
    }

    fn rotate_rows(rotated: &mut [f32], scale: &mut [f32], qkv: &[f32], data: &RotationData<'_>) {
        let (heads, d) = (data.heads, data.heads.head_dim);
        let num_heads = heads.num_heads + heads.num_kv_heads;
        let rows = rotated.chunks_exact_mut(heads.rotated_width()).zip(qkv.chunks_exact(heads.qkv_width()));
        let rows = rows.zip(scale.chunks_exact_mut(num_heads)).zip(data.positions);
        for (((rotated, qkv), scale), &position) in rows {
            let (cos, sin) = data.table[position as usize * d..][..d].split_at(d / 2);
            let heads_of_row = rotated.chunks_exact_mut(d).zip(qkv.chunks_exact(d)).zip(scale).enumerate();
            for (head, ((y, x), scale)) in heads_of_row {
                let (y_a, y_b) = y.split_at_mut(d / 2);
                let (x_a, x_b) = x.split_at(d / 2);
                if let Some(norms) = data.norms {
                    let w = if head < heads.num_heads { norms.query } else { norms.key };
                    let (w_a, w_b) = w.split_at(d / 2);
                    let s = inverse_rms(x, norms.eps);
                    *scale = s;
                    for j in 0..d / 2 {
                        let (a, b) = (x_a[j] * s * w_a[j], x_b[j] * s * w_b[j]);
                        y_a[j] = a * cos[j] - b * sin[j];
                        y_b[j] = b * cos[j] + a * sin[j];
                    }
                } else {
                    for j in 0..d / 2 {
                        y_a[j] = x_a[j] * cos[j] - x_b[j] * sin[j];
                        y_b[j] = x_b[j] * cos[j] + x_a[j] * sin[j];
                    }
                }
            }
        }
    }

    fn rotate_backward_rows(dqkv: &mut [f32], dnorms: &mut [f32], scale: &[f32], qkv: &[f32], data: &RotationData<'_>) {
        let (heads, d) = (data.heads, data.heads.head_dim);
        let num_heads = heads.num_heads + heads.num_kv_heads;
        let (dquery, dkey) = dnorms.split_at_mut(d);
        let rows = dqkv.chunks_exact_mut(heads.qkv_width()).zip(qkv.chunks_exact(heads.qkv_width()));
        let rows = rows.zip(scale.chunks_exact(num_heads)).zip(data.positions);
        for (((dqkv, qkv), scale), &position) in rows {
            let (cos, sin) = data.table[position as usize * d..][..d].split_at(d / 2);
            let heads_of_row = dqkv.chunks_exact_mut(d).zip(qkv.chunks_exact(d)).zip(scale).enumerate();
            for (head, ((dx, x), &s)) in heads_of_row {
                let (a, b) = dx.split_at_mut(d / 2);
                for j in 0..d / 2 {
                    let (da, db) = (a[j], b[j]);
                    a[j] = da * cos[j] + db * sin[j];
                    b[j] = db * cos[j] - da * sin[j];
                }
                if let Some(norms) = data.norms {
                    let is_query = head < heads.num_heads;
                    let w = if is_query { norms.query } else { norms.key };
                    let dw = if is_query { &mut *dquery } else { &mut *dkey };
                    let shared = dot3(dx, w, x) * s * s * s / d as f32;
                    for (((dx, dw), x), w) in dx.iter_mut().zip(dw.iter_mut()).zip(x).zip(w) {
                        *dw += *dx * x * s;
                        *dx = *dx * w * s - x * shared;
                    }
                }
            }
        }
    }
}

/// Sum of a · b · c.
#[inline(always)]
fn dot3(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    const LANES: usize = simd::LANES;
    let mut lanes = [0.0f32; LANES];
    let chunks = a.chunks_exact(LANES).zip(b.chunks_exact(LANES)).zip(c.chunks_exact(LANES));
    for ((a, b), c) in chunks {
        for j in 0..LANES {
            lanes[j] += a[j] * b[j] * c[j];
        }
    }
    let mut sum = simd::fold(&lanes);
    for j in a.len() / LANES * LANES..a.len() {
        sum += a[j] * b[j] * c[j];
    }
    sum
}
