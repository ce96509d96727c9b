//! Against mpmath's values (`scripts/reference_statistics.py`), and by hand where that is possible.

use super::*;

#[track_caller]
fn close(found: f64, expected: f64, relative: f64) {
    assert!((found - expected).abs() <= relative * expected.abs(), "{found:e} instead of {expected:e}");
}

#[test]
fn mcnemars_test_is_the_binomial_tail() {
    close(mcnemar(0, 0), 1.0, 0.0);
    close(mcnemar(0, 7), 1.0, 0.0);
    // By hand: five of five is 1/32; eight or more of ten is (45 + 10 + 1)/1024.
    close(mcnemar(5, 0), 1.0 / 32.0, 1e-12);
    close(mcnemar(8, 2), 56.0 / 1024.0, 1e-12);
    close(mcnemar(15, 5), 0.020_694_732_666, 1e-11);
    close(mcnemar(100, 50), 2.723_766_551_7e-5, 1e-9);
    // Above the bound the approximation: z = 99/sqrt(1100) = 2.985; the exact value is 1.40977e-3.
    close(mcnemar(600, 500), 1.409_772_5e-3, 0.01);
}

#[test]
fn tails_and_their_quantiles() {
    close(student_tail(2.0, 3.0), 0.069_662_984_279_4, 1e-11);
    close(student_tail(1.0, 1.0), 0.25, 1e-12);
    close(student_tail(3.5, 9.0), 0.003_361_757_881_53, 1e-11);
    close(student_tail(4.0, 199.0), 4.463_827_937_84e-5, 1e-9);
    close(student_tail(-2.0, 3.0), 1.0 - 0.069_662_984_279_4, 1e-11);
    close(normal_tail(0.0), 0.5, 2e-7);
    close(normal_tail(1.0), 0.158_655_253_931, 2e-7);
    close(normal_tail(4.0), 3.167_124_183_31e-5, 2e-7);
    close(normal_tail(6.0), 9.865_876_450_38e-10, 2e-7);
    close(normal_quantile(0.025), 1.959_963_985, 1e-6);
    // Tables: 3.182 for 3 degrees of freedom, 2.262 for 9.
    close(student_quantile(0.025, 3.0), 3.182_446_3, 1e-7);
    close(student_quantile(0.025, 9.0), 2.262_157_2, 1e-7);
}

#[test]
fn the_interval_of_paired_shares_is_tangos() {
    let z = 1.959_963_985;
    for (counts, expected) in [
        // By hand: without a changed answer the score at d is n d / sqrt(n d (1 - d)), so d = z^2/(n + z^2).
        ((0, 0, 100), (-0.036_993_498_22, 0.036_993_498_22)),
        ((10, 5, 100), (-0.028_619_556_29, 0.133_471_311)),
        ((15, 5, 100), (0.013_446_760_85, 0.192_396_505_1)),
        ((40, 0, 100), (0.309_401_286_4, 0.497_997_413_2)),
        ((3, 0, 300), (-0.002_769_400_943, 0.028_983_493_37)),
        ((100, 50, 1000), (0.026_345_785_33, 0.074_348_340_64)),
    ] {
        let (gained, lost, num) = counts;
        let (low, high) = paired_share_interval(gained, lost, num, z);
        close(low, expected.0, 1e-7);
        close(high, expected.1, 1e-7);
        // The mirror image.
        let (low, high) = paired_share_interval(lost, gained, num, z);
        close(low, -expected.1, 1e-7);
        close(high, -expected.0, 1e-7);
    }
}
