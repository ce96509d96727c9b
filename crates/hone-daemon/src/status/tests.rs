//! Tests of `status`.

use super::*;
use hone_pipeline::config::{Target, Transport};
use hone_pipeline::ids::LeaseToken;
use hone_pipeline::state::{Job, Lease};

fn progress(job_step: u64, at_ms: u64) -> Progress {
    Progress { job_step, at_ms, total_steps: 100, ..Progress::default() }
}

fn with_lease(work: Work) -> State {
    let lease = Lease { token: LeaseToken(1), work, until_ms: 0, asked_to_yield: false, since_ms: 0, delivered: false };
    State { lease: Some(lease), ..State::default() }
}

#[test]
fn says_what_the_daemon_does() {
    let settings = Settings { targets: vec![target("a")], ..Settings::default() };
    let activity = |state: &State| view(state, &Live::default(), &settings, 5).activity;
    let training = with_lease(Work::Train { job: JobId(1) });
    assert_eq!(activity(&State::default()), Activity::Idle);
    assert_eq!(activity(&training), Activity::Training);
    assert_eq!(activity(&with_lease(Work::Evaluate { checkpoint: CheckpointId(3) })), Activity::Evaluating);
    let paused = State { control: Control::Paused { reason: "lunch".to_string() }, ..training };
    let view = view(&paused, &Live::default(), &settings, 5);
    assert_eq!((view.activity, view.reason.as_deref()), (Activity::Paused, Some("lunch")));
    assert_eq!(view.targets[0], TargetStatus { target: "a".to_string(), live: None, pending: None, problem: None });
}

#[test]
fn estimates_the_end_from_the_pace_of_the_slice() {
    let mut live = Live::default();
    live.update(LiveUpdate::Progress(progress(10, 1_000)));
    assert_eq!(live.eta_ms(), None, "one step is no pace");
    live.update(LiveUpdate::Progress(progress(15, 2_000)));
    // 5 steps in 1,000 ms, 85 left.
    assert_eq!(live.eta_ms(), Some(17_000));
    live.update(LiveUpdate::Started);
    assert_eq!(live.eta_ms(), None);
}

#[test]
fn lists_are_bounded() {
    let mut live = Live::default();
    for number in 0..20 {
        live.update(LiveUpdate::Warning(number.to_string()));
    }
    assert_eq!(live.warnings, ["12", "13", "14", "15", "16", "17", "18", "19"]);
}

fn target(name: &str) -> Target {
    Target { name: name.to_string(), url: "http://127.0.0.1:1".to_string(), transport: Transport::Http }
}

#[test]
fn a_worker_is_called_silent_after_half_its_lease() {
    let mut state = with_lease(Work::Train { job: JobId(1) });
    state.lease.as_mut().unwrap().until_ms = 61_000;
    let settings = Settings { lease_ms: 60_000, ..Settings::default() };
    let silent = |now| view(&state, &Live::default(), &settings, now).silent_ms;
    // It was renewed at 1,000.
    assert_eq!(silent(31_000), None);
    assert_eq!(silent(31_001), Some(30_001));
    assert_eq!(view(&State::default(), &Live::default(), &settings, 99_000).silent_ms, None, "nobody holds it");
}

#[test]
fn what_changed_since_the_running_job_began_is_named_with_both_values() {
    let then = TrainSettings { learning_rate: 0.001, epochs: 2, micro_batch: 4, ..TrainSettings::default() };
    let queued = Job::new(JobId(1), Vec::new(), Priority::Normal, 0);
    let job = Job { state: JobState::Running, settings: Some(then.clone()), ..queued };
    let mut state = State::default();
    state.jobs.insert(job.id, job.clone());
    let now = TrainSettings { learning_rate: 0.01, micro_batch: 0, ..then };
    assert_eq!(config_changes(&state, &now), ["learning_rate: 0.01 (the job: 0.001)"]);
    state.jobs.insert(job.id, Job { state: JobState::Completed, ..job });
    assert_eq!(config_changes(&state, &now), [""; 0], "it changes nothing for a job that ended");
}
