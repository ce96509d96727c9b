//! What a watch sees, against a server that behaves as it is told.

use super::super::http::Http;
use super::*;
use crate::testing::HttpServer;
use hone_pipeline::ids::CheckpointId;
use hone_pipeline::wire::ServerDeployment;
use std::sync::{Arc, Mutex};

/// How the server behaves.
#[derive(Clone)]
struct Manner {
    /// Hash of the manifest; empty where nothing serves.
    serving: String,
    loading: bool,
    status: u16,
    answer: String,
    all: u64,
    errors: u64,
    has_metrics: bool,
    wait: Duration,
}

struct Bench {
    manner: Arc<Mutex<Manner>>,
    server: HttpServer,
}

fn bench() -> Bench {
    let manner = Manner {
        serving: "m".to_string(),
        loading: false,
        status: 200,
        answer: "four".to_string(),
        all: 100,
        errors: 3,
        has_metrics: true,
        wait: Duration::ZERO,
    };
    let manner = Arc::new(Mutex::new(manner));
    let behind = Arc::clone(&manner);
    let server = HttpServer::start(move |request| {
        let manner = behind.lock().unwrap().clone();
        match request.line.as_str() {
            "GET /admin/deployments" if manner.serving.is_empty() => (200, "[]".to_string()),
            "GET /ready" => (503, json!({"loading": manner.loading}).to_string()),
            "GET /admin/deployments" => {
                let deployment = ServerDeployment {
                    id: 1,
                    checkpoint: CheckpointId(4),
                    manifest_hash: manner.serving,
                    state: "serving".to_string(),
                    error: String::new(),
                    created_ms: 0,
                };
                (200, serde_json::to_string(&[deployment]).unwrap())
            }
            "GET /metrics" if manner.has_metrics => {
                let (all, errors) = (manner.all, manner.errors);
                let count = |route: &str, status, count| {
                    format!("hone_serve_requests_total{{route=\"{route}\",status=\"{status}\"}} {count}\n")
                };
                let chat = "/v1/chat/completions";
                (200, count(chat, "2xx", all - errors) + &count(chat, "5xx", errors) + &count("/admin", "5xx", 1000))
            }
            "POST /v1/chat/completions" => {
                std::thread::sleep(manner.wait);
                let body = json!({"choices": [{"message": {"content": manner.answer}}]});
                (manner.status, body.to_string())
            }
            _ => (404, String::new()),
        }
    });
    Bench { manner, server }
}

fn expected() -> Expectation {
    Expectation {
        manifest_hash: "m".to_string(),
        model_name: "model".to_string(),
        max_answer: Duration::from_secs(20),
        max_error_share: 0.05,
        canaries: Vec::new(),
        min_canary_share: 0.9,
    }
}

/// What a window of at most five looks says, when the server changes its manner after the first.
fn outcome(expected: &Expectation, change: impl Fn(&mut Manner)) -> String {
    let bench = bench();
    let door = Http::new(&bench.server.url, None, expected.max_answer, expected.max_answer);
    let mut watch = Watch::begin(&door, expected, door_of(&bench.server.url, None));
    assert_eq!(watch.look(), None, "all is well at first");
    change(&mut bench.manner.lock().unwrap());
    let seen = (0..4).find_map(|_| watch.look());
    match seen.unwrap_or_else(|| watch.end()) {
        WatchOutcome::Well { note } => format!("well: {note}"),
        WatchOutcome::Misbehaves { reason } => format!("misbehaves: {reason}"),
        WatchOutcome::Unknown { reason } => format!("unknown: {reason}"),
    }
}

#[test]
fn a_target_without_trouble_is_well_also_without_traffic() {
    assert_eq!(outcome(&expected(), |_| {}), "well: 5 looks were fine");
}

#[test]
fn an_error_burst_is_seen() {
    let burst = |errors: u64| outcome(&expected(), move |manner| (manner.all, manner.errors) = (200, 3 + errors));
    assert_eq!(burst(6), "misbehaves: 6 of its 100 answers since the switch are errors (6.0 %)");
    assert_eq!(burst(5), "well: 5 looks were fine", "five of a hundred are within the share");
    let few = outcome(&expected(), |manner| (manner.all, manner.errors) = (104, 7));
    assert_eq!(few, "well: 5 looks were fine", "four errors are no burst, even if all four answers are");
}

