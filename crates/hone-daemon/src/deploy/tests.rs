//! Tests of `deploy`.

use super::http::Http;
use super::local::Local;
use super::*;
use crate::testing::{HttpServer, Request};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(20);

/// A door that keeps blobs and deployments in memory.
#[derive(Default)]
struct Door {
    blobs: BTreeMap<String, Vec<u8>>,
    deployments: Vec<ServerDeployment>,
    /// Answered instead, by request line.
    trouble: BTreeMap<String, (u16, String)>,
    log: Vec<String>,
    keys: Vec<String>,
    check_blobs: bool,
}

impl Door {
    fn answer(&mut self, request: &Request) -> (u16, String) {
        self.log.push(request.line.clone());
        self.keys.extend(request.headers.iter().filter_map(|h| h.strip_prefix("authorization: ").map(str::to_string)));
        if let Some(trouble) = self.trouble.get(&request.line) {
            return trouble.clone();
        }
        let (method, path) = request.line.split_once(' ').unwrap();
        let parts: Vec<&str> = path.trim_start_matches("/admin/").split('/').collect();
        match (method, parts.as_slice()) {
            ("POST", ["blobs", "missing"]) => {
                let body: Value = serde_json::from_slice(&request.body).unwrap();
                let hashes: Vec<String> = serde_json::from_value(body["hashes"].clone()).unwrap();
                let missing: Vec<_> = hashes.into_iter().filter(|hash| !self.blobs.contains_key(hash)).collect();
                (200, json!({ "missing": missing }).to_string())
            }
            ("PUT", ["blobs", hash]) => {
                self.blobs.insert((*hash).to_string(), request.body.clone());
                (201, String::new())
            }
            ("POST", ["deployments"]) => {
                let asked: DeployRequest = serde_json::from_slice(&request.body).unwrap();
                if self.check_blobs {
                    assert!(asked.files.iter().all(|file| self.blobs.contains_key(&file.blake3)));
                }
                self.deployments.push(ServerDeployment {
                    id: self.deployments.len() as u64 + 1,
                    checkpoint: asked.checkpoint,
                    manifest_hash: asked.manifest_hash,
                    state: "loaded".to_string(),
                    error: String::new(),
                    created_ms: 0,
                });
                (200, serde_json::to_string(self.deployments.last().unwrap()).unwrap())
            }
            ("POST", ["deployments", id, "switch"]) => {
                let id: u64 = id.parse().unwrap();
                for deployment in &mut self.deployments {
                    deployment.state = if deployment.id == id { "serving" } else { "previous" }.to_string();
                }
                let switched = self.deployments.iter().find(|deployment| deployment.id == id).unwrap();
                (200, serde_json::to_string(switched).unwrap())
            }
            ("GET", ["deployments"]) => (200, serde_json::to_string(&self.deployments).unwrap()),
            _ => (404, String::new()),
        }
    }
}

struct Bench {
    dir: tempfile::TempDir,
    door: Arc<Mutex<Door>>,
    server: HttpServer,
}

fn bench() -> Bench {
    let door = Arc::new(Mutex::new(Door::default()));
    let behind = Arc::clone(&door);
    let server = HttpServer::start(move |request| behind.lock().unwrap().answer(&request));
    Bench { dir: tempfile::tempdir().unwrap(), door, server }
}

impl Bench {
    fn http(&self) -> Http {
        Http::new(&self.server.url, Some("secret".to_string()), TIMEOUT, TIMEOUT)
    }

    /// A checkpoint folder whose weights are `weights`, and what the ledger says of it.
    fn checkpoint(&self, number: u64, weights: &str) -> (PathBuf, DeployRequest) {
        let folder = self.dir.path().join(format!("checkpoint-{number}"));
        std::fs::create_dir_all(&folder).unwrap();
        for (name, text) in [("config.json", "{}"), ("model.safetensors", weights), ("trainer_state.json", "{}")] {
            std::fs::write(folder.join(name), text).unwrap();
        }
        let hash = hone_disk::manifest::write(&folder).unwrap();
        let request = request(&folder, &description(number, &hash, &serde_json::Map::new())).unwrap();
        (folder, request)
    }
}

fn description<'a>(
    number: u64,
    manifest_hash: &'a str,
    chat_template_kwargs: &'a serde_json::Map<String, Value>,
) -> Description<'a> {
    let checkpoint = CheckpointId(number);
    Description { checkpoint, manifest_hash, model_name: "m", profile: "plain", chat_template_kwargs }
}

fn names(request: &DeployRequest) -> Vec<&str> {
    request.files.iter().map(|file| file.path.as_str()).collect()
}

#[test]
fn a_checkpoint_is_staged_loaded_switched_and_confirmed() {
    let bench = bench();
    bench.door.lock().unwrap().check_blobs = true;
    let (folder, request) = bench.checkpoint(3, "weights of 3");
    assert_eq!(names(&request), ["config.json", "model.safetensors", "manifest.json"], "no trainer state is sent");
    let mut steps = Vec::new();
    let serving = push(&bench.http(), &request, &folder, &mut |step| steps.push(step.to_string())).unwrap();
    assert_eq!((serving.checkpoint, serving.manifest_hash), (CheckpointId(3), request.manifest_hash.clone()));
    assert_eq!(steps, STEPS);
    let door = bench.door.lock().unwrap();
    let weights = request.files.iter().find(|file| file.path == "model.safetensors").unwrap();
    assert_eq!(door.blobs[&weights.blake3], b"weights of 3");
    assert!(door.keys.iter().all(|key| key == "bearer secret") && door.keys.len() == door.log.len());
}

