//! Which level of each skill a model has reached. Pure: an evaluation comes in, the level stays or moves by one.
//!
//! *Evidence* for a level are evaluations since the level was entered, one per checkpoint (the newest), each over at
//! least `eval_samples` judged questions, and few of them cut short. The level goes **up** when the last
//! `window` of them average at least the pass threshold, none being unparsable beyond a bound; **down** when they
//! average below `demote_below`. The lowest and the highest level stay. An answer that could not be judged counts neither as
//! right nor as wrong; an unparsable one counts as wrong, but blocks no way down.
//!
//! A model that has just passed a level knows little of the next one: it is *arriving* until it was once above `demote_below`
//! there. The way down stays closed meanwhile for two windows, and then as long as it surely climbs from window to window. Sent
//! back at once, it would not be trained on the level that it has to learn.
//!
//! After a step back the way up takes longer (twice, three, at most [`MAX_CAUTION`] times the window), until the level
//! that was lost is passed: a model on the edge does not go back and forth.
//!
//! Stored as the singleton `curriculum` of the database. A hone that does not know it ignores it and asks for level 1; a
//! database without it is one in which every skill is at level 1 without history.

use crate::ids::CheckpointId;
use crate::state::TimeMs;
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// Evaluations that are kept for each skill.
pub const MAX_HISTORY: usize = 200;
/// Moves that are kept for each skill.
pub const MAX_MOVES: usize = 50;
/// How many times the window a step up takes at most after steps back.
pub const MAX_CAUTION: u32 = 4;

/// The `curriculum` group of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurriculumSettings {
    /// Whether evaluations ask skills at all.
    pub enabled: bool,
    /// Names of the configured skills.
    pub skills: Vec<String>,
    /// Fewest judged questions of an evaluation that counts.
    pub eval_samples: u64,
    /// Evaluations that decide together.
    pub window: usize,
    /// Average accuracy for the next level, where the skill's level names none.
    pub promote_at: f64,
    /// Average accuracy below which the level before is trained again.
    pub demote_below: f64,
    /// Share of answers cut by the token limit above which an evaluation does not count.
    pub max_cut_share: f64,
    /// Share of unparsable answers above which an evaluation does not count for a step up.
    pub max_unparsed_share: f64,
}

impl Default for CurriculumSettings {
    fn default() -> Self {
        CurriculumSettings {
            enabled: true,
            skills: Vec::new(),
            eval_samples: 300,
            window: 3,
            promote_at: 0.8,
            demote_below: 0.5,
            max_cut_share: 0.1,
            max_unparsed_share: 0.1,
        }
    }
}

/// Where a model stands in one skill.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SkillProgress {
    /// The skill's configured name.
    pub skill: String,
    /// Its level, from 1.
    pub level: u32,
    /// Levels of the skill; 0 before it was asked.
    #[serde(default)]
    pub total_levels: u32,
    /// Counts the times a level was entered: an evaluation is evidence within its own visit only.
    #[serde(default = "first_visit")]
    pub visit: u32,
    /// Steps back since a level was last passed for good.
    #[serde(default)]
    pub setbacks: u32,
    /// The level that was last lost; 0 for none.
    #[serde(default)]
    pub lost_level: u32,
    /// Evaluations, oldest first.
    #[serde(default)]
    pub history: Vec<SkillEvaluation>,
    /// Moves, oldest first.
    #[serde(default)]
    pub moves: Vec<Move>,
}

fn first_visit() -> u32 {
    1
}

/// Answers of one checkpoint to fresh questions of one level.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SkillEvaluation {
    /// The checkpoint that answered.
    pub checkpoint: CheckpointId,
    /// The skill's own version.
    pub version: String,
    /// The level of the questions.
    pub level: u32,
    /// The seed that makes the questions again (split `eval`).
    pub seed: u64,
    /// Questions asked, all different.
    pub questions: u64,
    /// Right answers.
    pub solved: u64,
    /// Answers that could not be read.
    pub unparsed: u64,
    /// Answers that the token limit cut short.
    pub cut: u64,
    /// Answers without any text.
    pub empty: u64,
    /// Questions without a verdict: neither right nor wrong.
    pub errored: u64,
    /// The level's own threshold, if the skill names one.
    #[serde(default)]
    pub pass_threshold: Option<f64>,
    /// When it was judged.
    pub at_ms: TimeMs,
    /// The visit it belongs to; 0 when the level had changed meanwhile. Set by [`record`].
    #[serde(default)]
    pub visit: u32,
}

