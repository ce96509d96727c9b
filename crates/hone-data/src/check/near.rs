//! Near-duplicates inside a file. Pure but for the rows that it is fed.
//!
//! In the first pass every row gives [`BANDS`] keys, each over four minimal hashes of its five-word shingles, its
//! numbers, and its answer where that is short: rows that differ in a number or in a short answer say different
//! things however alike they look, and never meet. Rows that share a key are candidates. In the second pass the
//! shingles of candidates are compared themselves: only a true similarity (Jaccard) of at least the threshold
//! counts. A row is compared with rows that are no near-duplicates themselves, so that clusters do not chain: each
//! row of a cluster is similar to its first row. A text of fewer than [`MIN_SHINGLES`] shingles has no near-duplicates.

use super::words::{Words, hash_in_any_order, mix};
use std::collections::HashMap;

/// Keys of a row. With four hashes each, a pair of similarity 0.8 is missed once in 600, one of 0.9 never.
pub(super) const BANDS: usize = 12;
const ROWS_PER_BAND: usize = 4;
const HASHES: usize = BANDS * ROWS_PER_BAND;
/// Words of a shingle.
const SHINGLE: usize = 5;
/// Shorter texts have no near-duplicates.
const MIN_SHINGLES: usize = 8;
/// An answer of at most so many words must be the same.
const SHORT_ANSWER_WORDS: usize = 4;
/// Earlier rows that a row is compared with at most.
const MAX_CANDIDATES: usize = 8;
/// Shingles that are held while candidates are compared; what does not fit is counted, not compared.
const MAX_HELD_SHINGLES: usize = 48 << 20;

/// The keys of a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys {
    pub line: u64,
    pub bands: [u32; BANDS],
}

/// Multipliers and masks of the hash functions.
const FUNCTIONS: [(u32, u32); HASHES] = {
    let mut functions = [(0, 0); HASHES];
    let mut state: u64 = 0x0123_4567_89ab_cdef;
    let mut i = 0;
    while i < HASHES {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let multiplier = (state >> 32) as u32 | 1;
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        functions[i] = (multiplier, (state >> 32) as u32);
        i += 1;
    }
    functions
};

/// The keys of a row by its words; `None` where it is too short.
pub(super) fn keys(line: u64, words: &Words, answer: &[u32]) -> Option<Keys> {
    if words.len() < SHINGLE + MIN_SHINGLES - 1 {
        return None;
    }
    let mut minima = [u32::MAX; HASHES];
    for window in words.hashes.windows(SHINGLE) {
        let shingle = shingle(window);
        for (minimum, (multiplier, mask)) in minima.iter_mut().zip(&FUNCTIONS) {
            *minimum = (*minimum).min((shingle ^ mask).wrapping_mul(*multiplier));
        }
    }
    let meaning = fold(hash_in_any_order(&words.numbers))
        ^ if answer.len() <= SHORT_ANSWER_WORDS {
            answer.iter().fold(1, |hash: u32, word| mix(hash.rotate_left(5) ^ word))
        } else {
            0
        };
    let bands = std::array::from_fn(|band| {
        let rows = &minima[band * ROWS_PER_BAND..][..ROWS_PER_BAND];
        rows.iter().fold(meaning ^ band as u32, |hash, row| mix(hash.rotate_left(7) ^ row))
    });
    Some(Keys { line, bands })
}

fn fold(hash: u64) -> u32 {
    (hash ^ (hash >> 32)) as u32
}

fn shingle(window: &[u32]) -> u32 {
    mix(window.iter().fold(0x9747_b28c_u32, |hash, word| (hash.rotate_left(13) ^ word).wrapping_mul(0xcc9e_2d51)))
}

/// The distinct shingles of a text, sorted.
fn shingles(words: &[u32]) -> Vec<u32> {
    let mut shingles: Vec<u32> = words.windows(SHINGLE).map(shingle).collect();
    shingles.sort_unstable();
    shingles.dedup();
    shingles.shrink_to_fit();
    shingles
}

/// Pairs of rows that are worth a comparison.
pub(super) struct Candidates {
    /// Later row, earlier row; sorted.
    pairs: Vec<(u64, u64)>,
    /// For each earlier row the last row that is compared with it.
    last_use: HashMap<u64, u64>,
}

