//! Commands and chats: who may, and what becomes of them.

use super::*;
use hone_pipeline::event::Command;
use hone_pipeline::wire::{ControlReply, ControlRequest};
use std::io::Write;
use std::sync::Mutex;

/// A monitor with an admin key and a daemon that writes down what it is asked.
fn with_daemon(root: &Path, answer: Result<ControlReply, String>) -> (Monitor, Arc<Mutex<Vec<Command>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let list = asked.clone();
    let control = move |request: &ControlRequest| {
        let ControlRequest::Command { command } = request else {
            return Err("only commands come this way".to_string());
        };
        list.lock().unwrap().push(command.clone());
        answer.clone()
    };
    let (admin_key, control) = (Some("boss".to_string()), Some(Arc::new(control) as crate::ControlDoor));
    (Monitor::start(MonitorOptions { admin_key, control, ..options(root) }), asked)
}

fn send(monitor: &Monitor, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    let once = || {
        let mut request = monitor.agent.post(monitor.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send(body)
    };
    // A refusal may come before the body was read, and then the client may see a closed connection instead of it.
    let mut response = once().or_else(|_| once()).unwrap();
    (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
}

const JSON: (&str, &str) = ("content-type", "application/json");
const BOSS: (&str, &str) = ("authorization", "Bearer boss");
const PAUSE: &str = r#"{"command":{"command":"pause","reason":"lunch"}}"#;

#[test]
fn a_command_wants_the_admin_key_and_reaches_the_daemon() {
    let root = tempfile::tempdir().unwrap();
    let _store = busy_workspace(root.path());
    let (monitor, asked) = with_daemon(root.path(), Ok(ControlReply::Ok { message: "pausing".to_string() }));
    assert_eq!(monitor.json("/api/session")["control"], "key_required");
    assert_eq!(send(&monitor, "/api/control", &[JSON], PAUSE).0, 401);
    assert_eq!(send(&monitor, "/api/control", &[JSON, ("x-api-key", "bos")], PAUSE).0, 401);
    assert!(asked.lock().unwrap().is_empty());
    let (status, text) = send(&monitor, "/api/control", &[JSON, BOSS], PAUSE);
    assert_eq!((status, text.as_str()), (200, r#"{"message":"pausing"}"#));
    assert_eq!(*asked.lock().unwrap(), [Command::Pause { reason: "lunch".to_string() }]);
    for wrong in ["", "{}", r#"{"command":{"command":"dance"}}"#, r#"{"command":{"command":"resume"},"more":1}"#] {
        assert_eq!(send(&monitor, "/api/control", &[JSON, BOSS], wrong).0, 400, "{wrong}");
    }
    // The answer may come before the body is sent: then the client sees the answer or a closed connection.
    let request = monitor.agent.post(monitor.url("/api/control")).header(JSON.0, JSON.1).header(BOSS.0, BOSS.1);
    let answer = request.send("x".repeat(2 << 20));
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status() == 413));
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[test]
fn the_daemons_refusal_and_its_absence_are_told_apart() {
    let root = tempfile::tempdir().unwrap();
    let refusal = ControlReply::Error { message: "job-9 is not in the queue".to_string() };
    let (monitor, _) = with_daemon(root.path(), Ok(refusal));
    let (status, text) = send(&monitor, "/api/control", &[JSON, BOSS], PAUSE);
    assert!(status == 409 && text.contains("job-9 is not in the queue"), "{text}");
    let (monitor, _) = with_daemon(root.path(), Err("no daemon runs on this workspace".to_string()));
    let (status, text) = send(&monitor, "/api/control", &[JSON, BOSS], PAUSE);
    assert!(status == 503 && text.contains("no daemon runs"), "{text}");
}

#[test]
fn without_an_admin_key_nothing_can_be_commanded() {
    let root = tempfile::tempdir().unwrap();
    let monitor = Monitor::start(options(root.path()));
    assert_eq!(monitor.json("/api/session"), json!({ "control": "off", "chat": "off" }));
    let (status, text) = send(&monitor, "/api/control", &[JSON, BOSS], PAUSE);
    assert!(status == 403 && text.contains("HONE_ADMIN_KEY"), "{text}");
    assert_eq!(send(&monitor, "/api/chat", &[JSON], "{}").0, 403);
}

#[test]
fn the_admin_key_reads_and_the_read_key_does_not_command() {
    let root = tempfile::tempdir().unwrap();
    let _store = busy_workspace(root.path());
    let control: crate::ControlDoor = Arc::new(|_| Err("not called".to_string()));
    let (key, admin_key) = (Some("reader".to_string()), Some("boss".to_string()));
    let monitor = Monitor::start(MonitorOptions { key, admin_key, control: Some(control), ..options(root.path()) });
    let get = |key: &str| monitor.agent.get(monitor.url("/api/unified")).header("x-api-key", key).call().unwrap();
    assert_eq!(get("boss").status(), 200);
    assert_eq!(get("reader").status(), 200);
    let reader = ("x-api-key", "reader");
    assert_eq!(send(&monitor, "/api/control", &[JSON, reader], PAUSE).0, 401);
}

#[test]
fn what_another_site_made_a_browser_send_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let (monitor, asked) = with_daemon(root.path(), Ok(ControlReply::Ok { message: String::new() }));
    let own = format!("http://{}", monitor.address);
    for path in ["/api/control", "/api/chat", "/api/cache/clear"] {
        let evil = [("origin", "http://evil.example"), ("origin", "null"), ("sec-fetch-site", "cross-site")];
        for header in evil.into_iter().chain([("sec-fetch-site", "same-site")]) {
            let (status, text) = send(&monitor, path, &[JSON, BOSS, header], PAUSE);
            assert_eq!(status, 403, "{path} {header:?} {text}");
        }
        // A form or a "simple" request of a page cannot set this content type.
        assert_eq!(send(&monitor, path, &[("content-type", "text/plain"), BOSS], PAUSE).0, 400, "{path}");
    }
    assert!(asked.lock().unwrap().is_empty());
    let own = [JSON, BOSS, ("origin", own.as_str()), ("sec-fetch-site", "same-origin")];
    assert_eq!(send(&monitor, "/api/control", &own, PAUSE).0, 200);
}

/// A server that answers one request with `head` and pieces, and gives back what it was sent.
fn one_answer(pieces: &'static [&'static str]) -> (SocketAddr, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(GENEROUS)).unwrap();
        let mut request = String::new();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            request += &lower;
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        request += &String::from_utf8(body).unwrap();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        for piece in pieces {
            stream.write_all(piece.as_bytes()).unwrap();
            stream.flush().unwrap();
        }
        request
    });
    (address, thread)
}

