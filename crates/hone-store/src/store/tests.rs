//! What was committed is what is loaded, and nothing is opened that should not be.

use super::{EventFilter, FORMAT_VERSION, MAX_EVENTS, OpenError, Store};
use crate::fixtures::{dataset, staged};
use crate::{Layout, OwnerLockError, network_file_system, owner_lock};
use expect_test::{Expect, expect};
use hone_pipeline::config::TrainSettings;
use hone_pipeline::curriculum::SkillProgress;
use hone_pipeline::ids::{CheckpointId, DatasetId, DeploymentId, JobId, LeaseToken};
use hone_pipeline::state::*;
use rusqlite::Connection;
use std::path::Path;

mod full;
mod promotions;
mod reload;

fn job(id: u64) -> Job {
    Job {
        id: JobId(id),
        datasets: vec![DatasetId(1)],
        priority: Priority::High,
        state: JobState::Running,
        tries: 1,
        not_before_ms: 5,
        settings: Some(TrainSettings { learning_rate: 0.1, ..TrainSettings::default() }),
        position: Position { job_step: 3, rows_trained: 24, total_steps: 9 },
        replay: Some(JobReplay { share: 0.1, datasets: vec![DatasetId(1)] }),
        kept_back: Vec::new(),
        skip_reason: Some("why not".to_string()),
        progress: Some(Progress { loss: 0.1 + 0.2, ..Progress::default() }),
        created_ms: 1,
        started_ms: Some(2),
        ended_ms: None,
    }
}

fn log(message: &str) -> Change {
    let (kind, subject) = ("kind".to_string(), "job-1".to_string());
    Change::Log(LogEntry { at_ms: 9, severity: LogSeverity::Warning, kind, subject, message: message.to_string() })
}

fn evidence() -> Evidence {
    Evidence {
        suite: "val.jsonl".to_string(),
        measure: Measure::Loss,
        rows: 1,
        challenger: 1.0,
        champion: 1.5,
        gain: 0.5,
        interval: None,
        gained: 0,
        lost: 0,
        p_value: 1.0,
        level: 0.025,
        finding: EvidenceFinding::CannotTell,
    }
}

/// One change of every kind.
fn changes() -> Vec<Change> {
    let suite = SuiteResult {
        suite: "val.jsonl".to_string(),
        suite_hash: "s".to_string(),
        rows: 1,
        rows_skipped: 0,
        trained_tokens: 3,
        mean_nll: 1.0 / 3.0,
        token_accuracy: 0.5,
        row_nll: vec![(1.0, 3)],
        answers: None,
    };
    let evaluation = Evaluation {
        checkpoint: CheckpointId(0),
        manifest_hash: "m".to_string(),
        template_hash: "t".to_string(),
        dtype: "f32".to_string(),
        engine: "e".to_string(),
        suites: vec![suite],
        speed: None,
        at_ms: 3,
        lease: 3,
        error: None,
        tries: 0,
        retry_at_ms: None,
    };
    let judgement = Judgement {
        challenger: CheckpointId(0),
        champion: None,
        outcome: Outcome::CannotTell,
        reason: "r".to_string(),
        at_ms: 4,
        evidence: vec![evidence()],
        budget: Some(Budget { total: 0.05, look: 1, spent: 0.025, left: 0.025 }),
    };
    let deployment = Deployment {
        id: DeploymentId(1),
        checkpoint: CheckpointId(0),
        target: "local".to_string(),
        state: DeploymentState::Failed { reason: "gone".to_string() },
        tries: 2,
        not_before_ms: 3,
        reason: "r".to_string(),
        created_ms: 1,
        steps: vec![("stage".to_string(), 2)],
        in_flight: true,
        live_since_ms: None,
        watch_until_ms: Some(7),
    };
    let work = Work::Train { job: JobId(1) };
    let lease = Lease { token: LeaseToken(4), work, until_ms: 9, asked_to_yield: true, since_ms: 1, delivered: true };
    let identity = ModelIdentity { vocab_size: 7, ..ModelIdentity::default() };
    let (model_name, base_model) = ("m".to_string(), "models/base".to_string());
    let lineage = Lineage { number: 1, model_name, base_model, identity, base: CheckpointId(0), left_at: None };
    vec![
        Change::SetControl(Control::Paused { reason: "lunch".to_string() }),
        Change::SetLineage(lineage.clone()),
        Change::SetOtherLineages { lineages: [(2, Lineage { number: 2, ..lineage })].into() },
        Change::PutDataset(dataset(
            1,
            "high/a.jsonl",
            DatasetState::Rejected { reasons: vec!["line 7: no".to_string()] },
        )),
        Change::PutJob(job(1)),
        Change::PutCheckpoint(staged(10, "m")),
        Change::PutEvaluation(evaluation),
        Change::PutJudgement(judgement),
        Change::SetChampion { checkpoint: Some(CheckpointId(0)) },
        Change::PutDeployment(deployment),
        Change::SetLease { lease: Some(lease) },
        Change::SetCounters(Counters { dataset: 1, job: 1, deployment: 1, lease: 4 }),
        Change::SetQueueFull { full: true },
        Change::SetDiskLow { low: true },
        Change::SetCurriculum {
            skills: [("binary".to_string(), SkillProgress { level: 2, ..SkillProgress::new("binary") })].into(),
        },
        Change::SetOpenExams { exams: [(CheckpointId(10), LeaseToken(4))].into() },
        log("one"),
    ]
}

