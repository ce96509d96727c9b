//! Tests of `hone-monitor`.

mod door;
mod records;
mod skills;

use crate::{DRAIN_LIMIT, MonitorOptions};
use hone_pipeline::ids::{CheckpointId, DatasetId, DeploymentId, JobId, LeaseToken};
use hone_pipeline::state::*;
use hone_pipeline::wire::{WorkerLine, WorkerMessage};
use hone_store::Store;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long anything here may take before it counts as hung.
const GENEROUS: Duration = Duration::from_secs(30);

/// A monitor on a free port that ends with the test.
struct Monitor {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
    agent: ureq::Agent,
}

fn options(root: &Path) -> MonitorOptions {
    let listen = "127.0.0.1:0".parse().unwrap();
    MonitorOptions {
        listen,
        root: root.to_path_buf(),
        serve_url: None,
        serve_key: None,
        key: None,
        admin_key: None,
        control: None,
        rows: None,
        skills: Vec::new(),
    }
}

impl Monitor {
    fn start(options: MonitorOptions) -> Monitor {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = channel();
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || crate::run(options, stop, |address| sender.send(address).unwrap())
        });
        let address = receiver.recv_timeout(GENEROUS).expect("the monitor starts");
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(GENEROUS)).build();
        Monitor { address, stop, thread: Some(thread), agent: config.into() }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn text(&self, path: &str) -> (u16, String) {
        let mut response = self.agent.get(self.url(path)).call().unwrap();
        (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
    }

    fn json(&self, path: &str) -> Value {
        let (status, text) = self.text(path);
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    fn source(&self, name: &str) -> Value {
        self.json("/api/unified")["sources"][name].clone()
    }

    /// The first events of a stream, as `(seq, message)`.
    fn events(&self, path: &str, last_id: Option<&str>, count: usize) -> Vec<(u64, String)> {
        let mut request = self.agent.get(self.url(path));
        if let Some(id) = last_id {
            request = request.header("Last-Event-ID", id);
        }
        let response = request.call().unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let lines = BufReader::new(response.into_body().into_reader()).lines().map(Result::unwrap);
        let data = lines.filter_map(|line| line.strip_prefix("data:").map(|data| data.trim().to_string()));
        data.take(count)
            .map(|data| {
                let event: Value = serde_json::from_str(&data).unwrap();
                (event["seq"].as_u64().unwrap(), event["message"].as_str().unwrap().to_string())
            })
            .collect()
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let _ = self.end();
        }
    }
}

fn log(message: &str) -> Change {
    let (severity, kind, subject) = (LogSeverity::Info, "test".to_string(), "job-1".to_string());
    Change::Log(LogEntry { at_ms: 5, severity, kind, subject, message: message.to_string() })
}

const HOSTILE: &str = "<img src=x onerror=alert(1)>.jsonl";

fn dataset(id: u64, file_name: &str, state: DatasetState) -> Change {
    Change::PutDataset(Dataset {
        id: DatasetId(id),
        file_name: file_name.to_string(),
        inbox_path: file_name.to_string(),
        priority: Priority::Normal,
        schema_flag: None,
        state,
        arrived_ms: 1_000 * id,
        schema_id: Some("chat_sft_v1".to_string()),
        blake3: None,
        rows: 300,
        provenance: None,
        keep_back: None,
        check_started: false,
        check_tries: 0,
        deep_check: Default::default(),
        filed: false,
        gone: None,
        set_aside: None,
    })
}

fn progress(job_step: u64, loss: f64) -> Progress {
    Progress {
        step: job_step,
        job_step,
        total_steps: 40,
        loss,
        learning_rate: 1e-3,
        grad_norm: 0.5,
        tokens_per_s: 9_000.0,
        trained_tokens_per_s: 4_000.0,
        memory_bytes: 1 << 30,
        at_ms: crate::clock::now_ms(),
    }
}

fn job(id: u64, priority: Priority, state: JobState, progress: Option<Progress>) -> Change {
    Change::PutJob(Job {
        id: JobId(id),
        datasets: vec![DatasetId(1)],
        priority,
        started_ms: progress.as_ref().map(|_| 10),
        state,
        tries: 0,
        not_before_ms: 0,
        settings: None,
        position: Position::default(),
        replay: None,
        kept_back: Vec::new(),
        skip_reason: None,
        progress,
        created_ms: 1,
        ended_ms: None,
    })
}

