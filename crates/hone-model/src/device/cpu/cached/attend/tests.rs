//! The kernel against sums in f64, its twin, and each head alone.

use super::*;

/// Heads, numbers of a head, positions: one head to more than fit the registers; heads of fewer numbers than lanes, and of a
/// number that no vector divides; one position, and numbers of them that are no multiple of the keys at once.
const SHAPES: [(usize, usize, usize); 9] = [
    (1, 64, 1),
    (1, 64, 70),
    (2, 32, 33),
    (3, 64, 129),
    (4, 128, 15),
    (5, 8, 7),
    (7, 20, 31),
    (8, 128, 64),
    (9, 100, 3),
];
/// Heads of keys and values, of which the second is read.
const KV_HEADS: usize = 2;

/// Numbers in [-2, 2) from a linear congruential generator (Knuth's MMIX constants).
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 22) as f32 - 2.0
    };
    (0..len).map(|_| next()).collect()
}

struct Case {
    heads: usize,
    d: usize,
    num_positions: usize,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

fn cases() -> impl Iterator<Item = Case> {
    SHAPES.into_iter().map(|(heads, d, num_positions)| {
        let cached = KV_HEADS * d * num_positions;
        let (queries, keys, values) = (numbers(heads * d, 1), numbers(cached, 2), numbers(cached, 3));
        Case { heads, d, num_positions, queries, keys, values }
    })
}

impl Case {
    fn cached(&self) -> Cached<'_> {
        Cached { keys: &self.keys[self.d..], values: &self.values[self.d..], row_stride: KV_HEADS * self.d }
    }

    fn run(&self) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.queries.len()];
        attend(&mut out, &self.queries, self.d, self.cached(), self.num_positions, &mut vec![f32::NAN; 3]);
        out
    }

    /// The definition, in f64.
    fn by_definition(&self) -> Vec<f64> {
        let (d, cached) = (self.d, self.cached());
        let mut out = vec![0.0; self.queries.len()];
        for (out, query) in out.chunks_mut(d).zip(self.queries.chunks(d)) {
            let at = |x: &[f32], t: usize, i: usize| f64::from(x[t * cached.row_stride + i]);
            let product = |t| (0..d).map(|i| f64::from(query[i]) * at(cached.keys, t, i)).sum::<f64>();
            let scores: Vec<f64> = (0..self.num_positions).map(|t| product(t) / (d as f64).sqrt()).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|score| (score - max).exp()).sum();
            for (t, score) in scores.iter().enumerate() {
                for (i, out) in out.iter_mut().enumerate() {
                    *out += (score - max).exp() / total * at(cached.values, t, i);
                }
            }
        }
        out
    }
}

#[test]
fn it_is_the_softmax_of_products_times_values() {
    for case in cases() {
        for (value, expected) in case.run().into_iter().zip(case.by_definition()) {
            let error = (f64::from(value) - expected).abs();
            assert!(error < 3e-6, "{} x {} over {}: {value}, not {expected}", case.heads, case.d, case.num_positions);
        }
    }
}

#[test]
fn a_head_has_the_same_bits_alone_and_in_company() {
    for case in cases() {
        let together = case.run();
        for (head, query) in case.queries.chunks(case.d).enumerate() {
            let mut alone = vec![f32::NAN; case.d];
            attend(&mut alone, query, case.d, case.cached(), case.num_positions, &mut Vec::new());
            assert!(alone == together[head * case.d..][..case.d], "{} x {}: head {head}", case.heads, case.d);
        }
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_twin_without_vectors_has_the_same_bits() {
    if !simd::has_avx2() {
        return;
    }
    for case in cases() {
        let mut twin = vec![f32::NAN; case.queries.len()];
        let size = MOST_HEADS * case.d;
        for (out, queries) in twin.chunks_mut(size).zip(case.queries.chunks(size)) {
            let mut scores = vec![0.0; out.len() / case.d * case.num_positions];
            some_heads::<true>(out, queries, case.d, case.cached(), &mut scores);
        }
        assert!(twin == case.run(), "{} x {} over {}", case.heads, case.d, case.num_positions);
    }
}
