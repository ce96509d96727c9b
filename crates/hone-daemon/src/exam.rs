//! Exams: fresh questions of a skill's `eval` split for a checkpoint, and the verdict on its answers.
//!
//! The questions go with the request of the `eval-job`. Its raw answers are kept beside it, in `exams.json` (a list with
//! skill, level, seed, samples and answers), *before* the state says that their verdict is owed: a crash in between loses
//! nothing, and scoring again never generates again. A skill that cannot be asked gives no questions; one that cannot
//! judge is asked again later. Neither moves a level.

#[cfg(test)]
pub(crate) mod tests;

use crate::options::{Limits, LoopConfig, SkillEndpoint};
use crate::skill::{Sample, SkillClient, SkillError, Split, VerifyResult, VerifySample};
use anyhow::{Context, Result};
use hone_data::profile::Profile;
use hone_data::tokenize::ChatContext;
use hone_data::{Example, Message, Row, RowId};
use hone_pipeline::config::ProfileSettings;
use hone_pipeline::curriculum::{SkillEvaluation, SkillProgress};
use hone_pipeline::event::Event;
use hone_pipeline::ids::{CheckpointId, LeaseToken};
use hone_pipeline::state::State;
use hone_pipeline::wire::{Answer, Question};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Answers of one call to `/verify`.
const VERIFY_CHUNK: usize = 500;
/// Where the answers of an evaluation are kept, in its run folder.
const FILE: &str = "exams.json";
/// Seeds of exams begin here, far from those of training data.
const FIRST_SEED: u64 = 1 << 40;

/// Fresh questions of one skill.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Exam {
    /// The skill's configured name.
    pub skill: String,
    pub url: String,
    pub level: u32,
    pub total_levels: u32,
    pub version: String,
    pub seed: u64,
    pub pass_threshold: Option<f64>,
    pub samples: Vec<Sample>,
    /// Raw answers, once they are there.
    #[serde(default)]
    pub answers: Vec<Answer>,
}

/// The exams of one evaluation: one per skill that can be asked and that has not examined the checkpoint at this level yet. No
/// two leases get the same questions. The lease is held meanwhile: calls are short, and `alive` is called between skills.
pub(crate) fn prepare(
    state: &State,
    config: &LoopConfig,
    (checkpoint, token): (CheckpointId, LeaseToken),
    alive: &dyn Fn(),
) -> Vec<Exam> {
    if !config.settings.curriculum.enabled {
        return Vec::new();
    }
    let one = |skill: &SkillEndpoint| {
        alive();
        match exam(skill, state, config, FIRST_SEED + token.0) {
            Ok(exam) => Some(exam),
            Err(error) => {
                tracing::warn!(skill = skill.name, "no exam in it this time: {error}");
                None
            }
        }
    };
    let is_open = |skill: &&SkillEndpoint| !is_examined(&state.skill(&skill.name), checkpoint);
    config.data_manager.skills.iter().filter(is_open).filter_map(one).collect()
}

/// Whether a checkpoint's answers count for the level of now already: a champion that is evaluated again brings no new evidence.
fn is_examined(progress: &SkillProgress, checkpoint: CheckpointId) -> bool {
    let mut of_now = progress.history.iter().filter(|evaluation| evaluation.visit == progress.visit);
    of_now.any(|evaluation| evaluation.checkpoint == checkpoint)
}

fn exam(skill: &SkillEndpoint, state: &State, config: &LoopConfig, seed: u64) -> Result<Exam, SkillError> {
    let client = client_under_lease(&skill.url, config);
    let level = state.skill(&skill.name).level;
    let total_levels = client.info()?.total_levels;
    let pass_threshold = client.levels()?.iter().find(|l| l.level == level).map(|l| l.pass_threshold);
    let count = config.settings.curriculum.eval_samples.max(1);
    let mut generated = client.generate(level, count, seed, Split::Eval)?;
    let mut ids = HashSet::new();
    generated.samples.retain(|sample| ids.insert(sample.id.clone()));
    Ok(Exam {
        skill: skill.name.clone(),
        url: skill.url.clone(),
        level,
        total_levels,
        version: generated.version,
        seed,
        pass_threshold,
        samples: generated.samples,
        answers: Vec::new(),
    })
}

/// The questions of all exams, for the request.
pub(crate) fn questions(exams: &[Exam]) -> Vec<Question> {
    let of = |exam: &Exam| -> Vec<Question> {
        exam.samples.iter().map(|sample| question(question_id(exam, sample), sample)).collect()
    };
    exams.iter().flat_map(of).collect()
}

/// A sample without its answer.
pub(crate) fn question(id: String, sample: &Sample) -> Question {
    let asked = sample.messages.split_last().map_or(&[][..], |(_, asked)| asked);
    Question { id, messages: json!(asked) }
}

fn question_id(exam: &Exam, sample: &Sample) -> String {
    format!("{}/{}", exam.skill, sample.id)
}

/// Gives every exam its answers and keeps them in `run_dir`.
///
/// # Errors
/// Whatever the disk answers.
pub(crate) fn keep(exams: &mut [Exam], answers: &[Answer], run_dir: &Path) -> Result<()> {
    let by_id: HashMap<&str, &Answer> = answers.iter().map(|answer| (answer.id.as_str(), answer)).collect();
    for exam in exams.iter_mut() {
        let ids: Vec<String> = exam.samples.iter().map(|sample| question_id(exam, sample)).collect();
        exam.answers = ids.iter().filter_map(|id| by_id.get(id.as_str()).map(|answer| (*answer).clone())).collect();
    }
    hone_disk::write_json(&run_dir.join(FILE), &exams).context("keep the answers")
}

