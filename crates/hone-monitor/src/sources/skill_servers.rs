//! `skill_servers`: `{servers: [{name, url, answers, latency_ms, error}]}`, as each one's `GET /health` says.

use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long all of them may take together.
const LIMIT: Duration = Duration::from_millis(1500);

pub(super) struct SkillServers {
    /// Names and base URLs.
    servers: Vec<(String, String)>,
    agent: ureq::Agent,
}

impl SkillServers {
    pub(super) fn new(servers: Vec<(String, String)>) -> SkillServers {
        let config = ureq::Agent::config_builder().timeout_global(Some(LIMIT)).build();
        SkillServers { servers, agent: config.into() }
    }

    /// Asks all at the same time.
    pub(super) fn read(&self) -> Value {
        let servers: Vec<Value> = std::thread::scope(|scope| {
            let asked: Vec<_> = self.servers.iter().map(|(name, url)| scope.spawn(|| self.ask(name, url))).collect();
            asked.into_iter().map(|asked| asked.join().unwrap_or_default()).collect()
        });
        json!({ "servers": servers })
    }

    fn ask(&self, name: &str, url: &str) -> Value {
        let start = Instant::now();
        let answer = self.agent.get(format!("{}/health", url.trim_end_matches('/'))).call();
        let latency_ms = start.elapsed().as_millis() as u64;
        json!({
            "name": name,
            "url": url,
            "answers": answer.is_ok(),
            "latency_ms": answer.is_ok().then_some(latency_ms),
            "error": answer.err().map(|error| error.to_string()),
        })
    }
}
