//! Keys and values of several sequences, in blocks.

use super::{NumberFormat, Span};

/// A row that is decoded against a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheRow {
    /// Which sequence of [`CacheRows::tables`].
    pub sequence: usize,
    /// Position of the row in its sequence: it sees cached positions `0..=position`.
    pub position: usize,
}

/// Rows that are decoded against a cache, and where their sequences stand in it.
#[derive(Clone, Copy, Debug)]
pub struct CacheRows<'a> {
    /// The rows.
    pub rows: &'a [CacheRow],
    /// Of each sequence: its blocks of the cache, in order. A device that is not paged ([`CacheFormat`]) looks at the first
    /// one, and takes those behind it in the cache for the others.
    pub tables: &'a [&'a [u32]],
}

/// How a device holds a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheFormat {
    /// Of keys and values.
    pub numbers: NumberFormat,
    /// Whether the blocks of a sequence may stand anywhere; else they follow each other.
    pub is_paged: bool,
}

/// Keys and values of several sequences: both `[blocks, block_len, K * D]`, in the device's [`CacheFormat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cache {
    /// Rotated keys.
    pub keys: Span,
    /// Values.
    pub values: Span,
    /// Positions of one block.
    pub block_len: usize,
}

impl CacheFormat {
    /// Numbers of 32 bits; a sequence's blocks follow each other.
    pub const CONTIGUOUS: CacheFormat = CacheFormat { numbers: NumberFormat::F32, is_paged: false };
}

impl CacheRows<'_> {
    /// Where position `position` of a row's sequence stands, in tokens from the beginning of the cache.
    pub(crate) fn place(&self, cache: Cache, row: CacheRow, position: usize) -> usize {
        self.tables[row.sequence][position / cache.block_len] as usize * cache.block_len + position % cache.block_len
    }

    /// As [`CacheRows::place`] of position 0, where all others follow it.
    pub(crate) fn start(&self, block_len: usize, row: CacheRow) -> usize {
        self.tables[row.sequence][0] as usize * block_len
    }
}
