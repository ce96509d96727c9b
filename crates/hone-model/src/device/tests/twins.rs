//! The fast devices against the plain one: same calls, same numbers. The one for GPUs is emulated, or runs on the GPU of this
//! machine when `HONE_TEST_GPU` is set.

use super::*;

const TOLERANCE: f64 = 2e-6;
/// Where operands of products and activations are rounded to eight bits, here and there on the way.
const BF16_TOLERANCE: f64 = 1e-2;

/// A device under test.
#[derive(Clone, Copy, Debug)]
struct Case {
    device: &'static str,
    threads: usize,
    tolerance: f64,
    is_aligned: bool,
}

fn cases_of_the_processor() -> Vec<Case> {
    let case = |threads| Case { device: "cpu", threads, tolerance: TOLERANCE, is_aligned: false };
    vec![case(1), case(3)]
}

/// All of them with `HONE_SLOW`, else those that take no time.
fn slow_cases() -> Vec<Case> {
    if std::env::var_os("HONE_SLOW").is_some() { cases() } else { cases_of_the_processor() }
}

fn cases() -> Vec<Case> {
    let case = |device, threads, tolerance, is_aligned| Case { device, threads, tolerance, is_aligned };
    let mut cases = cases_of_the_processor();
    let [exact, rounded] =
        if std::env::var_os("HONE_TEST_GPU").is_some() { ["cuda-f32", "cuda"] } else { ["emulated-f32", "emulated"] };
    for is_aligned in [false, true] {
        cases.push(case(exact, 1, TOLERANCE, is_aligned));
        cases.push(case(rounded, 1, BF16_TOLERANCE, is_aligned));
    }
    cases
}

