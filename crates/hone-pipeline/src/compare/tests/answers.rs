//! Suites of questions: McNemar's test for "better", Tango's interval for "not worse", shares of odd answers.

use super::*;
use crate::config::SuiteMargins;
use crate::state::AnswerOutcome::{self, *};

/// An evaluation with one suite of questions per entry.
pub(super) fn answered(id: u64, suites: &[(&str, Vec<AnswerOutcome>)]) -> Evaluation {
    let result = |(name, answers): &(&str, Vec<AnswerOutcome>)| SuiteResult {
        suite: name.to_string(),
        suite_hash: format!("hash of {name}"),
        rows: answers.len() as u64,
        answers: Some(answers.clone()),
        ..SuiteResult::default()
    };
    let suites = suites.iter().map(result).collect();
    Evaluation { checkpoint: CheckpointId(id), template_hash: "t".to_string(), suites, ..Evaluation::default() }
}

/// `count` answers for each outcome, in order.
fn list(counts: &[(u64, AnswerOutcome)]) -> Vec<AnswerOutcome> {
    counts.iter().flat_map(|(count, outcome)| std::iter::repeat_n(*outcome, *count as usize)).collect()
}

/// Challenger and champion on one suite: both right, gained, lost, both wrong.
fn pair(suite: &str, both: u64, gained: u64, lost: u64, neither: u64) -> (Evaluation, Evaluation) {
    let new = list(&[(both, Right), (gained, Right), (lost, Wrong), (neither, Wrong)]);
    let old = list(&[(both, Right), (gained, Wrong), (lost, Right), (neither, Wrong)]);
    (answered(5, &[(suite, new)]), answered(0, &[(suite, old)]))
}

#[test]
fn changed_answers_decide() {
    // 15 or more of 20: 0.0207, below the 2.5 % of the first look. Tango at (15, 5) of 100 by the script.
    let (new, old) = pair("q", 50, 15, 5, 30);
    check(
        &new,
        &old,
        &Settings::default(),
        expect![
            "Promote: checkpoint-5 against checkpoint-0: q right 65.0 % against 55.0 % of 100 answers (+15 -5, +10.0 points, 95 % between +1.3 and +19.2); better on q and not worse on any; look 1, 2.50 % of the error budget left"
        ],
    );
    // 14 or more of 20: 0.0577.
    let (new, old) = pair("q", 50, 14, 6, 30);
    assert_eq!(first_look(&new, &old, &Settings::default()), Outcome::CannotTell);
}

#[test]
fn a_skill_that_is_down_beyond_its_margin_holds_the_promotion() {
    let both = |a: (Evaluation, Evaluation), b: (Evaluation, Evaluation)| {
        let join = |mut first: Evaluation, second: Evaluation| {
            first.suites.extend(second.suites);
            first
        };
        (join(a.0, b.0), join(a.1, b.1))
    };
    let settings = Settings::default();
    let gain = || pair("sums", 300, 200, 0, 500);
    // 100 of 1000 lost: surely more than five points.
    let (new, old) = both(gain(), pair("words", 500, 0, 100, 400));
    assert_eq!(first_look(&new, &old, &settings), Outcome::Worse);
    // Six points lost, within chance of five: nobody can tell, and that holds it, too.
    let (new, old) = both(gain(), pair("words", 500, 40, 100, 360));
    assert_eq!(first_look(&new, &old, &settings), Outcome::CannotTell);
    // A suite may have a margin of its own.
    let own = SuiteMargins { max_regression: Some(0.15), min_gain: None };
    let wide = Settings { suite_margins: [("words".to_string(), own)].into(), ..Settings::default() };
    assert_eq!(first_look(&new, &old, &wide), Outcome::Promote);
    // One point lost in a thousand is no matter.
    let (new, old) = both(gain(), pair("words", 500, 10, 20, 470));
    assert_eq!(first_look(&new, &old, &settings), Outcome::Promote);
}

#[test]
fn a_minimum_of_gain_is_a_matter_of_proof() {
    // Ten points gained of 1000: z = (150 - 50 - 1000 d)/sqrt(...) at d = 0.05 is far beyond 1.96, at 0.09 it is not.
    let (new, old) = pair("q", 500, 150, 50, 300);
    let needs = |gain| Settings { min_answer_gain: gain, ..Settings::default() };
    assert_eq!(first_look(&new, &old, &needs(0.05)), Outcome::Promote);
    assert_eq!(first_look(&new, &old, &needs(0.09)), Outcome::CannotTell);
}

