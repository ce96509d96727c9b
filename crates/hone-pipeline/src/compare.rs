//! Which of two checkpoints is better, and by what evidence. Pure.
//!
//! Only results with one fingerprint but for the checkpoint are compared: the same bytes of the suite, the same chat
//! template, the same numbers, the same engine. [`evidence`] says what each suite shows, [`budget`] how sure a look
//! must be so that a stream of equal challengers does not end in a promotion by luck, and this module what follows.

pub mod bootstrap;
pub mod budget;
pub mod evidence;
pub mod score;
pub mod stats;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use crate::config::{PromotionPolicy, Settings};
use crate::state::{AnswerOutcome, Budget, Evaluation, Evidence, EvidenceFinding, Judgement, Outcome, TimeMs};

/// The level at which a checkpoint is called worse than its parent, over all suites together.
pub const REGRESSION_LEVEL: f64 = 0.005;
/// p-values are taken as within this of 0 and 1 when they are combined.
const LEAST_P: f64 = 1e-12;

/// Holds a challenger against the champion. `past` are the judgements so far, from which the error budget that is left
/// to this champion follows. Without a champion the challenger becomes the first one, whatever its evaluation says.
#[must_use]
pub fn judge<'a>(
    challenger: &Evaluation,
    champion: Option<&Evaluation>,
    past: impl IntoIterator<Item = &'a Judgement>,
    settings: &Settings,
    at_ms: TimeMs,
) -> Judgement {
    let mut judgement = Judgement {
        challenger: challenger.checkpoint,
        champion: champion.map(|evaluation| evaluation.checkpoint),
        outcome: Outcome::Promote,
        reason: format!("{} is the first champion", challenger.checkpoint),
        at_ms,
        evidence: Vec::new(),
        budget: None,
    };
    let Some(champion) = champion else { return judgement };
    let names = format!("{} against {}", challenger.checkpoint, champion.checkpoint);
    let budget = budget::next_look(settings.error_budget, champion.checkpoint, past);
    let level = budget.spent / challenger.suites.len().max(1) as f64;
    let manual = settings.promotion_policy == PromotionPolicy::Manual;
    match evidence::evidence(challenger, champion, settings, level) {
        Err(problem) => {
            judgement.outcome = if manual { Outcome::Manual } else { Outcome::CannotTell };
            judgement.reason = format!("{names}: {problem}");
        }
        Ok(evidence) => {
            let (outcome, verdict) = match settings.promotion_policy {
                PromotionPolicy::Manual => (Outcome::Manual, "only people promote here".to_string()),
                PromotionPolicy::NotWorse => not_worse(&evidence, &budget),
                PromotionPolicy::Better => better(&evidence, &budget),
            };
            let (outcome, verdict) = match unusable(challenger, settings) {
                Some(problem) if outcome == Outcome::Promote => (Outcome::CannotTell, problem),
                _ => (outcome, verdict),
            };
            let shown: Vec<String> = evidence.iter().map(evidence::describe).collect();
            judgement.outcome = outcome;
            judgement.reason = format!("{names}: {}; {verdict}", shown.join("; "));
            judgement.evidence = evidence;
            // A look at which nothing could be promoted uses nothing.
            judgement.budget = (!manual).then_some(budget);
        }
    }
    judgement
}

/// Says on what a checkpoint is worse than the one it was trained from, beyond the margin; `None` when it is not or
/// when that cannot be told.
#[must_use]
pub fn regression(checkpoint: &Evaluation, parent: &Evaluation, settings: &Settings) -> Option<String> {
    let level = REGRESSION_LEVEL / checkpoint.suites.len().max(1) as f64;
    let evidence = evidence::evidence(checkpoint, parent, settings, level).ok()?;
    let mirrored = evidence::evidence(parent, checkpoint, settings, level).ok()?;
    let surely = |worse: &&Evidence| {
        let parent_is_better = mirrored.iter().any(|other| other.suite == worse.suite && other.p_value <= level);
        worse.finding == EvidenceFinding::Worse && parent_is_better
    };
    let worse: Vec<String> = evidence.iter().filter(surely).map(evidence::describe).collect();
    (!worse.is_empty()).then(|| format!("worse than {}: {}", parent.checkpoint, worse.join("; ")))
}

