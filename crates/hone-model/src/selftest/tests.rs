//! Tests of `selftest`.

use super::*;

#[test]
fn the_suite_passes_and_sees_a_wrong_number() {
    let mut checks = suite("cpu", 2, &mut |_| {}).unwrap();
    // Three losses, three norms, the loss after, three losses of LoRA, recomputation, greedy tokens, three formats: for each of
    // seven models.
    assert_eq!(checks.len(), 7 * 15);
    let failed: Vec<&Check> = checks.iter().filter(|check| !check.passed()).collect();
    assert!(failed.is_empty(), "{failed:?}");
    checks[0].found *= 1.0 + 2e-4;
    assert!(!checks[0].passed());
    checks[0].found = f64::NAN;
    assert!(!checks[0].passed());
}
