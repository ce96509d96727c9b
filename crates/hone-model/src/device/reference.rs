//! The plain twin of every device: loops that a person can check, sums in f64, no threads. It is not fast and does
//! not try to be; tests hold the other devices against it.

mod attention;

use super::{
    AdamWUpdate, Attention, Cache, CacheFormat, CacheRows, Device, Dropout, HeadNorms, Heads, Matrix, NumberFormat,
    Room, Rotation, Span, WeightMatrix,
};
use anyhow::Result;

/// Sequences may stand anywhere, as on GPUs.
pub(super) const CACHE_FORMAT: CacheFormat = CacheFormat { numbers: NumberFormat::F32, is_paged: true };

/// The device `reference`.
pub(super) struct Reference {
    arena: Vec<f32>,
}

impl Reference {
    pub(super) fn new() -> Reference {
        Reference { arena: Vec::new() }
    }

    fn read(&self, span: Span) -> Vec<f32> {
        self.arena[span.range()].to_vec()
    }

    fn write(&mut self, span: Span, values: &[f32]) {
        self.arena[span.range()].copy_from_slice(values);
    }

    fn weights(&self, w: WeightMatrix, row: usize) -> Vec<f32> {
        let mut weights = vec![0.0; w.cols];
        w.held(&self.arena[w.span.range()]).read(w.cols, row, 0, &mut weights);
        weights
    }

    fn at(&mut self, m: Matrix, row: usize, col: usize) -> &mut f32 {
        &mut self.arena[m.offset + row * m.row_stride + col * m.col_stride]
    }
}

