//! Gradients of the plain device against central differences. With random weights `r`, the gradient of Σ r · y with
//! respect to each input is what the backward operation must give for dy = r.

use super::*;

/// Half the distance of a difference. Truncation grows with its square, rounding with its inverse.
const STEP: f32 = 4e-3;
const TOLERANCE: f64 = 1e-3;

/// Central differences of Σ weights · output with respect to every number of `input`.
fn differences(
    lab: &mut Lab,
    input: Span,
    weights: &[f32],
    output: Span,
    forward: &dyn Fn(&mut dyn Device),
) -> Vec<f32> {
    let original = lab.read(input);
    let mut gradient = Vec::with_capacity(input.len);
    for (i, &value) in original.iter().enumerate() {
        let at = |lab: &mut Lab, shift: f32| -> f64 {
            lab.device.upload(input.part(i, 1), &[value + shift]).unwrap();
            forward(&mut *lab.device);
            lab.read(output).iter().zip(weights).map(|(y, r)| f64::from(*y) * f64::from(*r)).sum()
        };
        let difference = at(lab, STEP) - at(lab, -STEP);
        let distance = f64::from(value + STEP) - f64::from(value - STEP);
        gradient.push((difference / distance) as f32);
        lab.device.upload(input.part(i, 1), &[value]).unwrap();
    }
    forward(&mut *lab.device);
    gradient
}

#[track_caller]
fn check(lab: &mut Lab, what: &str, found: &[f32], input: Span, dy: Span, y: Span, forward: &dyn Fn(&mut dyn Device)) {
    let weights = lab.read(dy);
    let expected = differences(lab, input, &weights, y, forward);
    assert_near(what, found, &expected, TOLERANCE);
}

#[test]
fn of_products() {
    let mut lab = Lab::new("reference", 1);
    let (n, i, o) = (3, 5, 4);
    let (x, w, y, dy) = (lab.random(n * i), lab.random(o * i), lab.random(n * o), lab.random(n * o));
    let (zero_x, zero_w) = (lab.given(&vec![0.0; n * i]), lab.given(&vec![0.0; o * i]));
    let forward =
        move |device: &mut dyn Device| device.matmul(y.matrix(o), x.matrix(i), w.matrix(i).transposed(), false);
    lab.device.matmul(zero_x.matrix(i), dy.matrix(o), w.matrix(i), true);
    lab.device.matmul(zero_w.matrix(i), dy.matrix(o).transposed(), x.matrix(i), true);
    let (dx, dw) = (lab.read(zero_x), lab.read(zero_w));
    check(&mut lab, "dx", &dx, x, dy, y, &forward);
    check(&mut lab, "dw", &dw, w, dy, y, &forward);
}

#[test]
fn of_gathered_rows_and_biases() {
    let mut lab = Lab::new("reference", 1);
    let rows = [2, 0, 2];
    let (table, bias, y, dy) = (lab.random(3 * 4), lab.random(4), lab.random(3 * 4), lab.random(3 * 4));
    let (dtable, dbias) = (lab.given(&[0.0; 12]), lab.given(&[0.0; 4]));
    let forward = move |device: &mut dyn Device| {
        device.gather_rows(y, table, &rows);
        device.add_bias(y, bias);
    };
    lab.device.scatter_add_rows(dtable, dy, &rows);
    lab.device.add_bias_backward(dbias, dy);
    let (found_table, found_bias) = (lab.read(dtable), lab.read(dbias));
    check(&mut lab, "table", &found_table, table, dy, y, &forward);
    check(&mut lab, "bias", &found_bias, bias, dy, y, &forward);
}

#[test]
fn of_norms() {
    let mut lab = Lab::new("reference", 1);
    let (n, h) = (3, 10);
    let (x, w, y, dy, scale) = (lab.random(n * h), lab.random(h), lab.random(n * h), lab.random(n * h), lab.random(n));
    let (dx, dw) = (lab.given(&vec![0.0; n * h]), lab.given(&vec![0.0; h]));
    let forward = move |device: &mut dyn Device| device.rms_norm(y, scale, x, w, 1e-5);
    forward(&mut *lab.device);
    lab.device.rms_norm_backward(dx, dw, dy, scale, x, w);
    let (found_x, found_w) = (lab.read(dx), lab.read(dw));
    check(&mut lab, "dx", &found_x, x, dy, y, &forward);
    check(&mut lab, "dw", &found_w, w, dy, y, &forward);
}