fn applied(changes: &[Change]) -> State {
    let mut state = State::default();
    changes.iter().for_each(|change| state.apply(change));
    state
}

#[test]
fn loads_what_was_committed() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::create(dir.path()).unwrap();
    assert_eq!(store.load().unwrap(), State::default());
    store.commit(&changes()).unwrap();
    assert_eq!(store.load().unwrap(), applied(&changes()));
    drop(store);
    let mut store = Store::open(dir.path()).unwrap();
    assert_eq!(store.load().unwrap(), applied(&changes()));
    store.commit(&[Change::SetLease { lease: None }, Change::SetChampion { checkpoint: None }]).unwrap();
    let state = store.load().unwrap();
    assert_eq!((state.lease, state.champion), (None, None));
}

#[test]
fn a_transaction_is_all_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::create(dir.path()).unwrap();
    let too_large = dataset(u64::MAX, "a", DatasetState::Arriving);
    let error = store.commit(&[Change::PutJob(job(1)), log("x"), Change::PutDataset(too_large)]).unwrap_err();
    assert!(format!("{error:#}").starts_with("commit to hone.db"), "{error:#}");
    assert_eq!(store.load().unwrap(), State::default());
    assert_eq!(store.events(None, 10).unwrap(), []);
    store.commit(&[Change::PutJob(job(1))]).unwrap();
    assert_eq!(store.load().unwrap().jobs.len(), 1);
}

#[test]
fn every_commit_is_synced_to_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path()).unwrap();
    let pragma =
        |name: &str| store.db.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0)).unwrap();
    assert_eq!(pragma("journal_mode"), rusqlite::types::Value::Text("wal".to_string()));
    assert_eq!(pragma("synchronous"), rusqlite::types::Value::Integer(2), "FULL");
}

#[test]
fn a_reader_sees_the_state_of_one_instant_and_cannot_write() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::create(dir.path()).unwrap();
    store.commit(&changes()).unwrap();
    let mut reader = Store::open_read_only(dir.path()).unwrap();
    assert_eq!(reader.load().unwrap(), applied(&changes()));
    store.commit(&[Change::PutJob(job(2))]).unwrap();
    assert_eq!(reader.load().unwrap().jobs.len(), 2);
    reader.commit(&[Change::PutJob(job(3))]).unwrap_err();
    drop((store, reader));
    // Also when nobody has it open and the log is folded into the database.
    assert_eq!(Store::open_read_only(dir.path()).unwrap().load().unwrap().jobs.len(), 2);
}

#[test]
fn numbers_the_event_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::create(dir.path()).unwrap();
    store.commit(&[log("one"), log("two")]).unwrap();
    store.commit(&[log("three")]).unwrap();
    let read = |after, limit| {
        let events = store.events(after, limit).unwrap();
        events.into_iter().map(|(seq, entry)| format!("{seq} {}", entry.message)).collect::<Vec<_>>()
    };
    assert_eq!(read(None, 2), ["2 two", "3 three"]);
    assert_eq!(read(Some(0), 2), ["1 one", "2 two"]);
    assert_eq!(read(Some(3), 2), [""; 0]);
    assert_eq!(store.events(Some(2), 1).unwrap()[0].1.severity, LogSeverity::Warning);
}

