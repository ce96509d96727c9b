//! What goes in and comes out of a forward pass: packed token ids, and losses.

use anyhow::{Result, ensure};

/// A micro-batch: segments laid one after the other. Attention stays inside a segment and positions restart
/// at 0 in each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Token ids, `N`.
    pub ids: Vec<u32>,
    /// `targets[t]` is the id to be predicted *at* position `t` (already shifted), or -1 where no loss is wanted; `N`.
    pub targets: Vec<i32>,
    /// Length of each segment; they sum to `N`.
    pub segments: Vec<usize>,
}

/// What one micro-batch gave.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BatchStats {
    /// Sum of the negative log-likelihoods of all trained tokens, in nats; not scaled.
    pub loss_sum: f64,
    /// Number of tokens with a target.
    pub trained_tokens: u64,
    /// How many of them had the highest logit.
    pub correct: u64,
}

/// What one segment scored.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SegmentScore {
    /// Sum of the negative log-likelihoods of its tokens with a target, in nats.
    pub nll_sum: f64,
    /// Number of tokens with a target.
    pub tokens: u64,
    /// How many of them had the highest logit.
    pub correct: u64,
}

impl Batch {
    /// One segment without targets.
    pub fn plain(ids: &[u32]) -> Batch {
        Batch { ids: ids.to_vec(), targets: vec![-1; ids.len()], segments: vec![ids.len()] }
    }

    /// Refuses a batch that does not fit a model of `vocab_size` ids or the planned buffers.
    pub(crate) fn check(&self, vocab_size: usize, max_tokens: usize, max_segment_tokens: usize) -> Result<()> {
        let n = self.ids.len();
        ensure!(n > 0, "a batch holds no token");
        ensure!(n <= max_tokens, "a batch holds {n} tokens, {max_tokens} were planned");
        ensure!(self.targets.len() == n, "a batch holds {n} ids but {} targets", self.targets.len());
        let sum: usize = self.segments.iter().sum();
        ensure!(sum == n, "segments of a batch sum to {sum} tokens, it holds {n}");
        for (i, &length) in self.segments.iter().enumerate() {
            ensure!(length > 0, "segment {i} of a batch is empty");
            ensure!(
                length <= max_segment_tokens,
                "segment {i} of a batch has {length} tokens, {max_segment_tokens} were planned"
            );
        }
        for (t, &id) in self.ids.iter().enumerate() {
            ensure!((id as usize) < vocab_size, "id {id} at token {t} is outside the vocabulary of {vocab_size}");
        }
        for (t, &target) in self.targets.iter().enumerate() {
            let known = target == -1 || usize::try_from(target).is_ok_and(|id| id < vocab_size);
            ensure!(known, "target {target} at token {t} is outside the vocabulary of {vocab_size}");
        }
        Ok(())
    }

    /// Position of each token inside its segment.
    pub(crate) fn positions(&self) -> Vec<u32> {
        self.segments.iter().flat_map(|&length| 0..length as u32).collect()
    }
}
