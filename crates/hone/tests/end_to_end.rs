//! The real binary on a tiny model: a file becomes a served checkpoint, bad files are refused, kills lose nothing.

#![expect(clippy::disallowed_methods, reason = "tests write their own fixtures")]

#[expect(dead_code, reason = "other tests use more of it")]
#[path = "end_to_end/rig.rs"]
mod rig;

use rig::{Rig, rows_of_binary};
use serde_json::{Value, json};
use std::time::Duration;

/// Generous limit of one stage of the loop.
const LIMIT: Duration = Duration::from_secs(300);
const KEYS: [&str; 2] = ["admin-key-that-must-not-be-logged", "read-key-that-must-not-be-logged"];

// budget: 60 s
#[test]
fn a_file_in_the_inbox_becomes_a_served_checkpoint() {
    if std::env::var("HONE_SLOW").is_err() {
        return;
    }
    let mut rig = Rig::new(&[("save_steps", "10"), ("epochs", "1")]);
    rig.write_validation(&rows_of_binary(3, 40));
    // What is logged is looked at below.
    rig.set_variable("HONE_ADMIN_KEY", KEYS[0]);
    rig.set_variable("HONE_READ_KEY", KEYS[1]);
    rig.set_variable("HONE_LOG", "trace");
    rig.start_serve();
    rig.start_daemon();
    rig.wait("checkpoint-0 is served", LIMIT, |status| served(status) == Some(0));

    let file = rig.file("data.jsonl", &rows_of_binary(1, 160));
    let verdict = rig.hone(&["submit", &file, "--json"]).json();
    assert_eq!(verdict["state"]["state"], "accepted", "{verdict}");
    rig.wait("the trained checkpoint is served", LIMIT, |status| served(status) == Some(20));

    let reply =
        rig.hone(&["chat", "--message", "add \u{24ea} \u{2460}", "--temperature", "0", "--max-tokens", "8", "--json"]);
    let stamp = reply.json()["system_fingerprint"].as_str().unwrap().to_string();
    assert!(stamp.starts_with("checkpoint-20-"), "{stamp}");

    let evaluations = rig.status()["evaluations"].clone();
    let loss = |id: &str| evaluations[id]["mean_nll"].as_f64().unwrap();
    assert!(loss("checkpoint-20") < loss("checkpoint-0"), "{evaluations}");
    assert_eq!(rig.hone(&["checkpoints", "verify", "--json"]).json()["problems"], json!([]));
    let explained = rig.hone(&["explain", "20", "--json"]).json();
    assert_eq!(explained["chain"][0]["datasets"][0]["file_name"], "data.jsonl", "{explained}");

    let again = rig.hone(&["submit", &file, "--json"]).json();
    assert_eq!(again["state"]["state"], "duplicate", "{again}");

    let monitor = rig::free_address();
    rig.start_monitor(&monitor);
    let question = json!([{"role": "user", "content": "add \u{24ea} \u{2460}"}]);
    let chat = json!({"messages": question, "temperature": 0, "max_tokens": 24});
    let answer = ask_monitor(&monitor, "/api/chat", KEYS[1], &chat);
    let answer = answer["choices"][0]["message"]["content"].as_str().unwrap();
    let pause = json!({"command": {"command": "pause", "reason": "lunch"}});
    assert!(ask_monitor(&monitor, "/api/control", KEYS[0], &pause)["message"].is_string());
    rig.stop_daemon_gently();
    // Every row and question of Binary has digits like these; a short answer could stand in a log by chance.
    let mut texts = vec!["\u{24ea}", "\u{2460}"];
    texts.extend(Some(answer).filter(|answer| answer.trim().chars().count() >= 4));
    rig.check_discretion(&["daemon", "serve", "monitor"], &KEYS, &texts);
}

/// Asks through the monitor with this key. It may be just starting.
fn ask_monitor(address: &str, path: &str, key: &str, body: &Value) -> Value {
    let start = std::time::Instant::now();
    loop {
        match ureq::post(format!("http://{address}{path}")).header("x-api-key", key).send_json(body) {
            Ok(mut answer) => return answer.body_mut().read_json().unwrap(),
            Err(ureq::Error::ConnectionFailed | ureq::Error::Io(_)) if start.elapsed() < LIMIT => {}
            Err(error) => panic!("{path}: {error}"),
        }
    }
}