#[test]
fn the_event_log_keeps_its_newest_lines() {
    // budget: 20 s
    if !std::env::var("HONE_SLOW").is_ok_and(|slow| slow == "1") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::create(dir.path()).unwrap();
    store.commit(&vec![log("old"); MAX_EVENTS as usize]).unwrap();
    store.commit(&[log("new"), log("newest")]).unwrap();
    let events = store.events(Some(0), usize::MAX).unwrap();
    assert_eq!((events.len() as u64, events[0].0), (MAX_EVENTS, 3), "the two oldest made room");
    assert_eq!(events.last().unwrap().1.message, "newest");
}

#[track_caller]
fn check_refused(spoil: impl FnOnce(&Path), expected: Expect) {
    let dir = tempfile::tempdir().unwrap();
    Store::create(dir.path()).unwrap().commit(&changes()).unwrap();
    spoil(&dir.path().join("hone.db"));
    for result in [Store::open(dir.path()), Store::open_read_only(dir.path())] {
        let error = result.expect_err("it is refused").to_string();
        expected.assert_eq(&error.replace(&dir.path().to_string_lossy().into_owned(), "ROOT"));
    }
}

#[test]
fn refuses_what_is_not_its_database() {
    check_refused(
        |db| Connection::open(db).unwrap().pragma_update(None, "user_version", FORMAT_VERSION + 1).unwrap(),
        expect!["hone.db has format 2, this hone reads up to 1 (hint: use the newer hone)"],
    );
    check_refused(
        |db| std::fs::write(db, vec![b'x'; 20_000]).unwrap(),
        expect!["hone.db is damaged: file is not a database (hint: keep a copy of it, then restore a backup)"],
    );
    check_refused(
        |db| std::fs::write(db, "").unwrap(),
        expect![
            "hone.db is damaged: it has format 0, which never was one (hint: keep a copy of it, then restore a backup)"
        ],
    );
    check_refused(
        |db| std::fs::remove_file(db).unwrap(),
        expect!["ROOT holds no workspace (hint: `hone init` makes one)"],
    );
}

#[test]
fn refuses_a_database_with_damaged_pages() {
    let dir = tempfile::tempdir().unwrap();
    Store::create(dir.path()).unwrap().commit(&changes()).unwrap();
    let db = dir.path().join("hone.db");
    let mut bytes = std::fs::read(&db).unwrap();
    bytes[4096..12288].fill(0xAB);
    std::fs::write(&db, bytes).unwrap();
    let error = Store::open(dir.path()).expect_err("it is refused");
    assert!(matches!(error, OpenError::Damaged(_)), "{error}");
}

#[test]
fn makes_no_workspace_over_another() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::create(dir.path()).unwrap());
    assert!(matches!(Store::create(dir.path()), Err(OpenError::Exists(_))));
    assert!(Layout::new(dir.path()).inbox().join("high").is_dir());
}

#[test]
fn one_owner_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let lock = owner_lock(dir.path()).unwrap();
    let refusal = owner_lock(dir.path()).unwrap_err();
    assert!(matches!(refusal, OwnerLockError::Held { .. }));
    let expected = format!("the workspace is in use by pid {} on host ", std::process::id());
    assert!(refusal.to_string().starts_with(&expected), "{refusal}");
    drop(lock);
    owner_lock(dir.path()).unwrap();
}

#[test]
fn names_network_file_systems() {
    // Numbers from `man 2 statfs`.
    let named: Vec<_> = [0x6969, 0xff53_4d42, 0x517b, 0x6573_5546].into_iter().map(network_file_system).collect();
    assert_eq!(named, [Some("NFS"), Some("CIFS"), Some("SMB"), Some("FUSE")]);
    assert_eq!(network_file_system(0xFFFF_FFFF_FF53_4D42), Some("CIFS"), "a sign-extended field");
    let local: Vec<_> = [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0x794c_7630].map(network_file_system).into();
    assert_eq!(local, [None; 5], "ext4, xfs, btrfs, tmpfs, overlayfs");
}

