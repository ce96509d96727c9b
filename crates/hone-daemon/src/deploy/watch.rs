//! Looking at a target after a switch: does it serve what it should, does it answer, how fast, and how many of its
//! answers are errors. One look after the other until the window ends or something is wrong.

use super::{DeployError, DeployTarget};
use crate::http::{self, Body, Call};
use hone_pipeline::event::WatchOutcome;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// What is asked when no canary file is configured.
const PROMPT: &str = "Hello";
/// Tokens of a canary's answer.
const CANARY_TOKENS: u64 = 16;
/// Looks in a row that must fail before a target is said to misbehave: one may meet a restart.
const FAILURES: u32 = 2;
/// Fewer errors than this are no burst.
const MIN_ERRORS: u64 = 5;
const MAX_ANSWER_BYTES: u64 = 4 << 20;

/// What a target must do.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// BLAKE3 of the manifest that it must serve.
    pub manifest_hash: String,
    /// The name that clients ask for.
    pub model_name: String,
    /// Longest time of a canary's answer.
    pub max_answer: Duration,
    /// Largest share of answers that may be errors of the server.
    pub max_error_share: f64,
    /// Questions with what their answers must contain.
    pub canaries: Vec<Canary>,
    /// Least share of canaries that must be answered so.
    pub min_canary_share: f64,
}

/// One line of a canary file.
#[derive(Clone, Debug, Deserialize)]
pub struct Canary {
    /// The conversation without its answer.
    pub messages: Value,
    /// A text that the answer must contain; empty = any answer.
    #[serde(default)]
    pub expect: String,
}

/// A window of looks.
pub struct Watch<'a> {
    target: &'a dyn DeployTarget,
    expected: &'a Expectation,
    door: Door<'a>,
    before: Option<Counts>,
    failures: u32,
    looks: u32,
    /// The last look saw trouble, and one more is needed to tell.
    in_doubt: bool,
    last: Option<String>,
    without_metrics: bool,
}

/// Where answers and metrics come from.
#[derive(Clone, Copy)]
pub struct Door<'a> {
    /// Base URL.
    pub url: &'a str,
    /// Sent with each request.
    pub key: Option<&'a str>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    all: u64,
    errors: u64,
}

/// Reads a canary file: one JSON object a line.
///
/// # Errors
/// It cannot be read, a line is not such an object, or there is none.
pub fn read_canaries(path: &Path) -> anyhow::Result<Vec<Canary>> {
    use anyhow::{Context, ensure};
    let text = std::fs::read_to_string(path).with_context(|| format!("read canaries {}", path.display()))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let canaries = lines
        .map(|(index, line)| {
            let place = || {
                format!("read canaries {} line {}: {{\"messages\": […], \"expect\": \"…\"}}", path.display(), index + 1)
            };
            serde_json::from_str(line).with_context(place)
        })
        .collect::<anyhow::Result<Vec<Canary>>>()?;
    ensure!(!canaries.is_empty(), "read canaries {}: it has no line", path.display());
    Ok(canaries)
}

