//! Seeded choices that stay the same for ever: hashes and random numbers that no library update can change.

use crate::{GenerateRequest, Split};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A skill's name and version: what every hash begins with, so that a new version draws anew.
pub(crate) struct Domain {
    pub name: &'static str,
    pub version: &'static str,
}

impl Domain {
    /// The random numbers of a batch. They do not depend on the count: a longer batch begins with a shorter one.
    pub fn batch_rng(&self, request: &GenerateRequest) -> ChaCha8Rng {
        let GenerateRequest { level, count: _, seed, split, steps: _ } = request;
        self.rng(&format!("{level}/{split:?}/{seed}"))
    }

    /// Random numbers that `key` alone decides.
    pub fn rng(&self, key: &str) -> ChaCha8Rng {
        ChaCha8Rng::from_seed(*self.digest(key).as_bytes())
    }

    /// A number that `key` alone decides.
    pub fn hash(&self, key: &str) -> u64 {
        u64::from_le_bytes(*self.digest(key).as_bytes().first_chunk().expect("a digest has 32 bytes"))
    }

    fn digest(&self, key: &str) -> blake3::Hash {
        let Domain { name, version } = self;
        blake3::hash(format!("hone-skills/{name}/{version}/{key}").as_bytes())
    }
}

/// The split that a hash falls into; about `eval_percent` of all hashes are [`Split::Eval`].
pub(crate) fn split_of(hash: u64, eval_percent: u64) -> Split {
    if hash % 100 < eval_percent { Split::Eval } else { Split::Train }
}

/// A uniform number below `bound`. Written out so that no library update can change a batch.
pub(crate) fn below(rng: &mut ChaCha8Rng, bound: u64) -> u64 {
    let limit = u64::MAX - u64::MAX % bound;
    loop {
        let number = rng.next_u64();
        if number < limit {
            return number % bound;
        }
    }
}

/// A uniform index of a list of `len` entries, which is not empty.
pub(crate) fn index(rng: &mut ChaCha8Rng, len: usize) -> usize {
    below(rng, len as u64) as usize
}

/// Puts a list into random order (Fisher and Yates).
pub(crate) fn shuffle<T>(rng: &mut ChaCha8Rng, list: &mut [T]) {
    for end in (1..list.len()).rev() {
        list.swap(end, index(rng, end + 1));
    }
}
