//! What one suite says about a challenger: the paired difference, its interval, and whether it is enough.
//!
//! Losses: the difference of loss per trained token over rows (ratio estimator; rows are the unit of chance, tokens of
//! one row are not independent). Of Student's t and the paired bootstrap the more doubtful one counts. Right answers:
//! McNemar's test for "better", Tango's interval for "not worse". "Worse" and "not worse" are told at [`TAIL`] on
//! each look; only "better" is paid from the champion's error budget.

use super::bootstrap::{redraw, seed_of};
use super::stats;
use crate::config::Settings;
use crate::state::{AnswerOutcome, Evaluation, Evidence, EvidenceFinding, Measure, SuiteResult};
use std::fmt::Write;

/// What a 95 % interval leaves out on each side.
pub const TAIL: f64 = 0.025;

/// Margins of one suite.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Margins {
    min_gain: f64,
    max_regression: f64,
}

/// A gain as measured, before it is held against anything.
struct Gain {
    value: f64,
    interval: Option<(f64, f64)>,
    /// How probable it is without a real gain above the least one.
    p_value: f64,
}

/// One piece of evidence per suite of the challenger, or why they cannot be had. `level` is what each suite may use
/// of the error budget.
pub fn evidence(
    challenger: &Evaluation,
    other: &Evaluation,
    settings: &Settings,
    level: f64,
) -> Result<Vec<Evidence>, String> {
    for evaluation in [challenger, other] {
        if let Some(error) = &evaluation.error {
            return Err(format!("{} could not be evaluated: {error}", evaluation.checkpoint));
        }
    }
    if challenger.suites.is_empty() {
        let number = challenger.checkpoint.0;
        return Err(format!("no evaluation suites; put files in validation/ or run `hone deploy {number}`"));
    }
    challenger.suites.iter().map(|new| on_suite(new, challenger, other, settings, level)).collect()
}

/// One line for people: both values, the gain and its interval.
#[must_use]
pub fn describe(evidence: &Evidence) -> String {
    let Evidence { suite, challenger: new, champion: old, rows, .. } = evidence;
    let mut text = match evidence.measure {
        Measure::Loss => format!("{suite} loss {new:.4} against {old:.4} on {rows} rows ({:+.4}", 0.0 - evidence.gain),
        Measure::RightAnswers => {
            let (new, old, points) = (new * 100.0, old * 100.0, evidence.gain * 100.0);
            let changed = format!("+{} -{}", evidence.gained, evidence.lost);
            format!("{suite} right {new:.1} % against {old:.1} % of {rows} answers ({changed}, {points:+.1} points")
        }
    };
    let (unit, sign) = match evidence.measure {
        Measure::Loss => (1.0, -1.0),
        Measure::RightAnswers => (100.0, 1.0),
    };
    // Writing into a string cannot fail.
    let _ = match evidence.interval {
        None => write!(text, ", interval unknown)"),
        Some((low, high)) => {
            // Adding zero makes a negative zero a plain one.
            let (a, b) = (low * sign * unit + 0.0, high * sign * unit + 0.0);
            let digits = if unit > 1.0 { 1 } else { 4 };
            write!(text, ", 95 % between {:+.digits$} and {:+.digits$})", a.min(b), a.max(b))
        }
    };
    text
}

fn on_suite(
    new: &SuiteResult,
    challenger: &Evaluation,
    other: &Evaluation,
    settings: &Settings,
    level: f64,
) -> Result<Evidence, String> {
    let suite = &new.suite;
    let missing = || format!("{} was not evaluated on the same {suite}", other.checkpoint);
    let old = other.result(suite).ok_or_else(missing)?;
    match challenger.fingerprint(new).difference(&other.fingerprint(old)) {
        Some("suite") => return Err(missing()),
        Some(what) => return Err(format!("{suite} was measured with another {what}")),
        None => {}
    }
    let margins = margins(settings, new);
    let mut evidence = match (&new.answers, &old.answers) {
        (None, None) => of_losses(new, old, (challenger, other), margins, level)?,
        (Some(_), Some(_)) => of_answers(new, old, settings, margins)?,
        _ => return Err(format!("{suite} holds questions for one of them only")),
    };
    evidence.level = level;
    evidence.finding = finding(&evidence, margins);
    Ok(evidence)
}

fn margins(settings: &Settings, suite: &SuiteResult) -> Margins {
    let (min_gain, max_regression) = match suite.answers {
        None => (settings.min_gain, settings.max_regression),
        Some(_) => (settings.min_answer_gain, settings.max_answer_regression),
    };
    let own = settings.suite_margins.get(&suite.suite).copied().unwrap_or_default();
    Margins { min_gain: own.min_gain.unwrap_or(min_gain), max_regression: own.max_regression.unwrap_or(max_regression) }
}

fn finding(evidence: &Evidence, margins: Margins) -> EvidenceFinding {
    let better = evidence.gain > 0.0 && evidence.gain >= margins.min_gain && evidence.p_value <= evidence.level;
    match evidence.interval {
        None => EvidenceFinding::CannotTell,
        Some((_, high)) if high < -margins.max_regression => EvidenceFinding::Worse,
        Some((low, _)) if low < -margins.max_regression => EvidenceFinding::CannotTell,
        Some(_) if better => EvidenceFinding::Better,
        Some(_) => EvidenceFinding::NotWorse,
    }
}

