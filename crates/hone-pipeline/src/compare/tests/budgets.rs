//! The error budget: 1/2, 1/6, 1/12 … of the whole, shared by the suites, per champion.

use super::answers::answered;
use super::*;
use crate::state::AnswerOutcome::{Right, Wrong};

fn looks(count: u64, settings: &Settings) -> Vec<Judgement> {
    let champion = evaluation(0, &[("a", OLD), ("b", OLD)]);
    let mut past: Vec<Judgement> = Vec::new();
    for id in 1..=count {
        let challenger = evaluation(id, &[("a", OLD), ("b", OLD)]);
        past.push(judge(&challenger, Some(&champion), &past, settings, 0));
    }
    past
}

#[test]
fn each_look_uses_its_share_of_what_is_left() {
    let past = looks(4, &Settings::default());
    let shown: Vec<String> = past
        .iter()
        .map(|judgement| {
            let budget = judgement.budget.as_ref().unwrap();
            format!("{} {:.6} {:.6} {:.6}", budget.look, budget.spent, budget.left, judgement.evidence[0].level)
        })
        .collect();
    // 0.05/2, 0.05/6, 0.05/12, 0.05/20; left 0.05/(k + 1); two suites share.
    assert_eq!(
        shown,
        [
            "1 0.025000 0.025000 0.012500",
            "2 0.008333 0.016667 0.004167",
            "3 0.004167 0.012500 0.002083",
            "4 0.002500 0.010000 0.001250"
        ]
    );
}

#[test]
fn what_is_good_enough_at_the_first_look_is_not_at_the_third() {
    let settings = Settings::default();
    let list = |right: usize| [vec![Right; right], vec![Wrong; 100 - right]].concat();
    // Ten gained, one lost: (1 + 11)/2048 = 0.0059, good enough for the first look (0.025) and the second (0.0083),
    // not for the third (0.0042).
    let old = answered(0, &[("q", list(50))]);
    let mut answers = list(60);
    answers[0] = Wrong;
    let new = |id| answered(id, &[("q", answers.clone())]);
    let mut past = Vec::new();
    for id in 1..3 {
        let judgement = judge(&new(id), Some(&old), &past, &settings, 0);
        assert_eq!(judgement.outcome, Outcome::Promote, "{}", judgement.reason);
        past.push(judgement);
    }
    let third = judge(&new(3), Some(&old), &past, &settings, 0);
    assert_eq!(third.outcome, Outcome::CannotTell);
    assert!(
        third.reason.ends_with("(p 0.0059 where 0.0042 is needed; look 3, 1.25 % of the error budget left)"),
        "{}",
        third.reason
    );
    // Another champion begins with a whole budget.
    let other = answered(1, &[("q", list(50))]);
    assert_eq!(judge(&new(4), Some(&other), &past, &settings, 0).budget.unwrap().look, 1);
}

#[test]
fn what_cannot_be_compared_uses_nothing() {
    let champion = evaluation(0, &[("a", OLD)]);
    let judgement = judge(&evaluation(1, &[]), Some(&champion), [], &Settings::default(), 0);
    assert_eq!(judgement.budget, None);
    let manual = Settings { promotion_policy: PromotionPolicy::Manual, ..Settings::default() };
    assert_eq!(looks(1, &manual)[0].budget, None);
}

#[test]
fn a_suite_that_comes_later_never_makes_more_of_the_budget() {
    let settings = Settings::default();
    let mut past = looks(3, &settings);
    let champion = evaluation(0, &[("a", OLD), ("b", OLD), ("c", OLD)]);
    for id in 10..200 {
        let challenger = evaluation(id, &[("a", OLD), ("b", OLD), ("c", OLD)]);
        past.push(judge(&challenger, Some(&champion), &past, &settings, 0));
    }
    let spent: f64 = past.iter().flat_map(|judgement| &judgement.evidence).map(|evidence| evidence.level).sum();
    assert!(spent < settings.error_budget && spent > 0.99 * settings.error_budget, "{spent}");
}
