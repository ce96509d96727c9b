//! Decoding: weights in their formats, and attention over the cache.

use super::driver::{Address, Argument, CacheSizes};
use super::{Cuda, MOST_BLOCKS, THREADS, WORKSPACE_BYTES, assert_f32, by_format, bytes_of, sizes};
use crate::device::weights::GROUP;
use crate::device::{Cache, CacheRow, CacheRows, Heads, Matrix, Span, WeightFormat, WeightMatrix};
use anyhow::Result;

/// Positions of a sequence that one block takes; SPLIT in cached.cu.
const SPLIT: usize = 64;
/// Threads of such a block.
const SPLIT_THREADS: usize = 128;
/// Rows that a block takes together; FEW_ROWS in cached.cu.
const FEW_ROWS: usize = 8;

impl Cuda {
    /// Where a matrix's numbers (or codes) stand, and its scales.
    pub(super) fn held(&self, w: WeightMatrix) -> [Address; 2] {
        let numbers = self.address(w.span);
        match w.format {
            WeightFormat::F32 | WeightFormat::Bf16 => [numbers, 0],
            WeightFormat::Int8 => [numbers, numbers + ((w.rows * w.cols).div_ceil(4) * 4) as Address],
        }
    }

    pub(super) fn store(&mut self, w: WeightMatrix, first_row: usize, values: &[f32]) -> Result<()> {
        let rows = values.len() / w.cols;
        assert!(values.len().is_multiple_of(w.cols) && first_row + rows <= w.rows, "whole rows of the matrix");
        let part = WeightMatrix { rows, ..w };
        let mut numbers = vec![0.0; w.format.len(rows, w.cols)];
        part.store(&mut numbers, 0, values);
        let [to, scales_to] = self.held(w);
        let (count, before) = (rows * w.cols, first_row * w.cols);
        match w.format {
            WeightFormat::F32 => self.driver.upload(to + (before * 4) as Address, bytes_of(&numbers)),
            WeightFormat::Bf16 => self.driver.upload(to + (before * 2) as Address, &bytes_of(&numbers)[..count * 2]),
            WeightFormat::Int8 => {
                let (codes, scales) = numbers.split_at(count.div_ceil(4));
                self.driver.upload(to + before as Address, &bytes_of(codes)[..count])?;
                let scales_before = first_row * w.cols.div_ceil(GROUP);
                self.driver.upload(scales_to + (scales_before * 4) as Address, bytes_of(scales))
            }
        }
    }

    pub(super) fn take_rows(&mut self, y: Span, w: WeightMatrix, rows: &[u32]) {
        assert_f32(&[y]);
        let list = self.list(rows);
        let to = Argument::Address(self.address(y));
        self.launch_take_rows(&format!("take_rows_{}", w.format.name()), to, w, (list, rows.len()));
        self.written(y);
    }

    /// All rows of a matrix in another format.
    pub(super) fn expand(&mut self, kernel: &str, to: Address, w: WeightMatrix) {
        self.launch_take_rows(kernel, Argument::Address(to), w, (Argument::Address(0), w.rows));
    }

    fn launch_take_rows(&mut self, kernel: &str, to: Argument, w: WeightMatrix, (rows, n): (Argument, usize)) {
        let [numbers, scales] = self.held(w).map(Argument::Address);
        let arguments = [to, numbers, scales, Argument::U64(w.cols as u64), rows, Argument::U64(n as u64)];
        let grid = [w.cols.div_ceil(8 * THREADS), n.min(MOST_BLOCKS), 1];
        self.launch(kernel, (grid, THREADS), &arguments);
    }

    pub(super) fn multiply_by_row(&mut self, y: Matrix, x: Matrix, w: WeightMatrix) {
        assert_f32(&[y.span(), x.span()]);
        assert!(y.col_stride == 1 && x.col_stride == 1 && x.cols == w.cols && y.cols == w.rows, "rows against weights");
        let [numbers, scales] = self.held(w);
        let x_address = self.address(x.span());
        let wide = w.cols.is_multiple_of(8)
            && x.row_stride.is_multiple_of(4)
            && [numbers, x_address].iter().all(|address| address.is_multiple_of(16));
        let arguments = [
            self.at(y.span()),
            Argument::U64(y.row_stride as u64),
            Argument::Address(x_address),
            Argument::U64(x.row_stride as u64),
            Argument::Address(numbers),
            Argument::Address(scales),
            Argument::U64(w.rows as u64),
            Argument::U64(w.cols as u64),
            Argument::U32(x.rows as u32),
            Argument::U32(wide.into()),
        ];
        let grid = [w.rows.div_ceil(THREADS / 32), x.rows.div_ceil(FEW_ROWS), 1];
        self.launch(&format!("linear_by_row_{}", w.format.name()), (grid, THREADS), &arguments);
        self.written(y.span());
    }