fn checkpoint(number: u64, parent: Option<u64>) -> Change {
    Change::PutCheckpoint(Checkpoint {
        id: CheckpointId(number),
        parent: parent.map(CheckpointId),
        job: parent.map(|_| JobId(1)),
        state: CheckpointState::Published,
        manifest_hash: "ab".repeat(32),
        position: Position::default(),
        rows_digest: String::new(),
        train_loss: parent.map(|_| 0.5),
        created_ms: number,
        ends_job: false,
        yielded: false,
        marks: Default::default(),
    })
}

fn evaluation(number: u64, mean_nll: f64) -> Change {
    Change::PutEvaluation(Evaluation {
        checkpoint: CheckpointId(number),
        manifest_hash: "ab".repeat(32),
        template_hash: String::new(),
        suites: vec![SuiteResult {
            suite: "held-out.jsonl".to_string(),
            suite_hash: String::new(),
            rows: 2,
            rows_skipped: 0,
            trained_tokens: 20,
            mean_nll,
            token_accuracy: 0.75,
            row_nll: vec![(1.0, 10), (2.0, 10)],
            answers: None,
        }],
        at_ms: number,
        error: None,
        tries: 0,
        retry_at_ms: None,
        ..Evaluation::default()
    })
}

/// A workspace in the middle of its work.
fn busy_workspace(root: &Path) -> Store {
    let mut store = Store::create(root).unwrap();
    let refused = DatasetState::Rejected { reasons: vec!["line 7: <b>no messages</b>".to_string()] };
    let lease = Lease {
        token: LeaseToken(4),
        work: Work::Train { job: JobId(2) },
        until_ms: u64::MAX,
        asked_to_yield: false,
        since_ms: crate::clock::now_ms(),
        delivered: false,
    };
    let live = Deployment {
        id: DeploymentId(1),
        checkpoint: CheckpointId(10),
        target: "local".to_string(),
        state: DeploymentState::Live,
        tries: 0,
        not_before_ms: 0,
        reason: "better on held-out.jsonl".to_string(),
        created_ms: 11,
        steps: vec![("stage".to_string(), 12)],
        in_flight: false,
        live_since_ms: Some(13),
        watch_until_ms: None,
    };
    let judgement = Judgement {
        challenger: CheckpointId(10),
        champion: Some(CheckpointId(0)),
        outcome: Outcome::Promote,
        reason: "loss 0.9 against 2.0".to_string(),
        at_ms: 10,
        evidence: Vec::new(),
        budget: None,
    };
    let changes = [
        dataset(1, "good.jsonl", DatasetState::Accepted),
        dataset(2, HOSTILE, refused),
        job(1, Priority::Normal, JobState::Completed, None),
        job(2, Priority::Normal, JobState::Running, Some(progress(20, 0.8))),
        job(3, Priority::Low, JobState::Queued, None),
        job(4, Priority::High, JobState::Queued, None),
        checkpoint(0, None),
        checkpoint(10, Some(0)),
        evaluation(0, 2.0),
        evaluation(10, 0.9),
        Change::PutJudgement(judgement),
        Change::SetChampion { checkpoint: Some(CheckpointId(10)) },
        Change::PutDeployment(live),
        Change::SetLease { lease: Some(lease) },
        log("one"),
        log("two"),
        log("three"),
    ];
    store.commit(&changes).unwrap();
    let run = store.layout().run(JobId(2), LeaseToken(4));
    std::fs::create_dir_all(&run).unwrap();
    let line = |step, loss| {
        let message = WorkerMessage::Step(progress(step, loss));
        serde_json::to_string(&WorkerLine { token: LeaseToken(4), message }).unwrap() + "\n"
    };
    std::fs::write(run.join("events.jsonl"), line(19, 1.0) + &line(20, 0.8) + &line(21, 0.7)).unwrap();
    store
}

