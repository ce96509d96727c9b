//! Who may do what, and that nothing a client sends breaks the server.

use crate::fixture::*;
use hone_serve::{KeyLevel, ROUTES, make_key, rotate_key};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use tempfile::TempDir;

/// Sends a request with no body to a route of the table, parameters filled in.
fn status(server: &Server, method: &str, path: &str, key: Option<&str>) -> u16 {
    let path = path.replace("{id}", "9").replace("{hash}", &"a".repeat(64));
    let mut head =
        format!("{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-length: 0\r\n", server.address);
    if let Some(key) = key {
        write!(head, "authorization: Bearer {key}\r\n").unwrap();
    }
    let answer = server.exchange(&format!("{head}\r\n"));
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn every_route_but_health_and_readiness_needs_a_key() {
    let server = Server::start_with(|options| options.keys = keys("reader", "boss"));
    server.deploy(&Model::random(1, 1));
    let mut num_routes = 0;
    for (path, methods) in ROUTES {
        for method in methods {
            num_routes += 1;
            let of = |key| status(&server, method, path, key);
            let (none, wrong, read, admin) = (of(None), of(Some("wrong")), of(Some("reader")), of(Some("boss")));
            let route = format!("{method} {path}: {none} {wrong} {read} {admin}");
            if ["/health", "/ready"].contains(&path) {
                assert_eq!((none, wrong, read, admin), (200, 200, 200, 200), "{route}");
                continue;
            }
            assert_eq!((none, wrong), (401, 401), "{route}");
            let is_admin = path.starts_with("/admin");
            assert_eq!(read == 403, is_admin, "{route}");
            assert!(read != 401 && ![401, 403, 405].contains(&admin), "{route}");
            assert!(admin < 500, "{route}");
        }
    }
    assert_eq!(num_routes, 15);
    assert_eq!(status(&server, "GET", "/nothing", None), 401, "what is there is nobody's business without a key");
}

#[test]
fn the_openapi_document_names_every_route() {
    let server = Server::with(&Model::random(1, 1));
    let document = json_of(server.get("/openapi.json"));
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut described = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            described.insert(format!("{} {path}", method.to_uppercase()));
            assert!(!operation["summary"].as_str().unwrap().is_empty());
            let open = ["/health", "/ready"].contains(&path.as_str());
            assert_eq!(operation["security"] == json!([]), open, "{method} {path}");
        }
    }
    let routes = ROUTES.iter().flat_map(|(path, methods)| methods.iter().map(move |method| format!("{method} {path}")));
    assert_eq!(described, routes.collect::<BTreeSet<String>>());
    assert_no_dangling_reference(&document, &document);
}

fn assert_no_dangling_reference(value: &Value, document: &Value) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, item)| match item.as_str() {
            Some(target) if key == "$ref" => {
                assert!(document.pointer(target.trim_start_matches('#')).is_some(), "{target} is nowhere");
            }
            _ => assert_no_dangling_reference(item, document),
        }),
        Value::Array(items) => items.iter().for_each(|item| assert_no_dangling_reference(item, document)),
        _ => {}
    }
}

#[test]
fn keys_of_the_file_are_rotated_without_a_restart() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("keys.json");
    let boss = make_key(&path, "boss", KeyLevel::Admin).unwrap();
    let alice = make_key(&path, "alice", KeyLevel::Read).unwrap();
    let server = Server::start_with(|options| options.keys_file = Some(path.clone()));
    let ask = |key: &str, path: &str| server.get_as(Some(key), path).status().as_u16();
    assert_eq!((ask(&alice, "/metrics"), ask(&alice, "/admin/deployments")), (200, 403));
    assert_eq!((ask(&boss, "/metrics"), ask(&boss, "/admin/deployments")), (200, 200));
    assert_eq!(ask("hone_guess", "/metrics"), 401);
    let renewed = rotate_key(&path, "alice").unwrap();
    wait_for("the old key is refused", || ask(&alice, "/metrics") == 401);
    assert_eq!(ask(&renewed, "/metrics"), 200);
}

/// A small generator: the tests need no more than differing numbers that a seed repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

