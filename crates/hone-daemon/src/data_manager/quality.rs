//! The quality check of generated samples, before they become a file: format, length, diversity, balance, content.
//!
//! Bounds belong to the skill's profile: what is configured for it, else what hone knows of its own skills by their names,
//! else wide ones. The content check asks the skill itself: its own answers must verify.

use crate::skill::{Sample, SkillClient, VerifySample};
use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::Value;
use std::collections::{HashMap, HashSet};

/// How many problems are named.
const MAX_PROBLEMS: usize = 5;
/// Samples whose own answers are verified.
const MAX_VERIFIED: usize = 100;

/// Bounds of a skill.
#[derive(Clone, Debug, PartialEq)]
pub struct QualityProfile {
    /// Longest question in characters.
    pub max_question_chars: usize,
    /// Longest answer in characters.
    pub max_answer_chars: usize,
    /// Fewest different answers, as a share of the samples (looked at from 20 samples on).
    pub min_distinct_answers: f64,
    /// Most samples that may have one and the same answer, as a share (looked at from 20 samples on).
    pub max_same_answer: f64,
    /// The schema that its files are held against.
    pub schema_id: String,
}

impl QualityProfile {
    /// The bounds of a skill for which none are configured.
    #[must_use]
    pub fn of(skill: &str) -> QualityProfile {
        let default = QualityProfile {
            max_question_chars: 32_000,
            max_answer_chars: 16_000,
            min_distinct_answers: 0.0,
            max_same_answer: 0.9,
            schema_id: "chat_sft_v1".to_string(),
        };
        match skill {
            // 155 problems in several wordings at level 1; an answer is a short line, with worked steps a few.
            "binary" => QualityProfile {
                max_question_chars: 200,
                max_answer_chars: 400,
                min_distinct_answers: 0.01,
                max_same_answer: 0.2,
                ..default
            },
            // Puzzles never repeat; the schema gate solves each.
            "syllo" => QualityProfile {
                max_question_chars: 2_000,
                max_answer_chars: 2_000,
                min_distinct_answers: 0.9,
                max_same_answer: 0.1,
                schema_id: "syllo_v1".to_string(),
            },
            _ => default,
        }
    }
}

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Quality {
    /// Samples.
    pub samples: usize,
    /// Different answers.
    pub distinct_answers: usize,
    /// Samples that share the most frequent answer.
    pub most_frequent_answer: usize,
    /// Characters of the longest question.
    pub longest_question: usize,
    /// Characters of the longest answer.
    pub longest_answer: usize,
    /// Own answers that the skill was asked about; all were right.
    pub verified: usize,
}

/// Looks at all samples (with their levels).
///
/// # Errors
/// Names the first problems and counts the rest.
pub(super) fn check(samples: &[(u32, Sample)], profile: &QualityProfile, client: &SkillClient) -> Result<Quality> {
    let mut problems = format_problems(samples);
    refuse(&mut problems)?;
    let mut quality = Quality { samples: samples.len(), ..Quality::default() };
    let mut answers: HashMap<&str, usize> = HashMap::new();
    for (_, sample) in samples {
        let (question, answer) = (question_chars(sample), answer(sample));
        *answers.entry(answer).or_default() += 1;
        quality.longest_question = quality.longest_question.max(question);
        let length = answer.chars().count();
        quality.longest_answer = quality.longest_answer.max(length);
        if question > profile.max_question_chars || length > profile.max_answer_chars {
            problems.push(format!("sample {}: its question has {question} characters, its answer {length}", sample.id));
        }
        if answer.chars().any(|c| c == '\u{fffd}' || (c.is_control() && !matches!(c, '\n' | '\t' | '\r'))) {
            problems.push(format!("sample {}: its answer holds control or broken characters", sample.id));
        }
    }
    quality.distinct_answers = answers.len();
    quality.most_frequent_answer = answers.values().copied().max().unwrap_or_default();
    let share = |count: usize| count as f64 / samples.len().max(1) as f64;
    if samples.len() >= 20 && share(quality.distinct_answers) < profile.min_distinct_answers {
        problems.push(format!("only {} different answers", quality.distinct_answers));
    }
    if samples.len() >= 20 && share(quality.most_frequent_answer) > profile.max_same_answer {
        problems.push(format!("{} samples have the same answer", quality.most_frequent_answer));
    }
    refuse(&mut problems)?;
    quality.verified = verify(samples, client, &mut problems)?;
    refuse(&mut problems)?;
    Ok(quality)
}

/// Each sample must be a conversation that ends with a non-empty answer, and none may come twice.
fn format_problems(samples: &[(u32, Sample)]) -> Vec<String> {
    let (mut ids, mut texts) = (HashSet::new(), HashSet::new());
    let mut problems = Vec::new();
    for (_, sample) in samples {
        let is_message = |m: &Value| text_of(m, "role").is_some() && text_of(m, "content").is_some();
        let asks = sample.messages.iter().any(|m| text_of(m, "role") == Some("user"));
        let mut problem = |what: &str| problems.push(format!("sample {}: {what}", sample.id));
        if !sample.messages.iter().all(is_message) || !asks {
            problem("its messages are not a conversation");
        } else if answer(sample).trim().is_empty() {
            problem("it does not end with an answer");
        }
        if !sample.metadata.is_object() {
            problem("its metadata is not an object");
        }
        if !ids.insert(sample.id.as_str()) {
            problem("its id comes twice");
        }
        if !texts.insert(serde_json::to_string(&sample.messages).expect("JSON values are plain data")) {
            problem("its conversation comes twice");
        }
    }
    problems
}

/// Asks the skill about its own answers, evenly spread over the samples.
fn verify(samples: &[(u32, Sample)], client: &SkillClient, problems: &mut Vec<String>) -> Result<usize> {
    let step = samples.len().div_ceil(MAX_VERIFIED).max(1);
    let asked: Vec<VerifySample> = samples
        .iter()
        .step_by(step)
        .map(|(level, sample)| VerifySample {
            id: sample.id.clone(),
            level: *level,
            metadata: sample.metadata.clone(),
            response: answer(sample).to_string(),
        })
        .collect();
    for result in client.verify(&asked)?.iter().filter(|result| !result.solved) {
        problems.push(format!("sample {}: the skill itself calls its answer wrong", result.id));
    }
    Ok(asked.len())
}

fn refuse(problems: &mut Vec<String>) -> Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    let more = problems.len().saturating_sub(MAX_PROBLEMS);
    problems.truncate(MAX_PROBLEMS);
    if more > 0 {
        problems.push(format!("and {more} more"));
    }
    bail!("they do not pass the quality check: {}", problems.join("; "))
}

fn answer(sample: &Sample) -> &str {
    let last = sample.messages.last().filter(|m| text_of(m, "role") == Some("assistant"));
    last.and_then(|m| text_of(m, "content")).unwrap_or_default()
}

fn question_chars(sample: &Sample) -> usize {
    let asked = sample.messages.iter().filter(|m| text_of(m, "role") != Some("assistant"));
    asked.filter_map(|m| text_of(m, "content")).map(|text| text.chars().count()).sum()
}

fn text_of<'a>(message: &'a Value, key: &str) -> Option<&'a str> {
    message.get(key).and_then(Value::as_str)
}
