//! The real daemon as a process of its own, over stand-in children and a stand-in server: everything that it does
//! with processes, files, time and signals, without a model.

#![expect(clippy::disallowed_methods, reason = "tests write fixtures")]

#[path = "daemon/bursts.rs"]
mod bursts;
#[path = "daemon/owner.rs"]
mod owner;
#[path = "daemon/stuck.rs"]
mod stuck;
#[path = "daemon/systemd.rs"]
mod systemd;
#[path = "daemon/targets.rs"]
mod targets;
#[path = "../src/testing.rs"]
mod testing;

use hone_daemon::{DaemonOptions, DataManagerConfig, LoopConfig, SkillEndpoint, control, inbox};
use hone_pipeline::config::{Settings, Target, TrainSettings, Transport};
use hone_pipeline::event::Command;
use hone_pipeline::ids::{CheckpointId, JobId};
use hone_pipeline::state::{
    Change, Checkpoint, CheckpointState, Control, DatasetState, DeepCheck, DeploymentState, Job, JobState, Lineage,
    ModelIdentity, Position, Priority, State,
};
use hone_pipeline::wire::{ControlReply, ControlRequest, DeployRequest, ServerDeployment};
use hone_store::{Layout, Store};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command as Process, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use testing::{HttpServer, Request};

/// Far longer than anything here takes on a loaded machine.
const TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

/// A server's door; every blob must be in its folder already.
fn door(request: &Request, deployments: &mut Vec<ServerDeployment>) -> (u16, String) {
    assert!(!request.headers.iter().any(|header| header.starts_with("authorization")), "no key is configured");
    let parts: Vec<&str> = request.line.split(['/', ' ']).filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        ["POST", "admin", "deployments"] => {
            let asked: DeployRequest = serde_json::from_slice(&request.body).unwrap();
            deployments.push(ServerDeployment {
                id: deployments.len() as u64 + 1,
                checkpoint: asked.checkpoint,
                manifest_hash: asked.manifest_hash,
                state: "loaded".to_string(),
                error: String::new(),
                created_ms: 0,
            });
            (200, serde_json::to_string(deployments.last().unwrap()).unwrap())
        }
        ["POST", "admin", "deployments", id, "switch"] => {
            let id: u64 = id.parse().unwrap();
            for deployment in deployments.iter_mut() {
                deployment.state = if deployment.id == id { "serving" } else { "previous" }.to_string();
            }
            (200, serde_json::to_string(&deployments[usize::try_from(id).unwrap() - 1]).unwrap())
        }
        ["GET", "admin", "deployments"] => (200, serde_json::to_string(deployments).unwrap()),
        _ => (404, String::new()),
    }
}

struct Workspace {
    root: tempfile::TempDir,
    deployments: Arc<Mutex<Vec<ServerDeployment>>>,
    _server: HttpServer,
    daemon: Option<Child>,
}

impl Workspace {
    fn new(change: impl FnOnce(&mut Settings)) -> Workspace {
        let root = tempfile::tempdir().unwrap();
        let deployments = Arc::new(Mutex::new(Vec::new()));
        let behind = Arc::clone(&deployments);
        let server = HttpServer::start(move |request| door(&request, &mut behind.lock().unwrap()));
        let mut settings = Settings {
            train: TrainSettings { save_steps: 4, ..TrainSettings::default() },
            retry_backoff_ms: 1,
            targets: vec![Target {
                name: "here".to_string(),
                url: server.url.clone(),
                transport: Transport::Local { serve_root: root.path().join("serve") },
            }],
            ..Settings::default()
        };
        change(&mut settings);
        std::fs::write(root.path().join("settings.json"), serde_json::to_vec(&settings).unwrap()).unwrap();
        let mut store = Store::create(root.path()).unwrap();
        let base = Layout::new(root.path()).models().join("base");
        std::fs::create_dir_all(&base).unwrap();
        std::fs::create_dir_all(root.path().join("behave")).unwrap();
        std::fs::write(base.join("config.json"), "{}").unwrap();
        std::fs::write(base.join("model.safetensors"), "").unwrap();
        std::fs::write(Layout::new(root.path()).validation().join("suite.jsonl"), "{}\n").unwrap();
        store.commit(&first_changes()).unwrap();
        Workspace { root, deployments, _server: server, daemon: None }
    }

