//! Verdicts and the sentences that go with them. Intervals and p-values were worked out by hand: Student's 97.5 %
//! quantile is 3.1824 for three degrees of freedom, and the first look may use 2.5 %.

mod answers;
mod budgets;

use super::*;
use crate::ids::CheckpointId;
use crate::state::SuiteResult;
use expect_test::{Expect, expect};

/// An evaluation with suites of rows `(sum of losses, tokens)`.
fn evaluation(id: u64, suites: &[(&str, &[(f64, u32)])]) -> Evaluation {
    let result = |(name, rows): &(&str, &[(f64, u32)])| {
        let tokens: u32 = rows.iter().map(|row| row.1).sum();
        let total: f64 = rows.iter().map(|row| row.0).sum();
        SuiteResult {
            suite: name.to_string(),
            suite_hash: format!("hash of {name}"),
            rows: rows.len() as u64,
            rows_skipped: 0,
            trained_tokens: u64::from(tokens),
            mean_nll: total / f64::from(tokens),
            token_accuracy: 0.0,
            row_nll: rows.to_vec(),
            answers: None,
        }
    };
    Evaluation {
        checkpoint: CheckpointId(id),
        manifest_hash: String::new(),
        template_hash: "t".to_string(),
        suites: suites.iter().map(result).collect(),
        at_ms: 0,
        error: None,
        tries: 0,
        retry_at_ms: None,
        ..Evaluation::default()
    }
}

fn with(policy: PromotionPolicy, min_gain: f64, max_regression: f64) -> Settings {
    Settings { promotion_policy: policy, min_gain, max_regression, ..Settings::default() }
}

fn first_look(challenger: &Evaluation, champion: &Evaluation, settings: &Settings) -> Outcome {
    judge(challenger, Some(champion), [], settings, 0).outcome
}

#[track_caller]
fn check(challenger: &Evaluation, champion: &Evaluation, settings: &Settings, expected: Expect) {
    let Judgement { outcome, reason, .. } = judge(challenger, Some(champion), [], settings, 0);
    expected.assert_eq(&format!("{outcome:?}: {reason}"));
}

const OLD: &[(f64, u32)] = &[(4.0, 2), (4.0, 2), (4.0, 2), (4.0, 2)];
/// Differences -1, -1, -1, -1 over 8 tokens: mean -0.5, no spread.
const MUCH_BETTER: &[(f64, u32)] = &[(3.0, 2), (3.0, 2), (3.0, 2), (3.0, 2)];
/// Differences -3, +2, -3, +2: mean -2/8 = -0.25; residuals ±2.5; error sqrt(4/3 · 25)/8 = 0.7217,
/// times 3.1824 = 2.2967.
const LUCKY: &[(f64, u32)] = &[(1.0, 2), (6.0, 2), (1.0, 2), (6.0, 2)];
const WORSE: &[(f64, u32)] = &[(5.0, 2), (5.0, 2), (5.0, 2), (5.0, 2)];
/// Mean +0.01.
const HARDLY_WORSE: &[(f64, u32)] = &[(4.02, 2), (4.02, 2), (4.02, 2), (4.02, 2)];

#[test]
fn promotes_what_is_surely_better() {
    let settings = with(PromotionPolicy::NotWorse, 0.0, 0.02);
    let champion = evaluation(0, &[("a", OLD)]);
    check(
        &evaluation(5, &[("a", MUCH_BETTER)]),
        &champion,
        &settings,
        expect![
            "Promote: checkpoint-5 against checkpoint-0: a loss 1.5000 against 2.0000 on 4 rows (-0.5000, 95 % between -0.5000 and -0.5000); better on a and not worse on any; look 1, 2.50 % of the error budget left"
        ],
    );
}

