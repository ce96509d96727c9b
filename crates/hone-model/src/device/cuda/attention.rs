//! Attention inside segments: on tensor cores for bf16 and the usual head sizes, else by rows.

use super::driver::{Argument, AttentionSizes};
use super::{Cuda, WORKSPACE_BYTES, by_format, sizes};
use crate::device::{Attention, NumberFormat, Span};

/// Most numbers of a head, for every kernel that keeps a head in registers.
pub(super) const MOST_HEAD_DIM: usize = 256;
/// QUERY_TILE in attention_tensor.cu.
const QUERY_TILE: usize = 128;
/// KEY_TILE there.
const KEY_TILE: usize = 64;
/// KEYS_AT_ONCE there.
const KEYS_AT_ONCE: usize = 64;
/// SHORT_TILE there.
const SHORT_TILE: usize = 32;
/// TENSOR_THREADS there.
const TENSOR_THREADS: usize = 128;
/// Rows of a block; ROW_WARPS in attention.cu.
const ROWS_OF_BLOCK: usize = 4;

/// A row's segment, twice: where it begins and where it ends.
pub(super) struct Bounds {
    pub(super) first: Vec<u32>,
    pub(super) last: Vec<u32>,
}

impl Bounds {
    pub(super) fn of(segments: &[usize]) -> Bounds {
        let (mut first, mut last, mut start) = (Vec::new(), Vec::new(), 0);
        for &length in segments {
            first.extend(std::iter::repeat_n(start as u32, length));
            last.extend(std::iter::repeat_n((start + length) as u32, length));
            start += length;
        }
        Bounds { first, last }
    }
}

/// `Tile` in attention_tensor.cu, three numbers each: the tile's first row, its segment's first row and its end.
pub(super) fn tiles(segments: &[usize], rows_of_tile: usize) -> Vec<u32> {
    let (mut tiles, mut start) = (Vec::new(), 0);
    for &length in segments {
        for row in (start..start + length).step_by(rows_of_tile) {
            tiles.extend([row, start, start + length].map(|row| row as u32));
        }
        start += length;
    }
    tiles
}

impl Cuda {
    pub(super) fn attention_forward(&mut self, io: &Attention<'_>) {
        let arguments = [self.at(io.out), self.at(io.lse), self.at(io.rotated), self.at(io.qkv)];
        let s = Argument::Attention(attention_sizes(io));
        if let Some(d) = self.tensor_head_dim(io, &[]) {
            let tiles = tiles(io.segments, QUERY_TILE);
            let list = self.list(&tiles);
            let shared = (QUERY_TILE + 2 * KEYS_AT_ONCE) * row_bytes(d);
            let grid = ([tiles.len() / 3, io.heads.num_heads, 1], TENSOR_THREADS, shared);
            self.launch_with(&format!("attention_forward_{d}"), grid, &[&arguments[..], &[list, s]].concat());
        } else {
            let first = self.list(&Bounds::of(io.segments).first);
            let kernel = by_format("attention_rows", io.qkv.format);
            let grid = grid_of_queries(io, io.heads.num_heads);
            self.launch(&kernel, grid, &[&arguments[..], &[first, s]].concat());
        }
        self.written(io.out);
        self.written(io.lse);
    }

    pub(super) fn attention_gradients(&mut self, dqkv: Span, dout: Span, io: &Attention<'_>) {
        let heads = io.heads;
        assert!(io.lse.len * 4 <= WORKSPACE_BYTES, "one number for each query and head fits the workspace");
        let (delta, s) = (Argument::Address(self.workspace), Argument::Attention(attention_sizes(io)));
        let kernel = by_format("attention_delta", dout.format);
        let arguments = [delta, self.at(dout), self.at(io.out), s];
        self.launch(&kernel, grid_of_queries(io, heads.num_heads), &arguments);
        let arguments = [self.at(dqkv), self.at(dout), self.at(io.lse), delta, self.at(io.rotated), self.at(io.qkv)];
        if let Some(d) = self.tensor_head_dim(io, &[dqkv, dout]) {
            // Tiles of both operands in shared memory; two steps of the keys' kernel at once, with two numbers for each query.
            let rows_for_keys = 2 * KEY_TILE + 4 * SHORT_TILE;
            for (kernel, rows_of_tile, heads, shared) in [
                ("queries", QUERY_TILE, heads.num_heads, 2 * (QUERY_TILE + SHORT_TILE) * row_bytes(d)),
                ("keys", KEY_TILE, heads.num_kv_heads, rows_for_keys * row_bytes(d) + 4 * SHORT_TILE * 4),
            ] {
                let tiles = tiles(io.segments, rows_of_tile);
                let list = self.list(&tiles);
                let grid = ([tiles.len() / 3, heads, 1], TENSOR_THREADS, shared);
                self.launch_with(
                    &format!("attention_backward_{kernel}_{d}"),
                    grid,
                    &[&arguments[..], &[list, s]].concat(),
                );
            }
        } else {
            let Bounds { first, last } = Bounds::of(io.segments);
            for (kernel, bounds, heads) in
                [("attention_query_rows", first, heads.num_heads), ("attention_key_rows", last, heads.num_kv_heads)]
            {
                let list = self.list(&bounds);
                let kernel = by_format(kernel, io.qkv.format);
                self.launch(&kernel, grid_of_queries(io, heads), &[&arguments[..], &[list, s]].concat());
            }
        }
        self.written(dqkv);
    }

    /// The head size, when the kernels for tensor cores can do it.
    fn tensor_head_dim(&self, io: &Attention<'_>, others: &[Span]) -> Option<usize> {
        let d = io.heads.head_dim;
        assert!(d <= MOST_HEAD_DIM, "heads of {d} numbers are wider than {MOST_HEAD_DIM}");
        let spans = [&[io.out, io.rotated, io.qkv], others].concat();
        let fits = |span: &Span| span.format == NumberFormat::Bf16 && self.address(*span).is_multiple_of(16);
        (spans.iter().all(fits) && matches!(d, 64 | 128)).then_some(d)
    }
}

/// Bytes of a row in shared memory; STRIDE in attention_tensor.cu.
fn row_bytes(d: usize) -> usize {
    (d + 8) * 2
}

fn grid_of_queries(io: &Attention<'_>, heads: usize) -> ([usize; 3], usize) {
    let rows: usize = io.segments.iter().sum();
    ([rows.div_ceil(ROWS_OF_BLOCK), heads, 1], ROWS_OF_BLOCK * 32)
}

fn attention_sizes(io: &Attention<'_>) -> AttentionSizes {
    let scale = 1.0 / (io.heads.head_dim as f32).sqrt();
    AttentionSizes { heads: sizes(io.heads), scale, rows: io.segments.iter().sum::<usize>() as u64 }
}