    fn path(&self) -> &Path {
        self.root.path()
    }

    fn order(&self, name: &str, text: &str) {
        std::fs::write(self.path().join("behave").join(name), text).unwrap();
    }

    fn start(&mut self) {
        self.start_with(&[]);
    }

    /// With variables of the environment.
    fn start_with(&mut self, variables: &[(&str, &Path)]) {
        let log = std::fs::File::options().append(true).create(true).open(self.path().join("daemon.log")).unwrap();
        let daemon = Process::new(env!("CARGO_BIN_EXE_hone-fake-worker"))
            .arg("daemon")
            .arg(self.path())
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stderr(log)
            .spawn();
        self.daemon = Some(daemon.unwrap());
    }

    /// SIGKILL, as `kill -9` does it.
    fn kill(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        assert_eq!(daemon.wait().unwrap().signal(), Some(9));
    }

    fn submit(&self, name: &str, rows: &[String]) {
        let text = format!("{}\n", rows.join("\n"));
        inbox::place_bytes(self.path(), name, text.as_bytes(), Priority::Normal, &inbox::Sidecar::default()).unwrap();
    }

    fn state(&self) -> State {
        Store::open_read_only(self.path()).unwrap().load().unwrap()
    }

    #[track_caller]
    fn wait_for(&self, what: &str, is_so: impl Fn(&State) -> bool) -> State {
        let start = Instant::now();
        loop {
            let state = self.state();
            if is_so(&state) {
                return state;
            }
            let log = std::fs::read_to_string(self.path().join("daemon.log")).unwrap_or_default();
            assert!(!log.contains("Error:"), "the daemon ended: {log}");
            assert!(start.elapsed() < TIMEOUT, "{what} does not come: {state:#?}");
            std::thread::sleep(POLL);
        }
    }

    fn command(&self, command: Command) -> Result<String, String> {
        let start = Instant::now();
        loop {
            match control::send(self.path(), &ControlRequest::Command { command: command.clone() }, TIMEOUT) {
                Ok(ControlReply::Ok { message }) => return Ok(message),
                Ok(ControlReply::Error { message }) => return Err(message),
                Err(control::ControlError::NoDaemon) if start.elapsed() < TIMEOUT => std::thread::sleep(POLL),
                other => panic!("{other:?}"),
            }
        }
    }

    /// The rows that a checkpoint was trained on, from the base.
    fn rows(&self, checkpoint: CheckpointId) -> Vec<String> {
        let weights = Layout::new(self.path()).checkpoint(checkpoint).join("model.safetensors");
        std::fs::read_to_string(weights).unwrap().lines().filter(|l| !l.is_empty()).map(str::to_string).collect()
    }

    fn log_kinds(&self) -> Vec<String> {
        let events = Store::open_read_only(self.path()).unwrap().events(None, 1000).unwrap();
        events.into_iter().map(|(_, entry)| entry.kind).collect()
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill().and_then(|()| daemon.wait());
        }
    }
}

fn first_changes() -> [Change; 2] {
    let lineage = Lineage {
        number: 1,
        model_name: "m".to_string(),
        base_model: "models/base".to_string(),
        identity: ModelIdentity::default(),
        base: CheckpointId(0),
        left_at: None,
    };
    let checkpoint = Checkpoint {
        id: CheckpointId(0),
        parent: None,
        job: None,
        state: CheckpointState::Published,
        manifest_hash: "0".repeat(64),
        position: Position::default(),
        rows_digest: String::new(),
        train_loss: None,
        created_ms: 0,
        ends_job: true,
        yielded: false,
        marks: Default::default(),
    };
    [Change::SetLineage(lineage), Change::PutCheckpoint(checkpoint)]
}

fn rows(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|i| format!("{prefix}{i}")).collect()
}

fn job(state: &State, number: u64) -> Option<&Job> {
    state.jobs.get(&JobId(number))
}

fn is_completed(state: &State, number: u64) -> bool {
    job(state, number).is_some_and(|job| job.state == JobState::Completed)
}

fn serves(state: &State, checkpoint: u64) -> bool {
    state.live_on("here").is_some_and(|live| live.checkpoint == CheckpointId(checkpoint))
}

