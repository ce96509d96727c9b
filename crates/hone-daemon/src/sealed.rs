//! Sealed suites: for each configured skill and level one fixed set of questions of the `eval` split, the same for every
//! checkpoint, so that two checkpoints are compared by their answers to the same questions.
//!
//! A set is drawn once, when the skill first stands at the level, and lies in `validation/skills/SKILL-LEVEL.jsonl`, one
//! sample a line (`{"id", "messages", "metadata"}`), with a sidecar that tells skill, version, level and seed. It is drawn
//! again only when the skill tells another version; checkpoints are then evaluated on it anew, as they are when the limit of
//! an answer's tokens changes. Fresh questions, which move levels, are the business of `exam`.
//!
//! Answers that the skill cannot judge count as errored: neither right nor wrong, and no verdict follows from them.

#[cfg(test)]
mod tests;

use crate::exam::{client_under_lease, is_cut, question, verify};
use crate::inbox::Sidecar;
use crate::options::{LoopConfig, SkillEndpoint};
use crate::skill::{Sample, SkillClient, Split};
use anyhow::{Context, Result, anyhow};
use hone_pipeline::state::{AnswerOutcome, State, SuiteResult};
use hone_pipeline::wire::{Answer, Question};
use hone_store::Layout;
use hone_store::datasets::sidecar_of;
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// The seed of every set, apart from those of training data (from 1 on) and of exams (from 2^40 on).
const SEED: u64 = 1 << 50;

/// One set.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sealed {
    /// `SKILL/LEVEL`.
    pub suite: String,
    pub url: String,
    pub level: u32,
    /// BLAKE3 of all that a result depends on beside the checkpoint: the questions, the version of the skill that judges, and
    /// the longest answer.
    pub hash: String,
    pub samples: Vec<Sample>,
}

/// The sets in force: of every configured skill those of the levels that it has reached. `alive` is called before each call of
/// a skill that may take long.
pub(crate) fn prepare(layout: &Layout, state: &State, config: &LoopConfig, alive: &dyn Fn()) -> Vec<Sealed> {
    if config.sealed_questions == 0 {
        return Vec::new();
    }
    let of = |skill: &SkillEndpoint| of_skill(layout, state, config, skill, alive);
    config.data_manager.skills.iter().flat_map(of).collect()
}

/// A level whose set cannot be had now is left out, and no other with it.
fn of_skill(
    layout: &Layout,
    state: &State,
    config: &LoopConfig,
    skill: &SkillEndpoint,
    alive: &dyn Fn(),
) -> Vec<Sealed> {
    alive();
    let client = client_under_lease(&skill.url, config);
    // A set that lies there is in force whether its skill answers now or not.
    let version = client.info().ok().map(|info| info.version);
    let reached = state.skill(&skill.name).level;
    let mut sets = Vec::new();
    for level in 1.. {
        let path = file(layout, &skill.name, level);
        if level > reached && !path.is_file() {
            break;
        }
        // A draw may take as long as a call to a skill.
        alive();
        let drawn = match &version {
            Some(version) if drawn_by(&path).as_ref() != Some(version) => {
                draw(&client, skill, level, config.sealed_questions, version, &path)
            }
            _ => Ok(()),
        };
        // Where the draw failed, the set of before is in force.
        let is_there = drawn_by(&path).is_some();
        let get = || read(skill, level, &path, config, version.as_deref());
        let set = match (is_there, &version) {
            (false, _) => Ok(None),
            (true, None) => get().map(Some),
            // A damaged set is drawn once more: the same seed, version and number give the same questions.
            (true, Some(version)) => get()
                .or_else(|_| draw(&client, skill, level, config.sealed_questions, version, &path).and_then(|()| get()))
                .map(Some),
        };
        for error in [drawn.err(), set.as_ref().err().map(|error| anyhow!("{error:#}"))].into_iter().flatten() {
            tracing::warn!(skill = skill.name, level, "its sealed questions cannot be had now: failed to {error:#}");
        }
        sets.extend(set.ok().flatten());
    }
    sets
}

/// The sets that were drawn of the configured skills, as they lie there: no skill is asked.
pub(crate) fn as_drawn(layout: &Layout, config: &LoopConfig) -> Result<Vec<Sealed>> {
    let of = |skill: &SkillEndpoint| -> Result<Vec<Sealed>> {
        let drawn = (1..).map_while(|level| Some((level, drawn(layout, &skill.name, level)?)));
        drawn.map(|(level, path)| read(skill, level, &path, config, None)).collect()
    };
    Ok(config.data_manager.skills.iter().map(of).collect::<Result<Vec<_>>>()?.concat())
}

