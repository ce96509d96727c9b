//! The paired bootstrap of a loss per token: rows are drawn again with replacement, both models' losses of a row
//! always together. Pure: the seed is given, and the same seed gives the same draws on every machine.

/// Redraws of one comparison.
pub const NUM_REDRAWS: usize = 2_000;
/// Rows drawn in all, at most: a suite of more than 2,000 rows is redrawn less often, which keeps a verdict within
/// some ten milliseconds. Such suites are large enough for the normal tail.
pub const MAX_DRAWN_ROWS: usize = 4_000_000;
/// A share of the redraws is trusted where it rests on at least so many.
pub const MIN_IN_TAIL: f64 = 10.0;

/// Gains per token of redrawn suites, rising.
pub struct Redraws(Vec<f64>);

/// Redraws rows of `(gain of the row in nats, tokens of the row)`.
#[must_use]
pub fn redraw(rows: &[(f64, f64)], seed: u64) -> Redraws {
    if rows.is_empty() {
        return Redraws(Vec::new());
    }
    let mut random = SplitMix64(seed);
    let one = || {
        let mut sums = (0.0, 0.0);
        for _ in 0..rows.len() {
            let (gain, tokens) = rows[random.below(rows.len())];
            sums = (sums.0 + gain, sums.1 + tokens);
        }
        sums.0 / sums.1
    };
    let mut gains: Vec<f64> = std::iter::repeat_with(one).take(NUM_REDRAWS.min(MAX_DRAWN_ROWS / rows.len())).collect();
    gains.sort_by(f64::total_cmp);
    Redraws(gains)
}

impl Redraws {
    /// Whether a tail of this probability rests on enough redraws.
    #[must_use]
    pub fn resolve(&self, tail: f64) -> bool {
        self.0.len() as f64 * tail >= MIN_IN_TAIL
    }

    /// What all but `tail` of the redraws exceed, and what only `tail` of them exceed.
    #[must_use]
    pub fn interval(&self, tail: f64) -> Option<(f64, f64)> {
        let skipped = (self.0.len() as f64 * tail) as usize;
        let last = self.0.len().checked_sub(1)?;
        self.resolve(tail).then(|| (self.0[skipped], self.0[last - skipped]))
    }

    /// The share of redraws whose gain is at most `gain`, itself counted as one more such redraw.
    #[must_use]
    pub fn share_at_most(&self, gain: f64) -> f64 {
        let below = self.0.partition_point(|redrawn| *redrawn <= gain);
        (below + 1) as f64 / (self.0.len() + 1) as f64
    }
}

/// A seed that depends on who is compared on what, and on nothing else.
#[must_use]
pub fn seed_of(parts: &[&str]) -> u64 {
    // FNV-1a, with a separator that is in no name.
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Steele, Lea and Flood's SplitMix64.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`; the bias of the product is below 2^-40 for any suite that fits in memory.
    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}
