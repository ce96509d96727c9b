//! A server in this process and a client.

pub use crate::model::{CONTEXT, MODEL_NAME, Model};
use hone_pipeline::wire::ServerDeployment;
use hone_serve::{Keys, ServeOptions};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use ureq::http::Response;
use ureq::{Agent, Body};

/// Nothing here takes longer, on however slow a machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What the HTTP tests ask of a model.
impl Model {
    pub fn stamp(&self) -> String {
        format!("{}-{}-f32", self.request.checkpoint, &self.request.manifest_hash[..12])
    }

    pub fn hash_of(&self, name: &str) -> String {
        self.request.files.iter().find(|file| file.path == name).unwrap().blake3.clone()
    }

    pub fn file(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.dir.path().join(name)).unwrap()
    }
}

/// A running server.
pub struct Server {
    pub address: SocketAddr,
    pub root: Arc<TempDir>,
    key: Option<&'static str>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Server {
    pub fn start() -> Server {
        Server::start_with(|_| {})
    }

    pub fn start_with(change: impl FnOnce(&mut ServeOptions)) -> Server {
        Server::start_in(Arc::new(TempDir::new().unwrap()), change)
    }

    pub fn start_in(root: Arc<TempDir>, change: impl FnOnce(&mut ServeOptions)) -> Server {
        let mut options = options(root.path());
        change(&mut options);
        let key = options.keys.admin.first().cloned().map(|key| &*key.leak());
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = mpsc::channel();
        let thread_stop = stop.clone();
        let thread = std::thread::spawn(move || {
            hone_serve::run(options, thread_stop, move |address| sender.send(address).unwrap())
        });
        let address = receiver.recv_timeout(PATIENCE).expect("the server starts");
        Server { address, root, key, stop, thread: Some(thread) }
    }

    /// A server with this model serving.
    pub fn with(model: &Model) -> Server {
        let server = Server::start();
        server.deploy(model);
        server
    }

    pub fn ask_to_stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    pub fn stopped(mut self) -> anyhow::Result<()> {
        self.ask_to_stop();
        self.thread.take().unwrap().join().expect("the server does not panic")
    }

    pub fn get(&self, path: &str) -> Response<Body> {
        self.get_as(self.key, path)
    }

    pub fn get_as(&self, key: Option<&str>, path: &str) -> Response<Body> {
        let request = agent().get(self.url(path));
        match key {
            Some(key) => request.header("authorization", format!("Bearer {key}")).call().unwrap(),
            None => request.call().unwrap(),
        }
    }

    pub fn post(&self, path: &str, body: &Value) -> Response<Body> {
        self.post_bytes(path, body.to_string().as_bytes())
    }

    pub fn post_bytes(&self, path: &str, body: &[u8]) -> Response<Body> {
        let mut request = agent().post(self.url(path)).header("content-type", "application/json");
        if let Some(key) = self.key {
            request = request.header("x-api-key", key);
        }
        request.send(body).unwrap()
    }

    pub fn put(&self, path: &str, body: &[u8]) -> Response<Body> {
        let mut request = agent().put(self.url(path));
        if let Some(key) = self.key {
            request = request.header("x-api-key", key);
        }
        request.send(body).unwrap()
    }