#[test]
fn shows_a_workspace_in_the_middle_of_its_work() {
    let root = tempfile::tempdir().unwrap();
    let _store = busy_workspace(root.path());
    let _lock = hone_store::owner_lock(root.path()).unwrap();
    let monitor = Monitor::start(options(root.path()));
    let unified = monitor.json("/api/unified");
    let data =
        |source: &str, pointer: &str| unified["sources"][source]["data"].pointer(pointer).cloned().unwrap_or_default();
    for (name, source) in unified["sources"].as_object().unwrap() {
        assert!(source["error"].is_null(), "{name}: {source}");
        assert!(source["age_ms"].as_u64().unwrap() < 30_000, "{name}");
    }
    assert_eq!(data("training_status", "/state"), "training");
    assert_eq!(data("training_status", "/daemon/alive"), true);
    assert_eq!(data("training_status", "/progress/step"), 21);
    assert_eq!(data("training_status", "/job/share"), 0.525);
    assert_eq!(data("training_status", "/curve/points"), json!([[19, 1.0], [20, 0.8], [21, 0.7]]));
    let order: Vec<Value> = data("queue", "/open").as_array().unwrap().iter().map(|job| job["id"].clone()).collect();
    assert_eq!(order, ["job-2", "job-4", "job-3"]);
    let waits = ["/open/0", "/open/1", "/open/2"].map(|job| data("queue", &format!("{job}/waits_for")));
    assert_eq!(waits, ["it runs", "1 job before it", "2 jobs before it"]);
    assert_eq!(data("queue", "/counts"), json!({ "completed": 1, "running": 1, "queued": 2 }));
    assert_eq!(data("datasets", "/rejected/0/file_name"), HOSTILE);
    assert_eq!(data("datasets", "/rejected/0/reasons"), json!(["line 7: <b>no messages</b>"]));
    assert_eq!(data("checkpoints", "/items/0/id"), "checkpoint-10");
    assert_eq!(data("checkpoints", "/items/0/evaluation/suites/0/mean_nll"), 0.9);
    assert_eq!(data("checkpoints", "/items/0/evaluation/suites/0/row_nll"), Value::Null);
    assert_eq!(data("checkpoints", "/items/0/verdict/reason"), "loss 0.9 against 2.0");
    assert_eq!(data("model_comparison", "/verdicts/0/challenger"), "checkpoint-10");
    assert_eq!(data("deployments", "/targets/0/live/checkpoint"), "checkpoint-10");
    assert_eq!(data("deployments", "/targets/0/live/live_since_ms"), 13);
    assert_eq!(data("inference", "/configured"), false);
    assert!(data("system", "/memory/total_bytes").as_u64().unwrap() > 0);
    assert!(data("system", "/disk/total_bytes").as_u64().unwrap() > 0);
    assert_eq!(monitor.json("/api/health"), json!({ "status": "ok", "failing": [] }));
    let metrics = monitor.text("/metrics").1;
    for line in ["hone_daemon_up 1", "hone_training_step 21", "hone_queue_open_jobs 3", "hone_champion_step 10"] {
        assert!(metrics.lines().any(|found| found == line), "{line} is missing in\n{metrics}");
    }
}

#[test]
fn a_lease_without_a_daemon_is_shown_as_dead() {
    let root = tempfile::tempdir().unwrap();
    let _store = busy_workspace(root.path());
    let monitor = Monitor::start(options(root.path()));
    assert_eq!(monitor.source("training_status")["data"]["state"], "dead");
    assert!(monitor.text("/metrics").1.contains("hone_daemon_up 0\n"));
}

