//! `hone skill conform URL`: holds any skill server against Skill API v1.
//!
//! Every check has a name; a fault names the check, the level and what was seen. The whole takes less than
//! [`TIME_LIMIT`], whatever the server does: each call has a time and a size limit, and what cannot be asked any more is
//! told as a fault of its own.

#[cfg(test)]
mod tests;

use crate::http::{self, Body, Call};
use crate::skill::{Generated, SkillInfo, SkillLevel, VerifyResult};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Limit of the whole.
pub const TIME_LIMIT: Duration = Duration::from_secs(25);
/// Limit of one call.
const CALL_LIMIT: Duration = Duration::from_secs(4);
/// Largest answer to a call.
const MAX_BYTES: u64 = 8 << 20;
/// Samples of one call.
const COUNT: usize = 20;
/// Levels that are looked at; of more, the first and the last ones.
const MAX_LEVELS: u32 = 12;
/// What solves nothing. The empty one is unparsable in every skill; the others may be wrong answers where any text is one.
const NO_ANSWERS: [&str; 3] = ["", "I do not know.", "\u{1f937} no idea, sorry!"];

/// Something that is not as the contract says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The check: `health`, `info`, `levels`, `generate`, `seed`, `splits`, `verify`, `own_answer`, `unparsable`,
    /// `wrong_answer`, `unknown_level`, `bad_request`, `time`.
    pub check: &'static str,
    /// The level, where there is one.
    pub level: Option<u32>,
    /// What was seen, and what was expected.
    pub message: String,
}

/// What was looked at, and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Conformance {
    /// The server's own name for its skill.
    pub skill: String,
    /// Its version.
    pub version: String,
    /// Levels that were looked at.
    pub levels: Vec<u32>,
    /// Faults; none for a server that keeps the contract.
    pub faults: Vec<Fault>,
}

/// Looks at the server at `url`. It never fails: whatever goes wrong is a fault.
#[must_use]
pub fn conform(url: &str) -> Conformance {
    let mut visit = Visit { url: url.trim_end_matches('/'), start: Instant::now(), found: Conformance::default() };
    visit.all();
    visit.found
}

struct Visit<'a> {
    url: &'a str,
    start: Instant,
    found: Conformance,
}

/// A sample as it came, with what was read of it.
struct Sample {
    id: String,
    question: String,
    answer: String,
    metadata: Value,
}

