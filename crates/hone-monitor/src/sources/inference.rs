//! `inference`: what the inference server says of itself.
//!
//! `{configured, url, reachable, ready, latency_ms, health, model}` with the bodies of its `/health` and `/models/info`.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long each of the three requests may take.
const REQUEST_LIMIT: Duration = Duration::from_millis(600);
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
        let (_, health) = self.get(url, "/health").context("ask the inference server for its health")?;
        let latency_ms = start.elapsed().as_secs_f64() * 1000.0;
        let (ready, _) = self.get(url, "/ready")?;
        let (has_model, model) = self.get(url, "/models/info")?;
        Ok(json!({
            "configured": true,
            "url": url,
            "reachable": true,
            "ready": ready,
            "latency_ms": (latency_ms * 10.0).round() / 10.0,
            "health": health,
            "model": has_model.then_some(model),
        }))
    }

    /// Whether the answer's status was a success, and its body where it is JSON.
    fn get(&self, url: &str, path: &str) -> Result<(bool, Value)> {
        let mut request = self.agent.get(format!("{url}{path}"));
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let mut response = request.call()?;
        let success = response.status().is_success();
        let body = response.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_json().unwrap_or_default();
        Ok((success, body))
    }
}