#[test]
fn news_are_shown_after_they_are_committed() {
    let root = tempfile::tempdir().unwrap();
    let mut store = busy_workspace(root.path());
    let monitor = Monitor::start(options(root.path()));
    assert_eq!(monitor.source("queue")["data"]["num_open"], 3);
    store.commit(&[job(5, Priority::Normal, JobState::Queued, None)]).unwrap();
    let start = Instant::now();
    while monitor.source("queue")["data"]["num_open"] != 4 {
        assert!(start.elapsed() < GENEROUS, "the new job never came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_empty_workspace_and_none_at_all_are_told_apart() {
    let root = tempfile::tempdir().unwrap();
    let monitor = Monitor::start(options(root.path()));
    let source = monitor.source("queue");
    assert!(source["error"].as_str().unwrap().contains("hone init"), "{source}");
    assert_eq!((&source["data"], &source["age_ms"]), (&Value::Null, &Value::Null));
    assert_eq!(monitor.json("/api/health")["status"], "degraded");
    assert!(!root.path().join("hone.db").exists(), "the monitor made a database");
    assert_eq!(monitor.text("/").0, 200);
    drop(Store::create(root.path()).unwrap());
    let start = Instant::now();
    while monitor.json("/api/health")["status"] != "ok" {
        assert!(start.elapsed() < GENEROUS, "the new workspace is not seen");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(monitor.source("queue")["data"]["num_open"], 0);
    assert_eq!(monitor.source("training_status")["data"]["state"], "dead");
}

#[test]
fn a_failing_source_keeps_its_last_data_with_age_and_error() {
    let root = tempfile::tempdir().unwrap();
    drop(busy_workspace(root.path()));
    let monitor = Monitor::start(options(root.path()));
    assert_eq!(monitor.source("queue")["data"]["num_open"], 3);
    std::fs::rename(root.path().join("hone.db"), root.path().join("elsewhere")).unwrap();
    let start = Instant::now();
    let source = loop {
        let source = monitor.source("queue");
        if !source["error"].is_null() {
            break source;
        }
        assert!(start.elapsed() < GENEROUS, "the loss is not noticed");
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(source["data"]["num_open"], 3);
    assert!(source["age_ms"].as_u64().unwrap() > 0);
    let told = monitor.json("/api/sources");
    let queue = told["sources"].as_array().unwrap().iter().find(|source| source["name"] == "queue").unwrap();
    assert!(queue["num_failures"].as_u64().unwrap() > 0 && queue["num_reads"].as_u64().unwrap() > 1, "{queue}");
}

#[test]
fn a_silent_inference_server_delays_nothing_beyond_its_limit() {
    let root = tempfile::tempdir().unwrap();
    drop(Store::create(root.path()).unwrap());
    // It takes connections (the kernel does) and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let serve_url = Some(format!("http://{}", silent.local_addr().unwrap()));
    let monitor = Monitor::start(MonitorOptions { serve_url, ..options(root.path()) });
    let start = Instant::now();
    let unified = monitor.json("/api/unified");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(unified["sources"]["inference"]["error"].is_string());
    assert!(unified["sources"]["queue"]["error"].is_null());
    assert_eq!(monitor.json("/api/health")["status"], "ok", "the inference server is not critical");
}

#[test]
fn events_resume_after_the_last_one_seen() {
    let root = tempfile::tempdir().unwrap();
    let mut store = busy_workspace(root.path());
    let monitor = Monitor::start(options(root.path()));
    let all = [(1, "one".to_string()), (2, "two".to_string()), (3, "three".to_string())];
    assert_eq!(monitor.events("/api/events", None, 3), all);
    assert_eq!(monitor.events("/api/events?after=1", None, 2), all[1..]);
    assert_eq!(monitor.events("/api/events?after=1", Some("2"), 1), all[2..]);
    // A position beyond the end comes from another workspace: from the beginning then.
    assert_eq!(monitor.events("/api/events?after=900", None, 3), all);
    let writer = std::thread::spawn(move || store.commit(&[log("four")]).unwrap());
    assert_eq!(monitor.events("/api/events?after=3", None, 1), [(4, "four".to_string())]);
    writer.join().unwrap();
    assert_eq!(monitor.text("/api/events?after=x").0, 400);
}

/// Every route that tells anything.
const GUARDED: [&str; 14] = [
    "/api/unified",
    "/api/sources",
    "/api/events",
    "/api/history/runs",
    "/api/history/run?job=2",
    "/api/history/evaluations",
    "/api/history/events",
    "/api/checkpoints",
    "/api/checkpoints/10",
    "/api/datasets",
    "/api/datasets/1/report",
    "/api/logs",
    "/api/session",
    "/metrics",
];

#[test]
fn a_key_guards_all_data() {
    let root = tempfile::tempdir().unwrap();
    let _store = busy_workspace(root.path());
    // As a secret's file has it.
    let monitor = Monitor::start(MonitorOptions { key: Some("secret\n".to_string()), ..options(root.path()) });
    let status = |path: &str, name: &str, value: &str| {
        monitor.agent.get(monitor.url(path)).header(name, value).call().unwrap().status().as_u16()
    };
    for path in GUARDED {
        assert_eq!(monitor.text(path).0, 401, "{path}");
        assert_eq!(status(path, "Authorization", "Bearer secre"), 401);
        assert_eq!(status(path, "Authorization", "secret"), 401);
        assert_ne!(status(path, "Authorization", "Bearer secret"), 401, "{path}");
        assert_ne!(status(path, "X-API-Key", "secret"), 401, "{path}");
    }
    for path in ["/", "/dashboard.js", "/dashboard.css", "/uplot.js", "/api/health"] {
        assert_eq!(monitor.text(path).0, 200, "{path}");
    }
}

#[test]
fn what_is_written_goes_out_at_once() {
    use axum::serve::Listener as _;
    use tokio::net::{TcpListener, TcpStream};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(async {
        let bound = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(bound.local_addr().unwrap()).await.unwrap();
        let (stream, _) = crate::without_delay(bound).accept().await;
        assert!(stream.nodelay().unwrap() && !client.nodelay().unwrap());
    });
}

#[test]
fn it_listens_beyond_loopback_only_with_a_key() {
    let root = tempfile::tempdir().unwrap();
    let run = |listen: &str, key: Option<&str>| {
        let key = key.map(str::to_string);
        let options = MonitorOptions { listen: listen.parse().unwrap(), key, ..options(root.path()) };
        crate::run(options, Arc::new(AtomicBool::new(true)), |_| {})
    };
    assert!(run("0.0.0.0:0", None).unwrap_err().to_string().contains("key"));
    for empty in ["", " \n"] {
        assert!(run("127.0.0.1:0", Some(empty)).unwrap_err().to_string().contains("empty"));
    }
    run("0.0.0.0:0", Some("secret")).unwrap();
}

#[test]
fn the_page_loads_nothing_from_elsewhere() {
    let root = tempfile::tempdir().unwrap();
    let monitor = Monitor::start(options(root.path()));
    let response = monitor.agent.get(monitor.url("/")).call().unwrap();
    let policy = response.headers()["content-security-policy"].to_str().unwrap().to_string();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    for path in [
        "/",
        "/dashboard.css",
        "/base.js",
        "/charts.js",
        "/now.js",
        "/pages.js",
        "/rows.js",
        "/skills.js",
        "/serving.js",
        "/dashboard.js",
        "/uplot.css",
    ] {
        let text = monitor.text(path).1.replace("http://www.w3.org/2000/svg", "").replace("http%3A//www.w3.org", "");
        for forbidden in ["http:", "https:", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("]
        {
            assert!(!text.contains(forbidden), "{path} contains {forbidden}");
        }
        assert!(!text.contains(" style=") && !text.contains("onclick="), "{path} needs what the policy forbids");
    }
}

#[test]
fn other_paths_and_methods_are_refused_as_json() {
    let root = tempfile::tempdir().unwrap();
    let monitor = Monitor::start(options(root.path()));
    let (status, text) = monitor.text("/hone.db");
    assert_eq!(
        (status, serde_json::from_str::<Value>(&text).unwrap()["error"]["code"].clone()),
        (404, json!("not_found"))
    );
    let response = monitor.agent.post(monitor.url("/api/unified")).send("{}").unwrap();
    assert_eq!(response.status().as_u16(), 405);
}

#[test]
fn stops_with_open_streams() {
    let root = tempfile::tempdir().unwrap();
    let _store = busy_workspace(root.path());
    let mut monitor = Monitor::start(options(root.path()));
    let response = monitor.agent.get(monitor.url("/api/events?after=3")).call().unwrap();
    let reader = std::thread::spawn(move || response.into_body().into_reader().read_to_end(&mut Vec::new()).is_ok());
    let start = Instant::now();
    monitor.end().unwrap();
    assert!(start.elapsed() < DRAIN_LIMIT, "an open stream held the monitor");
    assert!(reader.join().unwrap(), "the stream was torn instead of ended");
}
