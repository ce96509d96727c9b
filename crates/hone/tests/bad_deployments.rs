//! What goes wrong between a trainer and a server, on the real binary: whatever it is, it ends with the champion serving
//! within a minute, or with a hold, and the record says why.

#![expect(clippy::disallowed_methods, reason = "tests write their own fixtures")]

#[expect(dead_code, reason = "cut lines are another test's concern")]
#[path = "hosts/line.rs"]
mod line;
#[expect(dead_code, reason = "other tests use more of it")]
#[path = "end_to_end/rig.rs"]
mod rig;

use hone_store::Store;
use line::{Behaviour, Fault, Line};
use rig::{Rig, rows_of_binary};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Everything ends within this.
const LIMIT: Duration = Duration::from_secs(60);
/// Longest wait for what is not measured here: training.
const PATIENCE: Duration = Duration::from_secs(300);

/// A workspace whose server is reached over a line.
struct Place {
    rig: Rig,
    line: Line,
    server: String,
}

impl Place {
    fn new(extra: &[(&str, &str)]) -> Place {
        let server = rig::free_address();
        let line = Line::before(&server);
        let targets = format!("[{{\"name\": \"far\", \"url\": \"{}\", \"transport\": \"http\"}}]", line.url);
        let mut settings = vec![
            ("serve.listen", server.as_str()),
            ("deployment.targets", &targets),
            ("deployment.watch_sec", "4"),
            ("deployment.watch_interval_sec", "0.1"),
            ("deployment.max_answer_sec", "5"),
            ("limits.retry_backoff_sec", "0.1"),
            ("epochs", "1"),
        ];
        settings.extend_from_slice(extra);
        let mut rig = Rig::new(&settings);
        rig.write_validation(&rows_of_binary(3, 40));
        rig.start_serve();
        rig.start_daemon();
        let place = Place { rig, line, server };
        place.ends_with(0, PATIENCE);
        place
    }

    /// What the server itself says that it serves; none while it does not answer.
    fn serving(&self) -> Option<u64> {
        let mut answer = ureq::get(format!("http://{}/admin/deployments", self.server)).call().ok()?;
        let list: Vec<Value> = answer.body_mut().read_json().ok()?;
        list.iter().find(|deployment| deployment["state"] == "serving")?["checkpoint"].as_u64()
    }

    /// Waits until the checkpoint is champion, is live by the record, and is what the server says that it serves.
    #[track_caller]
    fn ends_with(&self, checkpoint: u64, limit: Duration) {
        self.rig.wait(&format!("checkpoint-{checkpoint} is champion and serves"), limit, |status| {
            let live = &status["live"];
            live.as_array().is_some_and(|live| live.len() == 1)
                && live[0]["checkpoint"] == checkpoint
                && status["champion"] == checkpoint
                && self.serving() == Some(checkpoint)
        });
    }

    /// Orders a checkpoint by hand.
    fn deploy(&self, checkpoint: u64) {
        assert!(self.rig.succeeds(&["deploy", &checkpoint.to_string()]));
    }

    /// The record of the newest order of a checkpoint.
    fn order(&self, checkpoint: u64) -> Value {
        let all = self.rig.hone(&["deployments", "--json"]).json();
        let of = |order: &&Value| order["checkpoint"] == checkpoint;
        all.as_array().unwrap().iter().rev().find(of).unwrap().clone()
    }