impl Device for Reference {
    fn name(&self) -> &'static str {
        "reference"
    }

    fn threads(&self) -> usize {
        1
    }

    fn reserve(&mut self, room: &Room) -> Result<()> {
        self.arena = vec![0.0; room.len];
        Ok(())
    }

    fn cache_format(&self) -> CacheFormat {
        CACHE_FORMAT
    }

    fn run(&mut self, work: &mut (dyn FnMut(&mut dyn Device) + Send)) {
        work(self);
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }

    fn upload(&mut self, dst: Span, values: &[f32]) -> Result<()> {
        self.write(dst, values);
        Ok(())
    }

    fn download(&mut self, src: Span, values: &mut [f32]) -> Result<()> {
        values.copy_from_slice(&self.arena[src.range()]);
        Ok(())
    }

    fn fill(&mut self, dst: Span, value: f32) {
        self.arena[dst.range()].fill(value);
    }

    fn copy(&mut self, dst: Span, src: Span) {
        let values = self.read(src);
        self.write(dst, &values);
    }

    fn scale(&mut self, x: Span, factor: f32) {
        self.arena[x.range()].iter_mut().for_each(|x| *x *= factor);
    }

    fn dropout(&mut self, y: Span, x: Span, dropout: Dropout, accumulate: bool) {
        assert_eq!(y.len, x.len, "lengths agree");
        for i in 0..x.len {
            let before = if accumulate { self.arena[y.offset + i] } else { 0.0 };
            self.arena[y.offset + i] = before + self.arena[x.offset + i] * dropout.factor(i);
        }
    }

    fn matmul(&mut self, c: Matrix, a: Matrix, b: Matrix, accumulate: bool) {
        assert!(c.rows == a.rows && c.cols == b.cols && a.cols == b.rows, "{c:?} := {a:?} {b:?}");
        for row in 0..c.rows {
            for col in 0..c.cols {
                let mut sum = 0.0;
                for k in 0..a.cols {
                    sum += f64::from(*self.at(a, row, k)) * f64::from(*self.at(b, k, col));
                }
                let out = self.at(c, row, col);
                *out = if accumulate { *out + sum as f32 } else { sum as f32 };
            }
        }
    }

    fn store_weights(&mut self, w: WeightMatrix, first_row: usize, values: &[f32]) -> Result<()> {
        w.store(&mut self.arena[w.span.range()], first_row, values);
        Ok(())
    }

    fn gather_weights(&mut self, y: Span, w: WeightMatrix, rows: &[u32]) {
        for (i, &row) in rows.iter().enumerate() {
            let values = self.weights(w, row as usize);
            self.write(y.part(i * w.cols, w.cols), &values);
        }
    }

    fn linear(&mut self, y: Matrix, x: Matrix, w: WeightMatrix, accumulate: bool) {
        assert!(y.rows == x.rows && y.cols == w.rows && x.cols == w.cols, "{y:?} := {x:?} {w:?}");
        for col in 0..w.rows {
            let weights = self.weights(w, col);
            for row in 0..x.rows {
                let mut sum = 0.0;
                for (k, weight) in weights.iter().enumerate() {
                    sum += f64::from(*self.at(x, row, k)) * f64::from(*weight);
                }
                let out = self.at(y, row, col);
                *out = if accumulate { *out + sum as f32 } else { sum as f32 };
            }
        }
    }

    fn linear_by_row(&mut self, y: Matrix, x: Matrix, w: WeightMatrix) {
        self.linear(y, x, w, false);
    }

    fn gather_rows(&mut self, y: Span, x: Span, rows: &[u32]) {
        let width = y.len / rows.len().max(1);
        for (i, &row) in rows.iter().enumerate() {
            self.copy(y.part(i * width, width), x.part(row as usize * width, width));
        }
    }

    fn scatter_add_rows(&mut self, x: Span, y: Span, rows: &[u32]) {
        let width = y.len / rows.len().max(1);
        for (i, &row) in rows.iter().enumerate() {
            for j in 0..width {
                self.arena[x.offset + row as usize * width + j] += self.arena[y.offset + i * width + j];
            }
        }
    }

    fn add_bias(&mut self, y: Span, bias: Span) {
        let bias = self.read(bias);
        for row in self.arena[y.range()].chunks_mut(bias.len()) {
            for (y, b) in row.iter_mut().zip(&bias) {
                *y += b;
            }
        }
    }

    fn add_bias_backward(&mut self, dbias: Span, dy: Span) {
        let dy = self.read(dy);
        for j in 0..dbias.len {
            let sum: f64 = dy.iter().skip(j).step_by(dbias.len).map(|&x| f64::from(x)).sum();
            self.arena[dbias.offset + j] += sum as f32;
        }
    }

    fn rms_norm(&mut self, y: Span, scale: Span, x: Span, w: Span, eps: f32) {
        let scales: Vec<f32> = self.arena[x.range()].chunks(w.len).map(|x| inverse_rms(x, eps)).collect();
        self.write(scale, &scales);
        self.rms_norm_again(y, scale, x, w);
    }

    fn rms_norm_again(&mut self, y: Span, scale: Span, x: Span, w: Span) {
        let (x, w, scale) = (self.read(x), self.read(w), self.read(scale));
        for (i, y) in self.arena[y.range()].iter_mut().enumerate() {
            *y = x[i] * scale[i / w.len()] * w[i % w.len()];
        }
    }

    fn rms_norm_backward(&mut self, dx: Span, dw: Span, dy: Span, scale: Span, x: Span, w: Span) {
        let (w, scales) = (self.read(w), self.read(scale));
        let h = w.len();
        let mut sum_dw = vec![0.0; h];
        for (i, &scale) in scales.iter().enumerate() {
            let (x, dy) = (self.read(x.part(i * h, h)), self.read(dy.part(i * h, h)));
            let dx_row = inverse_rms_backward(&x, &dy, &w, scale, &mut sum_dw);
            for (j, value) in dx_row.iter().enumerate() {
                self.arena[dx.offset + i * h + j] += value;
            }
        }
        for (j, sum) in sum_dw.iter().enumerate() {
            self.arena[dw.offset + j] += *sum as f32;
        }
    }

    fn rotate(&mut self, rotated: Span, scale: Span, qkv: Span, rotation: &Rotation<'_>, heads: Heads) {
        let d = heads.head_dim;
        let num_heads = heads.num_heads + heads.num_kv_heads;
        for (row, &position) in rotation.positions.iter().enumerate() {
            let table = self.read(rotation.table.part(position as usize * d, d));
            let (cos, sin) = table.split_at(d / 2);
            for head in 0..num_heads {
                let mut x = self.read(qkv.part(row * heads.qkv_width() + head * d, d));
                if let Some(norms) = rotation.norms {
                    let w = self.read(if head < heads.num_heads { norms.query } else { norms.key });
                    let s = inverse_rms(&x, norms.eps);
                    self.arena[scale.offset + row * num_heads + head] = s;
                    x.iter_mut().zip(&w).for_each(|(x, w)| *x *= s * w);
                }
                let mut y = vec![0.0; d];
                for j in 0..d / 2 {
                    let (a, b) = (x[j], x[j + d / 2]);
                    y[j] = a * cos[j] - b * sin[j];
                    y[j + d / 2] = b * cos[j] + a * sin[j];
                }
                self.write(rotated.part(row * heads.rotated_width() + head * d, d), &y);
            }
        }
    }

    fn rotate_backward(
        &mut self,
        dqkv: Span,
        dnorms: Option<HeadNorms>,
        scale: Span,
        qkv: Span,
        rotation: &Rotation<'_>,
        heads: Heads,
    ) {
        let d = heads.head_dim;
        let num_heads = heads.num_heads + heads.num_kv_heads;
        let (mut sum_query, mut sum_key) = (vec![0.0; d], vec![0.0; d]);
        for (row, &position) in rotation.positions.iter().enumerate() {
            let table = self.read(rotation.table.part(position as usize * d, d));
            let (cos, sin) = table.split_at(d / 2);
            for head in 0..num_heads {
                let place = row * heads.qkv_width() + head * d;
                let dy = self.read(dqkv.part(place, d));
                let mut dx = vec![0.0; d];
                for j in 0..d / 2 {
                    let (da, db) = (dy[j], dy[j + d / 2]);
                    dx[j] = da * cos[j] + db * sin[j];
                    dx[j + d / 2] = db * cos[j] - da * sin[j];
                }
                if let Some(norms) = rotation.norms {
                    let is_query = head < heads.num_heads;
                    let w = self.read(if is_query { norms.query } else { norms.key });
                    let sum = if is_query { &mut sum_query } else { &mut sum_key };
                    let x = self.read(qkv.part(place, d));
                    dx = inverse_rms_backward(&x, &dx, &w, self.arena[scale.offset + row * num_heads + head], sum);
                }
                self.write(dqkv.part(place, d), &dx);
            }
        }
        if let Some(dnorms) = dnorms {
            for j in 0..d {
                self.arena[dnorms.query.offset + j] += sum_query[j] as f32;
                self.arena[dnorms.key.offset + j] += sum_key[j] as f32;
            }
        }
    }

    fn attention_workspace(&self, _max_segment: usize, _heads: Heads) -> usize {
        0
    }

    fn attention(&mut self, io: &Attention<'_>) {
        attention::forward(self, io);
    }

    fn attention_backward(&mut self, dqkv: Span, dout: Span, io: &Attention<'_>) {
        attention::backward(self, dqkv, dout, io);
    }

    fn cache_store(&mut self, cache: Cache, rotated: Span, qkv: Span, rows: CacheRows<'_>, heads: Heads) {
        attention::cache_store(self, cache, rotated, qkv, rows, heads);
    }

    fn cache_attention(&mut self, out: Span, rotated: Span, cache: Cache, rows: CacheRows<'_>, heads: Heads) {
        attention::cached(self, out, rotated, cache, rows, heads);
    }

    fn swiglu(&mut self, y: Span, gate_up: Span, intermediate: usize) {
        let gate_up = self.read(gate_up);
        for (y, row) in self.arena[y.range()].chunks_mut(intermediate).zip(gate_up.chunks(2 * intermediate)) {
            for (j, y) in y.iter_mut().enumerate() {
                *y = row[j] * sigmoid(row[j]) * row[intermediate + j];
            }
        }
    }

    fn swiglu_backward(&mut self, y: Span, gate_up: Span, intermediate: usize) {
        let dy = self.read(y);
        self.swiglu(y, gate_up, intermediate);
        let rows = self.arena[gate_up.range()].chunks_mut(2 * intermediate);
        for (row, dy) in rows.zip(dy.chunks(intermediate)) {
            for (j, dy) in dy.iter().enumerate() {
                let (g, u) = (row[j], row[intermediate + j]);
                let s = sigmoid(g);
                row[j] = dy * u * (s + g * s * (1.0 - s));
                row[intermediate + j] = dy * g * s;
            }
        }
    }

    fn cross_entropy(&mut self, logits: Span, losses: Span, correct: Span, targets: &[u32], grad_scale: Option<f32>) {
        let width = logits.len / targets.len().max(1);
        for (i, &target) in targets.iter().enumerate() {
            let target = target as usize;
            let span = logits.part(i * width, width);
            let row = self.read(span);
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row.iter().map(|&x| f64::from(x - max).exp()).sum();
            self.arena[losses.offset + i] = (sum.ln() - f64::from(row[target] - max)) as f32;
            self.arena[correct.offset + i] = if row[target] >= max { 1.0 } else { 0.0 };
            if let Some(grad_scale) = grad_scale {
                let gradient = |(j, &x): (usize, &f32)| {
                    let one_hot = if j == target { 1.0 } else { 0.0 };
                    ((f64::from(x - max).exp() / sum - one_hot) * f64::from(grad_scale)) as f32
                };
                let gradients: Vec<f32> = row.iter().enumerate().map(gradient).collect();
                self.write(span, &gradients);
            }
        }
    }

    fn sum_of_squares(&mut self, x: Span) -> Result<f64> {
        Ok(self.arena[x.range()].iter().map(|&x| f64::from(x) * f64::from(x)).sum())
    }

    fn adamw(&mut self, w: Span, g: Span, m: Span, v: Span, update: &AdamWUpdate) {
        let AdamWUpdate { grad_scale, beta1, beta2, step_size, second_correction, eps, keep } = *update;
        for i in 0..w.len {
            let g = self.arena[g.offset + i] * grad_scale;
            let m_new = beta1 * self.arena[m.offset + i] + (1.0 - beta1) * g;
            let v_new = beta2 * self.arena[v.offset + i] + (1.0 - beta2) * g * g;
            self.arena[m.offset + i] = m_new;
            self.arena[v.offset + i] = v_new;
            let w = &mut self.arena[w.offset + i];
            *w = *w * keep - step_size * m_new / (v_new.sqrt() * second_correction + eps);
        }
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// 1 / sqrt(mean square + eps).
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    let squares: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    (1.0 / (squares / x.len() as f64 + f64::from(eps)).sqrt()) as f32
}

/// Gradient of x · scale · w with respect to x, where `scale` is [`inverse_rms`] of x; `sum_dw` += the one for w.
fn inverse_rms_backward(x: &[f32], dy: &[f32], w: &[f32], scale: f32, sum_dw: &mut [f64]) -> Vec<f32> {
    let s = f64::from(scale);
    let mut dot = 0.0;
    for j in 0..x.len() {
        let (x, dy, w) = (f64::from(x[j]), f64::from(dy[j]), f64::from(w[j]));
        sum_dw[j] += dy * x * s;
        dot += dy * w * x;
    }
    let shared = dot * s * s * s / x.len() as f64;
    (0..x.len()).map(|j| (f64::from(dy[j]) * f64::from(w[j]) * s - f64::from(x[j]) * shared) as f32).collect()
}