    /// Sends a part of a blob.
    pub fn put_part(&self, path: &str, part: &[u8], offset: usize, total: usize) -> Response<Body> {
        let range = format!("bytes {offset}-{}/{total}", offset + part.len() - 1);
        agent().put(self.url(path)).header("content-range", range).send(part).unwrap()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sends the blobs that are missing.
    pub fn upload(&self, model: &Model) {
        let hashes: Vec<&str> = model.request.files.iter().map(|file| file.blake3.as_str()).collect();
        let answer = json_of(self.post("/admin/blobs/missing", &json!({"hashes": hashes})));
        for file in &model.request.files {
            if answer["missing"].as_array().unwrap().iter().any(|hash| hash == file.blake3.as_str()) {
                let answer = self.put(&format!("/admin/blobs/{}", file.blake3), &model.file(&file.path));
                assert_eq!(answer.status(), 201);
            }
        }
    }

    /// Stages, verifies, loads and tries.
    pub fn create(&self, model: &Model) -> Response<Body> {
        self.post("/admin/deployments", &serde_json::to_value(&model.request).unwrap())
    }

    pub fn switch(&self, id: u64) -> ServerDeployment {
        parsed(self.post(&format!("/admin/deployments/{id}/switch"), &json!({})))
    }

    /// The whole walk; returns the deployment's number.
    pub fn deploy(&self, model: &Model) -> u64 {
        self.upload(model);
        let created: ServerDeployment = parsed(self.create(model));
        assert_eq!((created.state.as_str(), created.error.as_str()), ("loaded", ""));
        assert_eq!(self.switch(created.id).state, "serving");
        created.id
    }

    pub fn deployments(&self) -> Vec<ServerDeployment> {
        parsed(self.get("/admin/deployments"))
    }

    /// The states by number, as `1 previous, 2 serving`.
    pub fn states(&self) -> String {
        let list = self.deployments();
        list.iter().map(|d| format!("{} {}", d.id, d.state)).collect::<Vec<_>>().join(", ")
    }

    pub fn wait_until_ready(&self) {
        wait_for("the server is ready", || self.get("/ready").status() == 200);
    }

    pub fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics").body_mut().read_to_string().unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).expect("the metric is there");
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// A chat answer in one piece.
    pub fn chat(&self, body: &Value) -> Value {
        let mut answer = self.post("/v1/chat/completions", body);
        let text = answer.body_mut().read_to_string().unwrap();
        assert_eq!(answer.status(), 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// The events of a stream, which must end with `[DONE]`; and the checkpoint and manifest headers.
    pub fn stream(&self, path: &str, body: &Value) -> (Vec<Value>, String) {
        let mut answer = self.post(path, body);
        assert_eq!(answer.status(), 200);
        assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_string();
        let stamp = format!("{}-{}-f32", header("x-hone-checkpoint"), &header("x-hone-manifest")[..12]);
        let text = answer.body_mut().read_to_string().unwrap();
        (events(&text), stamp)
    }

    /// Sends the first `sent` bytes of a body by hand and returns the open connection.
    pub fn raw_post(&self, path: &str, body: &str, sent: usize) -> TcpStream {
        self.raw("POST", path, body, sent)
    }

    /// Sends a whole request by hand and returns the whole answer; it must ask for the connection to be closed.
    pub fn exchange(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A request whose head was taken (it asked to be told so) and whose body is still to be sent.
    pub fn raw_post_of_head(&self, path: &str, body: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (host, length) = (self.address, body.len());
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nexpect: 100-continue\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut stream = BufReader::new(stream);
        read_until(&mut stream, "100 Continue");
        stream
    }

    /// The same for an upload.
    pub fn raw_put(&self, path: &str, body: &str, sent: usize) -> TcpStream {
        self.raw("PUT", path, body, sent)
    }

    fn raw(&self, method: &str, path: &str, body: &str, sent: usize) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&body.as_bytes()[..sent]).unwrap();
        stream
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ask_to_stop();
        if let Some(thread) = self.thread.take() {
            let result = thread.join();
            if !std::thread::panicking() {
                result.expect("the server does not panic").expect("the server ends well");
            }
        }
    }
}

pub fn options(root: &Path) -> ServeOptions {
    let listen = "127.0.0.1:0".parse().unwrap();
    let mut options = ServeOptions::new(listen, root.to_path_buf(), MODEL_NAME.to_string());
    options.threads = 1;
    options.max_context = CONTEXT;
    options
}

pub fn keys(read: &str, admin: &str) -> Keys {
    Keys { read: vec![read.to_string()], admin: vec![admin.to_string()] }
}

/// A request for a greedy answer.
pub fn greedy(content: &str, max_tokens: usize) -> Value {
    json!({
        "model": MODEL_NAME, "messages": [{"role": "user", "content": content}],
        "temperature": 0, "max_tokens": max_tokens,
    })
}

pub fn with(mut body: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

pub fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

/// Parses server-sent events up to `[DONE]`, which must be the last.
pub fn events(text: &str) -> Vec<Value> {
    let body = text.strip_suffix("data: [DONE]\n\n").unwrap_or_else(|| panic!("the stream ends with [DONE]: {text}"));
    body.split_terminator("\n\n")
        .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
        .collect()
}

/// The text of one choice of a streamed chat.
pub fn streamed_content(events: &[Value], choice: u64) -> String {
    events
        .iter()
        .flat_map(|event| event["choices"].as_array().unwrap())
        .filter(|item| item["index"] == choice)
        .filter_map(|item| item["delta"]["content"].as_str())
        .collect()
}

pub fn json_of(mut answer: Response<Body>) -> Value {
    answer.body_mut().read_json().unwrap()
}

/// Status, and the error's code and parameter.
pub fn error_of(mut answer: Response<Body>) -> (u16, String, String) {
    let status = answer.status().as_u16();
    let body: Value = answer.body_mut().read_json().unwrap();
    let field = |name: &str| body["error"][name].as_str().unwrap_or("").to_string();
    assert!(!field("message").is_empty() && !field("type").is_empty(), "{body}");
    (status, field("code"), field("param"))
}

pub fn parsed<T: serde::de::DeserializeOwned>(mut answer: Response<Body>) -> T {
    let text = answer.body_mut().read_to_string().unwrap();
    assert_eq!(answer.status(), 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// Looks again every few milliseconds until it holds.
#[track_caller]
pub fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what} within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Reads lines until one contains `text`.
pub fn read_until(stream: &mut BufReader<TcpStream>, text: &str) {
    let mut line = String::new();
    while !line.contains(text) {
        line.clear();
        assert!(stream.read_line(&mut line).unwrap() > 0, "the connection ended before {text:?}");
    }
}

/// The rest of the connection, as text.
pub fn read_all(stream: &mut impl Read) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn agent() -> Agent {
    Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build().new_agent()
}
