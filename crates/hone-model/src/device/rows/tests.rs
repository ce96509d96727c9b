//! The kernels against sums in f64, the two bodies against each other, and independence of the other rows.

use super::*;

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

/// Rows, outputs, inputs: below and above one block of lanes, of outputs, of a task, and the threshold for threads.
const SHAPES: [(usize, usize, usize); 7] =
    [(1, 1, 1), (2, 3, 15), (3, 4, 16), (1, 7, 33), (5, 130, 48), (8, 257, 100), (4, 1000, 576)];

fn linear(x: &[f32], w: &[f32], inputs: usize) -> Vec<f32> {
    let mut y = vec![f32::NAN; x.len() / inputs * (w.len() / inputs)];
    linear_by_row(&mut y, x, w, inputs, &mut Vec::new());
    y
}

#[test]
fn linear_by_row_is_the_product() {
    for (rows, outputs, inputs) in SHAPES {
        let (x, w) = (numbers(rows * inputs, 1), numbers(outputs * inputs, 2));
        let y = linear(&x, &w, inputs);
        for row in 0..rows {
            for output in 0..outputs {
                let products = (0..inputs).map(|i| f64::from(x[row * inputs + i]) * f64::from(w[output * inputs + i]));
                let (sum, size) = products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
                let error = (f64::from(y[row * outputs + output]) - sum).abs();
                assert!(error <= 1e-6 * size, "{rows} {outputs} {inputs}: {error} at {row}, {output}");
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_in_company() {
    for (rows, outputs, inputs) in SHAPES {
        let (x, w) = (numbers(rows * inputs, 3), numbers(outputs * inputs, 4));
        let together = linear(&x, &w, inputs);
        for row in 0..rows {
            let alone = linear(&x[row * inputs..(row + 1) * inputs], &w, inputs);
            assert!(alone == together[row * outputs..(row + 1) * outputs], "{rows} {outputs} {inputs}: row {row}");
        }
    }
}

#[test]
fn both_bodies_sum_in_the_same_order() {
    if !fused_available() {
        return;
    }
    for (rows, outputs, inputs) in SHAPES {
        let (x, w) = (numbers(rows * inputs, 5), numbers(outputs * inputs, 6));
        let [mut vector, mut fused, mut plain] = [(); 3].map(|()| vec![f32::NAN; rows * outputs]);
        block(&mut vector, &x, &w, inputs, true);
        block_body::<true>(&mut fused, &x, &w, inputs);
        block_body::<false>(&mut plain, &x, &w, inputs);
        assert!(vector == fused, "{rows} {outputs} {inputs}: the same operations give the same bits");
        for (a, b) in vector.iter().zip(&plain) {
            // Only the rounding of each product differs.
            assert!((a - b).abs() <= 1e-6 * inputs as f32, "{a} {b}");
        }
    }
}

#[test]
fn cache_attention_is_softmax_times_values() {
    for (num_heads, num_kv_heads, head_dim, lengths) in
        [(2, 1, 4, vec![1, 2, 5]), (6, 2, 8, vec![3]), (9, 3, 64, vec![40, 1, 77]), (4, 4, 18, vec![20, 20])]
    {
        let sizes = Sizes { num_heads, num_kv_heads, head_dim };
        let (width, rows) = (num_kv_heads * head_dim, lengths.len());
        let queries = numbers(rows * num_heads * head_dim, 7);
        let caches: Vec<(Vec<f32>, Vec<f32>)> = lengths
            .iter()
            .map(|length| (numbers(length * width, 8 + *length as u64), numbers(length * width, 9 + *length as u64)))
            .collect();
        let seen: Vec<Seen<'_>> = queries
            .chunks(num_heads * head_dim)
            .zip(&caches)
            .map(|(queries, (keys, values))| Seen { queries, keys, values })
            .collect();
        let mut out = vec![f32::NAN; queries.len()];
        cache_attention(&mut out, &seen, sizes);
        for (row, seen) in seen.iter().enumerate() {
            for head in 0..num_heads {
                let kv = head / (num_heads / num_kv_heads) * head_dim;
                let at = (row * num_heads + head) * head_dim;
                let query = &queries[at..at + head_dim];
                let score = |key: &[f32]| {
                    let dot: f64 = query.iter().zip(&key[kv..]).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                    (dot / (head_dim as f64).sqrt()).exp()
                };
                let weights: Vec<f64> = seen.keys.chunks(width).map(score).collect();
                let sum: f64 = weights.iter().sum();
                for j in 0..head_dim {
                    let values = seen.values.chunks(width).map(|value| f64::from(value[kv + j]));
                    let expected: f64 = weights.iter().zip(values).map(|(w, v)| w / sum * v).sum();
                    let error = (f64::from(out[at + j]) - expected).abs();
                    assert!(error < 1e-6, "{error} at row {row}, head {head}, {j}");
                }
            }
            // Alone: the same bits.
            let mut alone = vec![f32::NAN; num_heads * head_dim];
            cache_attention(&mut alone, std::slice::from_ref(seen), sizes);
            assert!(alone == out[row * alone.len()..(row + 1) * alone.len()], "row {row} depends on its company");
        }
    }
}
