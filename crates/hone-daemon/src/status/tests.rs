//! Tests of `status`.

use super::*;
use hone_pipeline::ids::LeaseToken;
use hone_pipeline::state::Lease;

fn progress(job_step: u64, at_ms: u64) -> Progress {
    Progress { job_step, at_ms, total_steps: 100, ..Progress::default() }
}

fn with_lease(work: Work) -> State {
    let lease = Lease { token: LeaseToken(1), work, until_ms: 0, asked_to_yield: false, since_ms: 0, delivered: false };
    State { lease: Some(lease), ..State::default() }
}

#[test]
fn says_what_the_daemon_does() {
    let activity = |state: &State| view(state, &Live::default(), &[], 5).activity;
    let training = with_lease(Work::Train { job: JobId(1) });
    assert_eq!(activity(&State::default()), Activity::Idle);
    assert_eq!(activity(&training), Activity::Training);
    assert_eq!(activity(&with_lease(Work::Evaluate { checkpoint: CheckpointId(3) })), Activity::Evaluating);
    let paused = State { control: Control::Paused { reason: "lunch".to_string() }, ..training };
    let view = view(&paused, &Live::default(), &["a"], 5);
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