/// Runs the same calls on the plain device and on the fast ones; the spans that `work` returns hold nearly the same numbers
/// on each.
#[track_caller]
fn check(what: &str, work: impl Fn(&mut Lab) -> Vec<(&'static str, Span)>) {
    check_cases(&cases(), what, work);
}

#[track_caller]
fn check_cases(cases: &[Case], what: &str, work: impl Fn(&mut Lab) -> Vec<(&'static str, Span)>) {
    let mut plain = Lab::new("reference", 1);
    let expected = work(&mut plain);
    for case in cases {
        let mut lab = Lab::new(case.device, case.threads);
        lab.is_aligned = case.is_aligned;
        for ((name, span), (_, expected)) in work(&mut lab).into_iter().zip(&expected) {
            let (found, expected) = (lab.read(span), plain.read(*expected));
            assert!(found.iter().all(|x| x.is_finite()), "{what}, {name}, {case:?}: a number is not finite");
            assert_near(&format!("{what}, {name}, {case:?}"), &found, &expected, case.tolerance);
        }
    }
}

#[test]
fn products_agree_in_every_orientation() {
    for (m, n, k) in [(1, 1, 1), (1, 70, 33), (65, 1, 7), (37, 53, 129), (64, 64, 64), (200, 300, 70)] {
        for accumulate in [false, true] {
            check(&format!("{m} x {n} x {k}"), |lab| {
                let (c, a, b) = (lab.random(m * n), lab.random(m * k), lab.random(k * n));
                let (ct, at, bt) = (lab.random(m * n), lab.random(m * k), lab.random(k * n));
                lab.device.matmul(c.matrix(n), a.matrix(k), bt.matrix(k).transposed(), accumulate);
                lab.device.matmul(ct.matrix(m).transposed(), at.matrix(m).transposed(), b.matrix(n), accumulate);
                vec![("a bᵀ", c), ("(aᵀ b)ᵀ", ct)]
            });
        }
    }
}

#[test]
fn products_of_activations_and_weights_agree() {
    for (rows, out, width) in [(1, 8, 16), (37, 53, 129), (64, 72, 80)] {
        for accumulate in [false, true] {
            check(&format!("{rows} x {out} x {width}"), |lab| {
                let (x, w, y) = (lab.activation(rows * width), lab.random(out * width), lab.activation(rows * out));
                let (residual, dx, dw) =
                    (lab.random(rows * out), lab.activation(rows * width), lab.random(out * width));
                let wt = w.matrix(width).transposed();
                lab.device.matmul(y.matrix(out), x.matrix(width), wt, accumulate);
                lab.device.matmul(residual.matrix(out), x.matrix(width), wt, accumulate);
                // The weights change between products: what was made of them before is not used again.
                lab.device.scale(w, 0.5);
                lab.device.matmul(dx.matrix(width), residual.matrix(out), w.matrix(width), accumulate);
                let dy = residual.matrix(out).transposed();
                lab.device.matmul(dw.matrix(width), dy, x.matrix(width), true);
                // Columns of a wider matrix.
                let (part, few) = (lab.activation(rows * out), lab.random(8 * width));
                let columns = part.matrix(out).columns(0, 8);
                lab.device.matmul(columns, x.matrix(width), few.matrix(width).transposed(), accumulate);
                vec![("y", y), ("residual", residual), ("dx", dx), ("dw", dw), ("columns", part)]
            });
        }
    }
}

#[test]
fn products_with_weights_agree_in_every_format() {
    for format in WeightFormat::ALL {
        for (rows, out, width) in [(1, 1, 1), (1, 35, 47), (6, 16, 64), (37, 53, 129), (65, 70, 400)] {
            check(&format!("{rows} x {out} x {width}, {format:?}"), |lab| {
                let (x, w) = (lab.random(rows * width), lab.weights(out, width, format));
                let (y, sum, by_row) = (lab.random(rows * out), lab.random(rows * out), lab.random(rows * out));
                lab.device.linear(y.matrix(out), x.matrix(width), w, false);
                lab.device.linear(sum.matrix(out), x.matrix(width), w, true);
                lab.device.linear_by_row(by_row.matrix(out), x.matrix(width), w);
                let gathered = lab.random(3 * width);
                lab.device.gather_weights(gathered, w, &[0, out as u32 - 1, 0]);
                vec![("product", y), ("sum", sum), ("by row", by_row), ("gathered", gathered)]
            });
        }
    }
}

#[test]
fn products_by_row_do_not_depend_on_other_rows() {
    for format in WeightFormat::ALL {
        for (device, rows, out, width) in [
            ("cpu", 2, 35, 47),
            ("cpu", 5, 16, 64),
            ("cpu", 7, 50, 200),
            ("cpu", 8, 33, 576),
            ("emulated", 2, 35, 47),
            ("emulated", 11, 16, 64),
        ] {
            let mut lab = Lab::new(device, 2);
            let (y, x) = (lab.random(rows * out), lab.random(rows * width));
            let w = lab.weights(out, width, format);
            lab.device.linear_by_row(y.matrix(out), x.matrix(width), w);
            let together = lab.read(y);
            for row in 0..rows {
                let alone = lab.random(out);
                lab.device.linear_by_row(alone.matrix(out), x.part(row * width, width).matrix(width), w);
                assert_eq!(lab.read(alone), together[row * out..(row + 1) * out], "{format:?}: row {row} of {rows}");
            }
        }
    }
}

#[test]
fn a_format_that_holds_the_weights_exactly_gives_the_bits_of_f32() {
    let (rows, out, width) = (7, 50, 200);
    let mut results = [WeightFormat::F32, WeightFormat::Bf16].map(|format| {
        let mut lab = Lab::new("cpu", 2);
        let (x, y, many) = (lab.random(rows * width), lab.random(rows * out), lab.random(rows * out));
        let values: Vec<f32> = (0..out * width).map(|i| ((i * 37 % 255) as f32 - 127.0) / 64.0).collect();
        let w = lab.weights(out, width, format);
        lab.device.store_weights(w, 0, &values).unwrap();
        lab.device.linear_by_row(y.matrix(out), x.matrix(width), w);
        lab.device.linear(many.matrix(out), x.matrix(width), w, false);
        (lab.read(y), lab.read(many))
    });
    let [f32, bf16] = &mut results;
    assert!(f32 == bf16);
}

#[test]
fn rows_are_gathered_and_added() {
    check("gather and scatter", |lab| {
        let rows = [4, 0, 4, 2, 6, 4];
        let (table, y) = (lab.random(7 * 19), lab.random(6 * 19));
        lab.device.gather_rows(y, table, &rows);
        let (sum, dy) = (lab.random(7 * 19), lab.random(6 * 19));
        lab.device.scatter_add_rows(sum, dy, &rows);
        vec![("y", y), ("sum", sum)]
    });
}

#[test]
fn biases_agree() {
    for (rows, width) in [(1, 1), (3, 65), (130, 200)] {
        check("bias", |lab| {
            let (y, bias, dbias, dy) =
                (lab.activation(rows * width), lab.random(width), lab.random(width), lab.activation(rows * width));
            lab.device.add_bias(y, bias);
            lab.device.add_bias_backward(dbias, dy);
            vec![("y", y), ("dbias", dbias)]
        });
    }
}

#[test]
fn norms_agree() {
    for (rows, width) in [(1, 1), (1, 17), (63, 48), (130, 257)] {
        check(&format!("norm of {rows} x {width}"), |lab| {
            let (x, w, dy) = (lab.random(rows * width), lab.random(width), lab.activation(rows * width));
            let (y, scale, again) = (lab.activation(rows * width), lab.random(rows), lab.activation(rows * width));
            lab.device.rms_norm(y, scale, x, w, 1e-5);
            lab.device.rms_norm_again(again, scale, x, w);
            let (dx, dw) = (lab.random(rows * width), lab.random(width));
            lab.device.rms_norm_backward(dx, dw, dy, scale, x, w);
            vec![("y", y), ("scale", scale), ("again", again), ("dx", dx), ("dw", dw)]
        });
    }
}

#[test]
fn rotations_agree_with_and_without_norms() {
    let segments = [1, 63, 5];
    let positions = positions(&segments);
    for heads in HEADS {
        for with_norms in [false, true] {
            check(&format!("rotation of {heads:?}, norms: {with_norms}"), |lab| {
                let (n, d) = (positions.len(), heads.head_dim);
                let (table, qkv) = (lab.random(63 * d), lab.activation(n * heads.qkv_width()));
                let (rotated, scale) =
                    (lab.activation(n * heads.rotated_width()), lab.random(n * (heads.num_heads + heads.num_kv_heads)));
                let mut norms = || HeadNorms { query: lab.random(d), key: lab.random(d), eps: 1e-6 };
                let (norms, dnorms) = (with_norms.then(&mut norms), with_norms.then(&mut norms));
                let rotation = Rotation { table, positions: &positions, norms };
                lab.device.rotate(rotated, scale, qkv, &rotation, heads);
                let dqkv = lab.activation(n * heads.qkv_width());
                lab.device.rotate_backward(dqkv, dnorms, scale, qkv, &rotation, heads);
                let mut results = vec![("rotated", rotated), ("dqkv", dqkv)];
                if let Some(dnorms) = dnorms {
                    results.extend([("dquery", dnorms.query), ("dkey", dnorms.key), ("scale", scale)]);
                }
                results
            });
        }
    }
}

// budget: 35 s
#[test]
fn attention_agrees_on_odd_segments() {
    for heads in HEADS {
        for segments in [vec![1], vec![1, 1, 1], vec![63, 64, 65, 1], vec![130, 2], vec![450, 3]] {
            // Long ones take the emulator minutes, and have no more kinds of tiles.
            let cases = if segments[0] > 200 { cases_of_the_processor() } else { slow_cases() };
            check_cases(&cases, &format!("attention of {heads:?} over {segments:?}"), |lab| {
                let n: usize = segments.iter().sum();
                let longest = segments.iter().copied().max().unwrap();
                let workspace = lab.device.attention_workspace(longest, heads);
                let io = Attention {
                    out: lab.activation(n * heads.query_width()),
                    lse: lab.random(n * heads.num_heads),
                    rotated: lab.activation(n * heads.rotated_width()),
                    qkv: lab.activation(n * heads.qkv_width()),
                    segments: &segments,
                    heads,
                    workspace: Span::default(),
                };
                let (dqkv, dout) = (lab.activation(n * heads.qkv_width()), lab.activation(n * heads.query_width()));
                let io = Attention { workspace: lab.random(workspace), ..io };
                lab.device.attention(&io);
                lab.device.attention_backward(dqkv, dout, &io);
                vec![("out", io.out), ("lse", io.lse), ("dqkv", dqkv)]
            });
        }
    }
}

/// Blocks of 16 tokens; the ones of the second sequence follow each other, or stand anywhere.
const TABLES: [[&[u32]; 2]; 2] = [[&[0, 1], &[3, 4, 5, 6, 7]], [&[5, 1], &[7, 0, 4, 9, 2]]];

// budget: 12 s
#[test]
fn cached_attention_agrees_and_equals_full_attention() {
    let [_, anywhere] = &TABLES;
    let shapes = HEADS.iter().flat_map(|heads| TABLES.iter().map(|tables| (*heads, tables)));
    for (heads, tables) in shapes.chain([(WIDE_HEADS, anywhere)]) {
        let n = 67;
        let is_run = tables[1].is_sorted();
        let work = |lab: &mut Lab| {
            let [rotated, qkv] =
                [heads.rotated_width(), heads.qkv_width()].map(|width| lab.random_as(n * width, NumberFormat::F32));
            let [keys, values] =
                [(); 2].map(|()| lab.random_as(10 * 16 * heads.kv_width(), lab.device.cache_format().numbers));
            let cache = Cache { keys, values, block_len: 16 };
            let rows: Vec<CacheRow> = (0..n).map(|position| CacheRow { sequence: 1, position }).collect();
            let rows = CacheRows { rows: &rows, tables };
            lab.device.cache_store(cache, rotated, qkv, rows, heads);
            let (out, lse) = (lab.random(n * heads.query_width()), lab.random(n * heads.num_heads));
            lab.device.cache_attention(out, rotated, cache, rows, heads);
            let full = lab.random(n * heads.query_width());
            let workspace = lab.device.attention_workspace(n, heads);
            let workspace = lab.random(workspace);
            lab.device.attention(&Attention { out: full, lse, rotated, qkv, segments: &[n], heads, workspace });
            let (found, expected) = (lab.read(out), lab.read(full));
            assert_near("cached and full", &found, &expected, TOLERANCE);
            vec![("out", out), ("keys", keys), ("values", values)]
        };
        let mut cases = slow_cases();
        cases.retain(|case| is_run || cache_format(case.device).is_paged);
        check_cases(&cases, &format!("cached attention of {heads:?} in {tables:?}"), work);
    }
}

#[test]
fn activations_agree() {
    for (rows, width) in [(1, 1), (3, 65), (90, 144)] {
        check("swiglu", |lab| {
            let (gate_up, y) = (lab.activation(rows * 2 * width), lab.activation(rows * width));
            lab.device.swiglu(y, gate_up, width);
            let dy = lab.activation(rows * width);
            let gradient = lab.activation(rows * 2 * width);
            lab.device.swiglu_backward(dy, gradient, width);
            vec![("y", y), ("recomputed y", dy), ("gradient", gradient)]
        });
    }
}

#[test]
fn activations_are_finite_for_great_inputs() {
    for device in ["reference", "cpu", "emulated"] {
        let mut lab = Lab::new(device, 1);
        let gate_up = lab.given(&[1e4, -1e4, 90.0, -90.0, 1.0, 1.0, 1.0, 1.0]);
        let y = lab.random(4);
        lab.device.swiglu(y, gate_up, 4);
        let found = lab.read(y);
        let expected = [1e4, 0.0, 90.0, 0.0];
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-3), "{device}: {found:?}");
    }
}

