//! Binary: arithmetic on numbers written with the digits ⓪ and ①, in seven levels.
//!
//! A *problem* is an operation with operands, `add ①⓪ ①①`. A *sample* is a problem in one of several phrasings
//! (`What is ①⓪ plus ①①?`). The answer always has the prefix form, `add ①⓪ ①① = ①⓪①`; on request, worked steps stand
//! before it, and the checker reads the last line alone.
//!
//! | level | operands | operations |
//! | --- | --- | --- |
//! | 1 | 1–10 | add, subtract |
//! | 2 | 1–20 | add, subtract, multiply |
//! | 3 | 10–100 | add, subtract, multiply, tobinary, todecimal |
//! | 4 | 10–100 | add, subtract, multiply, and, or, xor, not, leftshift, rightshift |
//! | 5 | 100–1,000 | all eleven |
//! | 6 | 1,000–10,000 | all eleven |
//! | 7 | 10,000–100,000 | all eleven |
//!
//! Rules: operands are written without leading zeros. `subtract A B` has A ≥ B. Results of arithmetic, shifts and
//! conversions drop leading zeros (zero is one ⓪). `and`, `or`, `xor` keep the width of the wider operand, `not` that of
//! its operand. `leftshift A K` multiplies by 2^K, `rightshift A K` divides by 2^K and drops the rest; K is 1 to 4,
//! in binary too.
//! `tobinary 13 = ①①⓪①`, `todecimal ①①⓪① = 13`.
//!
//! Not here: reading files, HTTP, and which level a model is on.

mod check;
mod draw;
mod phrasing;
mod problem;
mod steps;
#[cfg(test)]
mod tests;

use crate::chance::Domain;
use crate::{Batch, GenerateRequest, Info, LevelInfo, Skill, SkillError, VerifyResult};
use problem::{Operation, Problem, Range};
use serde_json::Value;
use std::sync::LazyLock;

/// The skill. See the module's documentation.
pub struct Binary;

const NAME: &str = "binary";
/// Changes whenever a produced byte or the split of a sample changes.
const VERSION: &str = "1";
const DOMAIN: Domain = Domain { name: NAME, version: VERSION };
/// Fresh questions that an evaluation of a level should ask.
const EVAL_SAMPLES: u32 = 300;
/// Share of solved questions at which a level counts as passed.
const PASS_THRESHOLD: f64 = 0.8;

/// What a level draws from.
struct Level {
    name: &'static str,
    range: Range,
    operations: &'static [Operation],
}

impl Level {
    fn contains(&self, problem: &Problem) -> bool {
        self.operations.contains(&problem.operation) && self.range.contains(problem)
    }
}

static LEVELS: [Level; 7] = {
    use Operation::{Add, And, LeftShift, Multiply, Not, Or, RightShift, Subtract, ToBinary, ToDecimal, Xor};
    const BITWISE: &[Operation] = &[Add, Subtract, Multiply, And, Or, Xor, Not, LeftShift, RightShift];
    [
        Level { name: "1 to 10", range: Range::new(1, 10), operations: &[Add, Subtract] },
        Level { name: "1 to 20", range: Range::new(1, 20), operations: &[Add, Subtract, Multiply] },
        Level {
            name: "10 to 100",
            range: Range::new(10, 100),
            operations: &[Add, Subtract, Multiply, ToBinary, ToDecimal],
        },
        Level { name: "10 to 100, shifts and bits", range: Range::new(10, 100), operations: BITWISE },
        Level { name: "100 to 1,000", range: Range::new(100, 1_000), operations: &Operation::ALL },
        Level { name: "1,000 to 10,000", range: Range::new(1_000, 10_000), operations: &Operation::ALL },
        Level { name: "10,000 to 100,000", range: Range::new(10_000, 100_000), operations: &Operation::ALL },
    ]
};

static LEVEL_INFOS: LazyLock<Vec<LevelInfo>> =
    LazyLock::new(|| (1..).zip(&LEVELS).map(|(number, level)| level_info(number, level)).collect());

impl Skill for Binary {
    fn info(&self) -> Info {
        Info {
            skill: NAME.to_string(),
            name: "Binary".to_string(),
            description: "Arithmetic and bitwise operations on numbers written with the digits ⓪ and ①.".to_string(),
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
        let problem = read_metadata(level, metadata)?;
        Ok(check::verify(&problem, response))
    }
}

fn find_level(number: u32) -> Result<&'static Level, SkillError> {
    crate::find_level(NAME, &LEVELS, number)
}

fn level_info(number: u32, level: &Level) -> LevelInfo {
    let operations: Vec<&str> = level.operations.iter().map(|operation| operation.name()).collect();
    LevelInfo {
        level: number,
        name: level.name.to_string(),
        description: format!(
            "{} with operands from {} to {}.",
            operations.join(", "),
            level.range.low,
            level.range.high
        ),
        eval_samples: EVAL_SAMPLES,
        pass_threshold: PASS_THRESHOLD,
    }
}

/// The problem that a sample's metadata describe. Its answer is computed again and must be the recorded one, so
/// that damaged metadata never score an answer.
fn read_metadata(number: u32, metadata: &Value) -> Result<Problem, SkillError> {
    let level = find_level(number)?;
    let invalid = |message: String| Err(SkillError::MetadataInvalid(message));
    if let Some(skill) = metadata.get("skill").filter(|skill| skill.as_str() != Some(NAME)) {
        return invalid(format!("skill is {skill}, expected {NAME:?}"));
    }
    crate::check_own_level(metadata, number)?;
    let Some(text) = metadata.get("problem").and_then(Value::as_str) else {
        return invalid("problem is missing or not a string".to_string());
    };
    let Some(problem) = Problem::parse(text).filter(|problem| level.contains(problem)) else {
        return invalid(format!("{text:?} is not a problem of level {number}"));
    };
    match metadata.get("answer").and_then(Value::as_str) {
        Some(answer) if answer == problem.answer() => Ok(problem),
        Some(_) => invalid("answer is not that of the problem".to_string()),
        None => invalid("answer is missing or not a string".to_string()),
    }
}