/// Finds the pairs: in each band a row meets the first row with its key and the one just before it.
pub(super) fn candidates(rows: &[Keys]) -> Candidates {
    let mut pairs: Vec<(u64, u64)> = Vec::new();
    let mut by_key: Vec<(u32, u32)> = Vec::with_capacity(rows.len());
    for band in 0..BANDS {
        by_key.clear();
        by_key.extend((0u32..).zip(rows).map(|(i, row)| (row.bands[band], i)));
        by_key.sort_unstable();
        for group in by_key.chunk_by(|a, b| a.0 == b.0) {
            let line = |i: usize| rows[group[i].1 as usize].line;
            for i in 1..group.len() {
                pairs.push((line(i), line(0)));
                if i > 1 {
                    pairs.push((line(i), line(i - 1)));
                }
            }
        }
        pairs.sort_unstable();
        pairs.dedup();
    }
    let mut kept = Vec::with_capacity(pairs.len());
    for group in pairs.chunk_by(|a, b| a.0 == b.0) {
        kept.extend_from_slice(&group[..group.len().min(MAX_CANDIDATES)]);
    }
    let mut last_use = HashMap::new();
    for (later, earlier) in &kept {
        last_use.insert(*earlier, *later);
    }
    Candidates { pairs: kept, last_use }
}

/// A confirmed near-duplicate.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NearDuplicate {
    pub line: u64,
    pub of: u64,
    pub similarity: f64,
    /// How both begin.
    pub excerpts: (String, String),
}

/// The second pass: rows come in the order of the file.
pub(super) struct Confirm {
    candidates: Candidates,
    /// Next pair that was not looked at.
    next: usize,
    threshold: f64,
    held: HashMap<u64, (Vec<u32>, String)>,
    held_shingles: usize,
    /// How many shingles are held before those that nobody asks for any more are dropped.
    sweep_at: usize,
    pub found: Vec<NearDuplicate>,
    /// Pairs that were not compared for lack of room.
    pub num_not_compared: u64,
}

impl Confirm {
    pub fn new(candidates: Candidates, threshold: f64) -> Self {
        Confirm {
            candidates,
            next: 0,
            threshold,
            held: HashMap::new(),
            held_shingles: 0,
            sweep_at: MAX_HELD_SHINGLES / 2,
            found: Vec::new(),
            num_not_compared: 0,
        }
    }

    /// True when there is nothing to compare.
    pub fn is_empty(&self) -> bool {
        self.candidates.pairs.is_empty()
    }

    /// True for a row whose words are asked for.
    pub fn is_named(&self, line: u64) -> bool {
        let is_later = self.candidates.pairs.binary_search_by(|(later, _)| later.cmp(&line)).is_ok();
        is_later || self.candidates.last_use.contains_key(&line)
    }

    /// Compares a row with its candidates, and holds it for later ones.
    pub fn row(&mut self, line: u64, words: &Words, excerpt: &dyn Fn() -> String) {
        let own = shingles(&words.hashes);
        let mut best: Option<(f64, u64)> = None;
        while let Some((later, earlier)) = self.candidates.pairs.get(self.next).copied().filter(|(l, _)| *l <= line) {
            self.next += 1;
            if later != line {
                continue;
            }
            match self.held.get(&earlier) {
                Some((other, _)) => {
                    let similarity = jaccard(&own, other);
                    if similarity >= self.threshold && best.is_none_or(|(known, _)| similarity > known) {
                        best = Some((similarity, earlier));
                    }
                }
                None => self.num_not_compared += u64::from(!self.dropped_as_duplicate(earlier)),
            }
        }
        if let Some((similarity, of)) = best {
            let excerpts = match self.found.len() {
                0..8 => (excerpt(), self.held[&of].1.clone()),
                _ => (String::new(), String::new()),
            };
            self.found.push(NearDuplicate { line, of, similarity, excerpts });
        } else if self.candidates.last_use.get(&line).is_some_and(|last| *last > line)
            && self.held_shingles + own.len() <= MAX_HELD_SHINGLES
        {
            self.held_shingles += own.len();
            let text = if self.found.len() < 8 { excerpt() } else { String::new() };
            self.held.insert(line, (own, text));
        }
        self.let_go(line);
    }

    /// True for a row that was found to be a near-duplicate itself, and so is no first row of a cluster.
    fn dropped_as_duplicate(&self, line: u64) -> bool {
        self.found.binary_search_by_key(&line, |found| found.line).is_ok()
    }

    /// Drops rows that no later row is compared with, now and then.
    fn let_go(&mut self, line: u64) {
        if self.held_shingles < self.sweep_at {
            return;
        }
        let last_use = &self.candidates.last_use;
        self.held.retain(|earlier, _| last_use[earlier] > line);
        self.held_shingles = self.held.values().map(|(shingles, _)| shingles.len()).sum();
        self.sweep_at = self.held_shingles.midpoint(MAX_HELD_SHINGLES);
    }
}

/// Common elements by all elements of two sorted lists without doubles.
fn jaccard(a: &[u32], b: &[u32]) -> f64 {
    let (mut i, mut j, mut common) = (0, 0, 0usize);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => {
                common += 1;
                i += 1;
                j += 1;
            }
        }
    }
    common as f64 / (a.len() + b.len() - common).max(1) as f64
}

#[cfg(test)]
mod tests;
