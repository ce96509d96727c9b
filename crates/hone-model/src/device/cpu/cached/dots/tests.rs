//! The kernel against sums in f64 and against its twin, and independence of the other rows.

use super::*;
use crate::device::{Span, WeightFormat};

/// Rows, outputs, inputs: below and above the lanes; one to six rows at a time, and two tiles and more of them; one block of
/// outputs and several, columns at once and one part after the other.
const SHAPES: [(usize, usize, usize); 12] = [
    (1, 1, 1),
    (2, 3, 15),
    (3, 4, 16),
    (1, 7, 33),
    (5, 16, 48),
    (6, 5, 100),
    (7, 2, 31),
    (8, 16, 576),
    (9, 150, 577),
    (13, 64, 1536),
    (6, 37, 1613),
    (32, 301, 100),
];

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

/// For every shape and format: the rows, the weights as they are held, and where results go.
fn for_each(seed: u64, check: impl Fn(&[&[f32]], WeightMatrix, &[f32])) {
    for (num_rows, rows, cols) in SHAPES {
        for format in WeightFormat::ALL {
            let w = WeightMatrix { span: Span::default(), rows, cols, format };
            let mut held = vec![0.0; format.len(rows, cols)];
            w.store(&mut held, 0, &numbers(rows * cols, seed + 1));
            let x = numbers(num_rows * cols, seed);
            let x: Vec<&[f32]> = x.chunks(cols).collect();
            check(&x, w, &held);
        }
    }
}

/// All outputs of all rows, by one of the twins.
#[expect(unsafe_code, reason = "results are written by pointer")]
fn results(rows: &[&[f32]], w: WeightMatrix, held: &[f32], twin: Twin) -> Vec<f32> {
    let mut results = vec![f32::NAN; rows.len() * w.rows];
    let out = Outputs { pointer: results.as_mut_ptr(), row_stride: w.rows };
    let (held, outputs) = (w.held(held), 0..w.rows);
    // SAFETY: the results have room for every output of every row.
    unsafe {
        match twin {
            Twin::Fast => dots(out, rows, w, held, outputs),
            Twin::Fused => plain::<true>(out, rows, w, held, outputs),
            Twin::Rounded => plain::<false>(out, rows, w, held, outputs),
        }
    }
    results
}

enum Twin {
    Fast,
    Fused,
    Rounded,
}

#[test]
fn dots_are_the_products() {
    for_each(1, |rows, w, held| {
        let results = results(rows, w, held, Twin::Fast);
        let mut weights = vec![0.0; w.cols];
        for output in 0..w.rows {
            w.held(held).read(w.cols, output, 0, &mut weights);
            for (r, row) in rows.iter().enumerate() {
                let products = row.iter().zip(&weights).map(|(a, b)| f64::from(*a) * f64::from(*b));
                let (sum, size) = products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
                let error = (f64::from(results[r * w.rows + output]) - sum).abs();
                assert!(error <= 1e-6 * size, "{} {w:?}: {error} at {r}, {output}", rows.len());
            }
        }
    });
}

#[test]
fn a_row_has_the_same_bits_alone_and_in_company() {
    for_each(3, |rows, w, held| {
        let together = results(rows, w, held, Twin::Fast);
        for (r, row) in rows.iter().enumerate() {
            let alone = results(&[row], w, held, Twin::Fast);
            assert!(alone == together[r * w.rows..(r + 1) * w.rows], "{} {w:?}: row {r}", rows.len());
        }
    });
}

#[test]
fn an_output_does_not_depend_on_how_outputs_are_shared_out() {
    for_each(4, |rows, w, held| {
        let together = results(rows, w, held, Twin::Fast);
        let mut apart = vec![f32::NAN; together.len()];
        let out = Outputs { pointer: apart.as_mut_ptr(), row_stride: w.rows };
        for output in 0..w.rows {
            // SAFETY: the results have room for every output of every row.
            #[expect(unsafe_code, reason = "results are written by pointer")]
            unsafe {
                dots(out, rows, w, w.held(held), output..output + 1);
            }
        }
        assert!(apart == together, "{} {w:?}", rows.len());
    });
}

#[test]
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn the_twin_has_the_same_bits() {
    #[cfg(target_arch = "x86_64")]
    if !simd::has_avx2() {
        return;
    }
    for_each(5, |rows, w, held| {
        let fast = results(rows, w, held, Twin::Fast);
        assert!(fast == results(rows, w, held, Twin::Fused), "{} {w:?}", rows.len());
        for (a, b) in fast.iter().zip(results(rows, w, held, Twin::Rounded)) {
            // Only the rounding of each product differs.
            assert!((a - b).abs() <= 1e-6 * w.cols as f32, "{a} {b}");
        }
    });
}