/// Not worse on any suite and better on at least one.
fn not_worse(evidence: &[Evidence], budget: &Budget) -> (Outcome, String) {
    if let Some(verdict) = held_by_one(evidence) {
        return verdict;
    }
    match named(evidence, |e| e.finding == EvidenceFinding::Better) {
        Some(names) => (Outcome::Promote, format!("better on {names} and not worse on any{}", at_look(budget))),
        None => {
            let nearest = evidence.iter().map(|e| e.p_value).fold(1.0, f64::min);
            let needed = evidence.first().map_or(0.0, |e| e.level);
            let why = format!("p {} where {} is needed", show(nearest), show(needed));
            (Outcome::CannotTell, format!("not worse on any, but not surely better on one ({why}{})", at_look(budget)))
        }
    }
}

/// Better over all suites together (Stouffer's combination of the suites' p-values), and surely worse on none.
fn better(evidence: &[Evidence], budget: &Budget) -> (Outcome, String) {
    if let Some(names) = named(evidence, |e| e.finding == EvidenceFinding::Worse) {
        return (Outcome::Worse, format!("worse on {names}"));
    }
    let z = |e: &Evidence| stats::normal_quantile(e.p_value.clamp(LEAST_P, 1.0 - LEAST_P));
    let p_value = stats::normal_tail(evidence.iter().map(z).sum::<f64>() / (evidence.len() as f64).sqrt());
    let why = format!("p {} where {} is needed{}", show(p_value), show(budget.spent), at_look(budget));
    if p_value <= budget.spent {
        (Outcome::Promote, format!("better over all suites together ({why})"))
    } else {
        (Outcome::CannotTell, format!("not surely better over all suites together ({why})"))
    }
}

/// One suite that is or may be worse holds the promotion, however good the others are.
fn held_by_one(evidence: &[Evidence]) -> Option<(Outcome, String)> {
    if let Some(names) = named(evidence, |e| e.finding == EvidenceFinding::Worse) {
        return Some((Outcome::Worse, format!("worse on {names}")));
    }
    let names = named(evidence, |e| e.finding == EvidenceFinding::CannotTell)?;
    Some((Outcome::CannotTell, format!("cannot tell whether it is worse on {names}")))
}

/// Why the answers of a challenger are too odd to promote it.
fn unusable(challenger: &Evaluation, settings: &Settings) -> Option<String> {
    let share = |result: &crate::state::SuiteResult| {
        let kinds = [AnswerOutcome::Cut, AnswerOutcome::Empty, AnswerOutcome::Unparsable];
        let count: u64 = kinds.into_iter().map(|kind| result.num_answers(kind)).sum();
        count as f64 / result.answers.as_ref().map_or(1, Vec::len).max(1) as f64
    };
    let (result, share) =
        challenger.suites.iter().map(|s| (s, share(s))).find(|(_, s)| *s > settings.max_unusable_share)?;
    let (found, bound) = (share * 100.0, settings.max_unusable_share * 100.0);
    Some(format!(
        "no verdict: {found:.1} % of the answers of {} are cut, empty or unparsable, more than {bound:.1} %",
        result.suite
    ))
}

fn named(evidence: &[Evidence], pick: impl Fn(&Evidence) -> bool) -> Option<String> {
    let names: Vec<&str> = evidence.iter().filter(|e| pick(e)).map(|e| e.suite.as_str()).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

fn at_look(budget: &Budget) -> String {
    format!("; look {}, {:.2} % of the error budget left", budget.look, budget.left * 100.0)
}

fn show(p: f64) -> String {
    if p != 0.0 && p < 1e-4 { format!("{p:.1e}") } else { format!("{p:.4}") }
}
