//! Tests of `training`.

use super::*;
use hone_pipeline::ids::{CheckpointId, JobId, LeaseToken};
use hone_pipeline::state::Change;

const NOW: TimeMs = 1_000_000;

fn lease(work: Work) -> Change {
    let lease = Lease {
        token: LeaseToken(1),
        work,
        until_ms: NOW + 60_000,
        asked_to_yield: false,
        since_ms: NOW - 60_000,
        delivered: false,
    };
    Change::SetLease { lease: Some(lease) }
}

/// The name of what happens, and its headline.
#[track_caller]
fn check(changes: &[Change], alive: bool, silence_ms: u64, expected: (&str, &str)) {
    let mut state = State::default();
    changes.iter().for_each(|change| state.apply(change));
    let last_sign = state.lease.is_some().then_some(NOW - silence_ms);
    let daemon = Daemon { alive, holder: None };
    let shown = describe(&state, &daemon, &History::default(), last_sign, NOW);
    assert_eq!((shown["state"].as_str().unwrap(), shown["headline"].as_str().unwrap()), expected);
}

#[test]
fn what_happens_is_named_for_what_it_is() {
    let train = || lease(Work::Train { job: JobId(3) });
    let evaluate = || lease(Work::Evaluate { checkpoint: CheckpointId(40) });
    let pause = || Change::SetControl(Control::Paused { reason: "lunch".to_string() });
    let stop = || Change::SetControl(Control::Stopping { reason: "done".to_string(), paused: None });
    check(&[], true, 0, ("idle", "Waiting for data"));
    check(&[train()], true, 500, ("training", "Training job-3"));
    check(&[train(), pause()], true, 500, ("training", "Training job-3"));
    check(&[evaluate()], true, 500, ("evaluating", "Evaluating checkpoint-40"));
    check(&[pause()], true, 0, ("paused", "Paused"));
    check(&[stop()], true, 0, ("stopping", "Stopping"));
}

#[test]
fn a_dead_process_is_never_shown_as_alive() {
    let train = || lease(Work::Train { job: JobId(3) });
    check(&[train()], true, STALE_MS + 1_000, ("stalled", "No sign of life for 9 s"));
    check(&[train()], true, STALE_MS, ("training", "Training job-3"));
    check(&[train()], false, 0, ("dead", "The daemon is not running"));
    check(&[], false, 0, ("dead", "The daemon is not running"));
    check(
        &[lease(Work::Evaluate { checkpoint: CheckpointId(40) })],
        true,
        20_000,
        ("stalled", "No sign of life for 20 s"),
    );
}

#[test]
fn the_base_model_is_named_without_its_path() {
    assert_eq!(base_name("/home/ada/models/tiny/"), "tiny");
    assert_eq!(base_name("tiny"), "tiny");
}