#[test]
fn cross_entropy_agrees_with_and_without_gradients() {
    for (rows, width) in [(1, 2), (5, 77), (66, 1000)] {
        for grad_scale in [None, Some(0.125)] {
            check("cross-entropy", |lab| {
                let (logits, losses, correct) = (lab.activation(rows * width), lab.random(rows), lab.random(rows));
                let targets: Vec<u32> = (0..rows).map(|row| (row * 31 % width) as u32).collect();
                lab.device.cross_entropy(logits, losses, correct, &targets, grad_scale);
                let mut results = vec![("losses", losses), ("correct", correct)];
                results.extend(grad_scale.map(|_| ("gradient", logits)));
                results
            });
        }
    }
}

#[test]
fn cross_entropy_is_right_for_far_logits_and_shows_nan() {
    for device in ["reference", "cpu", "emulated"] {
        let mut lab = Lab::new(device, 1);
        let logits = lab.given(&[200.0, -200.0, 0.0, 0.0, f32::NAN, 1.0]);
        let (losses, correct) = (lab.random(3), lab.random(3));
        lab.device.cross_entropy(logits, losses, correct, &[1, 0, 0], Some(1.0));
        let found = lab.read(losses);
        assert_eq!(found[0], 400.0, "{device}");
        assert!((found[1] - 2f32.ln()).abs() < 1e-6, "{device}");
        assert!(found[2].is_nan(), "{device}: a logit that is not a number must show in the loss");
        assert_eq!(lab.read(correct)[..2], [0.0, 1.0], "{device}");
        assert_eq!(lab.read(logits)[..2], [1.0, -1.0], "{device}");
    }
}