#[test]
fn a_difference_within_chance_tells_nothing() {
    let settings = with(PromotionPolicy::NotWorse, 0.0, 0.02);
    let champion = evaluation(0, &[("a", OLD)]);
    check(
        &evaluation(5, &[("a", LUCKY)]),
        &champion,
        &settings,
        expect![
            "CannotTell: checkpoint-5 against checkpoint-0: a loss 1.7500 against 2.0000 on 4 rows (-0.2500, 95 % between -2.5467 and +2.0467); cannot tell whether it is worse on a"
        ],
    );
    check(
        &evaluation(5, &[("a", OLD)]),
        &champion,
        &settings,
        expect![
            "CannotTell: checkpoint-5 against checkpoint-0: a loss 2.0000 against 2.0000 on 4 rows (+0.0000, 95 % between +0.0000 and +0.0000); not worse on any, but not surely better on one (p 1.0000 where 0.0250 is needed; look 1, 2.50 % of the error budget left)"
        ],
    );
    let one_row = [("a", &OLD[..1])];
    check(
        &evaluation(5, &[("a", &MUCH_BETTER[..1])]),
        &evaluation(0, &one_row),
        &settings,
        expect![
            "CannotTell: checkpoint-5 against checkpoint-0: a loss 1.5000 against 2.0000 on 1 rows (-0.5000, interval unknown); cannot tell whether it is worse on a"
        ],
    );
}

#[test]
fn one_worse_suite_outweighs_better_ones_beyond_the_margin() {
    let settings = with(PromotionPolicy::NotWorse, 0.0, 0.02);
    let champion = evaluation(0, &[("a", OLD), ("b", OLD)]);
    check(
        &evaluation(5, &[("a", MUCH_BETTER), ("b", WORSE)]),
        &champion,
        &settings,
        expect![
            "Worse: checkpoint-5 against checkpoint-0: a loss 1.5000 against 2.0000 on 4 rows (-0.5000, 95 % between -0.5000 and -0.5000); b loss 2.5000 against 2.0000 on 4 rows (+0.5000, 95 % between +0.5000 and +0.5000); worse on b"
        ],
    );
    check(
        &evaluation(5, &[("a", MUCH_BETTER), ("b", HARDLY_WORSE)]),
        &champion,
        &settings,
        expect![
            "Promote: checkpoint-5 against checkpoint-0: a loss 1.5000 against 2.0000 on 4 rows (-0.5000, 95 % between -0.5000 and -0.5000); b loss 2.0100 against 2.0000 on 4 rows (+0.0100, 95 % between +0.0100 and +0.0100); better on a and not worse on any; look 1, 2.50 % of the error budget left"
        ],
    );
}

#[test]
fn a_gain_below_the_minimum_is_none() {
    let champion = evaluation(0, &[("a", OLD)]);
    let challenger = evaluation(5, &[("a", MUCH_BETTER)]);
    let outcome = |min_gain| first_look(&challenger, &champion, &with(PromotionPolicy::NotWorse, min_gain, 0.02));
    assert_eq!((outcome(0.49), outcome(0.51)), (Outcome::Promote, Outcome::CannotTell));
}

#[test]
fn better_over_all_suites_may_be_unsure_on_one_but_worse_on_none() {
    let settings = with(PromotionPolicy::Better, 0.0, 0.02);
    let champion = evaluation(0, &[("a", OLD), ("b", OLD)]);
    let verdict = |a, b| first_look(&evaluation(5, &[("a", a), ("b", b)]), &champion, &settings);
    assert_eq!(verdict(MUCH_BETTER, HARDLY_WORSE), Outcome::CannotTell, "surely better and surely worse cancel out");
    assert_eq!(verdict(MUCH_BETTER, LUCKY), Outcome::Promote, "(7.03 + 0.29)/sqrt(2) is far in the tail");
    assert_eq!(verdict(MUCH_BETTER, WORSE), Outcome::Worse, "one suite holds it, however good the other");
    assert_eq!(verdict(LUCKY, LUCKY), Outcome::CannotTell);
}

