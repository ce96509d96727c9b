//! Skills as pure functions: generators of tasks and checkers of answers.
//!
//! A skill knows its levels, makes samples from a seed and judges answers. The same checker serves generation,
//! evaluation and the Skill API. Nothing here reads a file, a clock, a socket or a global random number:
//! same seed, level, split, count and version give the same bytes.

pub mod binary;
mod chance;
pub mod syllo;
#[cfg(test)]
mod testing;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Version of the Skill API that [`Info`], [`LevelInfo`], [`Batch`] and [`VerifyResult`] are the JSON of.
pub const API_VERSION: &str = "1";
/// Most samples of one [`GenerateRequest`].
pub const MAX_COUNT: usize = 50_000;
/// Longest answer that a checker reads, in bytes; a longer one is unparsable.
pub const MAX_RESPONSE_BYTES: usize = 16 * 1024;

/// A generator of tasks and the checker of their answers. Implementations are pure and stateless.
pub trait Skill: Sync {
    /// Who this is.
    fn info(&self) -> Info;

    /// All levels, ascending from 1 without gaps.
    fn levels(&self) -> &[LevelInfo];

    /// Makes `request.count` samples.
    ///
    /// # Errors
    /// [`SkillError::UnknownLevel`], [`SkillError::CountInvalid`].
    fn generate(&self, request: &GenerateRequest) -> Result<Batch, SkillError>;

    /// Judges one answer to the sample that `metadata` describes. An answer that cannot be read is a result
    /// (`parsed: false`), never an error.
    ///
    /// # Errors
    /// [`SkillError::UnknownLevel`] and [`SkillError::MetadataInvalid`]: nothing was judged, and the answer counts
    /// neither as right nor as wrong.
    fn verify(&self, level: u32, metadata: &Value, response: &str) -> Result<VerifyResult, SkillError>;
}

/// Who a skill is: the answer of `GET /info`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// Stable name, as in [`find`].
    pub skill: String,
    /// Name for people.
    pub name: String,
    /// One sentence.
    pub description: String,
    /// Version of generator and checker; a change of any produced byte changes it.
    pub version: String,
    /// [`API_VERSION`].
    pub api_version: String,
    /// Number of levels.
    pub total_levels: u32,
}

/// One level: an entry of `GET /levels`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LevelInfo {
    /// Its number, from 1.
    pub level: u32,
    /// Name for people.
    pub name: String,
    /// What it asks, in one sentence.
    pub description: String,
    /// How many fresh questions an evaluation of it should ask.
    pub eval_samples: u32,
    /// Share of solved questions at which it counts as passed.
    pub pass_threshold: f64,
}

/// Which of the two disjoint halves of a level samples come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// To learn from.
    #[default]
    Train,
    /// To measure with; never shares a sample or a question's text with [`Split::Train`].
    Eval,
}

/// What to generate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GenerateRequest {
    /// The level, from 1.
    pub level: u32,
    /// Number of samples, 1 to [`MAX_COUNT`].
    pub count: usize,
    /// Seed of the choice and the order.
    pub seed: u64,
    /// Which half.
    pub split: Split,
    /// Worked steps before the answer, for skills that have them (Binary). Changes answers only: the same samples come
    /// in the same order under the same ids.
    pub steps: bool,
}

/// Generated samples: the answer of `POST /generate`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// [`Info::skill`].
    pub skill: String,
    /// [`Info::version`].
    pub version: String,
    /// The level.
    pub level: u32,
    /// The split.
    pub split: Split,
    /// The seed that makes this batch again.
    pub seed: u64,
    /// How many different samples are in it.
    pub distinct: usize,
    /// True when more were asked for than the split has, so that samples come again.
    pub repeated: bool,
    /// The samples, in order.
    pub samples: Vec<Sample>,
}

/// One question with its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Stable: derived from problem and phrasing, unique per sample, the same in every batch.
    pub id: String,
    /// The conversation; the last message is the right answer.
    pub messages: Vec<Message>,
    /// What [`Skill::verify`] needs, and what people want to know; an object.
    pub metadata: Value,
}

impl Sample {
    /// The sample as a `chat_sft_v1` row: `{messages, metadata}`, with the id as `metadata.id`.
    #[must_use]
    pub fn to_row(&self) -> Value {
        serde_json::json!({ "messages": self.messages, "metadata": self.metadata })
    }

    /// The conversation without its last message: what a model is asked.
    #[must_use]
    pub fn question(&self) -> &[Message] {
        self.messages.split_last().map_or(&[], |(_, question)| question)
    }

    /// The right answer.
    #[must_use]
    pub fn answer(&self) -> &str {
        self.messages.last().map_or("", |m| &m.content)
    }
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `user` or `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
}

/// What the checker says about an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerifyResult {
    /// True when the answer is right.
    pub solved: bool,
    /// 0 to 1.
    pub score: f64,
    /// False when no answer could be read from the response, which is another thing than a wrong one.
    pub parsed: bool,
    /// A plain sentence.
    pub reason: String,
}

/// Why a skill did nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SkillError {
    /// No such level. Never answered with another level.
    #[error("{skill} has no level {level} (levels 1 to {total_levels})")]
    UnknownLevel {
        /// The skill.
        skill: &'static str,
        /// What was asked for.
        level: u32,
        /// How many there are.
        total_levels: u32,
    },
    /// Nothing or too much was asked for.
    #[error("count is {count}, allowed are 1 to {limit}")]
    CountInvalid {
        /// What was asked for.
        count: usize,
        /// [`MAX_COUNT`].
        limit: usize,
    },
    /// The metadata do not describe a sample of this skill and level.
    #[error("metadata: {0}")]
    MetadataInvalid(String),
}

static SKILLS: [&dyn Skill; 2] = [&binary::Binary, &syllo::Syllo];

/// The skill with this name, e.g. `binary`.
#[must_use]
pub fn find(name: &str) -> Option<&'static dyn Skill> {
    SKILLS.into_iter().find(|skill| skill.info().skill == name)
}

/// Names of all skills.
#[must_use]
pub fn names() -> Vec<String> {
    SKILLS.iter().map(|skill| skill.info().skill).collect()
}

fn check_count(count: usize) -> Result<(), SkillError> {
    if (1..=MAX_COUNT).contains(&count) { Ok(()) } else { Err(SkillError::CountInvalid { count, limit: MAX_COUNT }) }
}

/// The level `number` of a skill's `levels`, which count from 1.
fn find_level<'a, T>(skill: &'static str, levels: &'a [T], number: u32) -> Result<&'a T, SkillError> {
    let found = (number as usize).checked_sub(1).and_then(|index| levels.get(index));
    found.ok_or(SkillError::UnknownLevel { skill, level: number, total_levels: levels.len() as u32 })
}

/// Refuses a sample whose metadata name another level than `number`; metadata may leave it out.
fn check_own_level(metadata: &Value, number: u32) -> Result<(), SkillError> {
    match metadata.get("level").filter(|own| own.as_u64() != Some(u64::from(number))) {
        None => Ok(()),
        Some(own) => {
            let message = format!("level is {own}, the sample was sent as level {number}");
            Err(SkillError::MetadataInvalid(message))
        }
    }
}