// budget: 60 s
#[test]
fn a_share_of_each_file_is_kept_back_from_training_and_decides() {
    if std::env::var("HONE_SLOW").is_err() {
        return;
    }
    let mut rig = Rig::new(&[("save_steps", "100"), ("epochs", "1"), ("validation.auto_share", "0.25")]);
    rig.start_serve();
    rig.start_daemon();
    rig.wait("checkpoint-0 is served", LIMIT, |status| served(status) == Some(0));
    let file = rig.file("data.jsonl", &rows_of_binary(1, 160));
    assert_eq!(rig.hone(&["submit", &file, "--json"]).json()["state"]["state"], "accepted");
    // 40 of 160 rows stay out: 15 steps of 8 rows. Without any file in validation/, they alone promote.
    rig.wait("the trained checkpoint is served", LIMIT, |status| served(status) == Some(15));
    let suites = rig.hone(&["explain", "15", "--json"]).json()["chain"][0]["evaluation"]["suites"].clone();
    assert_eq!(suites.as_array().map(Vec::len), Some(1), "{suites}");
    assert_eq!((&suites[0]["suite"], &suites[0]["rows"]), (&json!("kept-back"), &json!(40)));
    rig.stop_daemon_gently();
}

// budget: 60 s
#[test]
fn bad_files_are_refused_with_line_and_reason_and_the_daemon_goes_on() {
    if std::env::var("HONE_SLOW").is_err() {
        return;
    }
    let mut rig = Rig::new(&[("queue.settle_sec", "0.2"), ("queue.torn_sec", "0.5")]);
    rig.start_daemon();
    let mut rows: Vec<String> = rows_of_binary(1, 10).lines().map(str::to_string).collect();
    rows[6] = "{\"messages\": [{\"role\": \"user\", \"content\": \"hi, must-not-be-logged\"}]}".to_string();
    rig.drop_in_inbox("line7.jsonl", (rows.join("\n") + "\n").as_bytes());
    rig.drop_in_inbox("schema.jsonl.meta.json", b"{\"schema_id\": \"chat_v9\"}");
    rig.drop_in_inbox("schema.jsonl", rows_of_binary(1, 3).as_bytes());
    rig.drop_in_inbox("empty.jsonl", b"");
    rig.drop_in_inbox("garbage.jsonl", b"\xff\x00\x01");
    let long = format!("{{\"text\": \"{}\"}}\n", "a".repeat(200_000_000));
    rig.drop_in_inbox("long.jsonl", long.as_bytes());
    drop(long);
    rig.wait("all five are judged", LIMIT, |_| {
        let names = ["line7", "schema", "empty", "garbage", "long"];
        names.iter().all(|name| rig.report(&format!("{name}.jsonl")).is_some())
    });
    let finding = |name: &str| rig.report(name).unwrap()["findings"][0].clone();
    assert_eq!(finding("line7.jsonl")["lines"], json!([7]));
    assert!(finding("schema.jsonl")["message"].as_str().unwrap().contains("chat_v9"));
    assert_eq!(finding("empty.jsonl")["code"], "file_empty");
    assert_eq!(rig.report("garbage.jsonl").unwrap()["verdict"], "rejected");
    assert_eq!(finding("long.jsonl")["lines"], json!([1]));

    let file = rig.file("good.jsonl", &rows_of_binary(1, 8));
    assert_eq!(rig.hone(&["submit", &file, "--json"]).json()["state"]["state"], "accepted");
    rig.check_discretion(&["daemon"], &[], &["must-not-be-logged", "aaaaaaaa", "\u{24ea}", "\u{2460}"]);
}

