//! Samples of the skills' `eval` splits as files, for the deep check to compare rows with: the sealed questions of a
//! level where they were drawn already, else a draw for this check.
//!
//! Exams draw fresh questions, so these are not the ones that will be asked there; but a file that was made of a skill's
//! `eval` split shares questions with any large draw of it, and a level with few distinct problems is drawn whole.

use crate::options::{LoopConfig, SkillEndpoint};
use crate::sealed;
use crate::skill::{SkillClient, SkillError, Split};
use anyhow::{Context, Result};
use hone_pipeline::content::{CompareFile, CompareRole};
use hone_pipeline::state::State;
use hone_store::Layout;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Schema of the files.
const SCHEMA_ID: &str = "chat_sft_v1";
/// Seed of the draws.
const SEED: u64 = 1;

/// For every configured skill and each level up to the one that is reached the file of its sealed questions; where there is
/// none, asks the skill for `eval` samples and writes them into `folder`. A skill that does not answer gives a file that is not there, so that the check says that it was
/// not compared.
///
/// # Errors
/// A file cannot be written.
pub fn write_skill_sets(
    layout: &Layout,
    state: &State,
    config: &LoopConfig,
    folder: &Path,
) -> Result<Vec<CompareFile>> {
    let mut files = Vec::new();
    for skill in &config.data_manager.skills {
        for level in 1..=state.skill(&skill.name).level {
            let set = format!("the evaluation set of {} at level {level}", skill.name);
            if let Some(path) = sealed::drawn(layout, &skill.name, level) {
                files.push(compare_file(set, path));
                continue;
            }
            let path = folder.join(format!("{}-{level}.jsonl", files.len()));
            let (name, rows) = match draw(skill, level, config) {
                Ok(rows) => (set, Some(rows)),
                Err(error) => (format!("{set} ({error})"), None),
            };
            hone_disk::create_dir(folder)?;
            hone_disk::remove_file(&path)?;
            if let Some(rows) = rows {
                hone_disk::write_atomic(&path, rows.as_bytes()).with_context(|| format!("keep {name}"))?;
            }
            files.push(compare_file(name, path));
        }
    }
    Ok(files)
}

fn compare_file(name: String, path: PathBuf) -> CompareFile {
    CompareFile { name, path, schema_id: SCHEMA_ID.to_string(), role: CompareRole::SkillEvaluation }
}

/// Samples as lines of JSON.
fn draw(skill: &SkillEndpoint, level: u32, config: &LoopConfig) -> Result<String, SkillError> {
    let (limits, count) = (&config.limits, config.settings.curriculum.eval_samples.max(1));
    let client =
        SkillClient::new(&skill.url, Duration::from_millis(limits.skill_call_ms), limits.skill_max_answer_bytes);
    let generated = client.generate(level, count, SEED, Split::Eval)?;
    Ok(generated.samples.iter().map(|sample| format!("{}\n", json!({"messages": sample.messages}))).collect())
}

#[cfg(test)]
mod tests;
