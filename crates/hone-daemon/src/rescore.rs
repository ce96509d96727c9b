//! Scoring a checkpoint's answers again: what it answered is on disk, the skills judge it, and nothing is generated. For a
//! checker that was mended, or a skill that could not be asked at the time. It changes nothing in the workspace: what was
//! decided was decided by what was known then.

#[cfg(test)]
mod tests;

use crate::exam::{self, Exam};
use crate::options::{LoopConfig, SkillEndpoint};
use crate::sealed::{self, Sealed};
use anyhow::{Context, Result};
use hone_pipeline::curriculum::SkillEvaluation;
use hone_pipeline::event::Event;
use hone_pipeline::ids::{CheckpointId, LeaseToken};
use hone_pipeline::state::{State, SuiteResult};
use hone_pipeline::wire::{Answer, EvalRequest};
use hone_store::Layout;
use std::path::PathBuf;

/// No lease is held.
const NO_LEASE: LeaseToken = LeaseToken(0);

/// The sealed suites of one checkpoint as they lie there.
pub struct Sets {
    /// What an `eval-job` would be asked now: what its answers were kept under.
    pub request: EvalRequest,
    sets: Vec<Sealed>,
}

/// The verdict on one suite.
#[derive(Clone, Debug, PartialEq)]
pub struct Rescored {
    /// As a new evaluation would have it.
    pub result: SuiteResult,
    /// How many of its questions have a kept answer; the others count as errored.
    pub num_kept: u64,
}

/// The sealed suites that a checkpoint was asked. No skill is asked and nothing is drawn.
///
/// # Errors
/// There is no such checkpoint, or a set cannot be read.
pub fn sets(layout: &Layout, state: &State, config: &LoopConfig, checkpoint: CheckpointId) -> Result<Sets> {
    let sets = sealed::as_drawn(layout, config)?;
    let mut request = crate::requests::evaluate(layout, state, config, checkpoint, NO_LEASE)?;
    request.questions = sealed::questions(&sets);
    Ok(Sets { request, sets })
}

impl Sets {
    /// What the skills say now about `answers`, the kept ones.
    #[must_use]
    pub fn score(&self, answers: &[Answer], config: &LoopConfig) -> Vec<Rescored> {
        let of = |set: &Sealed| {
            let asked = sealed::questions(std::slice::from_ref(set));
            let kept = |id: &str| answers.iter().any(|answer| answer.id == id);
            let num_kept = asked.iter().filter(|question| kept(&question.id)).count() as u64;
            Rescored { result: sealed::score(set, answers, config), num_kept }
        };
        self.sets.iter().map(of).collect()
    }
}

/// What the configured skills say now about a checkpoint's answers to fresh questions: per skill, in the order of the exams.
///
/// # Errors
/// Kept answers cannot be read, or a skill does not judge.
pub fn exams(
    layout: &Layout,
    state: &State,
    config: &LoopConfig,
    checkpoint: CheckpointId,
) -> Result<Vec<(String, SkillEvaluation)>> {
    let manifest_hash = state.checkpoints.get(&checkpoint).map(|record| record.manifest_hash.clone());
    let manifest_hash = manifest_hash.with_context(|| format!("find {checkpoint}"))?;
    let is_configured = |exam: &Exam| config.data_manager.skills.iter().any(|s: &SkillEndpoint| s.name == exam.skill);
    let mut scored = Vec::new();
    for run_dir in runs_of(layout, checkpoint)? {
        if !exam::is_kept(&run_dir) {
            continue;
        }
        for exam in exam::kept(&run_dir)?.iter().filter(|exam| is_configured(exam)) {
            let verdict = exam::score(exam, checkpoint, &manifest_hash, config)
                .with_context(|| format!("judge the answers to {}", exam.skill))?;
            if let Event::SkillScored { skill, evaluation, .. } = verdict {
                scored.push((skill, evaluation));
            }
        }
    }
    scored.sort_by_key(|(_, evaluation)| evaluation.seed);
    Ok(scored)
}

/// The folders of all evaluations of a checkpoint that are there.
fn runs_of(layout: &Layout, checkpoint: CheckpointId) -> Result<Vec<PathBuf>> {
    let around = layout.runs().join("evaluations");
    if !around.is_dir() {
        return Ok(Vec::new());
    }
    let mut runs = Vec::new();
    for entry in std::fs::read_dir(&around).with_context(|| format!("list {}", around.display()))? {
        let path = entry.context("list the evaluations")?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with(&format!("{checkpoint}-lease-")) {
            runs.push(path);
        }
    }
    Ok(runs)
}