// budget: 240 s
#[test]
fn twenty_kills_change_neither_the_trained_rows_nor_the_weights() {
    if std::env::var("HONE_SLOW").is_err() {
        return;
    }
    let rows = rows_of_binary(1, 1_600);
    // On a loaded machine several kills in a row may come before the first checkpoint.
    let settings = [
        ("save_steps", "4"),
        ("epochs", "1"),
        ("promotion.policy", "\"better\""),
        ("limits.retry_backoff_sec", "0.1"),
        ("limits.max_tries", "40"),
    ];
    let mut calm = Rig::new(&settings);
    calm.write_validation(&rows_of_binary(3, 8));
    calm.start_serve();
    calm.start_daemon();
    let file = calm.file("data.jsonl", &rows);
    calm.hone(&["submit", &file, "--json"]).json();
    calm.wait("the calm run ends", LIMIT, job_is_done);
    let expected = calm.last_checkpoint();
    calm.stop_daemon_gently();

    let mut wild = Rig::new(&settings);
    wild.write_validation(&rows_of_binary(3, 8));
    wild.start_serve();
    wild.start_daemon();
    let file = wild.file("data.jsonl", &rows);
    wild.hone(&["submit", &file, "--json", "--no-wait"]);
    let mut chance = 12_345_u64;
    for kill in 0..20 {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // At a random time, and on a fast machine before the job is done: there soon after each new checkpoint.
        let reached = wild.newest_checkpoint_folder();
        let wait = Duration::from_millis(100 + (chance >> 33) % 800);
        let start = std::time::Instant::now();
        while start.elapsed() < wait && wild.newest_checkpoint_folder() == reached {
            std::thread::sleep(Duration::from_millis(1 + (chance >> 50) % 16));
        }
        // The next slice begins a moment after the checkpoint of the one before.
        std::thread::sleep(Duration::from_millis((chance >> 40) % 40));
        let kills_daemon = kill % 2 == 0;
        if kills_daemon {
            wild.kill_daemon();
        } else {
            let start = std::time::Instant::now();
            while wild.kill_children_of_daemon() == 0 {
                assert!(start.elapsed() < LIMIT, "kill {kill} finds nobody at work");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        assert!(!job_is_done(&wild.status()), "it was trained before kill {kill}: give it more rows");
        if kills_daemon {
            wild.start_daemon();
        }
    }
    wild.wait("the wild run ends", LIMIT, job_is_done);
    let actual = wild.last_checkpoint();
    let newest = actual["checkpoint"]["id"].to_string();
    let job = wild.hone(&["explain", &newest, "--json"]).json()["chain"][0]["job"]["state"].clone();
    assert_eq!(job["state"], "completed", "{job}");
    assert_eq!(actual["checkpoint"]["rows_digest"], expected["checkpoint"]["rows_digest"]);
    assert_eq!(actual["checkpoint"]["position"], expected["checkpoint"]["position"]);
    assert_eq!(wild.last_weights(), calm.last_weights(), "the weights differ");
    wild.wait("a model is served", LIMIT, |status| served(status).is_some());
    assert_eq!(wild.hone(&["checkpoints", "verify", "--json"]).json()["problems"], json!([]));
}

// budget: 60 s
#[test]
fn a_killed_train_goes_on_and_ends_with_the_same_weights() {
    if std::env::var("HONE_SLOW").is_err() {
        return;
    }
    let rig = Rig::new(&[("save_steps", "3")]);
    let file = rig.file("data.jsonl", &rows_of_binary(1, 160));
    let (calm, wild) = (format!("{file}.calm"), format!("{file}.wild"));
    assert_eq!(rig.hone(&["train", &file, "--out", &calm, "--json"]).json()["done"], true);
    for wait_ms in [300, 700, 1100] {
        rig.hone_killed_after(&["train", &file, "--out", &wild], Duration::from_millis(wait_ms));
    }
    let summary = rig.hone(&["train", &file, "--out", &wild, "--json"]).json();
    assert_eq!(summary["steps"], 20, "{summary}");
    let weights = |out: &str| std::fs::read(format!("{out}/checkpoint-20/model.safetensors")).unwrap();
    assert_eq!(weights(&calm), weights(&wild), "the weights differ");
}

fn served(status: &Value) -> Option<u64> {
    status["live"].as_array()?.last()?["checkpoint"].as_u64()
}

fn job_is_done(status: &Value) -> bool {
    status["num_jobs"].as_u64() == Some(1) && status["open_jobs"].as_array().is_some_and(Vec::is_empty)
}
