//! The ranking score: one number per checkpoint for tables. It orders, it never promotes.

use crate::config::ScoreWeights;
use crate::state::{Evaluation, SuiteResult};

/// What a checkpoint's score is made of. Means are over suites of the kind, each with the same weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Mean loss per trained token; `None` without a suite of rows.
    pub loss: Option<f64>,
    /// Mean share of trained tokens whose argmax is right; `None` without a suite of rows.
    pub token_accuracy: Option<f64>,
    /// Mean share of right answers; `None` without a suite of questions.
    pub right_answers: Option<f64>,
    /// The weighted sum over the parts that are there, divided by their weights; `None` where there are none.
    pub value: Option<f64>,
}

/// The score of an evaluation.
#[must_use]
pub fn score(evaluation: &Evaluation, weights: &ScoreWeights) -> Score {
    let rows = || evaluation.suites.iter().filter(|suite| suite.answers.is_none());
    let loss = mean(rows().map(|suite| suite.mean_nll));
    let token_accuracy = mean(rows().map(|suite| suite.token_accuracy));
    let right_answers = mean(evaluation.suites.iter().filter_map(SuiteResult::share_right));
    let parts = [
        (weights.loss, loss.map(|loss| 1.0 / (1.0 + loss))),
        (weights.token_accuracy, token_accuracy),
        (weights.answers, right_answers),
    ];
    let there = || parts.iter().filter_map(|(weight, part)| part.map(|part| (weight, part)));
    let total: f64 = there().map(|(weight, _)| weight).sum();
    let value = (total > 0.0).then(|| there().map(|(weight, part)| weight * part).sum::<f64>() / total);
    Score { loss, token_accuracy, right_answers, value }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0u32), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}