#[test]
fn sums_and_updates_agree() {
    for len in [1, 100, (1 << 15) + 3] {
        check("adamw", |lab| {
            let (w, g, m) = (lab.random(len), lab.random(len), lab.random(len));
            let v: Vec<f32> = (0..len).map(|_| lab.number().abs()).collect();
            let v = lab.given(&v);
            let update = AdamWUpdate {
                grad_scale: 0.5,
                beta1: 0.9,
                beta2: 0.99,
                step_size: 0.01,
                second_correction: 1.5,
                eps: 1e-8,
                keep: 0.999,
            };
            lab.device.adamw(w, g, m, v, &update);
            let sum = lab.device.sum_of_squares(g).unwrap();
            let sum = lab.given(&[sum as f32]);
            vec![("w", w), ("m", m), ("v", v), ("sum", sum)]
        });
    }
}

#[test]
fn copies_and_fills_agree() {
    check("copy and fill", |lab| {
        let (a, b, c) = (lab.random(70_001), lab.random(70_001), lab.random(70_001));
        lab.device.copy(a, b);
        lab.device.fill(c, 0.25);
        vec![("a", a), ("b", b), ("c", c)]
    });
}

#[test]
fn overlapping_operands_are_a_bug_of_the_caller() {
    let mut lab = Lab::new("cpu", 1);
    let a = lab.random(10);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| lab.device.copy(a.part(0, 6), a.part(4, 6))));
    assert!(caught.is_err());
}