/// Whether [`keep`] kept something there.
pub(crate) fn is_kept(run_dir: &Path) -> bool {
    run_dir.join(FILE).is_file()
}

/// What [`keep`] kept.
///
/// # Errors
/// It is not there, or cannot be read.
pub(crate) fn kept(run_dir: &Path) -> Result<Vec<Exam>> {
    let bytes = std::fs::read(run_dir.join(FILE)).context("read the kept answers")?;
    serde_json::from_slice(&bytes).context("read the kept answers")
}

/// What the skill says about the answers.
///
/// # Errors
/// The skill does not judge, or the profile is unknown: there is no verdict.
pub(crate) fn score(exam: &Exam, id: CheckpointId, manifest_hash: &str, config: &LoopConfig) -> Result<Event> {
    let by_id: HashMap<&str, &Answer> = exam.answers.iter().map(|answer| (answer.id.as_str(), answer)).collect();
    let ids: Vec<String> = exam.samples.iter().map(|sample| question_id(exam, sample)).collect();
    let answered: Vec<(&Sample, &Answer)> =
        exam.samples.iter().zip(&ids).filter_map(|(sample, id)| Some((sample, *by_id.get(id.as_str())?))).collect();
    let client = client(&exam.url, &config.limits).with_tries(config.limits.skill_tries);
    let results = verify(&client, exam.level, &answered, &config.settings.train.profile)?;
    let count = |holds: &dyn Fn(&VerifyResult, &Answer) -> bool| {
        results.iter().zip(&answered).filter(|(result, (_, answer))| holds(result, answer)).count() as u64
    };
    let evaluation = SkillEvaluation {
        checkpoint: id,
        version: exam.version.clone(),
        level: exam.level,
        seed: exam.seed,
        questions: exam.samples.len() as u64,
        solved: count(&|result, _| result.solved),
        unparsed: count(&|result, _| !result.parsed),
        cut: count(&|_, answer| is_cut(answer)),
        empty: count(&|_, answer| answer.text.trim().is_empty()),
        errored: (exam.samples.len() - results.len()) as u64,
        pass_threshold: exam.pass_threshold,
        at_ms: 0,
        visit: 0,
    };
    let (skill, total_levels, manifest_hash) = (exam.skill.clone(), exam.total_levels, manifest_hash.to_string());
    Ok(Event::SkillScored { skill, total_levels, manifest_hash, evaluation })
}

/// One verdict per answer, in their order.
///
/// # Errors
/// The skill does not judge, or the profile is unknown.
pub(crate) fn verify(
    client: &SkillClient,
    level: u32,
    answered: &[(&Sample, &Answer)],
    profile: &ProfileSettings,
) -> Result<Vec<VerifyResult>> {
    let profile = hone_data::profile::find(profile).context("find the profile")?;
    let mut results = Vec::with_capacity(answered.len());
    for chunk in answered.chunks(VERIFY_CHUNK) {
        let asked: Vec<VerifySample> = chunk
            .iter()
            .map(|(sample, answer)| VerifySample {
                id: sample.id.clone(),
                level,
                metadata: sample.metadata.clone(),
                response: profile.extract(&answer.text),
            })
            .collect();
        results.extend(client.verify(&asked)?);
    }
    Ok(results)
}

/// What a right answer of an exam needs, in tokens, where that is more than `max_tokens`: such an answer counts as cut,
/// however well the model does.
///
/// # Errors
/// The model's tokenizer cannot be read, or the profile is unknown.
pub(crate) fn need_beyond(exam: &Exam, model_dir: &Path, config: &LoopConfig) -> Result<Option<usize>> {
    let (train, max_tokens) = (&config.settings.train, config.limits.max_answer_tokens);
    let profile = hone_data::profile::find(&train.profile).context("find the profile")?;
    let answers: Vec<String> = exam.samples.iter().filter_map(|sample| right_answer(&*profile, sample)).collect();
    // One more ends the turn. A token has a byte at least: only what might be too long is counted.
    let long: Vec<&String> = answers.iter().filter(|answer| answer.len() >= max_tokens).collect();
    if long.is_empty() {
        return Ok(None);
    }
    let ctx = ChatContext::from_dir(model_dir, &train.profile, &train.chat_template_kwargs)?;
    let counts = long.iter().map(|answer| Ok(ctx.tokenizer.encode(answer)?.len() + 1));
    let most = counts.collect::<Result<Vec<usize>>>()?.into_iter().max();
    Ok(most.filter(|need| *need > max_tokens))
}

/// As the profile decorates it for training.
fn right_answer(profile: &dyn Profile, sample: &Sample) -> Option<String> {
    let messages: Vec<Message> = serde_json::from_value(json!(sample.messages)).ok()?;
    let example = Example::Chat { messages, tools: None };
    let row = profile.apply(&Row { line: 1, id: RowId::of_name(&sample.id), example });
    let Example::Chat { messages, .. } = row.example else { return None };
    messages.last().map(|message| message.content.clone())
}

/// Whether the limit of tokens ended an answer.
pub(crate) fn is_cut(answer: &Answer) -> bool {
    answer.finish_reason == "length"
}

/// A client whose calls end long before a lease does.
pub(crate) fn client_under_lease(url: &str, config: &LoopConfig) -> SkillClient {
    let skill_call_ms = config.limits.skill_call_ms.min(config.settings.lease_ms / 4);
    client(url, &Limits { skill_call_ms, ..config.limits.clone() })
}

fn client(url: &str, limits: &Limits) -> SkillClient {
    SkillClient::new(url, std::time::Duration::from_millis(limits.skill_call_ms), limits.skill_max_answer_bytes)
}