    /// Waits for an event of a kind that says so.
    #[track_caller]
    fn told(&self, kind: &str, words: &[&str]) {
        let started = Instant::now();
        loop {
            let events = Store::open_read_only(&self.rig.root()).unwrap().events(Some(0), 100_000).unwrap();
            let fits = |message: &str| words.iter().all(|word| message.contains(word));
            if events.iter().any(|(_, event)| event.kind == kind && fits(&event.message)) {
                return;
            }
            let told: Vec<_> = events.iter().map(|(_, event)| format!("{}: {}", event.kind, event.message)).collect();
            assert!(started.elapsed() < LIMIT, "no {kind} with {words:?} among\n{}", told.join("\n"));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Trains on so many rows and waits until all their checkpoints are evaluated.
    fn train(&self, rows: usize, newest: u64) {
        let file = self.rig.file("data.jsonl", &rows_of_binary(1, rows));
        assert_eq!(self.rig.hone(&["submit", &file, "--json"]).json()["state"]["state"], "accepted");
        self.rig.wait("everything is trained and evaluated", PATIENCE, |status| {
            status["latest_checkpoint"] == newest
                && status["open_jobs"].as_array().is_some_and(Vec::is_empty)
                && status["lease"].is_null()
        });
    }

    /// Deploys a checkpoint over a line that strikes the server dead; somebody starts it again, and the daemon goes on.
    #[track_caller]
    fn survives(&mut self, checkpoint: u64, request: &str, after_bytes: u64) {
        let before = self.serving().unwrap();
        let pid = self.rig.serve_pid().to_string();
        let kill = move || assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
        let strikes = self.line.num_strikes();
        self.line.fail(request, Fault::Strike(after_bytes, Arc::new(kill)));
        self.deploy(checkpoint);
        let started = Instant::now();
        while self.line.num_strikes() == strikes {
            assert!(started.elapsed() < LIMIT, "{request} never came");
            std::thread::sleep(Duration::from_millis(5));
        }
        self.rig.kill_serve();
        self.rig.start_serve();
        let first = loop {
            match self.serving() {
                Some(checkpoint) => break checkpoint,
                None => assert!(started.elapsed() < LIMIT, "nothing serves after {request}"),
            }
        };
        assert!([before, checkpoint].contains(&first), "{first} serves after {request}");
        self.ends_with(checkpoint, LIMIT);
        assert!(self.order(checkpoint)["tries"].as_u64() >= Some(1), "the try that failed is on record");
        self.told("deploy_try_failed", &[&format!("checkpoint-{checkpoint} ")]);
    }
}

// budget: 60 s
#[test]
fn a_target_in_trouble_ends_with_the_champion_serving() {
    if std::env::var("HONE_SLOW").is_err() {
        return;
    }
    let mut place = Place::new(&[("promotion.policy", "manual"), ("save_steps", "2")]);
    place.train(112, 14);
    assert_eq!(place.serving(), Some(0), "only people promote here");

    // Answers take longer than they may.
    place.line.fail("POST /v1/chat", Fault::Late(Duration::from_secs(20)));
    place.deploy(2);
    place.told("rolled_back", &["checkpoint-2", "no answer within 5 s", "going back to checkpoint-0"]);
    place.line.behave(Behaviour::default());
    place.ends_with(0, LIMIT);

    // Every second look, ten more answers of the server are errors.
    let errors = AtomicU64::new(0);
    let burst = move || {
        let count = errors.fetch_add(10, Ordering::SeqCst);
        (200, format!("hone_serve_requests_total{{route=\"/v1/chat/completions\",status=\"5xx\"}} {count}\n"))
    };
    place.line.fail("GET /metrics", Fault::Answer(Arc::new(burst)));
    place.deploy(4);
    place.told("rolled_back", &["checkpoint-4", "are errors (100.0 %)", "going back to checkpoint-0"]);
    place.line.behave(Behaviour::default());
    place.ends_with(0, LIMIT);

    // Answers themselves are errors.
    place.line.fail("POST /v1/chat", Fault::Answer(Arc::new(|| (500, "{}".to_string()))));
    place.deploy(6);
    place.told("rolled_back", &["checkpoint-6", "a canary was answered 500"]);
    place.line.behave(Behaviour::default());
    place.ends_with(0, LIMIT);

    // No metrics to read, and no traffic: neither is a reason to go back.
    place.line.fail("GET /metrics", Fault::Answer(Arc::new(|| (404, String::new()))));
    place.deploy(8);
    place.told("watched", &["checkpoint-8 serves well", "no metrics to read"]);
    place.line.behave(Behaviour::default());
    place.ends_with(8, LIMIT);

    // The host dies while files come, while it loads, and while it switches.
    place.survives(10, "PUT /admin/blobs/", 1 << 20);
    place.survives(12, "POST /admin/deployments HTTP", u64::MAX);
    place.survives(14, "POST /admin/deployments/", u64::MAX);
}

/// Trains one checkpoint whose files a trainer ruins.
fn ruined(how: &str) -> Place {
    let (hone, trainer) = (env!("CARGO_BIN_EXE_hone"), env!("CARGO_BIN_EXE_hone-ruinous-trainer"));
    let command = format!("[\"{trainer}\", \"{hone}\", \"{how}\"]");
    let place = Place::new(&[
        ("trainer.command", &command),
        ("promotion.on_regression", "hold"),
        ("deployment.canary_file", "canaries.jsonl"),
        ("save_steps", "100"),
    ]);
    place.expect_what_is_answered_now();
    place.train(32, 4);
    place.ends_with(0, LIMIT);
    place
}

impl Place {
    /// From now on a target must answer as it does now.
    fn expect_what_is_answered_now(&self) {
        let question = "add \u{24ea} \u{2460}";
        let said = self.rig.hone(&["chat", "--message", question, "--temperature", "0", "--max-tokens", "8", "--json"]);
        let text = said.json()["text"].as_str().unwrap().to_string();
        let text = text.trim_end_matches('\u{fffd}');
        assert!(text.chars().count() >= 4, "{text:?} tells nothing");
        let messages = serde_json::json!([{"role": "user", "content": question}]);
        let canary = serde_json::json!({"messages": messages, "expect": text}).to_string();
        std::fs::write(self.rig.root().join("canaries.jsonl"), canary + "\n").unwrap();
    }

    /// It was not promoted; and where a person orders it all the same, the target goes back by itself.
    #[track_caller]
    fn is_held_and_rolled_back(&self) {
        self.told("not_promoted", &["worse"]);
        let control = self.rig.status()["control"].to_string();
        assert!(control.contains("paused") && control.contains("checkpoint-4"), "{control}");
        let explained = self.rig.hone(&["explain", "4", "--json"]).json().to_string();
        assert!(explained.contains("\"outcome\":\"worse\""), "{explained}");
        self.deploy(4);
        self.told("rolled_back", &["checkpoint-4", "0 of 1 canaries", "going back to checkpoint-0"]);
        self.ends_with(0, LIMIT);
        let order = self.order(4)["state"].to_string();
        assert!(order.contains("rolled back"), "{order}");
    }
}

// budget: 20 s
#[test]
fn random_weights_are_held_and_never_stay() {
    if std::env::var("HONE_SLOW").is_ok() {
        ruined("random").is_held_and_rolled_back();
    }
}

// budget: 20 s
#[test]
fn a_wrong_tokenizer_is_held_and_never_stays() {
    if std::env::var("HONE_SLOW").is_ok() {
        ruined("tokenizer").is_held_and_rolled_back();
    }
}

// budget: 20 s
#[test]
fn weights_that_are_no_numbers_are_refused_by_evaluation_and_by_the_server() {
    if std::env::var("HONE_SLOW").is_err() {
        return;
    }
    let place = ruined("nan");
    place.told("evaluation_failed", &["holds NaN", "given up"]);
    place.deploy(4);
    place.told("deploy_failed", &["checkpoint-4 cannot be served", "goes on as before", "NaN"]);
    place.told("champion_chosen", &["checkpoint-4 can be served nowhere; checkpoint-0"]);
    place.ends_with(0, LIMIT);
}
