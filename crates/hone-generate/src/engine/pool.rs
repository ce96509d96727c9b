//! Which tokens of the cache are taken: runs of blocks, first fit from the front, so that memory that no request needed is
//! never touched.

use hone_model::{CACHE_BLOCK, Region};

/// The blocks of a cache.
pub(super) struct Pool {
    taken: Vec<bool>,
}

impl Pool {
    pub(super) fn new(num_blocks: usize) -> Pool {
        Pool { taken: vec![false; num_blocks] }
    }

    /// The first run that is free and long enough.
    pub(super) fn allocate(&mut self, num_tokens: usize) -> Option<Region> {
        let num_blocks = num_tokens.div_ceil(CACHE_BLOCK).max(1);
        let mut free = 0;
        let end = self.taken.iter().position(|taken| {
            free = if *taken { 0 } else { free + 1 };
            free == num_blocks
        })?;
        let region = Region { first: end + 1 - num_blocks, num_blocks };
        self.set(region, true);
        Some(region)
    }

    pub(super) fn free(&mut self, region: Region) {
        self.set(region, false);
    }

    /// The beginning of a region that holds so many tokens; the rest is free.
    pub(super) fn shrink(&mut self, region: Region, num_tokens: usize) -> Region {
        let kept = Region { num_blocks: num_tokens.div_ceil(CACHE_BLOCK).clamp(1, region.num_blocks), ..region };
        let rest = Region { first: kept.first + kept.num_blocks, num_blocks: region.num_blocks - kept.num_blocks };
        self.set(rest, false);
        kept
    }

    fn set(&mut self, region: Region, taken: bool) {
        let blocks = &mut self.taken[region.first..region.first + region.num_blocks];
        assert!(blocks.iter().all(|block| *block != taken), "a block is given out once and given back once");
        blocks.fill(taken);
    }
}

#[cfg(test)]
mod tests;