#[test]
fn an_answer_is_one_of_six_things() {
    let of = |text, cut, checked| AnswerOutcome::of(text, cut, checked);
    assert_eq!(of("4", true, Some((true, true))), Right);
    assert_eq!(of("5", false, Some((false, true))), Wrong);
    assert_eq!(of("well", false, Some((false, false))), Unparsable);
    assert_eq!(of("well, let", true, Some((false, false))), Cut);
    assert_eq!(of(" \n", false, Some((false, false))), Empty);
    assert_eq!(of("4", false, None), Errored);
    let result = SuiteResult { answers: Some(vec![Right, Wrong, Cut, Errored]), ..SuiteResult::default() };
    assert_eq!(result.share_right(), Some(1.0 / 3.0));
    assert_eq!(SuiteResult::default().share_right(), None);
}

/// Table I of R. G. Newcombe, Statistics in Medicine 17 (1998), method 3: four shares and their 95 % intervals.
#[test]
fn the_interval_of_a_share_is_wilsons() {
    for (right, count, low, high) in
        [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]
    {
        let answers = Some([vec![Right; right], vec![Wrong; count - right], vec![Errored; 3]].concat());
        let found = SuiteResult { answers, ..SuiteResult::default() }.interval().unwrap();
        assert!((found.0 - low).abs() < 6e-5 && (found.1 - high).abs() < 6e-5, "{right} of {count}: {found:?}");
    }
    assert_eq!(SuiteResult { answers: Some(vec![Errored]), ..SuiteResult::default() }.interval(), None);
}

#[test]
fn answers_that_say_little_are_shares_of_all() {
    let answers = Some([vec![Right; 4], vec![Cut; 3], vec![Empty; 2], vec![Errored]].concat());
    let shares = SuiteResult { answers, ..SuiteResult::default() }.shares().unwrap();
    assert_eq!((shares.cut, shares.empty, shares.unparsable, shares.errored), (0.3, 0.2, 0.0, 0.1));
    assert_eq!(SuiteResult::default().shares(), None, "a suite of losses has none");
}

#[test]
fn an_error_is_neither_right_nor_wrong() {
    let mut settings = Settings::default();
    let new = answered(5, &[("q", list(&[(30, Right), (4, Errored), (66, Wrong)]))]);
    let old = answered(0, &[("q", list(&[(10, Right), (90, Wrong)]))]);
    let found = judge(&new, Some(&old), [], &settings, 0).evidence.remove(0);
    assert_eq!((found.rows, found.gained, found.lost), (96, 20, 0));
    settings.max_errored_share = 0.03;
    check(
        &new,
        &old,
        &settings,
        expect!["CannotTell: checkpoint-5 against checkpoint-0: 4.0 % of the answers of q errored, more than 3.0 %"],
    );
}

#[test]
fn odd_answers_hold_a_promotion() {
    let old = answered(0, &[("q", list(&[(100, Unparsable)]))]);
    let new = |odd: u64| {
        answered(5, &[("q", list(&[(40, Right), (60 - odd, Wrong), (odd - 20, Cut), (10, Empty), (10, Unparsable)]))])
    };
    let settings = Settings::default();
    assert_eq!(first_look(&new(50), &old, &settings), Outcome::Promote);
    check(
        &new(51),
        &old,
        &settings,
        expect![
            "CannotTell: checkpoint-5 against checkpoint-0: q right 40.0 % against 0.0 % of 100 answers (+40 -0, +40.0 points, 95 % between +30.9 and +49.8); no verdict: 51.0 % of the answers of q are cut, empty or unparsable, more than 50.0 %"
        ],
    );
}

#[test]
fn a_checkpoint_is_held_against_its_parent() {
    let (new, parent) = pair("q", 500, 0, 100, 400);
    assert_eq!(
        regression(&new, &parent, &Settings::default()).as_deref(),
        Some(
            "worse than checkpoint-0: q right 50.0 % against 60.0 % of 1000 answers (+0 -100, -10.0 points, 95 % between -12.0 and -8.3)"
        )
    );
    let (new, parent) = pair("q", 500, 20, 40, 440);
    assert_eq!(regression(&new, &parent, &Settings::default()), None);
}

#[test]
fn what_was_not_judged_speaks_for_nobody() {
    let (mut new, old) = pair("q", 5, 0, 0, 5);
    new.suites[0].answers = Some(vec![Errored; 10]);
    let settings = Settings { max_errored_share: 1.0, ..Settings::default() };
    check(
        &new,
        &old,
        &settings,
        expect!["CannotTell: checkpoint-5 against checkpoint-0: no question of q was judged for both"],
    );
}
