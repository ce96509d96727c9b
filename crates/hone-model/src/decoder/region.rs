//! Blocks of the cache that belong to one sequence.

use super::CACHE_BLOCK;
use std::sync::Arc;

/// Blocks of the cache, which one sequence fills in their order. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    blocks: Arc<[u32]>,
}

impl Region {
    /// Blocks in any order.
    #[must_use]
    pub fn of(blocks: &[u32]) -> Region {
        Region { blocks: blocks.into() }
    }

    /// Blocks that follow each other, from block `first` on.
    ///
    /// # Panics
    /// Numbers of blocks beyond 32 bits.
    #[must_use]
    pub fn run(first: usize, num_blocks: usize) -> Region {
        let number = |block| u32::try_from(block).expect("a cache of fewer than 2^32 blocks");
        Region { blocks: (number(first)..number(first + num_blocks)).collect() }
    }

    /// The blocks, in the order of the sequence.
    #[must_use]
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// Tokens that fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.blocks.len() * CACHE_BLOCK
    }

    /// Whether the blocks follow each other in the cache.
    #[must_use]
    pub fn is_run(&self) -> bool {
        self.blocks.windows(2).all(|pair| pair[0] + 1 == pair[1])
    }
}
