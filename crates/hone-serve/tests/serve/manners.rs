//! Waiting, leaving, and being one of many.

use crate::fixture::*;
use serde_json::{Value, json};
use std::io::{BufReader, Read};
use std::time::Instant;

/// Resident memory of this process, in which the server runs.
fn resident_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

// budget: 30 s
#[test]
fn a_thousand_clients_that_go_away_leave_nothing_behind() {
    if std::env::var_os("HONE_SLOW").is_none() {
        return;
    }
    let server = Server::with(&Model::random(1, 1));
    let leave = |number: usize| {
        let stream = number.is_multiple_of(2);
        let body = with(greedy(&format!("leave {number}"), 3000), &json!({"stream": stream})).to_string();
        let mut connection = server.raw_post("/v1/chat/completions", &body, body.len());
        if stream {
            let mut first = [0; 64];
            // Refused or answered: both are left.
            let _ = connection.read(&mut first);
        }
    };
    let settle = || {
        wait_for("slots and queue are empty", || {
            server.metric("hone_serve_choices_running") + server.metric("hone_serve_choices_waiting") == 0
        })
    };
    (0..200).for_each(leave);
    settle();
    let before = resident_mb();
    (200..1200).for_each(leave);
    let left = Instant::now();
    settle();
    assert!(left.elapsed().as_secs_f64() < 5.0, "slots came free after {:?}", left.elapsed());
    let after = resident_mb();
    assert!(after < before + 30, "memory went from {before} to {after} MB");
    assert_eq!(server.chat(&greedy("a", 4))["usage"]["completion_tokens"], 4);
}

#[test]
fn a_slot_is_free_within_a_second_of_its_client_going_away() {
    let server = Server::start_with(|options| options.slots = 1);
    server.deploy(&Model::random(1, 1));
    for stream in [true, false] {
        let body = with(greedy("go on", 3_900), &json!({"stream": stream})).to_string();
        let connection = server.raw_post("/v1/chat/completions", &body, body.len());
        wait_for("it runs", || server.metric("hone_serve_choices_running") == 1);
        drop(connection);
        let left = Instant::now();
        wait_for("its slot is free", || server.metric("hone_serve_choices_running") == 0);
        assert!(left.elapsed().as_secs_f64() < 1.0, "stream {stream}: {:?}", left.elapsed());
    }
}

#[test]
fn an_answer_that_takes_too_long_is_ended_with_an_error() {
    let server = Server::start_with(|options| options.request_timeout_ms = 1);
    server.deploy(&Model::random(1, 1));
    let refused = error_of(server.post("/v1/chat/completions", &greedy("long", 3_900)));
    assert_eq!(refused, (504, "request_timeout".to_string(), String::new()));
    let body = with(greedy("long", 3_900), &json!({"stream": true})).to_string();
    let mut connection = BufReader::new(server.raw_post("/v1/chat/completions", &body, body.len()));
    read_until(&mut connection, "request_timeout");
    wait_for("its slot is free", || server.metric("hone_serve_choices_running") == 0);
}

#[test]
fn many_at_once_get_what_each_gets_alone() {
    let server = Server::start_with(|options| options.slots = 3);
    server.deploy(&Model::random(1, 9));
    let body = |number: usize| {
        let seed = json!({"seed": number, "temperature": if number.is_multiple_of(2) { 0.0 } else { 1.0 }});
        with(greedy(&format!("question number {number} of several"), 10 + number), &seed)
    };
    let alone: Vec<String> = (0..10).map(|number| content(&server.chat(&body(number))).to_string()).collect();
    let shared = &server;
    let together: Vec<String> = std::thread::scope(|scope| {
        let asked: Vec<_> =
            (0..10).map(|number| scope.spawn(move || content(&shared.chat(&body(number))).to_string())).collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(together, alone);
}

#[test]
fn a_prompt_that_begins_like_an_earlier_one_is_not_computed_again() {
    let server = Server::with(&Model::random(1, 3));
    let long = "a system message that every request of an application repeats, word for word, again and again";
    let ask = |question: &str| {
        let messages = json!([{"role": "system", "content": long}, {"role": "user", "content": question}]);
        server.chat(&with(greedy("", 12), &json!({"messages": messages})))
    };
    let first = ask("first");
    assert_eq!(server.metric("hone_serve_prefix_hits_total"), 0);
    let second = ask("second");
    let hits = server.metric("hone_serve_prefix_hits_total");
    assert!(hits >= 16 && hits < first["usage"]["prompt_tokens"].as_u64().unwrap(), "{hits}");
    // The same questions again, all in the cache, and on a server that never saw the others.
    assert_eq!((content(&ask("first")), content(&ask("second"))), (content(&first), content(&second)));
    let fresh = Server::with(&Model::random(1, 3));
    let messages = json!([{"role": "system", "content": long}, {"role": "user", "content": "second"}]);
    let alone = fresh.chat(&with(greedy("", 12), &json!({"messages": messages})));
    assert_eq!(content(&alone), content(&second));
    // Another model shares nothing.
    let before = server.metric("hone_serve_prefix_hits_total");
    server.deploy(&Model::random(2, 4));
    ask("first");
    assert_eq!(server.metric("hone_serve_prefix_hits_total"), before);
}

#[test]
fn memory_of_the_cache_is_bounded_and_requests_wait_for_it() {
    // 2 layers of keys and values of 2 heads of 8 numbers: 256 bytes a token, so 400 tokens.
    let server = Server::start_with(|options| {
        options.max_context = 0;
        options.cache_bytes = 256 * 400;
    });
    server.deploy(&Model::random(1, 1));
    assert_eq!(json_of(server.get("/models/info"))["max_context"], 400);
    let answers: Vec<Value> = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..6).map(|_| scope.spawn(|| server.chat(&greedy("wait for room", 200)))).collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|answer| answer["usage"]["completion_tokens"] == 200));
    assert!(answers.iter().all(|answer| content(answer) == content(&answers[0])));
    let overflow = error_of(server.post("/v1/chat/completions", &greedy("a", 400)));
    assert_eq!((overflow.0, overflow.1.as_str()), (400, "context_length_exceeded"));
}
