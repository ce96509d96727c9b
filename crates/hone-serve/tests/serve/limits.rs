//! What is refused, what is bounded, and what happens when a client or the server goes away.

use crate::fixture::*;
use serde_json::{Value, json};
use std::io::{BufReader, Read, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tempfile::TempDir;

#[test]
fn without_a_model_it_says_so() {
    let server = Server::start();
    assert_eq!(json_of(server.get("/health"))["status"], "ok");
    wait_for("the door has looked", || {
        let mut ready = server.get("/ready");
        assert_eq!(ready.status(), 503);
        ready.body_mut().read_json::<Value>().unwrap()["reason"] == "no model is deployed yet"
    });
    let mut answer = server.post("/v1/chat/completions", &greedy("hi", 4));
    assert_eq!(answer.status(), 503);
    let body: Value = answer.body_mut().read_json().unwrap();
    assert_eq!(body["error"]["message"], "no model is deployed yet");
    assert_eq!(server.get("/v1/models").status(), 503);
    assert!(server.deployments().is_empty());
    assert_eq!(error_of(server.post("/admin/rollback", &json!({}))).1, "nothing_to_roll_back_to");
}

#[test]
fn wrong_requests_get_errors_in_openai_shape() {
    let model = Model::random(1, 1);
    let server = Server::start_with(|options| options.max_body_bytes = 100_000);
    server.deploy(&model);
    let chat = |body: &Value| error_of(server.post("/v1/chat/completions", body));
    let named = |status: u16, code: &str, param: &str| (status, code.to_string(), param.to_string());
    assert_eq!(chat(&with(greedy("a", 4), &json!({"model": "gpt-4"}))), named(404, "model_not_found", "model"));
    assert_eq!(chat(&with(greedy("a", 4), &json!({"top_p": "x"}))), named(400, "invalid_type", "top_p"));
    assert_eq!(chat(&with(greedy("a", 4), &json!({"n": 17}))), named(400, "invalid_value", "n"));
    let schema = json!({"response_format": {"type": "json_schema", "json_schema": {}}});
    assert_eq!(chat(&with(greedy("a", 4), &schema)), named(400, "invalid_value", "response_format.json_schema.schema"));
    assert_eq!(error_of(server.post_bytes("/v1/chat/completions", b"{")).0, 400);
    assert_eq!(error_of(server.post_bytes("/v1/chat/completions", b"\xff\xfe{}")).0, 400);
    let large = json!({"messages": [{"role": "user", "content": "x".repeat(100_000)}]});
    assert_eq!(chat(&large), named(413, "body_too_large", ""));
    assert_eq!(error_of(server.get("/v1/nothing")).0, 404);
    assert_eq!(error_of(server.get("/v1/chat/completions")).0, 405);
    // All that did not hurt it.
    assert_eq!(server.chat(&greedy("a", 4))["usage"]["completion_tokens"], 4);
}

#[test]
fn an_overflow_names_limit_and_need() {
    let server = Server::start_with(|options| options.max_context = 64);
    server.deploy(&Model::random(1, 1));
    let prompt_tokens = server.chat(&greedy("a", 1))["usage"]["prompt_tokens"].as_u64().unwrap();
    let mut answer = server.post("/v1/chat/completions", &greedy("a", 64));
    assert_eq!(answer.status(), 400);
    let error = answer.body_mut().read_json::<Value>().unwrap()["error"].clone();
    assert_eq!((error["code"].as_str(), error["param"].as_str()), (Some("context_length_exceeded"), Some("messages")));
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("length is 64 tokens"), "{message}");
    assert!(message.contains(&format!("but {} are needed", prompt_tokens + 64)), "{message}");
    let long = "many words ".repeat(100);
    assert_eq!(error_of(server.post("/v1/chat/completions", &greedy(&long, 1))).1, "context_length_exceeded");
    // With no limit named, the answer takes what the context leaves.
    let mut open = greedy("a", 1);
    open.as_object_mut().unwrap().remove("max_tokens");
    assert_eq!(server.chat(&open)["usage"]["total_tokens"], 64);
}

