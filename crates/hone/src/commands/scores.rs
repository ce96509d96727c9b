//! Scores of suites as tables: never without their interval and, for questions, the answers that say little.

use crate::output;
use hone_pipeline::state::SuiteResult;
use serde_json::{Value, json};

/// Headings of [`row`].
const HEADINGS: [&str; 8] = ["suite", "rows", "score", "95 % interval", "cut", "empty", "unparsable", "errored"];

/// Prints results, each under the name of its model. A score is a share of right answers, or a loss.
pub fn show<'a>(results: impl Iterator<Item = (String, &'a SuiteResult)>) {
    let rows: Vec<Vec<String>> = results.map(|(model, result)| [vec![model], row(result)].concat()).collect();
    if !rows.is_empty() {
        output::table(&[&["model"][..], &HEADINGS].concat(), &rows);
    }
}

/// A share in per cent.
#[must_use]
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A result for programs: without what it has per row, with the interval of its score; one of questions with its share of
/// right answers and of those that say little.
#[must_use]
pub fn summary(result: &SuiteResult) -> Value {
    let mut value = serde_json::to_value(result).expect("our own values serialise");
    let fields = value.as_object_mut().expect("a result is an object");
    fields.remove("row_nll");
    fields.insert("interval".to_string(), json!(result.interval()));
    if fields.remove("answers").is_some() {
        fields.insert("share_right".to_string(), json!(result.share_right()));
        fields.insert("shares".to_string(), json!(result.shares()));
    }
    value
}

fn row(result: &SuiteResult) -> Vec<String> {
    let is_loss = result.answers.is_none();
    let figure = |value: f64| if is_loss { format!("{value:.4}") } else { percent(value) };
    let score = if is_loss { Some(result.mean_nll) } else { result.share_right() };
    let shares = result.shares().map(|s| [s.cut, s.empty, s.unparsable, s.errored].map(percent));
    let interval = result.interval().map(|(low, high)| format!("{} to {}", figure(low), figure(high)));
    let mut cells = vec![
        result.suite.clone(),
        result.rows.to_string(),
        score.map_or("-".to_string(), figure),
        interval.unwrap_or_else(|| "-".to_string()),
    ];
    cells.extend(shares.unwrap_or_else(|| ["-"; 4].map(str::to_string)));
    cells
}

#[cfg(test)]
mod tests;
