//! What may never go, whatever the history; and that the quota holds once it can.

use super::{plan, protection};
use crate::config::{Retention, Target, Transport};
use crate::ids::*;
use crate::state::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

const HOUR: u64 = 3_600_000;

/// A checkpoint made `hours` before `NOW`.
fn checkpoint(id: u64, hours: u64) -> Checkpoint {
    Checkpoint {
        id: CheckpointId(id),
        parent: (id > 0).then(|| CheckpointId(id - 1)),
        job: None,
        state: CheckpointState::Published,
        manifest_hash: String::new(),
        position: Position::default(),
        rows_digest: String::new(),
        train_loss: None,
        created_ms: NOW - hours * HOUR,
        ends_job: false,
        yielded: false,
        marks: Marks::default(),
    }
}

const NOW: u64 = 1_000 * HOUR;

fn state(checkpoints: Vec<Checkpoint>) -> State {
    let checkpoints = checkpoints.into_iter().map(|c| (c.id, c)).collect();
    State { checkpoints, ..State::default() }
}

fn pruned(state: &State, retention: &Retention, sizes: &[(u64, u64)]) -> Vec<u64> {
    let sizes = sizes.iter().map(|(id, size)| (CheckpointId(*id), *size)).collect();
    plan(state, retention, &targets(), &sizes, NOW).prune.iter().map(|(id, _)| id.0).collect()
}

fn targets() -> Vec<Target> {
    ["a", "b"].map(|name| Target { name: name.to_string(), url: String::new(), transport: Transport::Http }).to_vec()
}

fn evaluation(id: u64, loss: f64, suite_hash: u64) -> Evaluation {
    let suite = SuiteResult {
        suite: "s".to_string(),
        suite_hash: suite_hash.to_string(),
        rows: 1,
        rows_skipped: 0,
        trained_tokens: 10,
        mean_nll: loss,
        token_accuracy: 0.0,
        row_nll: Vec::new(),
        answers: None,
    };
    Evaluation {
        checkpoint: CheckpointId(id),
        manifest_hash: String::new(),
        template_hash: String::new(),
        suites: vec![suite],
        at_ms: 0,
        error: None,
        tries: 0,
        retry_at_ms: None,
        ..Evaluation::default()
    }
}

#[test]
fn old_ones_go_and_the_latest_stays() {
    let state =
        state(vec![checkpoint(0, 500), checkpoint(1, 400), checkpoint(2, 37), checkpoint(3, 36), checkpoint(4, 300)]);
    // 36 hours exactly is not older than 36 hours; 0 is the base model; 4 is the latest.
    assert_eq!(pruned(&state, &Retention::default(), &[]), [1, 2]);
}

#[test]
fn over_the_quota_abandoned_ones_go_first_and_then_the_oldest_until_it_holds() {
    let mut all: Vec<Checkpoint> = (0..8).map(|id| checkpoint(id, 20 - id)).collect();
    all[5].marks.abandoned = Some("rewound".to_string());
    all[1].marks.pinned = Some("for the paper".to_string());
    let retention = Retention { max_total_bytes: 40, ..Retention::default() };
    // Seven folders of 10 bytes; three must go.
    let sizes: Vec<(u64, u64)> = (1..8).map(|id| (id, 10)).collect();
    assert_eq!(pruned(&state(all), &retention, &sizes), [5, 2, 3]);
}

#[test]
fn what_is_younger_than_an_hour_stays_even_over_the_quota() {
    let mut all: Vec<Checkpoint> = (0..4).map(|id| checkpoint(id, 0)).collect();
    all[1].created_ms = NOW - HOUR + 1;
    all[2].created_ms = NOW - HOUR;
    let retention = Retention { max_total_bytes: 0, ..Retention::default() };
    assert_eq!(pruned(&state(all), &retention, &[(1, 1), (2, 1), (3, 1)]), [2]);
}

#[test]
fn the_best_is_the_one_with_the_lowest_loss_on_the_champions_suites() {
    let mut state = state((0..7).map(|id| checkpoint(id, 400 - id)).collect());
    state.champion = Some(CheckpointId(2));
    // 4 was measured on other rows; 3 is better than the champion but was not promoted.
    for (id, loss, suite) in [(1, 0.9, 1), (2, 0.5, 1), (3, 0.4, 1), (4, 0.1, 2)] {
        state.evaluations.insert(CheckpointId(id), evaluation(id, loss, suite));
    }
    assert_eq!(pruned(&state, &Retention::default(), &[]), [1, 4, 5]);
}

#[test]
fn rows_of_a_data_set_go_when_its_last_job_ended_long_ago() {
    let mut state = State::default();
    let day = 24 * HOUR;
    // Data set, its arrival, and the end of its job (none: open).
    for (id, arrived, ended) in [(1, 30, Some(20)), (2, 30, Some(5)), (3, 30, None), (4, 9, Some(9)), (5, 30, Some(30))]
    {
        let mut world = crate::decide::tests::ready();
        world.run("arrive a.jsonl; taken 1; checked 1 aa; filed 1");
        let dataset = world.state.datasets[&DatasetId(1)].clone();
        let job = world.state.jobs[&JobId(1)].clone();
        let arrived_ms = NOW - arrived * day;
        state.datasets.insert(DatasetId(id), Dataset { id: DatasetId(id), arrived_ms, ..dataset });
        let ended_ms = ended.map(|days| NOW - days * day);
        let datasets = vec![DatasetId(id)];
        state.jobs.insert(JobId(id), Job { id: JobId(id), datasets, ended_ms, ..job });
    }
    let gone = Dataset { gone: Some(Gone::Aged), ..state.datasets[&DatasetId(5)].clone() };
    state.datasets.insert(gone.id, gone);
    let retention = Retention { keep_datasets_ms: 10 * day, ..Retention::default() };
    assert_eq!(super::old_datasets(&state, &retention, NOW), [DatasetId(1)]);
    let for_ever = Retention { keep_datasets_ms: 0, ..Retention::default() };
    assert!(super::old_datasets(&state, &for_ever, NOW).is_empty());
}

