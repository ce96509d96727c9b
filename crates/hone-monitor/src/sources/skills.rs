//! `curriculum` and `skill_metrics`: where the model stands in each skill, and how right its answers are.
//!
//! `curriculum`: `{skills: [{skill, level, total_levels, setbacks, reason, at_ms, moves: [{from, to, checkpoint, reason,
//! at_ms}]}]}`; moves newest first, `reason` and `at_ms` of the newest.
//!
//! `skill_metrics`: `{skills: [{skill, levels: [{level, latest, num_questions, base, trained, trained_checkpoint, history:
//! [{checkpoint, at_ms, accuracy, questions, unparsed, cut, errored}]}]}]}`. `history` holds evaluations on fresh questions,
//! oldest first, and `latest` the newest of them; `base` and `trained` are shares of right answers of the base model and of
//! the champion to the same sealed questions, absent where they were not asked.

use hone_pipeline::curriculum::{SkillEvaluation, SkillProgress};
use hone_pipeline::ids::CheckpointId;
use hone_pipeline::state::State;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Moves listed of each skill.
const MAX_MOVES: usize = 20;
/// The base model.
const BASE: CheckpointId = CheckpointId(0);

pub(crate) fn curriculum(state: &State) -> Value {
    json!({ "skills": state.curriculum.values().map(standing).collect::<Vec<_>>() })
}

fn standing(progress: &SkillProgress) -> Value {
    let newest = progress.moves.last();
    let moves = progress.moves.iter().rev().take(MAX_MOVES).map(|step| {
        json!({
            "from": step.from,
            "to": step.to,
            "checkpoint": step.checkpoint.map(|id| id.to_string()),
            "reason": step.reason,
            "at_ms": step.at_ms,
        })
    });
    json!({
        "skill": progress.skill,
        "level": progress.level,
        "total_levels": progress.total_levels,
        "setbacks": progress.setbacks,
        "reason": newest.map(|step| &step.reason),
        "at_ms": newest.map(|step| step.at_ms),
        "moves": moves.collect::<Vec<_>>(),
    })
}

pub(crate) fn metrics(state: &State) -> Value {
    let of_skill = |progress: &SkillProgress| {
        let asked: BTreeSet<u32> = progress.history.iter().map(|evaluation| evaluation.level).collect();
        let levels: Vec<Value> = asked.into_iter().map(|level| of_level(state, progress, level)).collect();
        json!({ "skill": progress.skill, "levels": levels })
    };
    json!({ "skills": state.curriculum.values().map(of_skill).collect::<Vec<_>>() })
}

fn of_level(state: &State, progress: &SkillProgress, level: u32) -> Value {
    let evaluations: Vec<&SkillEvaluation> = progress.history.iter().filter(|e| e.level == level).collect();
    let newest = evaluations.last();
    let suite = format!("{}/{level}", progress.skill);
    let share = |id: CheckpointId| state.evaluations.get(&id)?.result(&suite)?.share_right();
    json!({
        "level": level,
        "latest": newest.and_then(|evaluation| evaluation.accuracy()),
        "num_questions": newest.map(|evaluation| evaluation.judged()),
        "base": share(BASE),
        "trained": state.champion.and_then(share),
        "trained_checkpoint": state.champion.map(|id| id.to_string()),
        "history": evaluations.iter().map(|evaluation| point(evaluation)).collect::<Vec<_>>(),
    })
}

fn point(evaluation: &SkillEvaluation) -> Value {
    json!({
        "checkpoint": evaluation.checkpoint.0,
        "at_ms": evaluation.at_ms,
        "accuracy": evaluation.accuracy(),
        "questions": evaluation.judged(),
        "unparsed": evaluation.unparsed,
        "cut": evaluation.cut,
        "errored": evaluation.errored,
    })
}
