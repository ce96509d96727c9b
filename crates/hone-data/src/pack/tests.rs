//! Tests of `pack`.

use super::*;

fn row(id: u64, ids: &[u32], mask: &[u8]) -> TokenRow {
    TokenRow { row: RowId(id), line: id, ids: ids.to_vec(), mask: mask.iter().map(|m| *m == 1).collect() }
}

#[test]
fn targets_are_shifted_and_never_cross_a_segment() {
    let a = row(1, &[5, 6, 7], &[0, 0, 1]);
    let b = row(2, &[8, 9], &[1, 1]);
    let batch = pack(&[&a, &b]);
    assert_eq!(batch.ids, [5, 6, 7, 8, 9]);
    assert_eq!(batch.targets, [-1, 7, -1, 9, -1], "8 is the first of its segment: nothing predicts it");
    assert_eq!(batch.segments, [3, 2]);
    assert_eq!(batch.rows, [RowId(1), RowId(2)]);
    assert_eq!(batch.trained_tokens, 2);
}

#[test]
fn nothing_packs_to_nothing() {
    assert_eq!(pack(&[]), TokenBatch::default());
}
