//! SYLLO: words from their definitions, spelled with a shuffled bank of syllable tiles, in five levels.
//!
//! | level | words | syllables of a word | of them long (3 or more) | red herrings |
//! | --- | --- | --- | --- | --- |
//! | 1 | 4 | 2 | 0 | 0 |
//! | 2 | 5 | 2–3 | 1 | 1 |
//! | 3 | 6 | 2–3 | 2 | 2 |
//! | 4 | 7 | 2–4 | 3 | 3 |
//! | 5 | 8 | 2–6 | 4 | 4 |
//!
//! The answer is JSON, `{"solutions":[{"ans_num":1,"syllables":["ti","ger"],"answer":"tiger"}]}`, one entry per
//! definition. Tiles are a multiset: one that lies there twice may be used twice. A *red herring* is a tile that no
//! answer needs. A puzzle is a set of words; everything else about its sample (order, tiles, wording, form of the
//! answer) follows from that set, so that a puzzle is the same sample in every batch.
//!
//! Not here: reading files, HTTP, and which level a model is on.

mod check;
mod draw;
mod phrasing;
mod puzzle;
#[cfg(test)]
mod tests;
mod words;

pub use puzzle::{Puzzle, Slot};

use crate::chance::Domain;
use crate::{Batch, GenerateRequest, Info, LevelInfo, Skill, SkillError, VerifyResult};
use serde_json::Value;
use std::sync::LazyLock;

/// The skill. See the module's documentation.
pub struct Syllo;

const NAME: &str = "syllo";
/// Changes whenever a produced byte or the split of a sample changes.
const VERSION: &str = "1";
const DOMAIN: Domain = Domain { name: NAME, version: VERSION };
/// Fresh questions that an evaluation of a level should ask.
const EVAL_SAMPLES: u32 = 300;
/// Share of solved questions at which a level counts as passed.
const PASS_THRESHOLD: f64 = 0.8;

/// What a level draws.
struct Level {
    num_words: usize,
    max_syllables: usize,
    num_long: usize,
    num_herrings: usize,
}

/// Syllables from which on a word counts as long.
const LONG: usize = 3;

static LEVELS: [Level; 5] = [
    Level { num_words: 4, max_syllables: 2, num_long: 0, num_herrings: 0 },
    Level { num_words: 5, max_syllables: 3, num_long: 1, num_herrings: 1 },
    Level { num_words: 6, max_syllables: 3, num_long: 2, num_herrings: 2 },
    Level { num_words: 7, max_syllables: 4, num_long: 3, num_herrings: 3 },
    Level { num_words: 8, max_syllables: 6, num_long: 4, num_herrings: 4 },
];

static LEVEL_INFOS: LazyLock<Vec<LevelInfo>> =
    LazyLock::new(|| (1..).zip(&LEVELS).map(|(number, level)| level_info(number, level)).collect());

impl Skill for Syllo {
    fn info(&self) -> Info {
        Info {
            skill: NAME.to_string(),
            name: "SYLLO".to_string(),
            description: "Words from their definitions, spelled with a shuffled bank of syllable tiles.".to_string(),
            version: VERSION.to_string(),
            api_version: crate::API_VERSION.to_string(),
            total_levels: LEVELS.len() as u32,
        }
    }

    fn levels(&self) -> &[LevelInfo] {
        &LEVEL_INFOS
    }

    fn generate(&self, request: &GenerateRequest) -> Result<Batch, SkillError> {
        let level = find_level(request.level)?;
        crate::check_count(request.count)?;
        Ok(draw::batch(level, request))
    }

    fn verify(&self, level: u32, metadata: &Value, response: &str) -> Result<VerifyResult, SkillError> {
        find_level(level)?;
        let puzzle = Puzzle::from_metadata(metadata).map_err(SkillError::MetadataInvalid)?;
        crate::check_own_level(metadata, level)?;
        Ok(puzzle.judge(response))
    }
}

fn find_level(number: u32) -> Result<&'static Level, SkillError> {
    crate::find_level(NAME, &LEVELS, number)
}

fn level_info(number: u32, level: &Level) -> LevelInfo {
    let Level { num_words, max_syllables, num_long: _, num_herrings } = level;
    let herrings = match num_herrings {
        0 => "no tile left over".to_string(),
        1 => "1 tile that no word needs".to_string(),
        many => format!("{many} tiles that no word needs"),
    };
    LevelInfo {
        level: number,
        name: format!("{num_words} words"),
        description: format!("{num_words} words of at most {max_syllables} syllables, {herrings}."),
        eval_samples: EVAL_SAMPLES,
        pass_threshold: PASS_THRESHOLD,
    }
}