impl Visit<'_> {
    fn all(&mut self) {
        let Some(total) = self.identity() else { return };
        let half = MAX_LEVELS / 2;
        let levels: Vec<u32> =
            (1..=total).filter(|level| *level <= half || *level > total.saturating_sub(half)).collect();
        for level in levels {
            if self.start.elapsed() > TIME_LIMIT {
                return self.fault("time", Some(level), "there was no time left to look at it");
            }
            self.found.levels.push(level);
            self.level(level);
        }
        self.refusals(total);
    }

    /// Health, info and levels; the number of levels.
    fn identity(&mut self) -> Option<u32> {
        let health = self.ask("health", None, "GET", "/health", None)?;
        if health["status"] != "ok" {
            self.fault("health", None, format!("GET /health says {health}, expected {{\"status\":\"ok\"}}"));
        }
        let info = self.ask("info", None, "GET", "/info", None)?;
        for key in ["skill", "name", "description", "version"] {
            if !info[key].is_string() {
                self.fault("info", None, format!("{key} is {}, expected a text", info[key]));
            }
        }
        if info["api_version"] != "1" {
            self.fault("info", None, format!("api_version is {}, expected \"1\"", info["api_version"]));
        }
        self.must_be_read::<SkillInfo>("info", None, &info);
        let text = |key: &str| info[key].as_str().unwrap_or_default().to_string();
        (self.found.skill, self.found.version) = (text("skill"), text("version"));
        let total =
            info["total_levels"].as_u64().and_then(|total| u32::try_from(total).ok()).filter(|total| *total > 0);
        let Some(total) = total else {
            self.fault("info", None, format!("total_levels is {}, expected a number from 1", info["total_levels"]));
            return None;
        };
        let levels = self.ask("levels", None, "GET", "/levels", None)?;
        let numbers: Vec<u64> =
            levels["levels"].as_array().into_iter().flatten().filter_map(|level| level["level"].as_u64()).collect();
        if numbers != (1..=u64::from(total)).collect::<Vec<_>>() {
            self.fault("levels", None, format!("the levels are {numbers:?}, expected 1 to {total}"));
        }
        for level in levels["levels"].as_array().into_iter().flatten() {
            self.must_be_read::<SkillLevel>("levels", None, level);
            let threshold = level["pass_threshold"].as_f64().filter(|share| (0.0..=1.0).contains(share));
            if level["eval_samples"].as_u64().is_none_or(|count| count == 0) || threshold.is_none() {
                self.fault("levels", None, format!("{level} has no eval_samples or no pass_threshold from 0 to 1"));
            }
        }
        Some(total)
    }

    fn level(&mut self, level: u32) {
        let Some((bytes, train)) = self.generate(level, 1, "train") else { return };
        let Some((_, eval)) = self.generate(level, 1, "eval") else { return };
        let Some((again, _)) = self.generate(level, 1, "train") else { return };
        let Some((other, _)) = self.generate(level, 2, "train") else { return };
        if bytes != again {
            self.fault("seed", Some(level), "the same seed gave two different answers");
        }
        if bytes["samples"] == other["samples"] {
            self.fault("seed", Some(level), "two seeds gave the same samples");
        }
        let of = |samples: &[Sample], pick: fn(&Sample) -> &str| -> BTreeSet<String> {
            samples.iter().map(|sample| pick(sample).to_string()).collect()
        };
        for (what, pick) in [("id", (|s| &s.id) as fn(&Sample) -> &str), ("question", |s| &s.question)] {
            if let Some(shared) = of(&train, pick).intersection(&of(&eval, pick)).next() {
                self.fault("splits", Some(level), format!("train and eval share the {what} {shared:?}"));
            }
        }
        self.judge(level, &train);
    }

    /// Samples of the shape that the contract asks for.
    fn generate(&mut self, level: u32, seed: u64, split: &str) -> Option<(Value, Vec<Sample>)> {
        let body = json!({ "level": level, "count": COUNT, "seed": seed, "split": split });
        let answer = self.ask("generate", Some(level), "POST", "/generate", Some(&body))?;
        if answer["level"] != level {
            self.fault("generate", Some(level), format!("level {level} was asked for, {} came", answer["level"]));
        }
        for key in ["skill", "version"] {
            if !answer[key].is_string() {
                self.fault("generate", Some(level), format!("{key} is {}, expected a text", answer[key]));
            }
        }
        let Some(list) = answer["samples"].as_array() else {
            self.fault("generate", Some(level), "samples is missing or not a list");
            return None;
        };
        if list.len() != COUNT {
            self.fault("generate", Some(level), format!("{COUNT} samples were asked for, {} came", list.len()));
        }
        let samples: Vec<Sample> = list.iter().filter_map(read).collect();
        if samples.len() < list.len() || samples.is_empty() {
            let message =
                "a sample needs id, messages (text in role and content, an answer last) and metadata (an object)";
            self.fault("generate", Some(level), message);
            return None;
        }
        self.must_be_read::<Generated>("generate", Some(level), &answer);
        let ids: BTreeSet<&str> = samples.iter().map(|sample| sample.id.as_str()).collect();
        if ids.len() < samples.len() && answer["repeated"] != true {
            self.fault("generate", Some(level), "a sample comes twice, and `repeated` does not say so");
        }
        Some((answer, samples))
    }

    /// Own answers are right, others' are wrong, and what is none is told apart.
    fn judge(&mut self, level: u32, samples: &[Sample]) {
        let own: Vec<String> = samples.iter().map(|sample| sample.answer.clone()).collect();
        for (sample, result) in self.verify(level, samples, &own) {
            if result["solved"] != true || result["parsed"] != true || result["score"].as_f64() != Some(1.0) {
                self.fault("own_answer", Some(level), format!("{sample}: its own answer is judged {result}"));
            }
        }
        for response in NO_ANSWERS {
            let none = vec![response.to_string(); samples.len()];
            for (sample, result) in self.verify(level, samples, &none) {
                if result["solved"] != false || (response.is_empty() && result["parsed"] != false) {
                    let message =
                        format!("{sample}: {response:?} is judged {result}, expected neither solved nor parsed");
                    self.fault("unparsable", Some(level), message);
                }
            }
        }
        let halves: Vec<String> = own.iter().map(|text| half(text)).collect();
        let mut others = own.clone();
        others.rotate_left(1);
        for responses in [halves, others] {
            for ((sample, result), (response, own)) in
                self.verify(level, samples, &responses).into_iter().zip(responses.iter().zip(&own))
            {
                let score = result["score"].as_f64();
                if response.trim() != own.trim()
                    && (result["solved"] != false || score.is_none_or(|score| score >= 1.0))
                {
                    let message = format!("{sample}: a part of an answer, or another sample's, is judged {result}");
                    self.fault("wrong_answer", Some(level), message);
                }
            }
        }
    }

    /// One result per sample, by its id; less where the server's answer has another shape.
    fn verify(&mut self, level: u32, samples: &[Sample], responses: &[String]) -> Vec<(String, Value)> {
        let asked: Vec<Value> = samples
            .iter()
            .zip(responses)
            .map(|(s, response)| json!({ "id": s.id, "level": level, "metadata": s.metadata, "response": response }))
            .collect();
        let Some(answer) = self.ask("verify", Some(level), "POST", "/verify", Some(&json!({ "samples": asked })))
        else {
            return Vec::new();
        };
        let results = answer["results"].as_array().cloned().unwrap_or_default();
        let same = results.iter().map(|result| result["id"].as_str()).eq(samples.iter().map(|s| Some(s.id.as_str())));
        if !same {
            self.fault("verify", Some(level), "the results are not those of the samples, one by one, in `results`");
            return Vec::new();
        }
        for result in &results {
            let Some(read) = self.must_be_read::<VerifyResult>("verify", Some(level), result) else {
                return Vec::new();
            };
            if !(0.0..=1.0).contains(&read.score) {
                self.fault("verify", Some(level), format!("{}: its score is {}, expected 0 to 1", read.id, read.score));
            }
        }
        samples.iter().map(|sample| sample.id.clone()).zip(results).collect()
    }

    /// What hone's own client reads, or a fault: what it refuses is no skill for hone.
    fn must_be_read<T: DeserializeOwned>(
        &mut self,
        check: &'static str,
        level: Option<u32>,
        value: &Value,
    ) -> Option<T> {
        match serde_json::from_value(value.clone()) {
            Ok(read) => Some(read),
            Err(error) => {
                self.fault(check, level, format!("{value} cannot be read: {error}"));
                None
            }
        }
    }

    /// Levels that do not exist and bodies that are no JSON are refused.
    fn refusals(&mut self, total: u32) {
        for level in [0, total + 1] {
            let body = json!({ "level": level, "count": 1, "seed": 1, "split": "train" });
            self.must_refuse("unknown_level", Some(level), "/generate", &body);
        }
        self.must_refuse("bad_request", None, "/generate", &json!({ "count": 1 }));
        self.must_refuse("bad_request", None, "/verify", &json!([]));
    }

    fn must_refuse(&mut self, check: &'static str, level: Option<u32>, path: &str, body: &Value) {
        match self.send("POST", path, Some(body)) {
            Ok(answer) if (400..500).contains(&answer.status) => {}
            Ok(answer) => {
                let message =
                    format!("POST {path} {body} answers {}, expected a status from 400 to 499", answer.status);
                self.fault(check, level, message);
            }
            Err(reason) => self.fault("time", level, format!("POST {path}: {reason}")),
        }
    }

    /// The answer as JSON; a fault and none otherwise. A call that hangs is a fault of `time`.
    fn ask(
        &mut self,
        check: &'static str,
        level: Option<u32>,
        method: &'static str,
        path: &str,
        body: Option<&Value>,
    ) -> Option<Value> {
        let answer = match self.send(method, path, body) {
            Ok(answer) => answer,
            Err(reason) => {
                self.fault("time", level, format!("{method} {path}: {reason}"));
                return None;
            }
        };
        if !answer.is_success() {
            self.fault(check, level, format!("{method} {path} answers {}: {}", answer.status, answer.message()));
            return None;
        }
        match serde_json::from_slice(&answer.bytes) {
            Ok(value) => Some(value),
            Err(error) => {
                self.fault(check, level, format!("{method} {path} answers no JSON: {error}"));
                None
            }
        }
    }

    fn send(&self, method: &'static str, path: &str, body: Option<&Value>) -> Result<http::Answer, String> {
        let left = TIME_LIMIT.checked_sub(self.start.elapsed()).ok_or("no time is left")?;
        let url = format!("{}{path}", self.url);
        let body = body.map_or(Body::Empty, Body::Json);
        http::send(&Call { method, url: &url, key: None, body, timeout: CALL_LIMIT.min(left), max_bytes: MAX_BYTES })
    }

    /// Notes a fault; of one check and level only the first.
    fn fault(&mut self, check: &'static str, level: Option<u32>, message: impl Into<String>) {
        if !self.found.faults.iter().any(|fault| fault.check == check && fault.level == level) {
            self.found.faults.push(Fault { check, level, message: message.into() });
        }
    }
}

fn read(sample: &Value) -> Option<Sample> {
    let messages = sample["messages"].as_array()?;
    let mut turns: BTreeMap<bool, Vec<&str>> = BTreeMap::new();
    for (index, message) in messages.iter().enumerate() {
        message["role"].as_str()?;
        turns.entry(index + 1 == messages.len()).or_default().push(message["content"].as_str()?);
    }
    let answer = messages.last().filter(|last| last["role"] == "assistant")?["content"].as_str()?;
    let asks = messages.iter().any(|message| message["role"] == "user");
    let question = turns.get(&false)?.join("\n");
    let (id, metadata) = (sample["id"].as_str()?.to_string(), sample["metadata"].clone());
    let whole = asks && !answer.trim().is_empty() && metadata.is_object();
    whole.then(|| Sample { id, question, answer: answer.to_string(), metadata })
}

/// The first half of an answer.
fn half(answer: &str) -> String {
    let chars: Vec<char> = answer.trim().chars().collect();
    chars[..chars.len() / 2].iter().collect()
}
