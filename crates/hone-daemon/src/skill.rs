//! The client of Skill API v1. Blocking, with a time and a size limit on every call. A server that does not answer or is
//! busy (429, 5xx) is asked again after a wait that doubles, as often as the caller allows.

mod older;
#[cfg(test)]
mod tests;

use crate::http::{self, Body, Call};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Duration;

/// Why a call to a skill gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum SkillError {
    /// It does not answer (in time): try again later.
    #[error("skill at {url} does not answer: {reason}")]
    Unreachable {
        /// Base URL.
        url: String,
        /// What the connection says.
        reason: String,
    },
    /// It answers with an error status.
    #[error("skill at {url} refused with status {status}: {message}")]
    Refused {
        /// Base URL.
        url: String,
        /// HTTP status.
        status: u16,
        /// Its message.
        message: String,
    },
    /// It answers with something that is not the contract's shape.
    #[error("skill at {url} answered outside the contract: {reason}")]
    Contract {
        /// Base URL.
        url: String,
        /// What is wrong.
        reason: String,
    },
}

impl SkillError {
    /// True when another try may go better.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            SkillError::Unreachable { .. } => true,
            SkillError::Refused { status, .. } => *status == 429 || *status >= 500,
            SkillError::Contract { .. } => false,
        }
    }
}

/// `GET /info`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkillInfo {
    /// Short name, e.g. `binary`.
    pub skill: String,
    /// Name for people.
    pub name: String,
    /// One sentence.
    pub description: String,
    /// Version of generator and checker.
    pub version: String,
    /// Version of the API, `1`.
    pub api_version: Value,
    /// Levels are 1 to this.
    pub total_levels: u32,
}

/// One entry of `GET /levels`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SkillLevel {
    /// From 1.
    pub level: u32,
    /// Name for people.
    pub name: String,
    /// One sentence.
    pub description: String,
    /// Questions of one evaluation.
    pub eval_samples: u64,
    /// Share of right answers to pass.
    pub pass_threshold: f64,
}

/// Which of the two disjoint pools samples come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// For training.
    Train,
    /// For evaluation; never trained.
    Eval,
}

/// The answer to `POST /generate`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generated {
    /// Short name of the skill.
    pub skill: String,
    /// Version of the generator.
    pub version: String,
    /// The level asked for.
    pub level: u32,
    /// True when the level has fewer different samples than were asked for, so that some come again.
    #[serde(default)]
    pub repeated: bool,
    /// The samples.
    pub samples: Vec<Sample>,
}

/// A generated sample: a conversation that ends with the right answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Unique within skill and version.
    pub id: String,
    /// The conversation.
    pub messages: Vec<Value>,
    /// What the checker needs.
    pub metadata: Value,
}

/// One entry of `POST /verify`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerifySample {
    /// Id of the sample.
    pub id: String,
    /// Its level.
    pub level: u32,
    /// Its metadata.
    pub metadata: Value,
    /// What the model said.
    pub response: String,
}

/// One result of `POST /verify`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerifyResult {
    /// Id of the sample.
    pub id: String,
    /// Right or not.
    pub solved: bool,
    /// 0 to 1.
    pub score: f64,
    /// False when no answer could be read out of the response.
    pub parsed: bool,
    /// Why it is not right.
    #[serde(default)]
    pub reason: Value,
}

/// A skill server.
#[derive(Clone, Debug)]
pub struct SkillClient {
    url: String,
    timeout: Duration,
    max_answer_bytes: u64,
    tries: u32,
    steps: bool,
}

/// Wait before the second try of a call; doubled for each further one.
const FIRST_WAIT: Duration = Duration::from_millis(200);

impl SkillClient {
    /// A client of the server at `url` (no request is made).
    #[must_use]
    pub fn new(url: &str, timeout: Duration, max_answer_bytes: u64) -> SkillClient {
        SkillClient { url: url.trim_end_matches('/').to_string(), timeout, max_answer_bytes, tries: 1, steps: false }
    }

    /// The same client, which tries a call so often in all.
    #[must_use]
    pub fn with_tries(self, tries: u32) -> SkillClient {
        SkillClient { tries, ..self }
    }

    /// The same client, which asks for worked steps before the answers of samples, of skills that have them.
    #[must_use]
    pub fn with_steps(self, steps: bool) -> SkillClient {
        SkillClient { steps, ..self }
    }