/// Values that parsers stumble over.
fn odd_value(random: &mut Random) -> Value {
    let values = [
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(1e308),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(0.1),
        json!(""),
        json!("\u{0}"),
        json!("💥\u{202e}"),
        json!("x".repeat(5000)),
        json!([]),
        json!([[[[]]]]),
        json!({}),
        json!({"type": "json_schema", "json_schema": {"schema": {"$ref": "#/$defs/x", "$defs": {"x": {"$ref": "#/$defs/x"}}}}}),
        json!({"type": "json_schema", "json_schema": {"schema": {"type": "string", "pattern": "(a+)+$|[^\\p{L}]{1,1000}"}}}),
        json!({"type": "json_object"}),
        json!([{"role": "user"}]),
        json!([{"role": "user", "content": [{"type": "text", "text": "a"}]}]),
        json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"enum": [1]}}}}}]),
        json!("required"),
        json!({"1": 100}),
        json!([u32::MAX]),
        json!(4096),
        json!("<|im_end|>"),
    ];
    values[random.below(values.len())].clone()
}

/// A valid body with some of its fields changed.
fn odd_body(random: &mut Random, path: &str) -> Value {
    const FIELDS: [&str; 26] = [
        "model",
        "messages",
        "prompt",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "seed",
        "stop",
        "n",
        "max_tokens",
        "max_completion_tokens",
        "stream",
        "stream_options",
        "logprobs",
        "top_logprobs",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "logit_bias",
        "response_format",
        "tools",
        "tool_choice",
        "chat_template_kwargs",
        "echo",
        "new_field",
    ];
    let mut body = if path.contains("chat") { greedy("fuzz", 3) } else { json!({"prompt": "fuzz", "max_tokens": 3}) };
    for _ in 0..=random.below(3) {
        body[FIELDS[random.below(FIELDS.len())]] = odd_value(random);
    }
    body
}

// budget: 20 s
#[test]
fn odd_bodies_never_give_a_fault() {
    if std::env::var_os("HONE_SLOW").is_none() {
        return;
    }
    let server = Server::start_with(|options| options.max_context = 256);
    server.deploy(&Model::random(1, 1));
    let mut random = Random(7);
    for round in 0..400 {
        let path = ["/v1/chat/completions", "/v1/completions"][random.below(2)];
        let body = odd_body(&mut random, path);
        let mut bytes = body.to_string().into_bytes();
        // One in eight is no JSON any more.
        if random.below(8) == 0 {
            let at = random.below(bytes.len());
            bytes[at] = random.below(256) as u8;
        }
        let mut answer = server.post_bytes(path, &bytes);
        let text = answer.body_mut().read_to_string().unwrap_or_default();
        let status = answer.status().as_u16();
        assert!(status < 500, "round {round}: {status} {text} for {}", String::from_utf8_lossy(&bytes));
        if status >= 400 {
            let error: Value = serde_json::from_str(&text).unwrap();
            assert!(error["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{text}");
        } else {
            assert!(!text.contains("internal_error"), "round {round}: {text} for {}", String::from_utf8_lossy(&bytes));
        }
    }
    for path in ["/admin/blobs/missing", "/admin/deployments", "/admin/deployments/1/switch"] {
        for _ in 0..30 {
            let status = server.post(path, &odd_value(&mut random)).status().as_u16();
            assert!(status < 500, "{path}: {status}");
        }
    }
    assert_eq!(server.chat(&greedy("still there", 4))["usage"]["completion_tokens"], 4);
}

#[test]
fn paths_in_requests_reach_no_file() {
    let server = Server::with(&Model::random(1, 1));
    for path in [
        "/v1/models/..%2f..%2fetc%2fpasswd",
        "/admin/blobs/..%2f..%2fserved.json",
        "/..%2f..%2fetc/passwd",
        "/v1/models/%00",
    ] {
        let answer =
            server.exchange(&format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", server.address));
        assert!(!answer.contains("root:") && !answer.contains("deployment"), "{answer}");
        assert!(["404", "405", "400"].contains(&answer.split(' ').nth(1).unwrap()), "{path}: {answer}");
    }
}
