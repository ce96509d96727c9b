//! Which blocks of the cache are taken, and by how many sequences. They are given out from the front, so that memory that no
//! request needed is never touched; in one run where the device is not paged.

use hone_model::{CACHE_BLOCK, Region};

/// The blocks of a cache.
pub(super) struct Pool {
    /// Of each block: how many sequences hold it.
    users: Vec<u32>,
    is_paged: bool,
}

impl Pool {
    pub(super) fn new(num_blocks: usize, is_paged: bool) -> Pool {
        Pool { users: vec![0; num_blocks], is_paged }
    }

    /// Room for so many tokens: the first blocks that are free, or the first run of them. The sequence begins with the full
    /// blocks of `shared`, which it holds together with others.
    pub(super) fn allocate(&mut self, shared: &[u32], num_tokens: usize) -> Option<Region> {
        let num_blocks = num_tokens.div_ceil(CACHE_BLOCK).max(1) - shared.len();
        let mut blocks = shared.to_vec();
        let free = (0..).zip(&self.users).filter(|(_, users)| **users == 0).map(|(block, _)| block);
        if self.is_paged {
            blocks.extend(free.take(num_blocks));
        } else {
            assert!(shared.is_empty(), "a run has blocks of its own");
            let mut run = 0..0;
            let mut free = free;
            let is_found = free.any(|block| {
                run = if run.end == block { run.start..block + 1 } else { block..block + 1 };
                run.len() == num_blocks
            });
            if is_found {
                blocks.extend(run);
            }
        }
        if blocks.len() < shared.len() + num_blocks {
            return None;
        }
        blocks.iter().for_each(|block| self.users[*block as usize] += 1);
        Some(Region::of(&blocks))
    }

    pub(super) fn free(&mut self, region: &Region) {
        region.blocks().iter().for_each(|block| self.let_go(*block));
    }

    /// The beginning of a region that holds so many tokens; the rest is let go.
    pub(super) fn shrink(&mut self, region: &Region, num_tokens: usize) -> Region {
        let num_kept = num_tokens.div_ceil(CACHE_BLOCK).clamp(1, region.blocks().len());
        let (kept, rest) = region.blocks().split_at(num_kept);
        rest.iter().for_each(|block| self.let_go(*block));
        Region::of(kept)
    }

    /// Which first blocks of a sequence another one that begins with the same `num_tokens` tokens can share: full ones.
    pub(super) fn shareable<'a>(&self, region: &'a Region, num_tokens: usize) -> &'a [u32] {
        if self.is_paged { &region.blocks()[..num_tokens / CACHE_BLOCK] } else { &[] }
    }

    fn let_go(&mut self, block: u32) {
        let users = &mut self.users[block as usize];
        *users = users.checked_sub(1).expect("a block is given back as often as it was given out");
    }
}

#[cfg(test)]
mod tests;
