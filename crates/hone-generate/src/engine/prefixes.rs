//! Sequences that stay in the cache after their request ended, so that a prompt that begins like one of them is not computed
//! again. They belong to one engine, so to one set of weights; they take only room that no request needs.

use hone_model::Region;

/// Reuse is in multiples of so many tokens.
pub(super) const STEP: usize = 4;
/// Fewest tokens that are worth keeping or copying.
pub(super) const FEWEST_REUSED: usize = 16;
/// Fewest tokens of a prompt that are computed beside those that are taken over: so many rows together have the same bits as
/// with all the others (a row alone has not), and an answer does not depend on what was in the cache.
pub(super) const FEWEST_COMPUTED: usize = 4;
/// Most sequences that are kept.
const MAX_KEPT: usize = 256;

/// The kept sequences.
#[derive(Default)]
pub(super) struct Prefixes {
    kept: Vec<Kept>,
    /// Counts uses: the lowest one was used longest ago.
    clock: u64,
}

struct Kept {
    ids: Vec<u32>,
    region: Region,
    used: u64,
}

impl Prefixes {
    /// Keeps a sequence; gives back the regions of those that it makes needless.
    pub(super) fn keep(&mut self, ids: Vec<u32>, region: Region) -> Vec<Region> {
        let (needless, mut kept): (Vec<Kept>, Vec<Kept>) =
            std::mem::take(&mut self.kept).into_iter().partition(|kept| ids.starts_with(&kept.ids));
        self.clock += 1;
        kept.push(Kept { ids, region, used: self.clock });
        self.kept = kept;
        let mut freed: Vec<Region> = needless.into_iter().map(|kept| kept.region).collect();
        if self.kept.len() > MAX_KEPT {
            freed.extend(self.drop_oldest(None));
        }
        freed
    }

    /// The sequence that shares most tokens with a prompt, and how many.
    pub(super) fn longest(&mut self, prompt: &[u32]) -> Option<(Region, usize)> {
        let best = self.kept.iter_mut().max_by_key(|kept| num_common(&kept.ids, prompt))?;
        self.clock += 1;
        best.used = self.clock;
        Some((best.region.clone(), num_common(&best.ids, prompt)))
    }

    /// Forgets the one that was used longest ago, but not `except`; its region comes free.
    pub(super) fn drop_oldest(&mut self, except: Option<&Region>) -> Option<Region> {
        let candidates = self.kept.iter().enumerate().filter(|(_, kept)| Some(&kept.region) != except);
        let (index, _) = candidates.min_by_key(|(_, kept)| kept.used)?;
        Some(self.kept.swap_remove(index).region)
    }
}

/// Tokens that two sequences begin with alike.
pub(super) fn num_common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