    /// `GET /health`: true when it answers `{"status":"ok"}`.
    ///
    /// # Errors
    /// See [`SkillError`].
    pub fn health(&self) -> Result<bool, SkillError> {
        let health: Value = self.call("GET", "/health", None)?;
        Ok(health.get("status").and_then(Value::as_str) == Some("ok"))
    }

    /// `GET /info`.
    ///
    /// # Errors
    /// See [`SkillError`].
    pub fn info(&self) -> Result<SkillInfo, SkillError> {
        self.call("GET", "/info", None)
    }

    /// `GET /levels`.
    ///
    /// # Errors
    /// See [`SkillError`].
    pub fn levels(&self) -> Result<Vec<SkillLevel>, SkillError> {
        #[derive(Deserialize)]
        struct Levels {
            levels: Vec<SkillLevel>,
        }
        self.call("GET", "/levels", None).map(|Levels { levels }| levels)
    }

    /// `POST /generate`: exactly `count` samples of the level asked for, or an error. Two older shapes of the answer are read
    /// too: `puzzles` (words, syllable bank, solution) and `conversations` (messages).
    ///
    /// # Errors
    /// See [`SkillError`].
    pub fn generate(&self, level: u32, count: u64, seed: u64, split: Split) -> Result<Generated, SkillError> {
        let mut body = json!({ "level": level, "count": count, "seed": seed, "split": split });
        if self.steps {
            body["steps"] = true.into();
        }
        let answer: Value = self.call("POST", "/generate", Some(&body))?;
        let generated: Generated = serde_json::from_value(older::in_the_new_shape(answer, level, seed))
            .map_err(|error| self.contract(format!("POST /generate: {error}")))?;
        if generated.level != level {
            return Err(self.contract(format!("level {level} was asked for, level {} came", generated.level)));
        }
        if generated.samples.len() as u64 != count {
            return Err(self.contract(format!("{count} samples were asked for, {} came", generated.samples.len())));
        }
        Ok(generated)
    }

    /// `POST /verify`: one result per sample, in the order of the samples.
    ///
    /// # Errors
    /// See [`SkillError`].
    pub fn verify(&self, samples: &[VerifySample]) -> Result<Vec<VerifyResult>, SkillError> {
        #[derive(Deserialize)]
        struct Results {
            results: Vec<VerifyResult>,
        }
        let body = json!({ "samples": samples });
        let Results { results } = self.call("POST", "/verify", Some(&body))?;
        let same = |(sample, result): (&VerifySample, &VerifyResult)| sample.id == result.id;
        if results.len() != samples.len() || !samples.iter().zip(&results).all(same) {
            return Err(self.contract("the results are not those of the samples, one by one".to_string()));
        }
        if let Some(odd) = results.iter().find(|result| !(0.0..=1.0).contains(&result.score)) {
            return Err(self.contract(format!("the score of {} is {}, not between 0 and 1", odd.id, odd.score)));
        }
        Ok(results)
    }

    fn call<T: DeserializeOwned>(
        &self,
        method: &'static str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, SkillError> {
        let mut wait = FIRST_WAIT;
        for _ in 1..self.tries {
            match self.call_once(method, path, body) {
                Err(error) if error.is_transient() => std::thread::sleep(wait),
                result => return result,
            }
            wait *= 2;
        }
        self.call_once(method, path, body)
    }

    fn call_once<T: DeserializeOwned>(
        &self,
        method: &'static str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, SkillError> {
        let url = format!("{}{path}", self.url);
        let body = body.map_or(Body::Empty, Body::Json);
        let call = Call { method, url: &url, key: None, body, timeout: self.timeout, max_bytes: self.max_answer_bytes };
        let answer = http::send(&call).map_err(|reason| SkillError::Unreachable { url: self.url.clone(), reason })?;
        if !answer.is_success() {
            let (status, message) = (answer.status, answer.message());
            return Err(SkillError::Refused { url: self.url.clone(), status, message });
        }
        serde_json::from_slice(&answer.bytes).map_err(|error| self.contract(format!("{method} {path}: {error}")))
    }

    fn contract(&self, reason: String) -> SkillError {
        SkillError::Contract { url: self.url.clone(), reason }
    }
}