impl<'a> Watch<'a> {
    /// Begins a window.
    #[must_use]
    pub fn begin(target: &'a dyn DeployTarget, expected: &'a Expectation, door: Door<'a>) -> Watch<'a> {
        let before = counts(door);
        let without_metrics = before.is_none();
        Watch { target, expected, door, before, failures: 0, looks: 0, in_doubt: false, last: None, without_metrics }
    }

    /// Looks once. An outcome ends the window.
    pub fn look(&mut self) -> Option<WatchOutcome> {
        self.looks += 1;
        self.in_doubt = false;
        match self.trouble() {
            Ok(None) => {
                self.failures = 0;
                self.last = None;
                None
            }
            Ok(Some(reason)) => {
                self.failures += 1;
                self.last = Some(reason.clone());
                self.in_doubt = true;
                (self.failures >= FAILURES).then_some(WatchOutcome::Misbehaves { reason })
            }
            // Nobody answers: that is not the checkpoint's fault as far as anyone knows.
            Err(reason) => {
                self.last = Some(reason);
                None
            }
        }
    }

    /// Whether the window must not end yet: the last look saw trouble, and only another one tells whether it stays.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// What the whole window says, at its end.
    #[must_use]
    pub fn end(self) -> WatchOutcome {
        match self.last {
            Some(reason) => WatchOutcome::Unknown { reason },
            None if self.without_metrics => {
                WatchOutcome::Well { note: format!("{} looks were fine; it has no metrics to read", self.looks) }
            }
            None => WatchOutcome::Well { note: format!("{} looks were fine", self.looks) },
        }
    }

    /// What is wrong; an error when the target cannot be asked.
    fn trouble(&mut self) -> Result<Option<String>, String> {
        let serving = self.target.list().map_err(|error| match error {
            DeployError::Transient(reason) | DeployError::Permanent(reason) => reason,
        })?;
        match serving.iter().find(|deployment| deployment.state == "serving") {
            None if is_loading(self.door) => return Err("it was started anew and loads its model".to_string()),
            None => return Ok(Some("it serves nothing".to_string())),
            Some(other) if other.manifest_hash != self.expected.manifest_hash => {
                return Err(format!("it serves {} by now, not by an order of this host", other.checkpoint));
            }
            Some(_) => {}
        }
        if let Some(reason) = self.error_burst() {
            return Ok(Some(reason));
        }
        self.canaries()
    }

    fn error_burst(&mut self) -> Option<String> {
        let (Some(before), Some(now)) = (self.before, counts(self.door)) else {
            self.without_metrics = true;
            return None;
        };
        // A server that was restarted counts from zero.
        let (all, errors) = (now.all.saturating_sub(before.all), now.errors.saturating_sub(before.errors));
        let share = errors as f64 / all.max(1) as f64;
        let burst = errors >= MIN_ERRORS && share > self.expected.max_error_share;
        burst.then(|| format!("{errors} of its {all} answers since the switch are errors ({:.1} %)", share * 100.0))
    }

    /// Asks one canary where any answer will do, all of them where answers are checked.
    fn canaries(&self) -> Result<Option<String>, String> {
        let plain = [Canary { messages: json!([{"role": "user", "content": PROMPT}]), expect: String::new() }];
        let canaries = if self.expected.canaries.is_empty() { &plain[..] } else { &self.expected.canaries };
        let mut right = 0;
        for canary in canaries {
            match self.ask(canary)? {
                Ok(true) => right += 1,
                Ok(false) => {}
                Err(reason) => return Ok(Some(reason)),
            }
        }
        let (num, share) = (canaries.len(), f64::from(right) / canaries.len() as f64);
        let failed = share < self.expected.min_canary_share;
        Ok(failed.then(|| format!("{right} of {num} canaries were answered as expected")))
    }

    /// Whether the answer is as expected; inside, what is wrong with the server; outside, that it cannot be reached.
    fn ask(&self, canary: &Canary) -> Result<Result<bool, String>, String> {
        let body = json!({
            "model": self.expected.model_name, "messages": canary.messages,
            "max_tokens": CANARY_TOKENS, "temperature": 0,
        });
        let limit = self.expected.max_answer;
        let url = format!("{}/v1/chat/completions", self.door.url);
        let call = Call {
            method: "POST",
            url: &url,
            key: self.door.key,
            body: Body::Json(&body),
            timeout: limit,
            max_bytes: MAX_ANSWER_BYTES,
        };
        let start = Instant::now();
        let answer = match http::send(&call) {
            Ok(answer) => answer,
            Err(_) if start.elapsed() >= limit => {
                return Ok(Err(format!("a canary had no answer within {} s", limit.as_secs())));
            }
            Err(reason) => return Err(format!("it does not answer: {reason}")),
        };
        Ok(match answer.status {
            200 => {
                let value: Value = serde_json::from_slice(&answer.bytes).unwrap_or_default();
                match value.pointer("/choices/0/message/content").and_then(Value::as_str) {
                    Some(text) => Ok(text.contains(&canary.expect)),
                    None => Err("a canary's answer has no content".to_string()),
                }
            }
            // Busy, not broken; and a model without a chat template cannot be asked in this way.
            400 | 429 | 503 => Ok(true),
            status => Err(format!("a canary was answered {status}: {}", answer.message())),
        })
    }
}

/// Whether a server that serves nothing says that it will: it was started anew.
fn is_loading(door: Door) -> bool {
    let url = format!("{}/ready", door.url);
    let (body, timeout) = (Body::Empty, Duration::from_secs(5));
    let call = Call { method: "GET", url: &url, key: door.key, body, timeout, max_bytes: MAX_ANSWER_BYTES };
    let told = http::send(&call).ok().and_then(|answer| serde_json::from_slice::<Value>(&answer.bytes).ok());
    told.is_some_and(|told| told["loading"] == true)
}

/// Answers to clients so far; `None` where there are no metrics to read.
fn counts(door: Door) -> Option<Counts> {
    let url = format!("{}/metrics", door.url);
    let (body, timeout) = (Body::Empty, Duration::from_secs(5));
    let call = Call { method: "GET", url: &url, key: door.key, body, timeout, max_bytes: MAX_ANSWER_BYTES };
    let answer = http::send(&call).ok().filter(http::Answer::is_success)?;
    parse_counts(&String::from_utf8_lossy(&answer.bytes))
}

/// Sums `hone_serve_requests_total{route="/v1/…",status="5xx"} N` over routes of clients.
fn parse_counts(text: &str) -> Option<Counts> {
    if !text.contains("hone_serve_requests_total") {
        return None;
    }
    let mut counts = Counts::default();
    for line in text.lines().filter_map(|line| line.strip_prefix("hone_serve_requests_total{route=\"/v1/")) {
        let count: u64 = line.rsplit(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0);
        counts.all += count;
        counts.errors += if line.contains("status=\"5xx\"") { count } else { 0 };
    }
    Some(counts)
}

/// The door of a target for watching it; kept apart from the trait, since programs of a user have no door.
#[must_use]
pub fn door_of<'a>(url: &'a str, key: Option<&'a str>) -> Door<'a> {
    Door { url: url.trim_end_matches('/'), key }
}

#[cfg(test)]
mod tests;
