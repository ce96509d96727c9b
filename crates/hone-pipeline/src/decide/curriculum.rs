//! Levels of skills: what evaluations and people move. The rules are those of [`crate::curriculum`].

use super::device::in_force;
use super::draft::Draft;
use crate::curriculum::{self, SkillEvaluation, SkillProgress};
use crate::event::Effect;
use crate::ids::{CheckpointId, LeaseToken};
use crate::state::{Change, Work};

/// Evaluations whose answers may wait for their verdict; beyond, the oldest is given up.
pub const MAX_OPEN_EXAMS: usize = 8;

/// Answers lie on disk: from here on their verdict is owed, also by the next daemon.
pub(super) fn answered(draft: &mut Draft, checkpoint: CheckpointId, token: LeaseToken) {
    let lease = in_force(draft.state(), token);
    if lease.is_none_or(|lease| lease.work != (Work::Evaluate { checkpoint })) {
        let message = format!("answers of {checkpoint} refused: the lease is not in force");
        return draft.warning("stale_worker", token, message);
    }
    let mut exams = draft.state().open_exams.clone();
    exams.insert(checkpoint, token);
    while exams.len() > MAX_OPEN_EXAMS {
        let Some((oldest, _)) = exams.pop_first() else { break };
        draft.warning("exam_given_up", oldest, "its answers were never judged, and newer ones wait");
    }
    draft.put(Change::SetOpenExams { exams });
    draft.effect(Effect::JudgeExams { checkpoint, token });
}

pub(super) fn judged(draft: &mut Draft, checkpoint: CheckpointId, token: LeaseToken) {
    let mut exams = draft.state().open_exams.clone();
    if exams.get(&checkpoint) == Some(&token) {
        exams.remove(&checkpoint);
        draft.put(Change::SetOpenExams { exams });
    }
}

pub(super) fn recover(draft: &mut Draft) {
    for (checkpoint, token) in draft.state().open_exams.clone() {
        draft.effect(Effect::JudgeExams { checkpoint, token });
    }
}

/// Results count only for the checkpoint whose files answered.
pub(super) fn scored(
    draft: &mut Draft,
    skill: &str,
    total_levels: u32,
    manifest_hash: &str,
    evaluation: &SkillEvaluation,
) {
    let id = evaluation.checkpoint;
    if draft.state().checkpoints.get(&id).map(|c| c.manifest_hash.as_str()) != Some(manifest_hash) {
        return draft.error(
            "skill_refused",
            id,
            format!("answers to {skill} are of other files than the checkpoint's"),
        );
    }
    let evaluation = SkillEvaluation { at_ms: draft.now, ..evaluation.clone() };
    let known = SkillProgress { total_levels, ..draft.state().skill(skill) };
    let (next, step) = curriculum::record(&known, evaluation.clone(), &draft.settings.curriculum);
    if next == draft.state().skill(skill) {
        return;
    }
    put(draft, next);
    let shown = evaluation.accuracy().map_or("no verdict".to_string(), |accuracy| format!("{:.1} %", 100.0 * accuracy));
    let problem =
        evaluation.problem(&draft.settings.curriculum).map_or(String::new(), |p| format!("; no evidence: {p}"));
    let (level, judged) = (evaluation.level, evaluation.judged());
    draft.info("skill_scored", id, format!("{skill} level {level}: {shown} of {judged} questions{problem}"));
    if let Some(step) = step {
        let (kind, way) = if step.to > step.from { ("level_up", "up") } else { ("level_down", "down") };
        draft.info(kind, skill, format!("{skill} goes {way} to level {}: {}", step.to, step.reason));
    }
}

pub(super) fn set_level(draft: &mut Draft, skill: &str, level: u32) -> Result<String, String> {
    let progress = find(draft, skill)?;
    let top = if progress.total_levels == 0 { u32::MAX } else { progress.total_levels };
    if !(1..=top).contains(&level) {
        return Err(format!("{skill} has no level {level} (levels 1 to {top})"));
    }
    put(draft, curriculum::set_level(&progress, level, "by hand", draft.now));
    draft.info("level_set", skill, format!("{skill} set to level {level} by hand"));
    Ok(format!("{skill} is at level {level}"))
}

pub(super) fn reset(draft: &mut Draft, skill: &str) -> Result<String, String> {
    let total_levels = find(draft, skill)?.total_levels;
    put(draft, SkillProgress { total_levels, ..SkillProgress::new(skill) });
    draft.info("skill_reset", skill, format!("level and history of {skill} were forgotten by hand"));
    Ok(format!("{skill} begins again at level 1"))
}

fn find(draft: &Draft, skill: &str) -> Result<SkillProgress, String> {
    let (state, configured) = (draft.state(), &draft.settings.curriculum.skills);
    if state.curriculum.contains_key(skill) || configured.iter().any(|name| name == skill) {
        return Ok(state.skill(skill));
    }
    let known = configured.join(", ");
    Err(format!("there is no skill {skill} (configured: {})", if known.is_empty() { "none" } else { &known }))
}

fn put(draft: &mut Draft, progress: SkillProgress) {
    let mut skills = draft.state().curriculum.clone();
    skills.insert(progress.skill.clone(), progress);
    draft.put(Change::SetCurriculum { skills });
}