#[test]
fn a_file_is_checked_trained_published_evaluated_and_deployed() {
    let mut ws = Workspace::new(|_| {});
    ws.start();
    ws.wait_for("the base model is served", |state| serves(state, 0));
    // Dropped by `cp`: neither renamed in nor announced.
    std::fs::write(Layout::new(ws.path()).inbox().join("a.jsonl"), rows("\"a", 10).join("\"\n") + "\"\n").unwrap();
    let state = ws.wait_for("checkpoint-10 is served", |state| is_completed(state, 1) && serves(state, 10));
    assert_eq!(ws.rows(CheckpointId(10)), rows("\"a", 10).iter().map(|row| format!("{row}\"")).collect::<Vec<_>>());
    let published: Vec<u64> = state.checkpoints.keys().map(|id| id.0).collect();
    assert_eq!(published, [0, 4, 8, 10], "a slice ends at each checkpoint");
    assert_eq!(state.champion, Some(CheckpointId(10)));
    let live = state.live_on("here").unwrap();
    let steps: Vec<&str> = live.steps.iter().map(|(step, _)| step.as_str()).collect();
    assert_eq!(steps, hone_daemon::deploy::STEPS);
    let serving = ws.deployments.lock().unwrap().iter().find(|d| d.state == "serving").cloned().unwrap();
    assert_eq!(serving.manifest_hash, state.checkpoints[&CheckpointId(10)].manifest_hash);
    let resume: Vec<_> = std::fs::read_dir(ws.path().join("resume")).unwrap().flatten().collect();
    assert_eq!(resume.len(), 2, "older resume states are gone: {resume:?}");
    let view = std::fs::read(ws.path().join("status/training_status.json")).unwrap();
    let view: hone_daemon::status::TrainingStatus = serde_json::from_slice(&view).unwrap();
    assert_eq!(view.pid, ws.daemon.as_ref().unwrap().id());
}

#[test]
fn a_bad_file_is_refused_with_its_line_and_the_next_one_goes_on() {
    let mut ws = Workspace::new(|_| {});
    ws.start();
    ws.submit("bad.jsonl", &["r0".to_string(), "BAD".to_string()]);
    ws.submit("panics.jsonl", &["PANIC".to_string()]);
    ws.submit("good.jsonl", &rows("g", 2));
    let done = |state: &State| is_completed(state, 1) && state.datasets.values().filter(|d| d.filed).count() == 2;
    let state = ws.wait_for("the good file is trained, the others are filed", done);
    let reasons: Vec<String> = state
        .datasets
        .values()
        .filter_map(|dataset| match &dataset.state {
            DatasetState::Rejected { reasons } => Some(format!("{}: {}", dataset.file_name, reasons.join("; "))),
            _ => None,
        })
        .collect();
    assert_eq!(reasons[0], "bad.jsonl: line 2: the row is bad");
    assert!(reasons[1].contains("panics.jsonl") && reasons[1].contains("told to panic"), "{reasons:?}");
    let rejected = ws.path().join("rejected");
    assert_eq!(std::fs::read_to_string(rejected.join("bad.jsonl")).unwrap(), "r0\nBAD\n");
    assert!(std::fs::read_to_string(rejected.join("bad.jsonl.report.json")).unwrap().contains("row_bad"));
    assert!(rejected.join("panics.jsonl.report.json").is_file());
}

#[test]
fn accepted_files_are_checked_deeper_in_the_background_and_both_reports_stay() {
    let mut ws = Workspace::new(|settings| settings.deep_in_background = true);
    ws.start();
    ws.submit("good.jsonl", &rows("g", 2));
    ws.submit("deep.jsonl", &["DEEP".to_string()]);
    let done = |state: &State| {
        state.datasets.len() == 2 && state.datasets.values().all(|dataset| dataset.deep_check == DeepCheck::Done)
    };
    let state = ws.wait_for("both deep checks", done);
    for dataset in state.datasets.values() {
        assert_eq!(dataset.state, DatasetState::Accepted);
        let layout = Layout::new(ws.path());
        let level_and_verdict = |path: &Path| {
            let report: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            (report["level"].as_str().unwrap().to_string(), report["verdict"].as_str().unwrap().to_string())
        };
        let is_good = dataset.file_name == "good.jsonl";
        assert_eq!(level_and_verdict(&layout.dataset_report(dataset.id)), ("quick".into(), "accepted".into()));
        let verdict = if is_good { "accepted" } else { "rejected" };
        assert_eq!(level_and_verdict(&layout.dataset_deep_report(dataset.id)), ("deep".into(), verdict.into()));
        assert_eq!(dataset.set_aside.is_some(), !is_good);
    }
}

