//! Sums over many rows or numbers: parts of them by blocks, then the parts in a fixed order.

use super::driver::{Address, Argument};
use super::{Cuda, THREADS, WORKSPACE_BYTES, assert_f32};
use crate::device::Span;
use anyhow::Result;

/// Most parts of a sum over rows.
const MOST_CHUNKS: usize = 256;
/// Fewest rows of such a part.
const CHUNK_ROWS: usize = 32;
/// Columns of a block that adds partial sums; SUM_COLUMNS in pointwise.cu, where threads are as many times SUM_PARTS.
const SUM_COLUMNS: usize = 32;
/// Blocks of a sum of squares, and of the backward pass of rotations.
pub(super) const SUM_BLOCKS: usize = 512;

impl Cuda {
    /// A kernel fills `[chunks, width]` of the workspace with sums of rows, which are then added to `out`.
    pub(super) fn sum_of_rows(&mut self, kernel: &str, out: Span, rows: usize, inputs: &[Argument]) {
        let width = out.len;
        let per_chunk = rows.div_ceil(MOST_CHUNKS).max(CHUNK_ROWS);
        let chunks = rows.div_ceil(per_chunk);
        assert!(chunks * width * 4 <= WORKSPACE_BYTES, "sums of {width} columns fit the workspace");
        let mut arguments = vec![Argument::Address(self.workspace)];
        arguments.extend_from_slice(inputs);
        arguments.extend([rows, width, per_chunk].map(|number| Argument::U64(number as u64)));
        self.launch(kernel, ([width.div_ceil(THREADS), chunks, 1], THREADS), &arguments);
        self.add_partial_sums(out, self.workspace, chunks, width);
    }

    pub(super) fn add_partial_sums(&mut self, out: Span, partial: Address, chunks: usize, stride: usize) {
        let sizes = [chunks, stride, out.len].map(|number| Argument::U64(number as u64));
        let arguments = [self.at(out), Argument::Address(partial), sizes[0], sizes[1], sizes[2]];
        self.launch("add_partial_sums", ([out.len.div_ceil(SUM_COLUMNS), 1, 1], THREADS), &arguments);
        self.written(out);
    }

    pub(super) fn squares(&mut self, x: Span) -> Result<f64> {
        assert_f32(&[x]);
        if x.len == 0 {
            return Ok(0.0);
        }
        let blocks = x.len.div_ceil(THREADS).min(SUM_BLOCKS);
        let wide = Argument::U32(self.is_wide(&[x], x.len).into());
        let arguments = [Argument::Address(self.workspace), self.at(x), Argument::U64(x.len as u64), wide];
        self.launch("sum_of_squares", ([blocks, 1, 1], THREADS), &arguments);
        self.check()?;
        let mut bytes = vec![0; blocks * size_of::<f64>()];
        self.driver.download(self.workspace, &mut bytes)?;
        Ok(bytes.chunks_exact(8).map(|bytes| f64::from_le_bytes(bytes.try_into().expect("eight bytes"))).sum())
    }
}