/// A change of level.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Move {
    /// The level before.
    pub from: u32,
    /// The level after.
    pub to: u32,
    /// The last checkpoint of the evidence; none for a person's decision.
    pub checkpoint: Option<CheckpointId>,
    /// A plain sentence.
    pub reason: String,
    /// When.
    pub at_ms: TimeMs,
}

impl SkillProgress {
    /// A skill that nothing is known about: level 1.
    #[must_use]
    pub fn new(skill: &str) -> SkillProgress {
        SkillProgress {
            skill: skill.to_string(),
            level: 1,
            total_levels: 0,
            visit: first_visit(),
            setbacks: 0,
            lost_level: 0,
            history: Vec::new(),
            moves: Vec::new(),
        }
    }

    /// The newest evaluation at the level of now.
    #[must_use]
    pub fn latest(&self) -> Option<&SkillEvaluation> {
        self.history.iter().rev().find(|evaluation| evaluation.level == self.level)
    }

    /// How many evaluations a step up takes now.
    #[must_use]
    pub fn needed(&self, settings: &CurriculumSettings) -> usize {
        settings.window.max(1) * (1 + self.setbacks).min(MAX_CAUTION) as usize
    }

    /// Evaluations that count for the level of now, one per checkpoint, oldest first.
    #[must_use]
    pub fn evidence(&self, settings: &CurriculumSettings) -> Vec<&SkillEvaluation> {
        let of_visit = |e: &&SkillEvaluation| e.visit == self.visit;
        let mut evidence: Vec<&SkillEvaluation> = Vec::new();
        for evaluation in self.history.iter().filter(of_visit).filter(|e| e.problem(settings).is_none()) {
            evidence.retain(|earlier| earlier.checkpoint != evaluation.checkpoint);
            evidence.push(evaluation);
        }
        evidence
    }
}

impl SkillEvaluation {
    /// Questions with a verdict.
    #[must_use]
    pub fn judged(&self) -> u64 {
        self.questions.saturating_sub(self.errored)
    }

    /// Share of right answers among the judged ones; none without a judged one.
    #[must_use]
    pub fn accuracy(&self) -> Option<f64> {
        (self.judged() > 0).then(|| self.solved as f64 / self.judged() as f64)
    }

    /// Why it is no evidence at all.
    #[must_use]
    pub fn problem(&self, settings: &CurriculumSettings) -> Option<String> {
        let judged = self.judged();
        if judged < settings.eval_samples.max(1) {
            return Some(format!("{judged} judged questions, {} are needed", settings.eval_samples.max(1)));
        }
        let cut = self.share(self.cut);
        (cut > settings.max_cut_share).then(|| format!("{:.0} % of the answers were cut short", 100.0 * cut))
    }

    fn share(&self, count: u64) -> f64 {
        count as f64 / self.judged().max(1) as f64
    }
}

/// Takes an evaluation in and says what it moves. One that is known already changes nothing.
#[must_use]
pub fn record(
    progress: &SkillProgress,
    evaluation: SkillEvaluation,
    settings: &CurriculumSettings,
) -> (SkillProgress, Option<Move>) {
    let mut next = progress.clone();
    let known = |e: &SkillEvaluation| {
        (e.checkpoint, e.level, e.seed) == (evaluation.checkpoint, evaluation.level, evaluation.seed)
    };
    if next.history.iter().any(known) {
        return (next, None);
    }
    let (checkpoint, at_ms) = (evaluation.checkpoint, evaluation.at_ms);
    let visit = if evaluation.level == next.level { next.visit } else { 0 };
    next.history.push(SkillEvaluation { visit, ..evaluation });
    let excess = next.history.len().saturating_sub(MAX_HISTORY);
    next.history.drain(..excess);
    let Some((to, reason)) = verdict(&next, settings) else { return (next, None) };
    let step = Move { from: next.level, to, checkpoint: Some(checkpoint), reason, at_ms };
    if to < step.from {
        (next.setbacks, next.lost_level) = (next.setbacks + 1, step.from);
    } else if to > next.lost_level {
        (next.setbacks, next.lost_level) = (0, 0);
    }
    enter(&mut next, step.clone());
    (next, Some(step))
}

