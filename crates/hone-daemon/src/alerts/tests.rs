//! People hear of what they must see, once, as JSON.

use super::Alerter;
use crate::options::Alerts;
use hone_pipeline::state::{LogEntry, LogSeverity};
use std::path::Path;
use std::time::{Duration, Instant};

fn entry(severity: LogSeverity, kind: &str, subject: &str) -> LogEntry {
    LogEntry { at_ms: 7, severity, kind: kind.to_string(), subject: subject.to_string(), message: "m".to_string() }
}

#[test]
fn errors_and_named_kinds_are_told_once_by_the_command() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let script = format!("cat >> {}", out.display());
    let alerts = Alerts { command: vec!["/bin/sh".to_string(), "-c".to_string(), script], url: None };
    let (mut alerter, thread) = Alerter::start().unwrap();
    let now = Instant::now();
    let mut hear = |entry, at| alerter.heard(&entry, &alerts, Path::new("/ws"), at);
    hear(entry(LogSeverity::Error, "job_failed", "job-1"), now);
    hear(entry(LogSeverity::Error, "job_failed", "job-1"), now + Duration::from_secs(60));
    hear(entry(LogSeverity::Error, "job_failed", "job-2"), now);
    hear(entry(LogSeverity::Info, "file_accepted", "dataset-1"), now);
    hear(entry(LogSeverity::Warning, "rolled_back", "checkpoint-1"), now);
    hear(entry(LogSeverity::Error, "job_failed", "job-1"), now + Duration::from_secs(4000));
    drop(alerter);
    thread.join().unwrap();
    let told: Vec<serde_json::Value> =
        std::fs::read_to_string(&out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let subjects: Vec<_> = told.iter().map(|alert| alert["subject"].as_str().unwrap()).collect();
    assert_eq!(subjects, ["job-1", "job-2", "checkpoint-1", "job-1"]);
    assert_eq!((&told[0]["kind"], &told[0]["root"]), (&"job_failed".into(), &"/ws".into()));
}

#[test]
fn a_webhook_gets_the_alert_and_a_failing_one_stops_nothing() {
    use crate::testing::HttpServer;
    let (say, heard) = std::sync::mpsc::channel();
    let say = std::sync::Mutex::new(say);
    let server = HttpServer::start(move |request| {
        say.lock().unwrap().send(String::from_utf8_lossy(&request.body).into_owned()).unwrap();
        (500, String::new())
    });
    let alerts = Alerts { command: Vec::new(), url: Some(server.url.clone()) };
    let (mut alerter, thread) = Alerter::start().unwrap();
    for subject in ["a", "b"] {
        alerter.heard(&entry(LogSeverity::Error, "k", subject), &alerts, Path::new("/"), Instant::now());
    }
    assert!(heard.recv().unwrap().contains("\"subject\":\"a\""));
    assert!(heard.recv().unwrap().contains("\"subject\":\"b\""));
    drop(alerter);
    thread.join().unwrap();
}