#[test]
fn a_chat_is_sent_on_with_the_callers_key_and_streams_back() {
    let root = tempfile::tempdir().unwrap();
    let (address, server) = one_answer(&["data: {\"a\":1}\n\n", "data: [DONE]\n\n"]);
    let serve_url = Some(format!("http://{address}/"));
    let monitor = Monitor::start(MonitorOptions { serve_url, ..options(root.path()) });
    let (status, text) = send(&monitor, "/api/chat", &[JSON, ("authorization", "Bearer mine")], r#"{"messages":[]}"#);
    assert_eq!((status, text.as_str()), (200, "data: {\"a\":1}\n\ndata: [DONE]\n\n"));
    let request = server.join().unwrap();
    assert!(request.starts_with("post /v1/chat/completions http/1.1"), "{request}");
    assert!(request.contains("authorization: bearer mine") && request.ends_with(r#"{"messages":[]}"#), "{request}");
}

#[test]
fn an_absent_inference_server_is_told() {
    let root = tempfile::tempdir().unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let monitor = Monitor::start(MonitorOptions { serve_url: Some(format!("http://{gone}")), ..options(root.path()) });
    assert_eq!(send(&monitor, "/api/chat", &[JSON], "{}").0, 502);
    let metrics = monitor.text("/metrics").1;
    assert!(metrics.contains("\nhone_inference_up 0\n"), "{metrics}");
}

#[test]
fn what_the_daemon_says_is_wrong_is_shown() {
    let root = tempfile::tempdir().unwrap();
    let _store = busy_workspace(root.path());
    let status = json!({
        "config_error": "config.json:3: epochs: above 0", "disk_low": true, "free_bytes": 5,
        "troubles": [{"what": "publish checkpoint-5", "error": "no room", "tries": 2, "since_ms": 1}], "pid": 4,
    });
    let reply = ControlReply::Pong { pid: 4, version: "1".to_string(), status: Some(status) };
    let door = move |request: &ControlRequest| {
        assert_eq!(*request, ControlRequest::Status, "nothing else is asked without a person");
        Ok(reply.clone())
    };
    let control = Some(Arc::new(door) as crate::ControlDoor);
    let told = Monitor::start(MonitorOptions { control, ..options(root.path()) }).source("daemon");
    assert_eq!(
        (&told["data"]["answers"], &told["data"]["config_error"]),
        (&json!(true), &json!("config.json:3: epochs: above 0"))
    );
    assert_eq!(told["data"]["troubles"][0]["what"], "publish checkpoint-5");
    // A daemon that does not run is no fault of this source.
    let told = Monitor::start(options(root.path())).source("daemon");
    assert_eq!(
        (&told["error"], &told["data"]["answers"], &told["data"]["disk_low"]),
        (&json!(null), &json!(false), &json!(null))
    );
}

#[test]
fn a_page_of_another_name_that_resolves_here_reads_nothing() {
    let root = tempfile::tempdir().unwrap();
    let _store = busy_workspace(root.path());
    let asks = |monitor: &Monitor, host: &str| {
        let request = monitor.agent.get(monitor.url("/api/unified")).header("host", host);
        request.header("x-api-key", "secret").call().unwrap().status().as_u16()
    };
    let open = Monitor::start(options(root.path()));
    for (host, status) in [
        ("evil.example", 403),
        ("evil.example:80", 403),
        ("localhost.evil.example", 403),
        ("localhost:9", 200),
        ("[::1]:9", 200),
    ] {
        assert_eq!(asks(&open, host), status, "{host}");
    }
    // A key is what a page of another site does not have.
    let keyed = Monitor::start(MonitorOptions { key: Some("secret".to_string()), ..options(root.path()) });
    assert_eq!(asks(&keyed, "hone.internal"), 200);
}

#[test]
fn skill_servers_that_do_not_answer_are_named() {
    let root = tempfile::tempdir().unwrap();
    let _store = busy_workspace(root.path());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let lively = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}");
        }
    });
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let skills = vec![("binary".to_string(), lively), ("syllo".to_string(), format!("http://{gone}"))];
    let monitor = Monitor::start(MonitorOptions { skills, ..options(root.path()) });
    let servers = monitor.source("skill_servers")["data"]["servers"].clone();
    assert_eq!((&servers[0]["name"], &servers[0]["answers"]), (&json!("binary"), &json!(true)));
    assert_eq!((&servers[1]["name"], &servers[1]["answers"]), (&json!("syllo"), &json!(false)));
    assert!(servers[1]["error"].as_str().is_some_and(|error| !error.is_empty()), "{servers}");
}