/// A training child misbehaves once; the job is done all the same, every row once.
#[track_caller]
fn check_replaced(misbehaviour: &str, lease_ms: u64) {
    let mut ws = Workspace::new(|settings| settings.lease_ms = lease_ms);
    ws.order(misbehaviour, "");
    ws.start();
    ws.submit("a.jsonl", &rows("a", 3));
    let state = ws.wait_for("the end of the job", |state| is_completed(state, 1));
    assert_eq!(ws.rows(state.latest_checkpoint().unwrap().id), rows("a", 3));
    assert!(ws.log_kinds().contains(&"job_try_failed".to_string()), "{:?}", ws.log_kinds());
}

/// A stalled machine must not look like a silent worker.
const LONG_LEASE_MS: u64 = 60_000;

#[test]
fn a_worker_that_crashes_is_replaced() {
    check_replaced("crash", LONG_LEASE_MS);
}

#[test]
fn a_worker_that_talks_garbage_is_ended_and_replaced() {
    check_replaced("garbage", LONG_LEASE_MS);
}

#[test]
fn a_checkpoint_that_is_not_what_its_worker_said_is_trained_again() {
    check_replaced("lie", LONG_LEASE_MS);
}

#[test]
fn a_worker_that_goes_silent_loses_its_lease_and_is_replaced() {
    check_replaced("silent", 300);
}

#[test]
fn pause_frees_the_device_and_resume_goes_on_where_it_was() {
    let mut ws = Workspace::new(|settings| settings.train.save_steps = 1000);
    ws.order("step_ms", "5");
    ws.start();
    ws.submit("a.jsonl", &rows("a", 100));
    ws.wait_for("some steps", |state| job(state, 1).is_some_and(|job| job.progress.is_some()));
    ws.command(Command::Pause { reason: "lunch".to_string() }).unwrap();
    let yielded = |state: &State| state.lease.is_none() && state.latest_checkpoint().unwrap().id.0 > 0;
    let paused = ws.wait_for("the slice wrote a checkpoint and ended", yielded);
    let position = job(&paused, 1).unwrap().position.job_step;
    assert!((1..100).contains(&position), "{position}");
    assert!(paused.latest_checkpoint().unwrap().yielded);
    ws.order("step_ms", "0");
    ws.command(Command::Resume { reason: String::new() }).unwrap();
    ws.wait_for("the rest", |state| is_completed(state, 1));
    assert_eq!(ws.rows(CheckpointId(100)), rows("a", 100));
}

#[test]
fn skip_ends_the_file_at_a_row_and_stop_ends_the_daemon_with_a_checkpoint() {
    let mut ws = Workspace::new(|settings| settings.train.save_steps = 1000);
    ws.order("step_ms", "5");
    ws.start();
    ws.submit("a.jsonl", &rows("a", 200));
    ws.wait_for("some steps", |state| job(state, 1).is_some_and(|job| job.progress.is_some()));
    ws.command(Command::Skip { reason: "boring".to_string() }).unwrap();
    let state = ws.wait_for("the skip", |state| matches!(job(state, 1).unwrap().state, JobState::Skipped { .. }));
    let JobState::Skipped { at_row } = job(&state, 1).unwrap().state else { unreachable!() };
    assert!((1..200).contains(&at_row), "{at_row}");

    ws.submit("b.jsonl", &rows("b", 200));
    ws.wait_for("steps of b", |state| job(state, 2).is_some_and(|job| job.progress.is_some()));
    ws.command(Command::Stop { reason: "update".to_string() }).unwrap();
    let status = ws.daemon.take().unwrap().wait().unwrap();
    assert!(status.success(), "{status}");
    let state = ws.state();
    let stopped_at = job(&state, 2).unwrap().position.job_step;
    assert!((1..200).contains(&stopped_at), "it published before it ended: {stopped_at}");
    let gone = control::send(ws.path(), &ControlRequest::Ping, TIMEOUT);
    assert!(matches!(gone, Err(control::ControlError::NoDaemon)));

    ws.order("step_ms", "0");
    ws.start();
    let state = ws.wait_for("the rest of b", |state| is_completed(state, 2));
    let all: Vec<String> = rows("a", usize::try_from(at_row).unwrap()).into_iter().chain(rows("b", 200)).collect();
    assert_eq!(ws.rows(state.latest_checkpoint().unwrap().id), all);
}

