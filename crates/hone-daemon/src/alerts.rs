//! Telling people: a command or a webhook for what a person must see.
//!
//! Every line of the event log of the severity `error`, and those of [`KINDS`], is sent as one JSON object
//! (`{"at_ms", "severity", "kind", "subject", "message", "root"}`): to the command on its stdin, to the webhook as the
//! body of a POST. The same kind about the same subject is told once in [`QUIET`]. Alerts run on a thread of their
//! own, one after the other, each with a time limit; beyond [`MAX_WAITING`] they are dropped, and the log says so.

use crate::options::Alerts;
use anyhow::{Context, Result, bail};
use hone_pipeline::state::{LogEntry, LogSeverity};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// Told although they are no errors.
const KINDS: &[&str] = &["rolled_back", "rewound", "held", "no_promotion", "worker_lost", "config_invalid"];
/// The same kind about the same subject is told once in this time.
const QUIET: Duration = Duration::from_secs(3600);
/// Alerts that wait for the one under way.
const MAX_WAITING: usize = 64;
/// Time limit of one alert.
const LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// The sender's end: what was told, and the way to the thread.
pub struct Alerter {
    orders: SyncSender<(Alerts, Value)>,
    told: HashMap<(String, String), Instant>,
}

impl Alerter {
    /// An alerter and its thread, which ends with it, after what waits.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start() -> Result<(Alerter, JoinHandle<()>)> {
        let (orders, waiting) = sync_channel::<(Alerts, Value)>(MAX_WAITING);
        let body = move || {
            for (alerts, alert) in waiting {
                if let Err(error) = tell(&alerts, &alert) {
                    tracing::warn!("an alert was not delivered: failed to {error:#}");
                }
            }
        };
        let thread = std::thread::Builder::new().name("alerts".to_string()).spawn(body).context("start the alerts")?;
        Ok((Alerter { orders, told: HashMap::new() }, thread))
    }

    /// Tells people of a line of the event log, where it is one for them.
    pub fn heard(&mut self, entry: &LogEntry, alerts: &Alerts, root: &Path, now: Instant) {
        if alerts.command.is_empty() && alerts.url.is_none() || !is_for_people(entry) {
            return;
        }
        let key = (entry.kind.clone(), entry.subject.clone());
        self.told.retain(|_, at| now.saturating_duration_since(*at) < QUIET);
        if self.told.contains_key(&key) {
            return;
        }
        self.told.insert(key, now);
        let mut alert = json!(entry);
        alert["root"] = json!(root);
        if self.orders.try_send((alerts.clone(), alert)).is_err() {
            tracing::warn!(kind = entry.kind, "an alert is dropped: too many wait");
        }
    }
}

fn is_for_people(entry: &LogEntry) -> bool {
    entry.severity == LogSeverity::Error || KINDS.contains(&entry.kind.as_str())
}

fn tell(alerts: &Alerts, alert: &Value) -> Result<()> {
    if let Some(url) = &alerts.url {
        let config = ureq::Agent::config_builder().timeout_global(Some(LIMIT)).build();
        let request = ureq::Agent::from(config).post(url).header("content-type", "application/json");
        request.send(alert.to_string()).context("post the alert")?;
    }
    if alerts.command.is_empty() { Ok(()) } else { run(&alerts.command, alert) }
}

fn run(command: &[String], alert: &Value) -> Result<()> {
    let mut child = Command::new(&command[0])
        .args(&command[1..])
        .env_remove("HONE_ADMIN_KEY")
        .env_remove("HONE_READ_KEY")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("start the alert command {}", command[0]))?;
    // A command that does not read it is free not to.
    let _ = child.stdin.take().map(|mut pipe| writeln!(pipe, "{alert}"));
    let start = Instant::now();
    loop {
        match child.try_wait().context("wait for the alert command")? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => bail!("run the alert command: {status}"),
            None if start.elapsed() > LIMIT => {
                let _ = child.kill().and_then(|()| child.wait().map(drop));
                bail!("run the alert command: it took more than {} s", LIMIT.as_secs());
            }
            None => std::thread::sleep(POLL),
        }
    }
}