    pub(super) fn store_in_cache(&mut self, cache: Cache, rotated: Span, qkv: Span, rows: CacheRows<'_>, heads: Heads) {
        assert_f32(&[rotated, qkv]);
        let place = |place| u32::try_from(place).expect("a cache of fewer than 2^32 tokens");
        let places: Vec<u32> = rows.rows.iter().map(|row| place(rows.place(cache, *row, row.position))).collect();
        let list = self.list(&places);
        let caches = [self.at(cache.keys), self.at(cache.values)];
        let s = Argument::Cache(cache_sizes(cache, heads));
        let arguments = [caches[0], caches[1], self.at(rotated), self.at(qkv), list, s];
        self.launch(&by_format("cache_store", cache.keys.format), ([places.len(), 1, 1], THREADS), &arguments);
        self.written(cache.keys);
        self.written(cache.values);
    }

    pub(super) fn attend_to_cache(
        &mut self,
        out: Span,
        rotated: Span,
        cache: Cache,
        in_cache: CacheRows<'_>,
        heads: Heads,
    ) {
        assert_f32(&[rotated, out]);
        let (rows, format) = (in_cache.rows, cache.keys.format);
        let d = heads.head_dim;
        let kernel = match d {
            0..=64 => "cache_attention_64",
            65..=128 => "cache_attention_128",
            _ => "cache_attention_256",
        };
        assert!(d <= super::attention::MOST_HEAD_DIM, "heads of {d} numbers are wider than the kernels take");
        let kernel = by_format(kernel, format);
        let s = Argument::Cache(cache_sizes(cache, heads));
        let is_round = [cache.keys, cache.values].iter().all(|span| self.address(*span).is_multiple_of(16));
        let wide = Argument::U32((is_round && (d * format.size()).is_multiple_of(16)).into());
        let bytes_of_split = heads.num_heads * (d + 2) * 4;
        let mut start = 0;
        // As many rows at once as have room for their partial results.
        while start < rows.len() {
            let longest = rows[start..].iter().map(|row| row.position + 1).max().unwrap_or(0);
            let splits = longest.div_ceil(SPLIT);
            let most = (WORKSPACE_BYTES / (splits * bytes_of_split)).min(MOST_BLOCKS);
            assert!(most > 0, "a sequence of {longest} tokens has room in the workspace");
            let part = &rows[start..(start + most).min(rows.len())];
            let lengths: Vec<u32> = part.iter().map(|row| row.position as u32 + 1).collect();
            let (tables, first) = joined_tables(in_cache.tables, part, cache.block_len);
            let [tables, first, lengths] = [tables, first, lengths].map(|list| self.list(&list));
            let partial = Argument::Address(self.workspace);
            let rotated = self.at(rotated.part(start * heads.rotated_width(), part.len() * heads.rotated_width()));
            let caches = [self.at(cache.keys), self.at(cache.values)];
            let arguments = [partial, rotated, caches[0], caches[1], tables, first, lengths, s, wide];
            self.launch(&kernel, ([splits, heads.num_heads, part.len()], SPLIT_THREADS), &arguments);
            let to = self.at(out.part(start * heads.query_width(), part.len() * heads.query_width()));
            let arguments = [to, partial, lengths, Argument::U32(splits as u32), s];
            let threads = d.next_multiple_of(32);
            self.launch("join_splits", ([heads.num_heads, part.len(), 1], threads), &arguments);
            start += part.len();
        }
        self.written(out);
    }
}

/// The tables of the rows' sequences one behind the other, as far as the rows see, and where each row's begins.
fn joined_tables(tables: &[&[u32]], rows: &[CacheRow], block_len: usize) -> (Vec<u32>, Vec<u32>) {
    let mut used = vec![0; tables.len()];
    for row in rows {
        used[row.sequence] = used[row.sequence].max(row.position / block_len + 1);
    }
    let (mut joined, mut begins) = (Vec::new(), Vec::new());
    for (table, used) in tables.iter().zip(used) {
        begins.push(joined.len() as u32);
        joined.extend_from_slice(&table[..used]);
    }
    (joined, rows.iter().map(|row| begins[row.sequence]).collect())
}

fn cache_sizes(cache: Cache, heads: Heads) -> CacheSizes {
    let block_len = cache.block_len as u32;
    CacheSizes { heads: sizes(heads), block_len, scale: 1.0 / (heads.head_dim as f32).sqrt() }
}