#[test]
fn a_second_daemon_is_refused_and_commands_work_without_one() {
    let mut ws = Workspace::new(|_| {});
    ws.start();
    ws.command(Command::Pause { reason: "wait".to_string() }).unwrap();
    let settings: Settings = serde_json::from_slice(&std::fs::read(ws.path().join("settings.json")).unwrap()).unwrap();
    let error =
        hone_daemon::apply_offline(ws.path(), &settings, &Command::Resume { reason: String::new() }).unwrap_err();
    let holder = format!("pid {}", ws.daemon.as_ref().unwrap().id());
    assert!(format!("{error:#}").contains(&holder), "{error:#}");
    ws.kill();
    ws.submit("a.jsonl", &rows("a", 2));
    assert_eq!(
        hone_daemon::apply_offline(ws.path(), &settings, &Command::Resume { reason: String::new() }).unwrap(),
        "resumed"
    );
    ws.start();
    ws.wait_for("the file is trained", |state| is_completed(state, 1));
}

/// The daemon on a thread of this process, where a test sets its stop flag as a signal would.
fn run_here(
    ws: &Workspace,
    stop: &Arc<AtomicBool>,
    change: impl FnOnce(&mut DaemonOptions),
) -> JoinHandle<anyhow::Result<()>> {
    let settings_file = ws.path().join("settings.json");
    let load_settings = move || {
        let settings: Settings = serde_json::from_slice(&std::fs::read(&settings_file)?)?;
        Ok(LoopConfig { settings, ..LoopConfig::default() })
    };
    let program = env!("CARGO_BIN_EXE_hone-fake-worker").into();
    let mut options = DaemonOptions::new(ws.path().to_path_buf(), program, Box::new(load_settings));
    options.scan_interval = Duration::from_millis(10);
    change(&mut options);
    let stop = Arc::clone(stop);
    std::thread::spawn(move || hone_daemon::run(options, stop, || {}))
}

#[test]
fn a_signal_ends_the_daemon_with_a_checkpoint_and_leaves_a_pause_as_it_is() {
    let ws = Workspace::new(|settings| settings.train.save_steps = 1000);
    ws.order("step_ms", "5");
    ws.submit("a.jsonl", &rows("a", 200));
    let stop = Arc::new(AtomicBool::new(false));
    let daemon = run_here(&ws, &stop, |_| {});
    ws.wait_for("some steps", |state| job(state, 1).is_some_and(|job| job.progress.is_some()));
    stop.store(true, Ordering::SeqCst);
    daemon.join().unwrap().unwrap();
    let state = ws.state();
    let position = job(&state, 1).unwrap().position.job_step;
    assert!((1..200).contains(&position), "{position}");
    assert!(matches!(state.control, Control::Stopping { .. }));

    // A supervisor that starts it again does not undo the stop; a person does.
    let stop = Arc::new(AtomicBool::new(false));
    run_here(&ws, &stop, |options| options.started_by_hand = false).join().unwrap().unwrap();
    assert!(matches!(ws.state().control, Control::Stopping { .. }));

    let daemon = run_here(&ws, &stop, |_| {});
    ws.wait_for("it runs again", |state| state.control == Control::Running);
    ws.command(Command::Pause { reason: "night".to_string() }).unwrap();
    stop.store(true, Ordering::SeqCst);
    daemon.join().unwrap().unwrap();
    let state = ws.state();
    assert_eq!(state.control, Control::Paused { reason: "night".to_string() });
    assert!(state.lease.is_none());
}

