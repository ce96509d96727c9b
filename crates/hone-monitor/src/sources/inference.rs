//! `inference`: what the inference server says of itself.
//!
//! `{configured, url, reachable, ready, latency_ms, health, model, key_refused, metrics}` with the bodies of its `/health` and
//! `/models/info`. `metrics` are sums over its `/metrics` since it started: `{requests, errors, running, waiting,
//! generated_tokens, prompt_tokens, answers, answer_seconds, first_tokens, first_token_seconds, by_checkpoint: [{checkpoint,
//! complete, failed}]}`; `errors` counts answers with a status of 500 and above, `failed` those that a fault or their time limit
//! ended; of the last checkpoints that answered, oldest first.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long each of the four requests may take.
const REQUEST_LIMIT: Duration = Duration::from_millis(450);
const OK: u16 = 200;
/// Largest answer read.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

pub(super) struct InferenceReader {
    url: Option<String>,
    key: Option<String>,
    agent: ureq::Agent,
}

impl InferenceReader {
    pub(super) fn new(url: Option<String>, key: Option<String>) -> InferenceReader {
        let config = ureq::Agent::config_builder().timeout_global(Some(REQUEST_LIMIT)).http_status_as_error(false);
        let url = url.map(|url| url.trim_end_matches('/').to_string());
        InferenceReader { url, key, agent: config.build().into() }
    }

    pub(super) fn read(&mut self) -> Result<Value> {
        let Some(url) = &self.url else {
            return Ok(json!({ "configured": false }));
        };
        let start = Instant::now();
        let (_, health) = self.get_json(url, "/health").context("ask the inference server for its health")?;
        let latency_ms = start.elapsed().as_secs_f64() * 1000.0;
        // It answers; what else it says may be slow while a model loads.
        let (ready, _) = self.get_json(url, "/ready").unwrap_or_default();
        let (status, model) = self.get_json(url, "/models/info").unwrap_or_default();
        let metrics = self.get(url, "/metrics").ok().filter(|(status, _)| *status == OK);
        Ok(json!({
            "configured": true,
            "url": url,
            "reachable": true,
            "ready": ready == OK,
            "latency_ms": (latency_ms * 10.0).round() / 10.0,
            "health": health,
            "model": (status == OK).then_some(model),
            "key_refused": status == 401,
            "metrics": metrics.map(|(_, text)| figures(&text)),
        }))
    }

    fn get_json(&self, url: &str, path: &str) -> Result<(u16, Value)> {
        let (status, text) = self.get(url, path)?;
        Ok((status, serde_json::from_str(&text).unwrap_or_default()))
    }

    /// Status and body of an answer.
    fn get(&self, url: &str, path: &str) -> Result<(u16, String)> {
        let mut request = self.agent.get(format!("{url}{path}"));
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let mut response = request.call()?;
        let body = response.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_string().unwrap_or_default();
        Ok((response.status().as_u16(), body))
    }
}

/// Sums over the samples of the server's Prometheus text that the page shows; what is not there is 0.
fn figures(text: &str) -> Value {
    let samples = || text.lines().filter_map(sample);
    let sum = |name: &str, wanted: &dyn Fn(&str) -> bool| -> f64 {
        samples().filter(|(found, labels, _)| *found == name && wanted(labels)).map(|(_, _, value)| value).sum()
    };
    let all = |name: &str| sum(name, &|_| true);
    json!({
        "requests": all("hone_serve_requests_total"),
        "errors": sum("hone_serve_requests_total", &|labels| labels.contains("status=\"5")),
        "running": all("hone_serve_choices_running"),
        "waiting": all("hone_serve_choices_waiting"),
        "generated_tokens": all("hone_serve_generated_tokens_total"),
        "prompt_tokens": all("hone_serve_prompt_tokens_total"),
        "answers": all("hone_serve_answer_seconds_count"),
        "answer_seconds": all("hone_serve_answer_seconds_sum"),
        "first_tokens": all("hone_serve_first_token_seconds_count"),
        "first_token_seconds": all("hone_serve_first_token_seconds_sum"),
        "by_checkpoint": by_checkpoint(samples().filter(|(name, _, _)| *name == "hone_serve_answers_total")),
    })
}

fn by_checkpoint<'a>(samples: impl Iterator<Item = (&'a str, &'a str, f64)>) -> Vec<Value> {
    let mut told: Vec<Value> = Vec::new();
    for (_, labels, value) in samples {
        let label = |name: &str| labels.split(&format!("{name}=\"")).nth(1).and_then(|rest| rest.split('"').next());
        let (Some(checkpoint), Some(outcome)) = (label("checkpoint"), label("outcome")) else { continue };
        if told.last().is_none_or(|entry| entry["checkpoint"] != checkpoint) {
            told.push(json!({ "checkpoint": checkpoint }));
        }
        if let Some(entry) = told.last_mut() {
            entry[outcome] = value.into();
        }
    }
    told
}

/// `name{labels} value` or `name value`.
fn sample(line: &str) -> Option<(&str, &str, f64)> {
    let (head, value) = line.rsplit_once(' ').filter(|_| !line.starts_with('#'))?;
    let (name, labels) = head.split_once('{').unwrap_or((head, ""));
    Some((name, labels, value.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_what_the_server_counts() {
        let text = "# HELP hone_serve_requests_total Answered.\nhone_serve_requests_total{route=\"/a b\",status=\"2xx\"} 5\n\
                    hone_serve_requests_total{route=\"chat\",status=\"5xx\"} 2\nhone_serve_choices_running 3\nnonsense\n\
                    hone_serve_answer_seconds_sum 1.5\nhone_serve_answer_seconds_count 3\n\
                    hone_serve_answers_total{checkpoint=\"checkpoint-4\",outcome=\"complete\"} 7\n\
                    hone_serve_answers_total{checkpoint=\"checkpoint-4\",outcome=\"failed\"} 1\n\
                    hone_serve_answers_total{checkpoint=\"checkpoint-9\",outcome=\"complete\"} 2\n";
        let told = figures(text);
        assert_eq!((&told["requests"], &told["errors"]), (&json!(7.0), &json!(2.0)));
        assert_eq!((&told["running"], &told["waiting"]), (&json!(3.0), &json!(0.0)));
        assert_eq!((&told["answers"], &told["answer_seconds"]), (&json!(3.0), &json!(1.5)));
        let answered = json!([{"checkpoint": "checkpoint-4", "complete": 7.0, "failed": 1.0}, {"checkpoint": "checkpoint-9", "complete": 2.0}]);
        assert_eq!(told["by_checkpoint"], answered);
    }
}