/// A person's decision. Nothing that was measured before counts for the level that is entered.
#[must_use]
pub fn set_level(progress: &SkillProgress, level: u32, reason: &str, now: TimeMs) -> SkillProgress {
    let mut next = progress.clone();
    (next.setbacks, next.lost_level) = (0, 0);
    let step = Move { from: next.level, to: level, checkpoint: None, reason: reason.to_string(), at_ms: now };
    enter(&mut next, step);
    next
}

fn enter(progress: &mut SkillProgress, step: Move) {
    progress.level = step.to;
    progress.visit += 1;
    progress.moves.push(step);
    let excess = progress.moves.len().saturating_sub(MAX_MOVES);
    progress.moves.drain(..excess);
}

/// The level that the evidence leads to, and the sentence why; none when it stays.
fn verdict(progress: &SkillProgress, settings: &CurriculumSettings) -> Option<(u32, String)> {
    let evidence = progress.evidence(settings);
    let window = settings.window.max(1);
    let recent = evidence.get(evidence.len().checked_sub(window)?..)?;
    let down = average(recent)?;
    // A model that is at the floor again goes on, whatever it was before.
    let is_back = recent.last().and_then(|last| last.accuracy()).is_some_and(|share| share >= settings.demote_below);
    if down < settings.demote_below && !is_back && progress.level > 1 && !is_arriving(progress, &evidence, settings) {
        let bound = 100.0 * settings.demote_below;
        let reason = format!("the last {window} evaluations average {:.1} %, below {bound:.0} %", 100.0 * down);
        return Some((progress.level - 1, reason));
    }
    let needed = progress.needed(settings);
    let last = evidence.get(evidence.len().checked_sub(needed)?..)?;
    let threshold = last.last()?.pass_threshold.unwrap_or(settings.promote_at);
    let readable = last.iter().all(|e| e.share(e.unparsed) <= settings.max_unparsed_share);
    let up = average(last)?;
    if up >= threshold && readable && progress.level < progress.total_levels {
        let (up, bound) = (100.0 * up, 100.0 * threshold);
        return Some((
            progress.level + 1,
            format!("the last {needed} evaluations average {up:.1} %, at least {bound:.0} %"),
        ));
    }
    None
}

/// Whether the level was entered from the one below, by evidence, and the model has not been above the floor there yet.
fn is_arriving(progress: &SkillProgress, evidence: &[&SkillEvaluation], settings: &CurriculumSettings) -> bool {
    let came_up = progress.moves.last().is_some_and(|step| step.to > step.from && step.checkpoint.is_some());
    let was_above = evidence.iter().any(|e| e.accuracy().is_some_and(|share| share >= settings.demote_below));
    if !came_up || was_above {
        return false;
    }
    let window = settings.window.max(1);
    let Some(from) = evidence.len().checked_sub(2 * window) else { return true };
    let (before, last) = evidence[from..].split_at(window);
    climbs(before, last)
}

/// Whether the share of right answers rose by more than three standard errors.
fn climbs(before: &[&SkillEvaluation], last: &[&SkillEvaluation]) -> bool {
    let counts = |evaluations: &[&SkillEvaluation]| {
        let judged: u64 = evaluations.iter().map(|e| e.judged()).sum();
        let solved: u64 = evaluations.iter().map(|e| e.solved).sum();
        (judged.max(1) as f64, solved as f64)
    };
    let ((judged_before, solved_before), (judged_last, solved_last)) = (counts(before), counts(last));
    let share = (solved_before + solved_last) / (judged_before + judged_last);
    let error = (share * (1.0 - share) * (1.0 / judged_before + 1.0 / judged_last)).sqrt();
    solved_last / judged_last - solved_before / judged_before > 3.0 * error
}

fn average(evaluations: &[&SkillEvaluation]) -> Option<f64> {
    let accuracies: Vec<f64> = evaluations.iter().filter_map(|e| e.accuracy()).collect();
    (!accuracies.is_empty()).then(|| accuracies.iter().sum::<f64>() / accuracies.len() as f64)
}
