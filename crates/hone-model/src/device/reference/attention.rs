//! Attention by plain loops: one query at a time over the keys that it sees.

use super::Reference;
use crate::device::{Attention, Cache, CacheRows, Heads, Span};

/// One query of a batch: its row, its head, and the rows of the keys that it sees.
struct Query {
    row: usize,
    head: usize,
    first: usize,
}

pub(super) fn forward(device: &mut Reference, io: &Attention<'_>) {
    let heads = io.heads;
    let num_rows: usize = io.segments.iter().sum();
    let d = heads.head_dim;
    for_each_query(io, |query| {
        let q = device.read(query_span(io, query.row, query.head));
        let keys: Vec<Vec<f32>> = (query.first..=query.row).map(|t| device.read(key_span(io, t, query.head))).collect();
        let values: Vec<Vec<f32>> =
            (query.first..=query.row).map(|t| device.read(value_span(io, io.qkv, t, query.head))).collect();
        let (out, lse) = attend(&q, &keys, &values);
        device.write(io.out.part(query.row * heads.query_width() + query.head * d, d), &out);
        device.arena[io.lse.offset + query.head * num_rows + query.row] = lse as f32;
    });
}

pub(super) fn backward(device: &mut Reference, dqkv: Span, dout: Span, io: &Attention<'_>) {
    let d = io.heads.head_dim;
    let width = io.heads.qkv_width();
    let root = (d as f64).sqrt();
    // In f64, because many queries add to one key.
    let mut gradients = vec![0.0f64; dqkv.len];
    for_each_query(io, |query| {
        let q = device.read(query_span(io, query.row, query.head));
        let place = query.row * io.heads.query_width() + query.head * d;
        let dout = device.read(dout.part(place, d));
        let keys: Vec<Vec<f32>> = (query.first..=query.row).map(|t| device.read(key_span(io, t, query.head))).collect();
        let probabilities = softmax(&keys.iter().map(|k| dot(&q, k) / root).collect::<Vec<f64>>()).0;
        let dp: Vec<f64> = (query.first..=query.row)
            .map(|t| dot(&dout, &device.read(value_span(io, io.qkv, t, query.head))))
            .collect();
        let mean: f64 = probabilities.iter().zip(&dp).map(|(p, d)| p * d).sum();
        for (i, t) in (query.first..=query.row).enumerate() {
            let ds = probabilities[i] * (dp[i] - mean) / root;
            let key_at = key_span(io, t, query.head).offset - io.rotated.offset - t * io.heads.rotated_width();
            let value_at = value_span(io, io.qkv, t, query.head).offset - io.qkv.offset;
            for j in 0..d {
                gradients[query.row * width + query.head * d + j] += ds * f64::from(keys[i][j]);
                gradients[t * width + key_at + j] += ds * f64::from(q[j]);
                gradients[value_at + j] += probabilities[i] * f64::from(dout[j]);
            }
        }
    });
    let gradients: Vec<f32> = gradients.iter().map(|&x| x as f32).collect();
    device.write(dqkv, &gradients);
}

pub(super) fn cache_store(
    device: &mut Reference,
    cache: Cache,
    rotated: Span,
    qkv: Span,
    rows: CacheRows<'_>,
    heads: Heads,
) {
    let width = heads.kv_width();
    for (i, row) in rows.rows.iter().enumerate() {
        let place = rows.place(cache, *row, row.position) * width;
        let key = rotated.part(i * heads.rotated_width() + heads.query_width(), width);
        let value = qkv.part(i * heads.qkv_width() + heads.rotated_width(), width);
        let (key, value) = (device.read(key), device.read(value));
        device.write(cache.keys.part(place, width), &key);
        device.write(cache.values.part(place, width), &value);
    }
}

pub(super) fn cached(
    device: &mut Reference,
    out: Span,
    rotated: Span,
    cache: Cache,
    rows: CacheRows<'_>,
    heads: Heads,
) {
    let d = heads.head_dim;
    let group = heads.num_heads / heads.num_kv_heads;
    for (i, row) in rows.rows.iter().enumerate() {
        for head in 0..heads.num_heads {
            let q = device.read(rotated.part(i * heads.rotated_width() + head * d, d));
            let place = |t: usize| rows.place(cache, *row, t) * heads.kv_width() + head / group * d;
            let seen = 0..=row.position;
            let keys: Vec<Vec<f32>> = seen.clone().map(|t| device.read(cache.keys.part(place(t), d))).collect();
            let values: Vec<Vec<f32>> = seen.map(|t| device.read(cache.values.part(place(t), d))).collect();
            let (result, _) = attend(&q, &keys, &values);
            device.write(out.part(i * heads.query_width() + head * d, d), &result);
        }
    }
}

fn for_each_query(io: &Attention<'_>, mut work: impl FnMut(&Query)) {
    let mut first = 0;
    for &length in io.segments {
        for row in first..first + length {
            for head in 0..io.heads.num_heads {
                work(&Query { row, head, first });
            }
        }
        first += length;
    }
}

fn query_span(io: &Attention<'_>, row: usize, head: usize) -> Span {
    let d = io.heads.head_dim;
    io.rotated.part(row * io.heads.rotated_width() + head * d, d)
}

fn key_span(io: &Attention<'_>, row: usize, head: usize) -> Span {
    let d = io.heads.head_dim;
    let kv_head = head / (io.heads.num_heads / io.heads.num_kv_heads);
    io.rotated.part(row * io.heads.rotated_width() + io.heads.query_width() + kv_head * d, d)
}

fn value_span(io: &Attention<'_>, qkv: Span, row: usize, head: usize) -> Span {
    let d = io.heads.head_dim;
    let kv_head = head / (io.heads.num_heads / io.heads.num_kv_heads);
    qkv.part(row * io.heads.qkv_width() + io.heads.rotated_width() + kv_head * d, d)
}

/// softmax(q · kᵀ / √D) · v, and the logarithm of the softmax's sum.
fn attend(q: &[f32], keys: &[Vec<f32>], values: &[Vec<f32>]) -> (Vec<f32>, f64) {
    let root = (q.len() as f64).sqrt();
    let (probabilities, lse) = softmax(&keys.iter().map(|k| dot(q, k) / root).collect::<Vec<f64>>());
    let weighted = |j: usize| probabilities.iter().zip(values).map(|(p, v)| p * f64::from(v[j])).sum::<f64>() as f32;
    ((0..q.len()).map(weighted).collect(), lse)
}

fn softmax(scores: &[f64]) -> (Vec<f64>, f64) {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
    (scores.iter().map(|s| (s - max).exp() / sum).collect(), max + sum.ln())
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
