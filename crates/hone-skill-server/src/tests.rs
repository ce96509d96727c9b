//! Tests of `hone-skill-server`.

use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long anything here may take before it counts as hung.
const GENEROUS: Duration = Duration::from_secs(30);

/// A server on a free port that ends with the test.
struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
    agent: ureq::Agent,
}

impl Server {
    fn start() -> Server {
        Server::of("binary")
    }

    fn of(skill: &'static str) -> Server {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = channel();
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || crate::run(skill, "127.0.0.1:0".parse().unwrap(), stop, |address| sender.send(address).unwrap())
        });
        let address = receiver.recv_timeout(GENEROUS).expect("the server starts");
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(GENEROUS)).build();
        Server { address, stop, thread: Some(thread), agent: config.into() }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn get(&self, path: &str) -> (u16, Value) {
        read(self.agent.get(self.url(path)).call().unwrap())
    }

    fn post(&self, path: &str, body: &str) -> (u16, Value) {
        read(self.agent.post(self.url(path)).send(body).unwrap())
    }

    fn generate(&self, request: Value) -> (u16, Value) {
        self.post("/generate", &request.to_string())
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let _ = self.end();
        }
    }
}

fn read(mut response: ureq::http::Response<ureq::Body>) -> (u16, Value) {
    let status = response.status().as_u16();
    assert_eq!(response.headers()["content-type"], "application/json");
    (status, response.body_mut().with_config().limit(100 << 20).read_json().unwrap())
}

#[track_caller]
fn check_error(answer: (u16, Value), status: u16, code: &str) {
    assert_eq!(answer.0, status, "{}", answer.1);
    assert_eq!(answer.1["error"]["code"], code);
    assert!(answer.1["error"]["message"].as_str().is_some_and(|message| !message.is_empty()));
    assert_eq!(answer.1.as_object().unwrap().len(), 1);
}