fn of_losses(
    new: &SuiteResult,
    old: &SuiteResult,
    (challenger, other): (&Evaluation, &Evaluation),
    margins: Margins,
    level: f64,
) -> Result<Evidence, String> {
    let suite = &new.suite;
    let tokens = |result: &SuiteResult| result.row_nll.iter().map(|(_, tokens)| *tokens).collect::<Vec<_>>();
    if tokens(new) != tokens(old) {
        return Err(format!("{suite} was not measured on the same tokens"));
    }
    let num_tokens: f64 = new.row_nll.iter().map(|(_, tokens)| f64::from(*tokens)).sum();
    let total = |result: &SuiteResult| result.row_nll.iter().map(|(nll, _)| nll).sum::<f64>();
    let (new_total, old_total) = (total(new), total(old));
    if num_tokens == 0.0 || !new_total.is_finite() || !old_total.is_finite() {
        return Err(format!("{suite} has no finite loss"));
    }
    let pairs = new.row_nll.iter().zip(&old.row_nll);
    let rows: Vec<(f64, f64)> = pairs.map(|((new, tokens), (old, _))| (old - new, f64::from(*tokens))).collect();
    let seed = seed_of(&[suite, &challenger.manifest_hash, &other.manifest_hash]);
    let gain = loss_gain(&rows, num_tokens, margins.min_gain, level, seed);
    Ok(Evidence {
        suite: suite.clone(),
        measure: Measure::Loss,
        rows: rows.len() as u64,
        challenger: new_total / num_tokens,
        champion: old_total / num_tokens,
        gain: gain.value,
        interval: gain.interval,
        gained: 0,
        lost: 0,
        p_value: gain.p_value,
        level,
        finding: EvidenceFinding::CannotTell,
    })
}

/// Of rows `(gain in nats, tokens)`.
fn loss_gain(rows: &[(f64, f64)], num_tokens: f64, min_gain: f64, level: f64, seed: u64) -> Gain {
    let value = rows.iter().map(|(gain, _)| gain).sum::<f64>() / num_tokens;
    if rows.len() < 2 {
        return Gain { value, interval: None, p_value: 1.0 };
    }
    let count = rows.len() as f64;
    let squares: f64 = rows.iter().map(|(gain, tokens)| (gain - value * tokens).powi(2)).sum();
    let standard_error = (squares * count / (count - 1.0)).sqrt() / num_tokens;
    let margin = stats::student_quantile(TAIL, count - 1.0) * standard_error;
    let (mut low, mut high) = (value - margin, value + margin);
    let distance = value - min_gain;
    let mut p_value = match () {
        () if distance <= 0.0 => 1.0,
        // Every row says exactly the same.
        () if standard_error == 0.0 => 0.0,
        () => stats::student_tail(distance / standard_error, count - 1.0),
    };
    let redraws = redraw(rows, seed);
    if let Some((drawn_low, drawn_high)) = redraws.interval(TAIL) {
        (low, high) = (low.min(drawn_low), high.max(drawn_high));
    }
    if redraws.resolve(level) {
        p_value = p_value.max(redraws.share_at_most(min_gain));
    }
    Gain { value, interval: Some((low, high)), p_value }
}

fn of_answers(new: &SuiteResult, old: &SuiteResult, settings: &Settings, margins: Margins) -> Result<Evidence, String> {
    let suite = &new.suite;
    let (new_answers, old_answers) = (new.answers.as_deref().unwrap_or(&[]), old.answers.as_deref().unwrap_or(&[]));
    if new_answers.len() != old_answers.len() || new_answers.is_empty() {
        return Err(format!("{suite} was not answered on the same questions"));
    }
    for result in [new, old] {
        let errored = result.num_answers(AnswerOutcome::Errored) as f64 / new_answers.len() as f64;
        if errored > settings.max_errored_share {
            let (found, bound) = (errored * 100.0, settings.max_errored_share * 100.0);
            return Err(format!("{found:.1} % of the answers of {suite} errored, more than {bound:.1} %"));
        }
    }
    let judged =
        |(a, b): &(&AnswerOutcome, &AnswerOutcome)| **a != AnswerOutcome::Errored && **b != AnswerOutcome::Errored;
    let pairs: Vec<(bool, bool)> = new_answers
        .iter()
        .zip(old_answers)
        .filter(judged)
        .map(|(a, b)| (*a == AnswerOutcome::Right, *b == AnswerOutcome::Right))
        .collect();
    if pairs.is_empty() {
        return Err(format!("no question of {suite} was judged for both"));
    }
    let count = |pick: fn(&(bool, bool)) -> bool| pairs.iter().filter(|pair| pick(pair)).count() as u64;
    let (gained, lost, num) = (count(|(a, b)| *a && !b), count(|(a, b)| !a && *b), pairs.len() as u64);
    let mut p_value = stats::mcnemar(gained, lost);
    if margins.min_gain > 0.0 {
        p_value = p_value.max(stats::normal_tail(stats::paired_share_score(gained, lost, num, margins.min_gain)));
    }
    let share = |right: u64| right as f64 / num as f64;
    Ok(Evidence {
        suite: suite.clone(),
        measure: Measure::RightAnswers,
        rows: num,
        challenger: share(count(|(a, _)| *a)),
        champion: share(count(|(_, b)| *b)),
        gain: share(gained) - share(lost),
        interval: Some(stats::paired_share_interval(gained, lost, num, stats::normal_quantile(TAIL))),
        gained,
        lost,
        p_value,
        level: 0.0,
        finding: EvidenceFinding::CannotTell,
    })
}