#[test]
fn longer_rows_weigh_more() {
    // +1 on 2 tokens, -4 on 8 tokens: -3/10.
    let champion = evaluation(0, &[("a", &[(4.0, 2), (16.0, 8)])]);
    let challenger = evaluation(5, &[("a", &[(5.0, 2), (12.0, 8)])]);
    let found = judge(&challenger, Some(&champion), [], &Settings::default(), 0).evidence.remove(0);
    assert!((found.gain - 0.3).abs() < 1e-12, "{found:?}");
    // Residuals -1.6 and 1.6: sqrt(2 · 5.12)/10 = 0.32, times 12.706 for one degree of freedom = 4.066.
    let (low, high) = found.interval.unwrap();
    assert!((low - (0.3 - 4.066)).abs() < 1e-3 && (high - (0.3 + 4.066)).abs() < 1e-3, "{found:?}");
}

#[test]
fn what_was_not_measured_alike_is_not_compared() {
    let settings = with(PromotionPolicy::NotWorse, 0.0, 0.02);
    let champion = evaluation(0, &[("a", OLD)]);
    let better = evaluation(5, &[("a", MUCH_BETTER)]);
    check(
        &evaluation(5, &[]),
        &champion,
        &settings,
        expect![
            "CannotTell: checkpoint-5 against checkpoint-0: no evaluation suites; put files in validation/ or run `hone deploy 5`"
        ],
    );
    check(
        &evaluation(5, &[("a", MUCH_BETTER), ("b", OLD)]),
        &champion,
        &settings,
        expect!["CannotTell: checkpoint-5 against checkpoint-0: checkpoint-0 was not evaluated on the same b"],
    );
    let mut other = better.clone();
    other.suites[0].suite_hash = "changed".to_string();
    check(
        &other,
        &champion,
        &settings,
        expect!["CannotTell: checkpoint-5 against checkpoint-0: checkpoint-0 was not evaluated on the same a"],
    );
    let other = Evaluation { template_hash: "other".to_string(), ..better.clone() };
    check(
        &other,
        &champion,
        &settings,
        expect!["CannotTell: checkpoint-5 against checkpoint-0: a was measured with another chat template"],
    );
    let other = Evaluation { dtype: "bf16".to_string(), ..better.clone() };
    check(
        &other,
        &champion,
        &settings,
        expect!["CannotTell: checkpoint-5 against checkpoint-0: a was measured with another number format"],
    );
    let other = Evaluation { engine: "next".to_string(), ..better.clone() };
    check(
        &other,
        &champion,
        &settings,
        expect!["CannotTell: checkpoint-5 against checkpoint-0: a was measured with another version of the engine"],
    );
    let other = Evaluation { error: Some("out of memory".to_string()), ..champion.clone() };
    check(
        &better,
        &other,
        &settings,
        expect!["CannotTell: checkpoint-5 against checkpoint-0: checkpoint-0 could not be evaluated: out of memory"],
    );
    check(
        &evaluation(5, &[("a", &MUCH_BETTER[..3])]),
        &champion,
        &settings,
        expect!["CannotTell: checkpoint-5 against checkpoint-0: a was not measured on the same tokens"],
    );
    let nan = [(f64::NAN, 2), (3.0, 2), (3.0, 2), (3.0, 2)];
    check(
        &evaluation(5, &[("a", &nan)]),
        &champion,
        &settings,
        expect!["CannotTell: checkpoint-5 against checkpoint-0: a has no finite loss"],
    );
}

#[test]
fn people_promote_where_the_policy_is_manual() {
    let settings = with(PromotionPolicy::Manual, 0.0, 0.02);
    let champion = evaluation(0, &[("a", OLD)]);
    check(
        &evaluation(5, &[("a", MUCH_BETTER)]),
        &champion,
        &settings,
        expect![
            "Manual: checkpoint-5 against checkpoint-0: a loss 1.5000 against 2.0000 on 4 rows (-0.5000, 95 % between -0.5000 and -0.5000); only people promote here"
        ],
    );
    let first = judge(&champion, None, [], &settings, 0);
    assert_eq!((first.outcome, first.reason.as_str()), (Outcome::Promote, "checkpoint-0 is the first champion"));
}
