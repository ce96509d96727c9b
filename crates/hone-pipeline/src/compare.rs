//! Which of two checkpoints is better, and by what evidence. Pure.
//!
//! Only what was measured on the same bytes (suite hash) with the same chat template (hash) is compared. Per
//! suite the evidence is the paired difference of loss per trained token, challenger minus champion, with its
//! standard error over rows (ratio estimator; rows are the unit of chance, tokens of one row are not
//! independent). A difference tells when it lies [`Z`] standard errors away from its threshold.

use crate::config::{PromotionPolicy, Settings};
use crate::state::{Evaluation, Outcome, SuiteResult};
use std::fmt;

/// Standard errors that make a difference tell: 95 % two-sided.
pub const Z: f64 = 1.96;

/// The paired difference of two checkpoints on one suite.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Name of the suite.
    pub suite: String,
    /// Rows compared.
    pub rows: usize,
    /// The challenger's loss per trained token.
    pub challenger_nll: f64,
    /// The champion's.
    pub champion_nll: f64,
    /// Standard error of their difference; infinite with fewer than two rows.
    pub standard_error: f64,
}

/// Holds a challenger against the champion: the outcome and the sentence that decides. Without a champion the
/// challenger becomes the first one, whatever its evaluation says.
#[must_use]
pub fn judge(challenger: &Evaluation, champion: Option<&Evaluation>, settings: &Settings) -> (Outcome, String) {
    let Some(champion) = champion else {
        return (Outcome::Promote, format!("{} is the first champion", challenger.checkpoint));
    };
    let names = format!("{} against {}", challenger.checkpoint, champion.checkpoint);
    let differences = match differences(challenger, champion) {
        Ok(differences) => differences,
        Err(problem) => {
            let manual = settings.promotion_policy == PromotionPolicy::Manual;
            return (if manual { Outcome::Manual } else { Outcome::CannotTell }, format!("{names}: {problem}"));
        }
    };
    let (outcome, verdict) = match settings.promotion_policy {
        PromotionPolicy::Manual => (Outcome::Manual, "only people promote here".to_string()),
        PromotionPolicy::NotWorse => not_worse(&differences, settings),
        PromotionPolicy::Better => better(&differences, settings),
    };
    let evidence: Vec<String> = differences.iter().map(Difference::to_string).collect();
    (outcome, format!("{names}: {}; {verdict}", evidence.join("; ")))
}

impl Difference {
    /// How much lower the challenger's loss is.
    #[must_use]
    pub fn gain(&self) -> f64 {
        self.champion_nll - self.challenger_nll
    }

    fn margin(&self) -> f64 {
        Z * self.standard_error
    }

    fn is_better(&self, settings: &Settings) -> bool {
        let surely = self.gain() - self.margin();
        self.gain() > 0.0 && surely >= settings.min_gain && surely >= 0.0
    }

    fn is_worse(&self, settings: &Settings) -> bool {
        -self.gain() - self.margin() > settings.max_regression
    }

    fn is_not_worse(&self, settings: &Settings) -> bool {
        -self.gain() + self.margin() <= settings.max_regression
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (new, old, rows) = (self.challenger_nll, self.champion_nll, self.rows);
        write!(f, "{} loss {new:.4} against {old:.4} on {rows} rows ({:+.4} ± ", self.suite, -self.gain())?;
        if self.standard_error.is_finite() { write!(f, "{:.4})", self.margin()) } else { write!(f, "unknown)") }
    }
}

/// One difference per suite of the challenger, or why they cannot be had.
fn differences(challenger: &Evaluation, champion: &Evaluation) -> Result<Vec<Difference>, String> {
    for evaluation in [challenger, champion] {
        if let Some(error) = &evaluation.error {
            return Err(format!("{} could not be evaluated: {error}", evaluation.checkpoint));
        }
    }
    if challenger.suites.is_empty() {
        let number = challenger.checkpoint.0;
        return Err(format!("no evaluation suites; put files in validation/ or run `hone deploy {number}`"));
    }
    if challenger.template_hash != champion.template_hash {
        return Err("they were evaluated with different chat templates".to_string());
    }
    challenger.suites.iter().map(|suite| difference(suite, champion)).collect()
}

fn difference(new: &SuiteResult, champion: &Evaluation) -> Result<Difference, String> {
    let suite = &new.suite;
    let same = |other: &&SuiteResult| other.suite == new.suite && other.suite_hash == new.suite_hash;
    let old = champion.suites.iter().find(same);
    let old = old.ok_or_else(|| format!("{} was not evaluated on the same {suite}", champion.checkpoint))?;
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
    let (challenger_nll, champion_nll) = (new_total / num_tokens, old_total / num_tokens);
    let mean = challenger_nll - champion_nll;
    let pairs = new.row_nll.iter().zip(&old.row_nll);
    let residuals = pairs.map(|((new, tokens), (old, _))| new - old - mean * f64::from(*tokens));
    let squares: f64 = residuals.map(|residual| residual * residual).sum();
    let rows = new.row_nll.len();
    let standard_error = match rows {
        0 | 1 => f64::INFINITY,
        _ => (squares * rows as f64 / (rows - 1) as f64).sqrt() / num_tokens,
    };
    Ok(Difference { suite: suite.clone(), rows, challenger_nll, champion_nll, standard_error })
}

/// Not worse on any suite and better on at least one.
fn not_worse(differences: &[Difference], settings: &Settings) -> (Outcome, String) {
    let named = |pick: &dyn Fn(&Difference) -> bool| {
        let names: Vec<&str> = differences.iter().filter(|d| pick(d)).map(|d| d.suite.as_str()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    if let Some(names) = named(&|d| d.is_worse(settings)) {
        return (Outcome::Worse, format!("worse on {names}"));
    }
    if let Some(names) = named(&|d| !d.is_not_worse(settings)) {
        return (Outcome::CannotTell, format!("cannot tell whether it is worse on {names}"));
    }
    match named(&|d| d.is_better(settings)) {
        Some(names) => (Outcome::Promote, format!("better on {names} and not worse on any")),
        None => (Outcome::CannotTell, "not worse on any, but not surely better on one".to_string()),
    }
}

/// Better on the mean over suites, each with the same weight.
fn better(differences: &[Difference], settings: &Settings) -> (Outcome, String) {
    let count = differences.len() as f64;
    let mean = |pick: fn(&Difference) -> f64| differences.iter().map(pick).sum::<f64>() / count;
    let variance: f64 = differences.iter().map(|d| d.standard_error * d.standard_error).sum();
    let over_all = Difference {
        suite: "mean".to_string(),
        rows: differences.iter().map(|d| d.rows).sum(),
        challenger_nll: mean(|d| d.challenger_nll),
        champion_nll: mean(|d| d.champion_nll),
        standard_error: variance.sqrt() / count,
    };
    if over_all.is_better(settings) {
        (Outcome::Promote, format!("better on average ({over_all})"))
    } else if over_all.is_worse(settings) {
        (Outcome::Worse, format!("worse on average ({over_all})"))
    } else {
        (Outcome::CannotTell, format!("not surely better on average ({over_all})"))
    }
}

#[cfg(test)]
mod tests;
