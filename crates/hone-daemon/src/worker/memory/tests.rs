//! Tests of `memory`.

use super::*;

#[test]
fn only_a_sign_of_lacking_memory_counts_as_one() {
    let lines = |text: &str| vec![text.to_string()];
    let code = |code: i32| ExitStatus::from_raw(code << 8);
    let allocator = lines("memory allocation of 4096 bytes failed");
    assert!(ran_out(code(76), &[], 0));
    assert!(!ran_out(code(75), &allocator, 0), "another exit code");
    assert!(ran_out(ExitStatus::from_raw(6), &allocator, 0), "the allocator gave up");
    assert!(!ran_out(ExitStatus::from_raw(6), &lines("panic in a destructor"), 0));
    assert!(!ran_out(ExitStatus::from_raw(9), &[], u64::MAX), "killed by hand: the kernel counts nothing");
    assert!(!ran_out(ExitStatus::from_raw(11), &allocator, 0));
}