/// A history as wild as it can be: marks, deployments on two targets, evaluations, a lease, any ages and sizes.
fn random_history(rng: &mut ChaCha8Rng) -> (State, Retention, BTreeMap<CheckpointId, u64>) {
    let count = rng.random_range(1..14_u64);
    let mut all = Vec::new();
    for id in 0..count {
        let mut one = checkpoint(id, 0);
        one.created_ms = NOW - rng.random_range(0..80 * HOUR);
        one.state = match rng.random_range(0..10) {
            0 => CheckpointState::Pruned,
            1 => CheckpointState::Refused { reason: String::new() },
            2 => CheckpointState::Staged { staging: String::new(), resume_staging: String::new() },
            _ => CheckpointState::Published,
        };
        one.marks.pinned = (rng.random_range(0..8) == 0).then(String::new);
        one.marks.abandoned = (rng.random_range(0..4) == 0).then(String::new);
        all.push(one);
    }
    let mut state = state(all);
    let pick = |rng: &mut ChaCha8Rng| CheckpointId(rng.random_range(0..count));
    state.champion = (rng.random_range(0..5) > 0).then(|| pick(rng));
    for id in 1..rng.random_range(1..6_u64) {
        let states =
            [DeploymentState::Pending, DeploymentState::Live, DeploymentState::Superseded, DeploymentState::Superseded];
        let deployment = Deployment {
            id: DeploymentId(id),
            checkpoint: pick(rng),
            target: ["a", "b"][rng.random_range(0..2)].to_string(),
            state: states[rng.random_range(0..4)].clone(),
            tries: 0,
            not_before_ms: 0,
            reason: String::new(),
            created_ms: 0,
            steps: Vec::new(),
            in_flight: rng.random_range(0..4) == 0,
            live_since_ms: (rng.random_range(0..3) > 0).then_some(id),
            watch_until_ms: None,
        };
        state.deployments.insert(deployment.id, deployment);
    }
    for _ in 0..rng.random_range(0..6) {
        let id = pick(rng);
        let mut one = evaluation(id.0, rng.random_range(0.0..3.0), rng.random_range(0..2));
        one.retry_at_ms = (rng.random_range(0..6) == 0).then_some(1);
        state.evaluations.insert(id, one);
    }
    if rng.random_range(0..3) == 0 {
        let work = Work::Evaluate { checkpoint: pick(rng) };
        let (token, until_ms, since_ms) = (LeaseToken(1), 0, 0);
        state.lease = Some(Lease { token, work, until_ms, asked_to_yield: false, since_ms, delivered: false });
    }
    let retention = Retention { max_total_bytes: rng.random_range(0..600), ..Retention::default() };
    let sizes = (0..count).map(|id| (CheckpointId(id), rng.random_range(0..100))).collect();
    (state, retention, sizes)
}

#[test]
fn in_ten_thousand_histories_nothing_needed_goes_and_the_quota_holds() {
    for seed in 0..10_000 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (state, retention, sizes) = random_history(&mut rng);
        let plan = plan(&state, &retention, &targets(), &sizes, NOW);
        let goes = |id: CheckpointId| plan.prune.iter().any(|(pruned, _)| *pruned == id);
        // Said again in other words than the code's.
        let mut needed = vec![
            state.champion,
            state
                .checkpoints
                .values()
                .rev()
                .find(|c| c.state == CheckpointState::Published && c.marks.abandoned.is_none())
                .map(|c| c.id),
        ];
        for d in state.deployments.values() {
            let open = d.state == DeploymentState::Pending || d.state == DeploymentState::Live || d.in_flight;
            needed.push(open.then_some(d.checkpoint));
        }
        if let Some(Lease { work: Work::Evaluate { checkpoint }, .. }) = &state.lease {
            needed.push(Some(*checkpoint));
        }
        for c in state.checkpoints.values() {
            needed.push((c.marks.pinned.is_some() || NOW - c.created_ms < HOUR || c.parent.is_none()).then_some(c.id));
            let here = c.state == CheckpointState::Published;
            assert!(here || !goes(c.id), "seed {seed}: {} has no files and goes", c.id);
            let old = NOW - c.created_ms > 36 * HOUR;
            let free = protection(&state, &retention, &targets(), c, NOW).is_none();
            assert!(!(here && old && free) || goes(c.id), "seed {seed}: {} is old and stays", c.id);
        }
        for id in needed.into_iter().flatten() {
            assert!(!goes(id), "seed {seed}: {id} is needed and goes");
        }
        let here = |c: &&Checkpoint| c.state == CheckpointState::Published && c.parent.is_some() && !goes(c.id);
        let left: u64 = state.checkpoints.values().filter(here).map(|c| sizes[&c.id]).sum();
        assert_eq!(left, plan.total_bytes, "seed {seed}");
        let all_needed = state
            .checkpoints
            .values()
            .filter(here)
            .all(|c| protection(&state, &retention, &targets(), c, NOW).is_some());
        assert!(left <= retention.max_total_bytes || all_needed, "seed {seed}: over the quota without need");
    }
}