#[test]
fn a_full_queue_is_answered_at_once() {
    let server = Server::start_with(|options| {
        options.slots = 1;
        options.max_queue = 1;
    });
    server.deploy(&Model::random(1, 1));
    // More choices than there are places can never run.
    assert_eq!(error_of(server.post("/v1/chat/completions", &with(greedy("a", 2), &json!({"n": 3})))).2, "n");
    // A request takes its place when its head is there, so two whose bodies are awaited fill the queue.
    let body = greedy("a", 2).to_string();
    let mut first = server.raw_post_of_head("/v1/chat/completions", &body);
    let second = server.raw_post_of_head("/v1/chat/completions", &body);
    let refused = server.post("/v1/chat/completions", &greedy("a", 2));
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(error_of(refused), (429, "queue_full".to_string(), String::new()));
    assert_eq!(server.get("/health").status(), 200);
    // Their places come free when they are answered, or go away.
    first.get_mut().write_all(body.as_bytes()).unwrap();
    read_until(&mut first, "200 OK");
    drop(second);
    wait_for("places come free", || server.post("/v1/chat/completions", &greedy("a", 2)).status() == 200);
}

/// Tokens of an answer that would go on for long after its client has gone.
const LONG_ANSWER: usize = 3_900;

#[test]
fn a_client_that_goes_away_stops_its_generation() {
    let server = Server::with(&Model::random(1, 1));
    for stream in [true, false] {
        let before = server.metric("hone_serve_generated_tokens_total");
        let body = with(greedy("go on", LONG_ANSWER), &json!({"stream": stream})).to_string();
        let connection = server.raw_post("/v1/chat/completions", &body, body.len());
        wait_for("it generates", || server.metric("hone_serve_generated_tokens_total") > before);
        drop(connection);
        wait_for("it stops", || server.metric("hone_serve_choices_running") == 0);
        let generated = server.metric("hone_serve_generated_tokens_total") - before;
        assert!(generated < LONG_ANSWER as u64, "stream {stream}: all {generated} tokens were generated");
    }
    assert_eq!(server.chat(&greedy("a", 4))["usage"]["completion_tokens"], 4);
}

#[test]
fn a_stop_lets_running_answers_end() {
    let server = Server::with(&Model::random(1, 1));
    let body = with(greedy("last words", 300), &json!({"stream": true})).to_string();
    let mut connection = BufReader::new(server.raw_post("/v1/chat/completions", &body, body.len()));
    read_until(&mut connection, "assistant");
    server.ask_to_stop();
    let rest = read_all(&mut connection);
    assert!(rest.contains("\"finish_reason\":\"length\"") && rest.contains("data: [DONE]"), "{rest}");
    server.stopped().unwrap();
}

#[test]
fn a_stop_does_not_wait_longer_than_it_may() {
    let server = Server::start_with(|options| options.drain_ms = 1);
    server.deploy(&Model::random(1, 1));
    let body = with(greedy("endless", LONG_ANSWER), &json!({"stream": true})).to_string();
    let mut connection = BufReader::new(server.raw_post("/v1/chat/completions", &body, body.len()));
    read_until(&mut connection, "assistant");
    server.stopped().unwrap();
    let mut rest = Vec::new();
    // Cut in the middle: an end or a reset.
    let _ = connection.read_to_end(&mut rest);
    assert!(!String::from_utf8_lossy(&rest).contains("[DONE]"), "the answer was complete before the stop");
}

#[test]
fn keys_guard_everything_but_health() {
    let server = Server::start_with(|options| options.keys = keys("reader", "boss"));
    server.deploy(&Model::random(1, 1));
    let ask = |key: Option<&'static str>| {
        let paths = ["/health", "/v1/models", "/metrics", "/admin/deployments"];
        paths.map(|path| server.get_as(key, path).status().as_u16())
    };
    assert_eq!(ask(None), [200, 401, 401, 401]);
    assert_eq!(ask(Some("wrong")), [200, 401, 401, 401]);
    assert_eq!(ask(Some("reader")), [200, 200, 200, 403]);
    assert_eq!(ask(Some("boss")), [200, 200, 200, 200]);
}

#[test]
fn a_public_address_without_keys_is_refused_at_start() {
    let root = TempDir::new().unwrap();
    let mut options = options(root.path());
    options.listen = "0.0.0.0:0".parse().unwrap();
    let result = hone_serve::run(options, Arc::new(AtomicBool::new(true)), |_| panic!("it must not listen"));
    let message = format!("{:#}", result.unwrap_err());
    assert!(message.contains("HONE_ADMIN_KEY"), "{message}");
}
