//! Tests of `conform`: a good server, and one server per fault.

use super::*;
use crate::testing::{HttpServer, Request};

/// A skill with two levels whose answers are two numbers, `3 4`.
fn answer(request: &Request, fault: &str) -> (u16, String) {
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let value = match request.line.as_str() {
        "GET /health" => json!({"status": "ok"}),
        "GET /info" => {
            json!({"skill": "pair", "name": "Pair", "description": "", "version": "1", "api_version": "1", "total_levels": 2})
        }
        "GET /levels" => {
            let level =
                |n| json!({"level": n, "name": "", "description": "", "eval_samples": 300, "pass_threshold": 0.8});
            json!({"levels": [level(1), level(2)]})
        }
        "POST /generate" => match body["level"].as_u64() {
            Some(level @ (1 | 2)) => generate(level, &body, fault),
            Some(level) if fault == "unknown level" => generate(level, &body, fault),
            _ => return (422, String::new()),
        },
        "POST /verify" if body["samples"].is_array() => verify(&body, fault),
        _ => return (422, String::new()),
    };
    let mut value = value;
    match (fault, request.line.as_str()) {
        ("no api version", "GET /info") => value["api_version"] = Value::Null,
        ("nameless levels", "GET /levels") => value["levels"][1]["name"] = Value::Null,
        _ => {}
    }
    match (fault, request.line.as_str()) {
        ("invalid json", "POST /generate") => (200, value.to_string()[1..].to_string()),
        ("huge", "POST /generate") => (200, format!("{value}{}", " ".repeat(9 << 20))),
        _ => (200, value.to_string()),
    }
}

fn generate(level: u64, body: &Value, fault: &str) -> Value {
    use std::sync::atomic::{AtomicU64, Ordering};
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let seed =
        body["seed"].as_u64().unwrap() + if fault == "unseeded" { CALLS.fetch_add(1, Ordering::SeqCst) } else { 0 };
    let odd = u64::from(body["split"] == "eval" && fault != "overlap");
    let sample = |i: u64| {
        let n = 2 * (100 * seed + i) + odd;
        let messages = json!([{"role": "user", "content": format!("pair of {n}?")}, {"role": "assistant", "content": format!("{n} {}", n + 1)}]);
        json!({"id": format!("{level}-{n}"), "messages": messages, "metadata": {"n": n}})
    };
    let samples: Vec<Value> = (0..body["count"].as_u64().unwrap()).map(sample).collect();
    let level = if fault == "wrong level" { 1 } else { level };
    match fault {
        "changed shape" => json!({"skill": "pair", "version": "1", "level": level, "items": samples}),
        _ => json!({"skill": "pair", "version": "1", "level": level, "samples": samples}),
    }
}

fn verify(body: &Value, fault: &str) -> Value {
    let judge = |sample: &Value| {
        let (n, response) = (sample["metadata"]["n"].as_u64().unwrap(), sample["response"].as_str().unwrap());
        let right = format!("{n} {}", n + 1);
        let parsed = fault == "no parser" || response.chars().next().is_some_and(|c| c.is_ascii_digit());
        let partial = right.starts_with(response.trim()) && parsed;
        let solved = response == right || (fault == "partial" && partial);
        let score = match fault {
            "odd score" if !parsed => -1.0,
            _ => f64::from(u8::from(solved)),
        };
        json!({"id": sample["id"], "solved": solved, "score": score, "parsed": parsed, "reason": ""})
    };
    json!({"results": body["samples"].as_array().unwrap().iter().map(judge).collect::<Vec<_>>()})
}

/// The names of the faults that are found in a server with one seeded fault.
fn found(fault: &'static str) -> Vec<&'static str> {
    let server = HttpServer::start(move |request| answer(&request, fault));
    let start = Instant::now();
    let found = conform(&server.url);
    assert!(start.elapsed() < Duration::from_secs(30));
    let mut checks: Vec<&str> = found.faults.iter().map(|fault| fault.check).collect();
    checks.dedup();
    checks
}

#[test]
fn a_server_that_keeps_the_contract_has_no_fault() {
    let server = HttpServer::start(|request| answer(&request, ""));
    let found = conform(&server.url);
    assert_eq!(
        found,
        Conformance { skill: "pair".to_string(), version: "1".to_string(), levels: vec![1, 2], faults: vec![] }
    );
}

#[test]
fn every_seeded_fault_is_found() {
    for (fault, check) in [
        ("no parser", "unparsable"),
        ("unseeded", "seed"),
        ("overlap", "splits"),
        ("partial", "wrong_answer"),
        ("wrong level", "generate"),
        ("unknown level", "unknown_level"),
        ("huge", "time"),
        ("invalid json", "generate"),
        ("changed shape", "generate"),
        ("no api version", "info"),
        ("nameless levels", "levels"),
        ("odd score", "verify"),
    ] {
        assert_eq!(found(fault), [check], "{fault}");
    }
}

#[test]
fn a_server_that_hangs_is_told_in_time() {
    // It takes the connection and says nothing.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let start = Instant::now();
    let found = conform(&format!("http://{}", listener.local_addr().unwrap()));
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    assert_eq!(found.faults.len(), 1);
    assert_eq!(found.faults[0].check, "time");
}