/// The file of a set that is in force; none where the skill was not asked yet.
pub(crate) fn drawn(layout: &Layout, skill: &str, level: u32) -> Option<PathBuf> {
    Some(file(layout, skill, level)).filter(|path| drawn_by(path).is_some())
}

fn file(layout: &Layout, skill: &str, level: u32) -> PathBuf {
    layout.validation().join("skills").join(format!("{skill}-{level}.jsonl"))
}

/// The version of the skill that drew a set; none where there is no whole set.
fn drawn_by(path: &Path) -> Option<String> {
    let provenance = Sidecar::read(&sidecar_of(path)).ok()?.provenance?;
    provenance["version"].as_str().filter(|_| path.is_file()).map(str::to_string)
}

fn draw(client: &SkillClient, skill: &SkillEndpoint, level: u32, count: u64, version: &str, path: &Path) -> Result<()> {
    let mut generated = client.generate(level, count, SEED, Split::Eval)?;
    let mut ids = HashSet::new();
    generated.samples.retain(|sample| ids.insert(sample.id.clone()));
    let lines = generated.samples.iter().map(|sample| serde_json::to_string(sample).map(|line| line + "\n"));
    let text: String = lines.collect::<Result<_, _>>().context("encode a sample")?;
    let provenance = json!({
        "skill": skill.name, "version": version, "level": level, "seed": SEED, "split": Split::Eval,
    });
    let sidecar = Sidecar { provenance: Some(provenance), ..Sidecar::default() };
    hone_disk::create_dir(path.parent().context("find the folder")?)?;
    // The sidecar makes the set whole: it comes last, and goes first.
    hone_disk::remove_file(&sidecar_of(path))?;
    hone_disk::write_atomic(path, text.as_bytes())?;
    hone_disk::write_json(&sidecar_of(path), &sidecar)
}

/// `version` is what the skill tells of itself now, since that judges; where it does not answer, that which drew the set.
fn read(skill: &SkillEndpoint, level: u32, path: &Path, config: &LoopConfig, version: Option<&str>) -> Result<Sealed> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let samples: Result<Vec<Sample>, _> = text.lines().map(serde_json::from_str).collect();
    let version = version.map(str::to_string).or_else(|| drawn_by(path)).unwrap_or_default();
    let asked = format!("{version}\n{}\n{text}", config.limits.max_answer_tokens);
    Ok(Sealed {
        suite: format!("{}/{level}", skill.name),
        url: skill.url.clone(),
        level,
        hash: hone_disk::hash_bytes(asked.as_bytes()),
        samples: samples.with_context(|| format!("read {}", path.display()))?,
    })
}

/// The questions of all sets, for the request.
pub(crate) fn questions(sets: &[Sealed]) -> Vec<Question> {
    let of = |set: &Sealed| -> Vec<Question> {
        set.samples.iter().map(|sample| question(question_id(set, sample), sample)).collect()
    };
    sets.iter().flat_map(of).collect()
}

fn question_id(set: &Sealed, sample: &Sample) -> String {
    format!("sealed/{}/{}", set.suite, sample.id)
}

/// What became of each answer, by the skill's own verdict.
pub(crate) fn score(set: &Sealed, answers: &[Answer], config: &LoopConfig) -> SuiteResult {
    let by_id: HashMap<&str, &Answer> = answers.iter().map(|answer| (answer.id.as_str(), answer)).collect();
    let answer_to = |sample: &Sample| by_id.get(question_id(set, sample).as_str()).copied();
    let answered: Vec<(&Sample, &Answer)> =
        set.samples.iter().filter_map(|sample| Some((sample, answer_to(sample)?))).collect();
    let client = client_under_lease(&set.url, config).with_tries(config.limits.skill_tries);
    let verdicts = verify(&client, set.level, &answered, &config.settings.train.profile);
    let verdicts = verdicts.unwrap_or_else(|error| {
        tracing::warn!(suite = set.suite, "its answers count as errored: failed to {error:#}");
        Vec::new()
    });
    let outcomes: HashMap<&str, AnswerOutcome> = verdicts
        .iter()
        .zip(&answered)
        .map(|(verdict, (sample, answer))| {
            let checked = Some((verdict.solved, verdict.parsed));
            (sample.id.as_str(), AnswerOutcome::of(&answer.text, is_cut(answer), checked))
        })
        .collect();
    let outcome = |sample: &Sample| outcomes.get(sample.id.as_str()).copied().unwrap_or(AnswerOutcome::Errored);
    SuiteResult {
        suite: set.suite.clone(),
        suite_hash: set.hash.clone(),
        rows: set.samples.len() as u64,
        answers: Some(set.samples.iter().map(outcome).collect()),
        ..SuiteResult::default()
    }
}