#[test]
fn tells_who_it_is() {
    let server = Server::start();
    assert_eq!(server.get("/health"), (200, json!({ "status": "ok" })));
    let (status, info) = server.get("/info");
    assert_eq!(status, 200);
    assert_eq!(
        (&info["skill"], &info["api_version"], &info["total_levels"]),
        (&json!("binary"), &json!("1"), &json!(7))
    );
    let (_, levels) = server.get("/levels");
    let numbers: Vec<u64> = levels["levels"].as_array().unwrap().iter().map(|l| l["level"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(levels["levels"][0]["eval_samples"], 300);
    assert_eq!(levels["levels"][0]["pass_threshold"], 0.8);
}

#[test]
fn what_it_generates_it_verifies() {
    let server = Server::start();
    let (status, batch) = server.generate(json!({ "level": 4, "count": 30, "seed": 5, "split": "eval" }));
    assert_eq!(status, 200);
    assert_eq!((&batch["seed"], &batch["split"], &batch["distinct"]), (&json!(5), &json!("eval"), &json!(30)));
    let samples = batch["samples"].as_array().unwrap();
    let answers = |change: fn(&str) -> String| -> Vec<Value> {
        let answer = |s: &Value| json!({ "id": s["id"], "level": 4, "metadata": s["metadata"], "response": change(s["messages"][1]["content"].as_str().unwrap()) });
        samples.iter().map(answer).collect()
    };
    let verify = |samples: Vec<Value>| -> Vec<Value> {
        let (status, body) = server.post("/verify", &json!({ "samples": samples }).to_string());
        assert_eq!(status, 200, "{body}");
        body["results"].as_array().unwrap().clone()
    };
    let right = verify(answers(str::to_string));
    assert_eq!(right.len(), 30);
    for (result, sample) in right.iter().zip(samples) {
        assert_eq!(
            *result,
            json!({ "id": sample["id"], "solved": true, "score": 1.0, "parsed": true, "reason": "right" })
        );
    }
    let wrong = verify(answers(|answer| format!("{answer}①")));
    assert!(wrong.iter().all(|r| r["solved"] == false && r["parsed"] == true && r["score"] == 0.0));
    let silent = verify(answers(|_| "I do not know".to_string()));
    assert!(silent.iter().all(|r| r["solved"] == false && r["parsed"] == false));
}

#[test]
fn same_seed_gives_same_bytes_and_no_seed_a_told_one() {
    let server = Server::start();
    let bytes = |body: Value| {
        let mut answer = server.agent.post(server.url("/generate")).send(body.to_string()).unwrap();
        answer.body_mut().read_to_string().unwrap()
    };
    let first = bytes(json!({ "level": 2, "count": 20, "seed": 77 }));
    assert_eq!(first, bytes(json!({ "level": 2, "count": 20, "seed": 77, "split": "train" })));
    assert_ne!(first, bytes(json!({ "level": 2, "count": 20, "seed": 77, "split": "eval" })));
    let drawn = bytes(json!({ "level": 2, "count": 20 }));
    let seed = serde_json::from_str::<Value>(&drawn).unwrap()["seed"].as_u64().unwrap();
    assert_eq!(drawn, bytes(json!({ "level": 2, "count": 20, "seed": seed })));
    assert_ne!(drawn, bytes(json!({ "level": 2, "count": 20 })));
}

#[test]
fn refuses_what_it_does_not_have() {
    let server = Server::start();
    for level in [0, 8, 4_000_000_000_u32] {
        check_error(server.generate(json!({ "level": level, "count": 1 })), 422, "unknown_level");
    }
    for count in [0, hone_skills::MAX_COUNT + 1] {
        check_error(server.generate(json!({ "level": 1, "count": count })), 422, "count_invalid");
    }
    for body in [
        json!({ "count": 1 }),
        json!({ "level": "1", "count": 1 }),
        json!({ "level": 1, "count": -1 }),
        json!({ "level": 1, "count": 1, "split": "test" }),
        json!({ "level": 1, "count": 1, "sed": 3 }),
        json!([]),
    ] {
        check_error(server.generate(body), 422, "request_invalid");
    }
    check_error(server.post("/generate", "{"), 400, "body_invalid");
    check_error(server.post("/verify", ""), 400, "body_invalid");
    check_error(server.get("/nowhere"), 404, "not_found");
    check_error(server.get("/generate"), 405, "method_not_allowed");
    check_error(server.post("/info", "{}"), 405, "method_not_allowed");
}

#[test]
fn damaged_samples_are_errors_that_name_the_sample() {
    let server = Server::start();
    let verify = |samples: Value| server.post("/verify", &json!({ "samples": samples }).to_string());
    let sample =
        |level: u32, metadata: Value| json!([{ "id": "s-1", "level": level, "metadata": metadata, "response": "" }]);
    let answer = verify(sample(1, json!({ "problem": "add ① ①", "answer": "①" })));
    assert!(answer.1["error"]["message"].as_str().unwrap().contains("s-1"));
    check_error(answer, 422, "metadata_invalid");
    check_error(verify(sample(9, json!({}))), 422, "unknown_level");
    check_error(verify(json!([{ "id": "s-1" }])), 422, "request_invalid");
    let many = vec![sample(1, json!({}))[0].clone(); crate::MAX_VERIFY_SAMPLES + 1];
    check_error(verify(many.into()), 422, "too_many_samples");
}

#[test]
fn a_body_beyond_the_limit_is_refused() {
    let server = Server::start();
    // Only the header tells the size, and only the header is sent: the answer must not wait for the rest.
    let mut stream = std::net::TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(GENEROUS)).unwrap();
    let head = format!("POST /verify HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", crate::MAX_BODY_BYTES + 1);
    std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
    let mut answer = [0; 12];
    std::io::Read::read_exact(&mut stream, &mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

/// What half of the answers of `/health` keep under load: the server itself must hold none back.
const HEALTH_MEDIAN_LIMIT: Duration = Duration::from_millis(50);
/// What 95 of 100 keep: several turns of the processor make one answer, and beside so many clients and other tests on two cores each
/// of them may have to wait.
const HEALTH_95_LIMIT: Duration = Duration::from_secs(1);
/// Answers that are measured at least: of fewer, 95 of 100 would be all but the worst one.
const LEAST_ANSWERS: usize = 40;
/// Clients at the same time.
const CLIENTS: usize = 16;

#[test]
fn under_sixteen_clients_half_of_health_answers_within_50_ms_and_95_of_100_within_a_second() {
    // JSON that takes far longer to read than to send.
    let metadata = vec![0; 150_000];
    let large = json!({ "samples": [{ "id": "s-1", "level": 1, "metadata": metadata, "response": "" }] }).to_string();
    for skill in ["binary", "syllo"] {
        let server = Server::of(skill);
        let mut took = Vec::new();
        while took.len() < LEAST_ANSWERS {
            took.extend(health_under_load(&server, &large));
        }
        took.sort();
        let (median, most) = (took[took.len() / 2], took[(took.len() - 1) * 95 / 100]);
        assert!(
            median < HEALTH_MEDIAN_LIMIT && most < HEALTH_95_LIMIT,
            "{skill}: {} answers, the median took {median:?}, 95 of 100 at most {most:?}",
            took.len()
        );
    }
}

/// How long each answer of `/health` took while every client waited for one answer of its own.
fn health_under_load(server: &Server, large: &str) -> Vec<Duration> {
    let small = json!({ "level": 5, "count": 200 }).to_string();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (path, body) = if client % 2 == 0 { ("/verify", large) } else { ("/generate", small.as_str()) };
            let (agent, url, body) = (server.agent.clone(), server.url(path), body.to_string());
            std::thread::spawn(move || drop(agent.post(&url).send(body.as_str()).unwrap()))
        })
        .collect();
    let mut took = Vec::new();
    while clients.iter().any(|client| !client.is_finished()) {
        let start = Instant::now();
        assert_eq!(server.get("/health").0, 200);
        took.push(start.elapsed());
    }
    clients.into_iter().for_each(|client| client.join().unwrap());
    took
}

#[test]
fn stops_when_told_to() {
    let mut server = Server::start();
    assert_eq!(server.get("/health").0, 200);
    let start = Instant::now();
    server.end().unwrap();
    assert!(start.elapsed() < crate::DRAIN_LIMIT, "an idle connection held the server");
    assert!(server.agent.get(server.url("/health")).call().is_err());
}

#[test]
fn refuses_unknown_skills_and_open_networks() {
    let run = |skill, listen: &str| {
        crate::run(skill, listen.parse().unwrap(), Arc::new(AtomicBool::new(true)), |_| panic!("it must not start"))
    };
    assert!(run("chess", "127.0.0.1:0").unwrap_err().to_string().contains("binary"));
    assert!(run("binary", "0.0.0.0:0").unwrap_err().to_string().contains("loopback"));
}

/// Holds a value against a schema of the document, as far as its keys go.
fn check_keys(document: &Value, schema: &str, value: &Value) {
    let schema = &document["components"]["schemas"][schema];
    let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
    for required in schema["required"].as_array().unwrap() {
        assert!(keys.iter().any(|key| *key == required), "{required} is missing in {value}");
    }
    assert!(
        keys.iter().all(|key| schema["properties"][key.as_str()].is_object()),
        "{value} holds a key that {schema} lacks"
    );
}

#[test]
fn the_openapi_document_describes_what_is_served() {
    let server = Server::start();
    let (status, document) = server.get("/openapi.json");
    assert_eq!((status, &document["openapi"]), (200, &json!("3.1.0")));
    check_keys(&document, "Health", &server.get("/health").1);
    check_keys(&document, "Info", &server.get("/info").1);
    check_keys(&document, "Level", &server.get("/levels").1["levels"][0]);
    let request = json!({"level": 1, "count": 1, "seed": 1, "split": "eval", "steps": true});
    check_keys(&document, "GenerateRequest", &request);
    let (_, batch) = server.generate(request);
    check_keys(&document, "Batch", &batch);
    let sample = &batch["samples"][0];
    check_keys(&document, "Sample", sample);
    assert!(sample["messages"][1]["content"].as_str().unwrap().contains('\n'), "worked steps come before the answer");
    let answered = json!({"id": sample["id"], "level": 1, "metadata": sample["metadata"], "response": "?"});
    check_keys(&document, "Answered", &answered);
    let (_, results) = server.post("/verify", &json!({"samples": [answered]}).to_string());
    check_keys(&document, "Result", &results["results"][0]);
    check_keys(&document, "Error", &server.generate(json!({"level": 9, "count": 1})).1);
    for path in document["paths"].as_object().unwrap().keys() {
        let (status, _) = server.get(path);
        assert!(status == 200 || status == 405, "{path} is not served");
    }
}