#[test]
fn events_are_found_by_number_severity_and_text() {
    let root = tempfile::tempdir().unwrap();
    let mut store = Store::create(root.path()).unwrap();
    let of = |severity, message: &str| {
        let (kind, subject) = ("kind".to_string(), "job-1".to_string());
        Change::Log(LogEntry { at_ms: 9, severity, kind, subject, message: message.to_string() })
    };
    let changes = [
        of(LogSeverity::Info, "Alpha 100%"),
        of(LogSeverity::Warning, "beta"),
        of(LogSeverity::Error, "alpha again"),
        of(LogSeverity::Info, "gamma"),
    ];
    store.commit(&changes).unwrap();
    let found = |filter: &EventFilter, limit| -> Vec<u64> {
        store.find_events(filter, limit).unwrap().into_iter().map(|(seq, _)| seq).collect()
    };
    assert_eq!(found(&EventFilter::default(), 10), [4, 3, 2, 1]);
    assert_eq!(found(&EventFilter::default(), 2), [4, 3]);
    assert_eq!(found(&EventFilter { before: Some(3), ..EventFilter::default() }, 10), [2, 1]);
    let severities = vec![LogSeverity::Warning, LogSeverity::Error];
    assert_eq!(found(&EventFilter { severities, ..EventFilter::default() }, 10), [3, 2]);
    let text = |text: &str| EventFilter { text: Some(text.to_string()), ..EventFilter::default() };
    assert_eq!(found(&text("ALPHA"), 10), [3, 1]);
    assert_eq!(found(&text("JOB-1"), 10), [4, 3, 2, 1]);
    // Wildcards of SQL are plain text.
    assert_eq!(found(&text("%"), 10), [1]);
    assert_eq!(found(&text("' OR 1=1 --"), 10), [0_u64; 0]);
}

#[test]
fn a_page_of_the_queue_is_in_the_order_of_service_and_says_what_each_job_waits_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::create(dir.path()).unwrap();
    let mut changes = vec![Change::PutDataset(dataset(1, "a.jsonl", DatasetState::Accepted))];
    let queued = |id, priority| Job::new(JobId(id), vec![DatasetId(1)], priority, 0);
    changes.push(Change::PutJob(Job { state: JobState::Running, ..queued(1, Priority::Low) }));
    for (id, priority) in [(2, Priority::Low), (3, Priority::Normal), (4, Priority::High), (5, Priority::Normal)] {
        changes.push(Change::PutJob(queued(id, priority)));
    }
    for id in 6..9 {
        changes.push(Change::PutJob(Job {
            state: JobState::Completed,
            ended_ms: Some(100 - id),
            ..queued(id, Priority::Low)
        }));
    }
    changes.push(Change::PutJob(Job { not_before_ms: 5_000, ..queued(9, Priority::High) }));
    store.commit(&changes).unwrap();
    let page = Store::open_read_only(dir.path()).unwrap().queue_page(4, 2).unwrap();
    let ids = |jobs: &[Job]| jobs.iter().map(|job| job.id.0).collect::<Vec<_>>();
    assert_eq!((ids(&page.open), ids(&page.ended)), (vec![1, 4, 9, 3], vec![8, 7]));
    assert_eq!(page.counts, [("running", 1), ("queued", 5), ("completed", 3)].map(|(k, n)| (k.to_string(), n)).into());
    assert_eq!(page.datasets.len(), 1);
    let waits = |page: &crate::QueuePage| page.open.iter().map(|job| page.waits_for(job, 1_500)).collect::<Vec<_>>();
    assert_eq!(waits(&page)[2], "its next try in 4 s");
    assert_eq!(waits(&page)[3], "3 jobs before it");
    let work = Work::Train { job: JobId(1) };
    let lease = Lease { token: LeaseToken(4), work, until_ms: 9, asked_to_yield: true, since_ms: 1, delivered: false };
    let leased = crate::QueuePage { lease: Some(lease), ..page.clone() };
    assert_eq!(waits(&leased)[0], "it runs");
    let paused = crate::QueuePage { control: Control::Paused { reason: "lunch".to_string() }, ..page };
    assert_eq!(waits(&paused)[1], "`hone resume` (paused: lunch)");
}

#[test]
fn the_first_page_of_a_hundred_thousand_jobs_reads_only_what_it_shows() {
    // budget: 20 s
    if !std::env::var("HONE_SLOW").is_ok_and(|slow| slow == "1") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::create(dir.path()).unwrap();
    let changes: Vec<Change> =
        (1..=100_000).map(|id| Change::PutJob(Job::new(JobId(id), vec![DatasetId(1)], Priority::Normal, 0))).collect();
    store.commit(&changes).unwrap();
    let reader = Store::open_read_only(dir.path()).unwrap();
    let start = std::time::Instant::now();
    let page = reader.queue_page(50, 10).unwrap();
    let elapsed = start.elapsed();
    assert_eq!((page.open.len(), page.counts["queued"]), (50, 100_000));
    // The promise is 100 ms; a loaded machine gets ten times as long, a scan of all bodies takes longer still.
    assert!(elapsed.as_millis() < 1_000, "{elapsed:?}");
}
