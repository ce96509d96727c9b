//! RMS norms of rows, and the rotation of heads with their norms.

use super::driver::{Address, Argument};
use super::sums::SUM_BLOCKS;
use super::{Cuda, THREADS, assert_f32, attention, by_format, sizes};
use crate::device::{HeadNorms, Heads, Rotation, Span};

impl Cuda {
    /// With an `eps` the scales are computed and left, without one they are read.
    pub(super) fn norm(&mut self, y: Span, scale: Span, x: Span, w: Span, eps: Option<f32>) {
        assert_f32(&[scale, x, w]);
        let (rows, width) = (x.len / w.len, w.len);
        let (n, h) = (Argument::U64(rows as u64), Argument::U64(width as u64));
        let wide = self.is_wide(&[y, x, w], width);
        let operands = [self.at(y), self.at(scale), self.at(x), self.at(w)];
        let (kernel, eps) = match eps {
            Some(eps) => ("rms_norm", vec![Argument::F32(eps)]),
            None => ("rms_norm_again", Vec::new()),
        };
        let arguments = [&operands[..], &eps, &[n, h, Argument::U32(wide.into())]].concat();
        self.launch(&by_format(kernel, y.format), grid_of_rows(rows, width, wide), &arguments);
        self.written(y);
        self.written(scale);
    }

    pub(super) fn norm_gradients(&mut self, [dx, dw]: [Span; 2], dy: Span, scale: Span, x: Span, w: Span) {
        assert_f32(&[dx, dw, scale, x, w]);
        let (rows, width) = (x.len / w.len, w.len);
        let (n, h) = (Argument::U64(rows as u64), Argument::U64(width as u64));
        let inputs = [self.at(dy), self.at(scale), self.at(x)];
        let wide = self.is_wide(&[dx, dy, x, w], width);
        let arguments = [self.at(dx), inputs[0], inputs[1], inputs[2], self.at(w), n, h, Argument::U32(wide.into())];
        self.launch(&by_format("rms_norm_backward", dy.format), grid_of_rows(rows, width, wide), &arguments);
        self.written(dx);
        self.sum_of_rows(&by_format("rms_norm_weights", dy.format), dw, rows, &inputs);
    }

    pub(super) fn rotate_heads(
        &mut self,
        rotated: Span,
        scale: Span,
        qkv: Span,
        rotation: &Rotation<'_>,
        heads: Heads,
    ) {
        assert!(rotated.format == qkv.format, "rotation keeps the format");
        let rows = rotation.positions.len();
        let positions = self.list(rotation.positions);
        let [query, key, eps] = self.norm_arguments(rotation.norms);
        let arguments = [
            self.at(rotated),
            self.at(scale),
            self.at(qkv),
            self.at(rotation.table),
            positions,
            query,
            key,
            eps,
            Argument::Heads(sizes(heads)),
            Argument::U32(rows as u32),
            self.takes_pairs(&[rotated, qkv, rotation.table], heads),
        ];
        let warps = rows * (heads.num_heads + heads.num_kv_heads);
        let grid = ([warps.div_ceil(THREADS / 32), 1, 1], THREADS);
        self.launch(&by_format("rotate", qkv.format), grid, &arguments);
        self.written(rotated);
        self.written(scale);
    }

    pub(super) fn rotate_gradients(
        &mut self,
        (dqkv, dnorms): (Span, Option<HeadNorms>),
        scale: Span,
        qkv: Span,
        rotation: &Rotation<'_>,
        heads: Heads,
    ) {
        let d = heads.head_dim;
        assert!(dqkv.format == qkv.format && d <= attention::MOST_HEAD_DIM, "formats and heads that are known");
        let rows = rotation.positions.len();
        let positions = self.list(rotation.positions);
        let [query, key, _] = self.norm_arguments(rotation.norms);
        let partial = self.workspace;
        let arguments = [
            self.at(dqkv),
            Argument::Address(partial),
            self.at(scale),
            self.at(qkv),
            self.at(rotation.table),
            positions,
            query,
            key,
            Argument::Heads(sizes(heads)),
            Argument::U32(rows as u32),
            self.takes_pairs(&[dqkv, qkv, rotation.table], heads),
        ];
        let warps = rows * (heads.num_heads + heads.num_kv_heads);
        let blocks = warps.div_ceil(THREADS / 32).min(SUM_BLOCKS);
        self.launch(&by_format("rotate_backward", qkv.format), ([blocks, 1, 1], THREADS), &arguments);
        self.written(dqkv);
        if let Some(dnorms) = dnorms {
            self.add_partial_sums(dnorms.query, partial, blocks, 2 * d);
            self.add_partial_sums(dnorms.key, partial + 4 * d as Address, blocks, 2 * d);
        }
    }

    /// Whether the halves of heads can be treated two numbers at a time.
    fn takes_pairs(&self, spans: &[Span], heads: Heads) -> Argument {
        let fits = |span: &Span| self.address(*span).is_multiple_of(2 * span.format.size() as Address);
        Argument::U32((heads.head_dim.is_multiple_of(4) && spans.iter().all(fits)).into())
    }

    /// Weights of both norms (null without) and their eps.
    fn norm_arguments(&self, norms: Option<HeadNorms>) -> [Argument; 3] {
        match norms {
            Some(norms) => [self.at(norms.query), self.at(norms.key), Argument::F32(norms.eps)],
            None => [Argument::Address(0), Argument::Address(0), Argument::F32(0.0)],
        }
    }
}

/// One block for each row, with as many threads as its width is worth.
fn grid_of_rows(rows: usize, width: usize, wide: bool) -> ([usize; 3], usize) {
    ([rows, 1, 1], width.div_ceil(if wide { 8 } else { 1 }).next_multiple_of(32).min(THREADS))
}
