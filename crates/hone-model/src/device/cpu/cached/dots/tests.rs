//! The kernel against sums in f64 and against its twin, and independence of the other rows.

use super::*;

/// Rows, outputs, inputs: below and above the lanes; one, two and four rows at a time, and the rest of them.
const SHAPES: [(usize, usize, usize); 8] =
    [(1, 1, 1), (2, 3, 15), (3, 4, 16), (1, 7, 33), (5, 16, 48), (6, 5, 100), (7, 2, 31), (8, 16, 576)];

/// Numbers in [-1, 1) from SplitMix64.
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// For every shape: the rows, the weights (with a gap of 3 between rows), and where results go.
fn for_each(seed: u64, check: impl Fn(&[&[f32]], &[f32], usize, &mut dyn FnMut() -> Vec<f32>)) {
    for (rows, outputs, inputs) in SHAPES {
        let (x, w) = (numbers(rows * inputs, seed), numbers(outputs * (inputs + 3), seed + 1));
        let x: Vec<&[f32]> = x.chunks(inputs).collect();
        check(&x, &w, outputs, &mut || vec![f32::NAN; rows * outputs]);
    }
}

#[test]
fn dots_are_the_products() {
    for_each(1, |rows, w, outputs, results| {
        let mut results = results();
        let (inputs, stride) = (rows[0].len(), rows[0].len() + 3);
        dots(&mut results, rows, w, stride, outputs);
        for (r, row) in rows.iter().enumerate() {
            for c in 0..outputs {
                let products = row.iter().zip(&w[c * stride..]).map(|(a, b)| f64::from(*a) * f64::from(*b));
                let (sum, size) = products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
                let error = (f64::from(results[r * outputs + c]) - sum).abs();
                assert!(error <= 1e-6 * size, "{} {outputs} {inputs}: {error} at {r}, {c}", rows.len());
            }
        }
    });
}

#[test]
fn a_row_has_the_same_bits_alone_and_in_company() {
    for_each(3, |rows, w, outputs, results| {
        let mut together = results();
        let stride = rows[0].len() + 3;
        dots(&mut together, rows, w, stride, outputs);
        for (r, row) in rows.iter().enumerate() {
            let mut alone = vec![f32::NAN; outputs];
            dots(&mut alone, &[row], w, stride, outputs);
            assert!(alone == together[r * outputs..(r + 1) * outputs], "{} {outputs}: row {r}", rows.len());
        }
    });
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_twin_has_the_same_bits() {
    if !simd::has_avx2() {
        return;
    }
    for_each(5, |rows, w, outputs, results| {
        let [mut fast, mut fused, mut rounded] = [results(), results(), results()];
        let stride = rows[0].len() + 3;
        dots(&mut fast, rows, w, stride, outputs);
        plain::<true>(&mut fused, rows, w, stride, outputs);
        plain::<false>(&mut rounded, rows, w, stride, outputs);
        assert!(fast == fused, "{} {outputs}", rows.len());
        for (a, b) in fast.iter().zip(&rounded) {
            // Only the rounding of each product differs.
            assert!((a - b).abs() <= 1e-6 * rows[0].len() as f32, "{a} {b}");
        }
    });
}
