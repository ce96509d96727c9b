//! Learning rates by hand.

use super::*;

#[track_caller]
fn check(schedule: LrSchedule, warmup_steps: u64, total: u64, expected: &[f64]) {
    let settings =
        TrainSettings { learning_rate: 8.0, lr_schedule: schedule, warmup_steps, ..TrainSettings::default() };
    let rates: Vec<f64> = (0..total).map(|step| learning_rate(&settings, step, total)).collect();
    assert_eq!(rates.len(), expected.len());
    for (rate, wanted) in rates.iter().zip(expected) {
        assert!((rate - wanted).abs() < 1e-12, "{rates:?} instead of {expected:?}");
    }
}

#[test]
fn constant_stays_at_the_peak_after_warmup() {
    check(LrSchedule::Constant, 0, 3, &[8.0, 8.0, 8.0]);
    check(LrSchedule::Constant, 3, 5, &[2.0, 4.0, 6.0, 8.0, 8.0]);
}

#[test]
fn linear_falls_to_zero_right_after_the_last_step() {
    check(LrSchedule::Linear, 0, 4, &[8.0, 6.0, 4.0, 2.0]);
    check(LrSchedule::Linear, 1, 5, &[4.0, 8.0, 6.0, 4.0, 2.0]);
}

#[test]
fn cosine_is_half_a_cosine() {
    let sqrt_half = 0.5f64.sqrt();
    check(LrSchedule::Cosine, 0, 4, &[8.0, 4.0 * (1.0 + sqrt_half), 4.0, 4.0 * (1.0 - sqrt_half)]);
}

#[test]
fn warmup_stable_decay_falls_over_the_last_fifth() {
    check(LrSchedule::WarmupStableDecay, 0, 10, &[8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 4.0]);
}

#[test]
fn a_warmup_longer_than_the_job_never_divides_by_zero() {
    check(LrSchedule::Cosine, 7, 2, &[1.0, 2.0]);
}