#[test]
fn of_rotations() {
    let positions = positions(&[2, 3]);
    for with_norms in [false, true] {
        let mut lab = Lab::new("reference", 1);
        let heads = Heads { num_heads: 4, num_kv_heads: 2, head_dim: 6 };
        let (n, d) = (positions.len(), heads.head_dim);
        let (table, qkv) = (lab.random(3 * d), lab.random(n * heads.qkv_width()));
        let (y, dy) = (lab.random(n * heads.rotated_width()), lab.random(n * heads.rotated_width()));
        let scale = lab.random(n * 6);
        let norms = with_norms.then(|| HeadNorms { query: lab.random(d), key: lab.random(d), eps: 1e-6 });
        let dnorms =
            with_norms.then(|| HeadNorms { query: lab.given(&[0.0; 6]), key: lab.given(&[0.0; 6]), eps: 1e-6 });
        let owned = positions.clone();
        let forward = move |device: &mut dyn Device| {
            device.rotate(y, scale, qkv, &Rotation { table, positions: &owned, norms }, heads);
        };
        forward(&mut *lab.device);
        // The gradient of `rotated`, in rows as wide as those of qkv; values do not take part.
        let mut gradient = Vec::new();
        for row in lab.read(dy).chunks(heads.rotated_width()) {
            gradient.extend_from_slice(row);
            gradient.extend(vec![0.0; heads.kv_width()]);
        }
        let dqkv = lab.given(&gradient);
        lab.device.rotate_backward(dqkv, dnorms, scale, qkv, &Rotation { table, positions: &positions, norms }, heads);
        let found = lab.read(dqkv);
        check(&mut lab, "dqkv", &found, qkv, dy, y, &forward);
        if let (Some(norms), Some(dnorms)) = (norms, dnorms) {
            let (found_query, found_key) = (lab.read(dnorms.query), lab.read(dnorms.key));
            check(&mut lab, "query norm", &found_query, norms.query, dy, y, &forward);
            check(&mut lab, "key norm", &found_key, norms.key, dy, y, &forward);
        }
    }
}

#[test]
fn of_attention() {
    let mut lab = Lab::new("reference", 1);
    let heads = Heads { num_heads: 4, num_kv_heads: 2, head_dim: 6 };
    let segments = [1, 4, 2];
    let n = 7;
    let (rotated, qkv) = (lab.random(n * heads.rotated_width()), lab.random(n * heads.qkv_width()));
    let (out, lse, dout) =
        (lab.random(n * heads.query_width()), lab.random(n * heads.num_heads), lab.random(n * heads.query_width()));
    let dqkv = lab.random(n * heads.qkv_width());
    let forward = move |device: &mut dyn Device| {
        device.attention(&Attention { out, lse, rotated, qkv, segments: &segments, heads, workspace: Span::default() });
    };
    forward(&mut *lab.device);
    let io = Attention { out, lse, rotated, qkv, segments: &segments, heads, workspace: Span::default() };
    lab.device.attention_backward(dqkv, dout, &io);
    let found = lab.read(dqkv);
    let columns = |range: Range<usize>| -> Vec<f32> {
        found.chunks(heads.qkv_width()).flat_map(|row| row[range.clone()].to_vec()).collect()
    };
    check(&mut lab, "queries and keys", &columns(0..heads.rotated_width()), rotated, dout, out, &forward);
    // Only the last part of qkv is read, so the differences of the rest are zero.
    let mut of_values = vec![0.0; found.len()];
    for (row, found) in of_values.chunks_mut(heads.qkv_width()).zip(found.chunks(heads.qkv_width())) {
        row[heads.rotated_width()..].copy_from_slice(&found[heads.rotated_width()..]);
    }
    check(&mut lab, "values", &of_values, qkv, dout, out, &forward);
}

#[test]
fn of_swiglu() {
    let mut lab = Lab::new("reference", 1);
    let (n, i) = (3, 5);
    let (gate_up, y, dy) = (lab.random(n * 2 * i), lab.random(n * i), lab.random(n * i));
    let (gate_up_values, dy_values) = (lab.read(gate_up), lab.read(dy));
    let (in_place, result) = (lab.given(&gate_up_values), lab.given(&dy_values));
    lab.device.swiglu_backward(result, in_place, i);
    let found = lab.read(in_place);
    let forward = move |device: &mut dyn Device| device.swiglu(y, gate_up, i);
    check(&mut lab, "gate and up", &found, gate_up, dy, y, &forward);
    assert_eq!(lab.read(result), lab.read(y), "the result is computed again");
}

#[test]
fn of_cross_entropy() {
    let mut lab = Lab::new("reference", 1);
    let (n, v) = (4, 9);
    let targets = [3, 0, 8, 3];
    let (logits, losses, correct) = (lab.random(n * v), lab.random(n), lab.random(n));
    let values = lab.read(logits);
    let (scratch, dlosses) = (lab.random(n * v), lab.given(&[0.25; 4]));
    let forward = move |device: &mut dyn Device| {
        device.copy(scratch, logits);
        device.cross_entropy(scratch, losses, correct, &targets, None);
    };
    let in_place = lab.given(&values);
    lab.device.cross_entropy(in_place, losses, correct, &targets, Some(0.25));
    let found = lab.read(in_place);
    check(&mut lab, "logits", &found, logits, dlosses, losses, &forward);
}
