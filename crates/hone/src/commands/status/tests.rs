//! Tests of `status`.

use super::*;
use serde_json::json;

/// What a daemon says with `changes` in it.
fn said(changes: Value) -> TrainingStatus {
    let mut status = json!({
        "format_version": 1, "activity": "training", "reason": null, "pid": 1, "version": "1", "started_ms": 0, "updated_ms": 0,
        "job": null, "evaluating": null, "phase": null, "latest_checkpoint": null, "champion": null, "targets": [],
        "queue": {"in_inbox": 0, "checking": 0, "queued": 0, "full": false},
        "previews": [], "warnings": [], "config_error": null,
    });
    for (key, value) in changes.as_object().unwrap() {
        status[key] = value.clone();
    }
    serde_json::from_value(status).unwrap()
}

#[test]
fn each_thing_that_is_wrong_is_one_line() {
    let status = said(json!({
        "disk_low": true, "free_bytes": 1_500_000_000, "silent_ms": 40_000, "config_error": "read it: line 3",
        "troubles": [{"what": "publish checkpoint-5", "error": "rename it", "tries": 3, "since_ms": 0}],
        "config_changes": ["learning_rate: 0.01 (the job: 0.001)"],
    }));
    let state = State { queue_full: true, ..State::default() };
    let expected = [
        "the configuration of before stays in force: failed to read it: line 3",
        "the queue is full (queue.max_jobs): files wait in the inbox",
        "1.5 GB are free on the disk (limits.min_free_gb): nothing new is begun",
        "the worker has said nothing for about 40 s; after limits.lease_sec its work is taken over",
        "publish checkpoint-5: failed to rename it (tries: 3); it is tried again",
        "the configuration changed since the job began, for the next one: learning_rate: 0.01 (the job: 0.001)",
    ];
    assert_eq!(wrong(&state, Some(&status), None), expected);
    assert_eq!(wrong(&State::default(), Some(&said(json!({}))), None), [""; 0]);
}

#[test]
fn without_a_daemon_the_command_tells_what_it_cannot_read_itself() {
    let error = anyhow::anyhow!("read the configuration: 1 problem\n  config.json:3: seed: found \"x\"");
    let told = wrong(&State::default(), None, Some(&error));
    let expected = "nothing can start: failed to read the configuration: 1 problem; config.json:3: seed: found \"x\"";
    assert_eq!(told, [expected]);
    assert_eq!(
        wrong(&State::default(), Some(&said(json!({}))), Some(&error)),
        [""; 0],
        "the daemon has flags of its own"
    );
}

#[test]
fn the_time_that_is_left_is_told_as_soon_as_there_is_a_pace() {
    let progress = Progress { step: 120, job_step: 20, total_steps: 100, ..Progress::default() };
    let job =
        |eta_ms: Value| json!({"id": 1, "files": [], "priority": "normal", "progress": progress, "eta_ms": eta_ms});
    let line = |eta_ms| how_far(said(json!({"job": job(eta_ms)})).job.as_ref().unwrap()).unwrap();
    assert!(line(json!(780_000)).starts_with("step 120 (20 of 100), "));
    assert!(line(json!(780_000)).ends_with("about 13 min 0 s left"), "{}", line(json!(780_000)));
    assert!(line(json!(null)).ends_with("80 steps left"));
}
