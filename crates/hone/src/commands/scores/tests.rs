//! What stands beside a score.

use super::*;
use hone_pipeline::state::AnswerOutcome::{Cut, Empty, Errored, Right, Unparsable, Wrong};

#[test]
fn a_score_comes_with_its_interval_and_with_what_says_little() {
    // Two rows of one token, losses 2 and 4: the standard error of their mean is 1.
    let losses = SuiteResult {
        suite: "a.jsonl".to_string(),
        rows: 2,
        mean_nll: 3.0,
        row_nll: vec![(2.0, 1), (4.0, 1)],
        ..SuiteResult::default()
    };
    assert_eq!(row(&losses), ["a.jsonl", "2", "3.0000", "1.0400 to 4.9600", "-", "-", "-", "-"]);
    let answers = Some([vec![Right; 4], vec![Wrong; 3], vec![Cut, Empty, Unparsable]].concat());
    let answers = SuiteResult { suite: "q/1".to_string(), rows: 10, answers, ..SuiteResult::default() };
    assert_eq!(row(&answers), ["q/1", "10", "40.0 %", "16.8 % to 68.7 %", "10.0 %", "10.0 %", "10.0 %", "0.0 %"]);
    let unknown = SuiteResult { answers: Some(vec![Errored]), rows: 1, suite: "q/2".to_string(), ..answers };
    assert_eq!(row(&unknown), ["q/2", "1", "-", "-", "0.0 %", "0.0 %", "0.0 %", "100.0 %"]);
}