#[test]
fn only_missing_blobs_are_sent() {
    let bench = bench();
    let (folder, request) = bench.checkpoint(3, "weights of 3");
    push(&bench.http(), &request, &folder, &mut |_| {}).unwrap();
    let (folder, request) = bench.checkpoint(4, "weights of 4");
    bench.door.lock().unwrap().log.clear();
    push(&bench.http(), &request, &folder, &mut |_| {}).unwrap();
    let num_sent = bench.door.lock().unwrap().log.iter().filter(|line| line.starts_with("PUT")).count();
    assert_eq!(num_sent, 2, "weights and manifest differ, the configuration does not");
}

#[test]
fn a_local_target_gets_its_blobs_by_link() {
    let bench = bench();
    let (folder, request) = bench.checkpoint(3, "weights of 3");
    let serve_root = bench.dir.path().join("serve");
    let local = Local::new(bench.http(), &serve_root);
    push(&local, &request, &folder, &mut |_| {}).unwrap();
    assert!(!bench.door.lock().unwrap().log.iter().any(|line| line.starts_with("PUT")));
    for file in &request.files {
        let blob = std::fs::read(serve_root.join("blobs").join(&file.blake3)).unwrap();
        assert_eq!(blob, std::fs::read(folder.join(&file.path)).unwrap());
    }
}

#[test]
fn each_failure_is_transient_or_not_and_stops_before_the_switch() {
    for (line, status, transient) in [
        ("POST /admin/deployments", 400, false),
        ("POST /admin/deployments", 422, false),
        ("POST /admin/deployments", 409, true),
        ("POST /admin/deployments", 503, true),
        ("POST /admin/blobs/missing", 401, false),
        ("POST /admin/blobs/missing", 403, false),
        ("POST /admin/blobs/missing", 429, true),
    ] {
        let bench = bench();
        let trouble = (status, json!({"error": {"message": "the reason"}}).to_string());
        bench.door.lock().unwrap().trouble.insert(line.to_string(), trouble);
        let (folder, request) = bench.checkpoint(3, "w");
        let error = push(&bench.http(), &request, &folder, &mut |_| {}).unwrap_err();
        assert_eq!(matches!(error, DeployError::Transient(_)), transient, "{line} {status}: {error}");
        assert!(error.to_string().contains("the reason"), "{error}");
        assert!(!bench.door.lock().unwrap().log.iter().any(|line| line.ends_with("/switch")));
    }
}

#[test]
fn a_server_that_serves_something_else_is_not_believed() {
    let bench = bench();
    let (folder, request) = bench.checkpoint(3, "w");
    let other =
        json!([{"id": 9, "checkpoint": 2, "manifest_hash": "x", "state": "serving", "error": "", "created_ms": 0}]);
    bench.door.lock().unwrap().trouble.insert("GET /admin/deployments".to_string(), (200, other.to_string()));
    let error = push(&bench.http(), &request, &folder, &mut |_| {}).unwrap_err();
    assert_eq!(error, DeployError::Transient("the server serves checkpoint-2 instead of checkpoint-3".to_string()));
}

#[test]
fn a_server_that_is_not_up_yet_is_worth_another_try() {
    let bench = bench();
    let (folder, request) = bench.checkpoint(3, "w");
    let url = HttpServer::start(|_| (200, String::new())).url.clone();
    let nobody = Http::new(&url, None, TIMEOUT, TIMEOUT);
    assert!(matches!(push(&nobody, &request, &folder, &mut |_| {}), Err(DeployError::Transient(_))));
}

#[test]
fn a_base_model_without_a_manifest_is_hashed_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "a.safetensors", "model.safetensors.index.json", "README.md", "optimizer.pt"] {
        std::fs::write(dir.path().join(name), name).unwrap();
    }
    let kwargs = serde_json::Map::new();
    let base = request(dir.path(), &description(0, "from the ledger", &kwargs)).unwrap();
    assert_eq!(names(&base), ["a.safetensors", "config.json", "model.safetensors.index.json"]);
    assert_eq!(base.files[0].blake3, blake3_of_a_safetensors());
    assert_eq!(base.manifest_hash, "from the ledger");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 5);
}

/// `printf a.safetensors | b3sum`, by way of the store that names files by their hash.
fn blake3_of_a_safetensors() -> String {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x");
    std::fs::write(&file, "a.safetensors").unwrap();
    hone_disk::hash_file(&file).unwrap().1
}

#[test]
fn a_folder_that_is_not_the_one_in_the_ledger_is_refused() {
    let bench = bench();
    let (folder, _) = bench.checkpoint(3, "w");
    let kwargs = serde_json::Map::new();
    let error = request(&folder, &description(3, &"0".repeat(64), &kwargs)).unwrap_err();
    assert!(error.to_string().contains("not the one in the ledger"));
}