#[test]
fn a_server_that_answers_with_errors_or_not_at_all_is_seen() {
    assert_eq!(
        outcome(&expected(), |manner| manner.status = 500),
        "misbehaves: a canary was answered 500: {\"choices\":[{\"message\":{\"content\":\"four\"}}]}"
    );
    assert_eq!(outcome(&expected(), |manner| manner.status = 503), "well: 5 looks were fine", "busy is not broken");
    let slow = Expectation { max_answer: Duration::from_millis(200), ..expected() };
    let seen = outcome(&slow, |manner| manner.wait = Duration::from_millis(600));
    assert_eq!(seen, "misbehaves: a canary had no answer within 0 s");
}

#[test]
fn a_window_does_not_end_in_doubt() {
    let (bench, expected) = (bench(), expected());
    let door = Http::new(&bench.server.url, None, expected.max_answer, expected.max_answer);
    let mut watch = Watch::begin(&door, &expected, door_of(&bench.server.url, None));
    let mut look = |status: u16| {
        bench.manner.lock().unwrap().status = status;
        let outcome = watch.look();
        (outcome.is_some(), watch.is_in_doubt())
    };
    assert_eq!(look(200), (false, false));
    assert_eq!(look(500), (false, true), "one bad look may be a restart");
    assert_eq!(look(200), (false, false));
    assert_eq!(look(500), (false, true));
    assert!(look(500).0);
}

#[test]
fn canaries_must_be_answered_as_expected() {
    let canary =
        |expect: &str| Canary { messages: json!([{"role": "user", "content": "2 + 2?"}]), expect: expect.to_string() };
    let checked = Expectation { canaries: vec![canary("four"), canary("")], ..expected() };
    assert_eq!(outcome(&checked, |_| {}), "well: 5 looks were fine");
    let seen = outcome(&checked, |manner| manner.answer = "\u{fffd}\u{fffd}".to_string());
    assert_eq!(seen, "misbehaves: 1 of 2 canaries were answered as expected");
}

#[test]
fn metrics_that_are_gone_are_told_and_hide_nothing_else() {
    assert_eq!(
        outcome(&expected(), |manner| manner.has_metrics = false),
        "well: 5 looks were fine; it has no metrics to read"
    );
    let seen = outcome(&expected(), |manner| (manner.has_metrics, manner.status) = (false, 502));
    assert!(seen.starts_with("misbehaves: a canary was answered 502"), "{seen}");
}

#[test]
fn a_target_that_dies_or_serves_another_order_is_unknown() {
    let seen = outcome(&expected(), |manner| manner.serving = "other".to_string());
    assert_eq!(seen, "unknown: it serves checkpoint-4 by now, not by an order of this host");
    let bench = bench();
    let (url, expected) = (bench.server.url.clone(), expected());
    let door = Http::new(&url, None, expected.max_answer, expected.max_answer);
    let mut watch = Watch::begin(&door, &expected, door_of(&url, None));
    drop(bench);
    assert_eq!(watch.look(), None);
    assert!(matches!(watch.end(), WatchOutcome::Unknown { reason } if reason.contains("does not answer")));
}

#[test]
fn a_server_that_loads_after_a_restart_is_no_fault_of_the_checkpoint() {
    let seen = outcome(&expected(), |manner| (manner.serving, manner.loading) = (String::new(), true));
    assert_eq!(seen, "unknown: it was started anew and loads its model");
    let seen = outcome(&expected(), |manner| manner.serving = String::new());
    assert_eq!(seen, "misbehaves: it serves nothing");
}

#[test]
fn a_canary_file_is_read_by_lines() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("canaries.jsonl");
    std::fs::write(&path, "{\"messages\": [], \"expect\": \"a\"}\n\n{\"messages\": []}\n").unwrap();
    let expects: Vec<String> = read_canaries(&path).unwrap().into_iter().map(|canary| canary.expect).collect();
    assert_eq!(expects, ["a", ""]);
    std::fs::write(&path, "{\"messages\": []}\nno\n").unwrap();
    assert!(format!("{:#}", read_canaries(&path).unwrap_err()).contains("line 2"));
    std::fs::write(&path, "\n").unwrap();
    assert!(read_canaries(&path).is_err());
}
