//! What a reader sees while checkpoints are promoted and deployed, by the decisions that a daemon makes.

use super::*;
use hone_pipeline::config::{Settings, Target, Transport};
use hone_pipeline::decide::decide;
use hone_pipeline::event::{Effect, Event};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Rows of the suite that every checkpoint is evaluated on.
const ROWS: u32 = 8;

fn settings() -> Settings {
    let transport = Transport::Http;
    let target =
        |name: &str| Target { name: name.to_string(), url: "http://x".to_string(), transport: transport.clone() };
    Settings { targets: vec![target("one"), target("two")], watch_ms: 0, ..Settings::default() }
}

/// A published checkpoint whose losses are lower than those of all before it, as its evaluation leaves it.
fn evaluated(number: u64) -> [Change; 2] {
    let manifest_hash = format!("m{number}");
    let checkpoint = Checkpoint {
        id: CheckpointId(number),
        parent: None,
        job: None,
        state: CheckpointState::Published,
        manifest_hash: manifest_hash.clone(),
        position: Position::default(),
        rows_digest: String::new(),
        train_loss: None,
        created_ms: number,
        ends_job: true,
        yielded: false,
        marks: Marks::default(),
    };
    let mean = 1_000.0 - number as f64;
    let row_nll: Vec<(f64, u32)> =
        (0..ROWS).map(|row| (mean + f64::from((row * 7 + number as u32) % 5) / 100.0, 1)).collect();
    let suite = SuiteResult {
        suite: "val.jsonl".to_string(),
        suite_hash: "s".to_string(),
        rows: u64::from(ROWS),
        trained_tokens: u64::from(ROWS),
        mean_nll: mean,
        row_nll,
        ..SuiteResult::default()
    };
    let evaluation =
        Evaluation { checkpoint: CheckpointId(number), manifest_hash, suites: vec![suite], ..Evaluation::default() };
    [Change::PutCheckpoint(checkpoint), Change::PutEvaluation(evaluation)]
}

/// The loop's part: decide, commit, go on from there.
fn handle(store: &mut Store, state: &mut State, event: &Event, now: u64) -> Vec<Effect> {
    let decision = decide(state, &settings(), event, now);
    put(store, state, &decision.changes);
    decision.effects
}

/// Every deployment that was started succeeds.
fn deploy(store: &mut Store, state: &mut State, effects: Vec<Effect>, now: u64, after_each: &dyn Fn()) {
    for effect in effects {
        let Effect::Deploy { deployment } = effect else { continue };
        handle(store, state, &Event::Deployed { deployment, steps: Vec::new() }, now);
        after_each();
    }
}

fn put(store: &mut Store, state: &mut State, changes: &[Change]) {
    store.commit(changes).unwrap();
    changes.iter().for_each(|change| state.apply(change));
}

#[test]
fn a_reader_sees_one_champion_at_every_instant_of_many_promotions() {
    // budget: 30 s
    let num_promotions = if std::env::var("HONE_SLOW").is_ok_and(|slow| slow == "1") { 500 } else { 20 };
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::create(dir.path()).unwrap();
    let mut state = State::default();
    put(&mut store, &mut state, &evaluated(0));
    let effects = handle(&mut store, &mut state, &Event::Tick, 0);
    assert_eq!(state.champion, Some(CheckpointId(0)), "the first champion");
    deploy(&mut store, &mut state, effects, 0, &|| {});
    let reader = Store::open_read_only(dir.path()).unwrap();
    let (done, num_reads) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let (done, num_reads) = (&done, &num_reads);
        let polls = scope.spawn(move || {
            let mut last = CheckpointId(0);
            while !done.load(Ordering::SeqCst) {
                let state = reader.load().unwrap();
                let champion = state.champion.expect("there is a champion");
                assert!(champion >= last, "never back");
                for target in ["one", "two"] {
                    let live = |d: &&Deployment| d.target == target && d.state == DeploymentState::Live;
                    let live: Vec<CheckpointId> =
                        state.deployments.values().filter(live).map(|d| d.checkpoint).collect();
                    assert!(live.len() <= 1 && live.iter().all(|id| *id <= champion), "{live:?} under {champion}");
                }
                last = champion;
                num_reads.fetch_add(1, Ordering::SeqCst);
            }
        });
        // Every commit is looked at before the next one comes.
        let wait_for_a_look = || {
            let before = num_reads.load(Ordering::SeqCst);
            while num_reads.load(Ordering::SeqCst) == before && !polls.is_finished() {
                std::thread::yield_now();
            }
        };
        for number in 1..=num_promotions {
            put(&mut store, &mut state, &evaluated(number));
            let effects = handle(&mut store, &mut state, &Event::Tick, number);
            assert_eq!(state.champion, Some(CheckpointId(number)), "{:?}", state.judgements[&CheckpointId(number)]);
            wait_for_a_look();
            deploy(&mut store, &mut state, effects, number, &wait_for_a_look);
        }
        done.store(true, Ordering::SeqCst);
        polls.join().unwrap();
    });
    assert!(num_reads.into_inner() >= 3 * num_promotions, "one look for the verdict, one for each of two targets");
    let state = store.load().unwrap();
    for target in ["one", "two"] {
        assert_eq!(state.live_on(target).unwrap().checkpoint, CheckpointId(num_promotions));
    }
}