#[test]
fn factors_and_dropout_agree() {
    for len in [1, 77, 40_000] {
        check("scale and dropout", |lab| {
            let (x, y, z, t) = (lab.activation(len), lab.activation(len), lab.activation(len), lab.activation(len));
            lab.device.scale(x, -1.75);
            lab.device.dropout(y, t, Dropout { seed: 9, rate: 0.25 }, false);
            lab.device.dropout(z, t, Dropout { seed: 10, rate: 0.6 }, true);
            vec![("x", x), ("y", y), ("z", z)]
        });
    }
}

#[test]
fn dropout_leaves_out_its_share_and_keeps_the_mean() {
    for rate in [0.0, 0.1, 0.5, 0.9] {
        let factors: Vec<f32> = (0..100_000).map(|i| Dropout { seed: 3, rate }.factor(i)).collect();
        let dropped = factors.iter().filter(|factor| **factor == 0.0).count() as f32 / 1e5;
        assert!((dropped - rate).abs() < 0.006, "{dropped} dropped, {rate} asked for");
        assert!(factors.iter().all(|factor| *factor == 0.0 || *factor == 1.0 / (1.0 - rate)));
        let neighbours = factors.windows(2).filter(|pair| pair[0] == 0.0 && pair[1] == 0.0).count() as f32 / 1e5;
        assert!((neighbours - rate * rate).abs() < 0.006, "neighbours are independent: {neighbours}");
    }
}