/// `yes` is right.
fn verdicts(body: &[u8]) -> String {
    let asked: serde_json::Value = serde_json::from_slice(body).unwrap();
    let judge = |sample: &serde_json::Value| {
        let solved = sample["response"] == "yes";
        serde_json::json!({"id": sample["id"], "solved": solved, "score": 0.0, "parsed": true, "reason": ""})
    };
    let results: Vec<_> = asked["samples"].as_array().unwrap().iter().map(judge).collect();
    serde_json::json!({"results": results}).to_string()
}

#[test]
fn data_is_asked_for_when_the_queue_runs_dry_and_is_trained_like_any_other() {
    let skill = HttpServer::start(|request| match request.line.as_str() {
        "GET /health" => (200, r#"{"status":"ok"}"#.to_string()),
        "POST /verify" => (200, verdicts(&request.body)),
        // Without it there is no exam, and the evaluation is as good as ever.
        "GET /info" => (500, String::new()),
        _ => {
            let asked: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
            let sample = |i: u64| {
                let messages = serde_json::json!([
                    {"role": "user", "content": format!("{} {i}?", asked["seed"])},
                    {"role": "assistant", "content": "yes"},
                ]);
                serde_json::json!({"id": i.to_string(), "messages": messages, "metadata": {}})
            };
            let samples: Vec<_> = (0..asked["count"].as_u64().unwrap()).map(sample).collect();
            let batch = serde_json::json!({"skill": "s", "version": "1", "level": 1, "samples": samples});
            (200, batch.to_string())
        }
    });
    let ws = Workspace::new(|_| {});
    let url = skill.url.clone();
    let settings_file = ws.path().join("settings.json");
    let load_settings = move || {
        let settings: Settings = serde_json::from_slice(&std::fs::read(&settings_file)?)?;
        let skills = vec![SkillEndpoint::new("s", &url)];
        let (enabled, count) = (true, 3);
        let data_manager = DataManagerConfig { enabled, count, skills, ..DataManagerConfig::default() };
        Ok(LoopConfig { settings, data_manager, ..LoopConfig::default() })
    };
    let stop = Arc::new(AtomicBool::new(false));
    let daemon = run_here(&ws, &stop, |options| options.load_settings = Box::new(load_settings));
    let state = ws.wait_for("the generated file is trained", |state| is_completed(state, 1));
    let dataset = state.datasets.values().next().unwrap();
    assert_eq!((dataset.inbox_path.as_str(), dataset.rows), ("low/s-l1-1.jsonl", 3));
    assert_eq!(dataset.provenance.as_ref().unwrap()["seed"], 1);
    stop.store(true, Ordering::SeqCst);
    daemon.join().unwrap().unwrap();
}

impl Workspace {
    fn set(&self, change: impl FnOnce(&mut Settings)) {
        let file = self.path().join("settings.json");
        let mut settings: Settings = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        change(&mut settings);
        let text = serde_json::to_vec(&settings).unwrap();
        hone_disk::write_atomic(&file, &text).unwrap();
    }

    fn view(&self) -> Option<hone_daemon::status::TrainingStatus> {
        let view = std::fs::read(self.path().join("status/training_status.json")).ok()?;
        serde_json::from_slice(&view).ok()
    }
}

#[test]
fn retention_takes_old_checkpoints_and_spares_what_is_needed() {
    let mut ws = Workspace::new(|settings| settings.train.save_steps = 2);
    ws.start();
    ws.submit("a.jsonl", &rows("a", 12));
    let state = ws.wait_for("checkpoint-12 is served", |state| is_completed(state, 1) && serves(state, 12));
    let before = state.served_before("here").unwrap();
    ws.set(|settings| (settings.retention.keep_ms, settings.retention.min_age_ms) = (0, 0));
    let asked = control::send(ws.path(), &ControlRequest::Housekeep, TIMEOUT);
    assert!(matches!(asked, Ok(ControlReply::Ok { .. })), "{asked:?}");
    let left = |state: &State| -> Vec<u64> {
        let here = |c: &&Checkpoint| c.state == CheckpointState::Published;
        state.checkpoints.values().filter(here).map(|c| c.id.0).collect()
    };
    let needed: std::collections::BTreeSet<u64> = [0, before.0, 12].into();
    ws.wait_for("old ones are pruned", |state| {
        left(state).into_iter().collect::<std::collections::BTreeSet<_>>() == needed
    });
    let folders = || -> std::collections::BTreeSet<u64> {
        let names = std::fs::read_dir(ws.path().join("checkpoints")).unwrap().flatten();
        names.filter_map(|name| name.file_name().to_str()?.parse::<CheckpointId>().ok()).map(|id| id.0).collect()
    };
    ws.wait_for("their files go", |_| folders().into_iter().all(|id| needed.contains(&id)));
    assert!(folders().contains(&12));
    assert!(ws.log_kinds().contains(&"checkpoint_pruned".to_string()));
    // The next file goes on from the latest.
    ws.submit("b.jsonl", &rows("b", 2));
    ws.wait_for("the next file is trained", |state| is_completed(state, 2));
}

#[test]
fn without_room_files_wait_in_the_inbox_and_the_view_says_so() {
    let mut ws = Workspace::new(|settings| settings.min_free_bytes = u64::MAX / 2);
    ws.start();
    ws.submit("a.jsonl", &rows("a", 2));
    ws.wait_for("it says so", |state| state.disk_low);
    ws.wait_for("so does the view", |_| ws.view().is_some_and(|view| view.disk_low && view.free_bytes.is_some()));
    let state = ws.state();
    assert!(state.jobs.is_empty() && state.lease.is_none());
    assert!(Layout::new(ws.path()).inbox().join("a.jsonl").is_file());
    ws.set(|settings| settings.min_free_bytes = 0);
    let state = ws.wait_for("it goes on by itself", |state| is_completed(state, 1));
    assert!(!state.disk_low);
}

#[test]
fn a_bad_edit_of_the_configuration_is_told_once_and_shown_until_it_is_mended() {
    let mut ws = Workspace::new(|_| {});
    ws.start();
    let shown = || match control::send(ws.path(), &ControlRequest::Status, TIMEOUT) {
        Ok(ControlReply::Pong { status: Some(status), .. }) => status["config_error"].clone(),
        other => panic!("{other:?}"),
    };
    let count = |kind: &str| ws.log_kinds().iter().filter(|k| *k == kind).count();
    ws.wait_for("it works", |state| serves(state, 0));
    assert_eq!(shown(), serde_json::Value::Null);
    let settings = ws.path().join("settings.json");
    let good = std::fs::read(&settings).unwrap();
    std::fs::write(&settings, "{").unwrap();
    assert!(shown().is_string(), "who asks hears of it at once");
    ws.wait_for("it is told", |_| count("config_invalid") == 1);
    std::fs::write(&settings, "{\"").unwrap();
    ws.wait_for("another fault is told as well", |_| count("config_invalid") == 2);
    // Each order makes the daemon look again, and says nothing new.
    for _ in 0..3 {
        ws.command(Command::Pause { reason: String::new() }).unwrap();
        ws.command(Command::Resume { reason: String::new() }).unwrap();
    }
    std::fs::write(&settings, good).unwrap();
    ws.wait_for("so is the mending", |_| count("config_mended") == 1);
    assert_eq!((count("config_invalid"), shown()), (2, serde_json::Value::Null));
}

#[test]
fn what_this_host_cannot_do_is_tried_again_and_shown() {
    let mut ws = Workspace::new(|_| {});
    // A file stands where the folder of the first data set belongs.
    let in_the_way = ws.path().join("datasets/dataset-1");
    std::fs::write(&in_the_way, "").unwrap();
    ws.start();
    ws.submit("a.jsonl", &rows("a", 2));
    let shown =
        || ws.view().is_some_and(|view| view.troubles.iter().any(|t| t.what == "take dataset-1" && t.tries > 0));
    ws.wait_for("the view shows the trouble", |_| shown());
    std::fs::remove_file(&in_the_way).unwrap();
    ws.wait_for("it goes on by itself", |state| is_completed(state, 1));
    ws.wait_for("the trouble is over", |_| ws.view().is_some_and(|view| view.troubles.is_empty()));
}

#[test]
fn another_trainer_keeps_the_contract_and_alerts_reach_people() {
    let ws = Workspace::new(|settings| settings.max_tries = 1);
    let (settings_file, root) = (ws.path().join("settings.json"), ws.path().display().to_string());
    let stand_in = env!("CARGO_BIN_EXE_hone-fake-worker");
    let script = format!("echo ran >> {root}/ran; exec {stand_in} child train-job \"$@\"");
    let words = |script: String| ["/bin/sh", "-c", script.as_str(), "trainer"].map(str::to_string).to_vec();
    let trainer_command = words(script);
    let command = words(format!("cat >> {root}/alerts"));
    let load_settings = move || {
        let settings: Settings = serde_json::from_slice(&std::fs::read(&settings_file)?)?;
        let alerts = hone_daemon::Alerts { command: command.clone(), url: None };
        Ok(LoopConfig { settings, alerts, trainer_command: trainer_command.clone(), ..LoopConfig::default() })
    };
    let manager = std::os::unix::net::UnixDatagram::bind(ws.path().join("notify")).unwrap();
    manager.set_read_timeout(Some(TIMEOUT)).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let notify = ws.path().join("notify").display().to_string();
    let daemon = run_here(&ws, &stop, |options| {
        options.load_settings = Box::new(load_settings);
        options.notifier = hone_daemon::notify::Notifier::new(Some(&notify)).unwrap();
    });
    ws.submit("a.jsonl", &rows("a", 5));
    let state = ws.wait_for("the stand-in trained the file", |state| is_completed(state, 1));
    assert_eq!(ws.rows(state.latest_checkpoint().unwrap().id), rows("a", 5));
    assert!(std::fs::read_to_string(ws.path().join("ran")).unwrap().starts_with("ran"));
    ws.order("crash", "");
    ws.submit("b.jsonl", &rows("b", 2));
    ws.wait_for("the job fails", |state| matches!(job(state, 2).map(|j| &j.state), Some(JobState::Failed { .. })));
    let told = || std::fs::read_to_string(ws.path().join("alerts")).unwrap_or_default();
    ws.wait_for("people are told", |_| told().contains("\"kind\":\"job_failed\""));
    stop.store(true, Ordering::SeqCst);
    daemon.join().unwrap().unwrap();
    // The manager heard that it starts, is ready, lives, and ends; in this order.
    let mut heard: Vec<String> = Vec::new();
    let mut buffer = [0; 200];
    while heard.last().is_none_or(|word| word != "STOPPING=1") {
        let length = manager.recv(&mut buffer).unwrap();
        heard.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        heard.dedup();
    }
    let mut words: Vec<&str> = heard.iter().map(|word| word.split('=').next().unwrap()).collect();
    words.dedup();
    assert!(words.starts_with(&["EXTEND_TIMEOUT_USEC", "READY"]), "{words:?}");
}

#[test]
fn kill_9_at_any_instant_loses_and_doubles_nothing() {
    // budget: 30 s
    if !std::env::var("HONE_SLOW").is_ok_and(|slow| slow == "1") {
        return;
    }
    let num_kills = 30;
    let mut ws = Workspace::new(|settings| settings.train.save_steps = 7);
    ws.order("step_ms", "2");
    let files: Vec<Vec<String>> = (0..4).map(|file| rows(&format!("f{file}-"), 25)).collect();
    for (number, rows) in files.iter().enumerate() {
        ws.submit(&format!("f{number}.jsonl"), rows);
    }
    for number in 0..num_kills {
        ws.start();
        // Spread over start, checks, steps, publishing and evaluation; a multiple of a prime number is as good as random.
        std::thread::sleep(Duration::from_millis(20 + number * 37 % 300));
        ws.kill();
    }
    ws.start();
    let state = ws.wait_for("all jobs end", |state| (1..=4).all(|number| is_completed(state, number)));
    let last = state.latest_checkpoint().unwrap().id;
    let mut trained = ws.rows(last);
    trained.sort();
    let mut all: Vec<String> = files.concat();
    all.sort();
    assert_eq!(trained, all, "every row exactly once");
    assert_eq!(last, CheckpointId(100));
    ws.wait_for("the last checkpoint is served", |state| serves(state, 100));
    let failed = |d: &&hone_pipeline::state::Deployment| matches!(d.state, DeploymentState::Failed { .. });
    assert_eq!(state.deployments.values().filter(failed).count(), 0);
}
