//! Tests of `deploy`.

mod cut_line;

use super::command::{Command, Programs};
use super::http::Http;
use super::local::Local;
use super::program::{Keeper, end_earlier};
use super::rsync::Rsync;
use super::*;
use crate::testing::{HttpServer, Request};
use cut_line::CutLine;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(20);

/// A door that keeps blobs and deployments in memory.
#[derive(Default)]
struct Door {
    blobs: BTreeMap<String, Vec<u8>>,
    /// Parts of uploads that broke off.
    arrived: BTreeMap<String, Vec<u8>>,
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
                let arrived: BTreeMap<_, _> = self.arrived.iter().map(|(hash, part)| (hash, part.len())).collect();
                (200, json!({ "missing": missing, "arrived": arrived }).to_string())
            }
            ("PUT", ["blobs", hash]) => {
                let offset = request.headers.iter().find_map(|header| {
                    header.strip_prefix("content-range: bytes ")?.split('-').next()?.parse::<usize>().ok()
                });
                let mut bytes = self.arrived.remove(*hash).unwrap_or_default();
                bytes.truncate(offset.unwrap_or(0));
                bytes.extend(&request.body);
                let announced = format!("content-length: {}", request.body.len());
                let whole = request.headers.contains(&announced);
                let place = if whole { &mut self.blobs } else { &mut self.arrived };
                place.insert((*hash).to_string(), bytes);
                (if whole { 201 } else { 408 }, String::new())
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
fn an_upload_goes_on_where_the_line_was_cut() {
    let bench = bench();
    let weights = "0123456789abcdef".repeat(64 << 10);
    let (folder, request) = bench.checkpoint(3, &weights);
    // A megabyte over a line that is cut after 300 kB each time: four tries bring it over.
    let line = CutLine::start(&bench.server.url, 300_000);
    let door = Http::new(&line.url, None, TIMEOUT, TIMEOUT);
    push(&door, &request, &folder, &mut |_| {}).unwrap();
    let door = bench.door.lock().unwrap();
    let hash = &request.files.iter().find(|file| file.path == "model.safetensors").unwrap().blake3;
    assert!(door.blobs[hash] == weights.as_bytes(), "the bytes are whole and in order");
    let tries = door.log.iter().filter(|line| **line == format!("PUT /admin/blobs/{hash}")).count();
    assert_eq!(tries, 4);
}

#[test]
fn a_line_that_brings_hardly_anything_over_is_left_for_another_try() {
    let bench = bench();
    let (folder, request) = bench.checkpoint(3, &"x".repeat(1 << 20));
    // Some hundred bytes get over each time: that would take thousands of connections, and the back-off is for that.
    let line = CutLine::start(&bench.server.url, 1_000);
    let door = Http::new(&line.url, None, TIMEOUT, TIMEOUT);
    assert!(matches!(push(&door, &request, &folder, &mut |_| {}), Err(DeployError::Transient(_))));
    let door = bench.door.lock().unwrap();
    assert!(!door.log.iter().any(|line| line.ends_with("/switch")));
    assert!(
        door.log.iter().filter(|line| line.starts_with("PUT")).count() <= 1 + MAX_RESUMPTIONS + request.files.len()
    );
    assert!(!door.arrived.is_empty(), "the next try goes on from here");
}

#[test]
fn what_a_server_loads_in_its_switch_is_noted_then() {
    let bench = bench();
    let (folder, request) = bench.checkpoint(3, "w");
    let staged = json!({
        "id": 1, "checkpoint": 3, "manifest_hash": request.manifest_hash, "state": "staged", "error": "", "created_ms": 0,
    });
    let serving = staged.to_string().replace("staged", "serving");
    let mut door = bench.door.lock().unwrap();
    door.trouble.insert("POST /admin/deployments".to_string(), (200, staged.to_string()));
    door.trouble.insert("POST /admin/deployments/1/switch".to_string(), (200, serving.clone()));
    door.trouble.insert("GET /admin/deployments".to_string(), (200, format!("[{serving}]")));
    drop(door);
    let mut steps = Vec::new();
    let log = |steps: &mut Vec<String>, step: &str| {
        let switched = bench.door.lock().unwrap().log.iter().any(|line| line.ends_with("/switch"));
        steps.push(format!("{step} {switched}"));
    };
    push(&bench.http(), &request, &folder, &mut |step| log(&mut steps, step)).unwrap();
    assert_eq!(steps, ["stage false", "verify false", "load true", "smoke true", "switch true", "confirm true"]);
}

/// `rsync` runs the remote shell as `RSH HOST rsync --server …`; this one drops the host and runs the rest here.
const RSH: &str = "#!/bin/sh\nshift\nexec \"$@\"\n";

#[test]
fn rsync_brings_blobs_under_their_names() {
    use std::os::unix::fs::PermissionsExt;
    if !has(&["rsync"]) {
        // The program is not on this machine; the transport says so when it is used.
        let bench = bench();
        let (folder, request) = bench.checkpoint(3, "w");
        let target = Rsync::new(bench.http(), "host:/nowhere", None, TIMEOUT);
        let error = push(&target, &request, &folder, &mut |_| {}).unwrap_err();
        assert!(matches!(&error, DeployError::Permanent(reason) if reason.contains("is it installed")), "{error}");
        return;
    }
    let bench = bench();
    let (serve_root, rsh) = (bench.dir.path().join("serve"), bench.dir.path().join("rsh"));
    std::fs::create_dir_all(serve_root.join("blobs")).unwrap();
    std::fs::write(&rsh, RSH).unwrap();
    std::fs::set_permissions(&rsh, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (folder, request) = bench.checkpoint(3, "weights of 3");
    let destination = format!("inference:{}", serve_root.display());
    let target = Rsync::new(bench.http(), &destination, rsh.to_str(), TIMEOUT);
    push(&target, &request, &folder, &mut |_| {}).unwrap();
    for file in &request.files {
        let blob = std::fs::read(serve_root.join("blobs").join(&file.blake3)).unwrap();
        assert_eq!(blob, std::fs::read(folder.join(&file.path)).unwrap());
    }
    assert_eq!(std::fs::read_dir(serve_root.join("blobs")).unwrap().count(), request.files.len());
    // A remote shell that cannot connect (ssh ends with 255) may connect another time.
    std::fs::write(&rsh, "#!/bin/sh\necho no route >&2\nexit 255\n").unwrap();
    let error = push(&target, &request, &folder, &mut |_| {}).unwrap_err();
    assert!(matches!(&error, DeployError::Transient(reason) if reason.contains("no route")), "{error}");
}

/// Says so where one of these programs is absent, also where the output of tests is not shown.
fn has(programs: &[&str]) -> bool {
    let is_absent = |program: &&&str| std::process::Command::new(program).arg("--version").output().is_err();
    let absent = programs.iter().find(is_absent);
    if let Some(program) = absent {
        std::io::stderr().write_all(format!("skipped: {program} is absent\n").as_bytes()).unwrap();
    }
    absent.is_none()
}

/// A remote shell over TCP: the command is the first line of the connection.
const TCP_RSH: &str = "#!/bin/bash
shift
exec 3<>/dev/tcp/HOST/PORT
echo \"$*\" >&3
cat <&0 >&3 &
cat <&3
kill $!
";

/// Runs one command of each connection, with the connection as its input and output.
fn shell_server() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (mut line, mut byte) = (Vec::new(), [0]);
            while stream.read_exact(&mut byte).is_ok() && byte[0] != b'\n' {
                line.push(byte[0]);
            }
            let end = || Stdio::from(std::os::fd::OwnedFd::from(stream.try_clone().unwrap()));
            let mut shell = std::process::Command::new("sh");
            shell.arg("-c").arg(String::from_utf8(line).unwrap()).stdin(end()).stdout(end()).stderr(Stdio::null());
            let mut child = shell.spawn().unwrap();
            drop(shell);
            drop(stream);
            child.wait().unwrap();
        }
    });
    format!("http://{address}")
}

#[test]
fn rsync_goes_on_where_the_line_was_cut() {
    use std::os::unix::fs::PermissionsExt;
    if !has(&["rsync", "bash"]) {
        return;
    }
    let bench = bench();
    let (serve_root, rsh) = (bench.dir.path().join("serve"), bench.dir.path().join("rsh"));
    std::fs::create_dir_all(serve_root.join("blobs")).unwrap();
    // No connection brings more than 600 kB over, and the file has a megabyte that does not repeat itself.
    let line = CutLine::start(&shell_server(), 600_000);
    let (host, port) = line.url.trim_start_matches("http://").split_once(':').unwrap();
    std::fs::write(&rsh, TCP_RSH.replace("HOST", host).replace("PORT", port)).unwrap();
    std::fs::set_permissions(&rsh, std::fs::Permissions::from_mode(0o755)).unwrap();
    let weights: String = (0..130_000_u32).map(|n| format!("{:08x}", n.wrapping_mul(2_654_435_761))).collect();
    let (folder, request) = bench.checkpoint(3, &weights);
    let hash = &request.files.iter().find(|file| file.path == "model.safetensors").unwrap().blake3;
    let target = Rsync::new(bench.http(), &format!("inference:{}", serve_root.display()), rsh.to_str(), TIMEOUT);
    let blob = MissingBlob { hash: hash.clone(), arrived: 0 };
    let put = || target.put(&blob, &folder.join("model.safetensors"));
    assert!(matches!(put(), Err(DeployError::Transient(_))));
    let (blob, partial) = (serve_root.join("blobs").join(hash), serve_root.join("rsync-partial").join(hash));
    // The far end notices the cut in its own time.
    let start = std::time::Instant::now();
    while !partial.exists() {
        assert!(start.elapsed() < TIMEOUT, "what arrived is kept");
        std::thread::yield_now();
    }
    assert!(!blob.exists(), "half a file is no blob");
    put().expect("the rest fits one connection");
    assert!(std::fs::read(blob).unwrap() == weights.as_bytes());
    assert!(!partial.exists());
}

#[test]
fn a_target_goes_back_by_its_own_program_and_is_asked_where_it_led() {
    let bench = bench();
    let (folder, request) = bench.checkpoint(3, "weights of 3");
    let there = |name: &str| bench.dir.path().join(name);
    let served = |number: u64, hash: &str| format!("{{\"checkpoint\": {number}, \"manifest_hash\": \"{hash}\"}}");
    std::fs::write(there("before"), served(3, &request.manifest_hash)).unwrap();
    std::fs::write(there("served"), served(4, "x")).unwrap();
    let programs = |rollback: Option<&str>| Programs {
        stage: "exit 1".to_string(),
        switch: "exit 1".to_string(),
        verify: format!("cat {}", there("served").display()),
        rollback: rollback.map(str::to_string),
    };
    let go_back = |rollback: Option<&str>| {
        let mut steps = Vec::new();
        let target = Command::new(&programs(rollback), "http://x", &request, &folder, TIMEOUT);
        let serving = go_back(&target, &request, &mut |step| steps.push(step.to_string()));
        (serving.map(|serving| serving.checkpoint), steps)
    };
    assert_eq!(go_back(None), (None, vec![]), "it has no way of its own");
    assert_eq!(go_back(Some("exit 1")), (None, vec![]));
    assert_eq!(go_back(Some("true")), (None, vec!["switch".to_string()]), "it led elsewhere");
    let copy =
        format!("test \"$HONE_CHECKPOINT\" = 3 && cp {} {}", there("before").display(), there("served").display());
    assert_eq!(go_back(Some(&copy)), (Some(CheckpointId(3)), vec!["switch".to_string(), "confirm".to_string()]));
    // Twice would lead away again.
    assert_eq!(go_back(Some("exit 1")), (Some(CheckpointId(3)), vec!["confirm".to_string()]));
}

#[test]
fn programs_of_the_user_stage_switch_and_verify() {
    let bench = bench();
    let (folder, request) = bench.checkpoint(3, "weights of 3");
    let there = bench.dir.path().join("there");
    let told = r#"printf '{"checkpoint": %s, "manifest_hash": "%s"}\n' "$HONE_CHECKPOINT" "$HONE_MANIFEST_HASH""#;
    let programs = Programs {
        stage: format!("cp -r \"$HONE_MODEL_DIR\" {}", there.display()),
        switch: format!("{told} > {}/served", there.display()),
        verify: format!("echo checking; cat {}/served", there.display()),
        rollback: None,
    };
    let target = |programs: &Programs| Command::new(programs, "http://x", &request, &folder, TIMEOUT);
    let serving = push(&target(&programs), &request, &folder, &mut |_| {}).unwrap();
    assert_eq!((serving.checkpoint, &serving.manifest_hash), (CheckpointId(3), &request.manifest_hash));
    assert_eq!(std::fs::read(there.join("model.safetensors")).unwrap(), b"weights of 3");

    let fails = |stage: &str| {
        let programs = Programs { stage: stage.to_string(), ..programs.clone() };
        push(&target(&programs), &request, &folder, &mut |_| {}).unwrap_err()
    };
    assert_eq!(fails("echo busy >&2; exit 75"), DeployError::Transient("the stage command failed: busy".to_string()));
    assert_eq!(fails("echo no; exit 1"), DeployError::Permanent("the stage command failed: no".to_string()));
    let other =
        Programs { verify: "echo '{\"checkpoint\": 2, \"manifest_hash\": \"x\"}'".to_string(), ..programs.clone() };
    let error = push(&target(&other), &request, &folder, &mut |_| {}).unwrap_err();
    assert_eq!(error, DeployError::Transient("the server serves checkpoint-2 instead of checkpoint-3".to_string()));
    let silent = Programs { verify: "true".to_string(), ..programs };
    let error = push(&target(&silent), &request, &folder, &mut |_| {}).unwrap_err();
    assert!(matches!(&error, DeployError::Permanent(reason) if reason.contains("last line")), "{error}");
}

#[test]
fn a_program_never_outlives_its_limit() {
    let mut endless = std::process::Command::new("sh");
    endless.arg("-c").arg("exec sleep 1000");
    let ended = program::run("sh", &mut endless, Duration::from_millis(50), &Keeper::default()).unwrap();
    assert_eq!((ended.code, ended.reason().as_str()), (None, "it was ended after its 0 s"));
    // Nor does what it started: `sleep` is a child of the shell here, and holds its pipes.
    let mut endless = std::process::Command::new("sh");
    endless.arg("-c").arg("sleep 1000 & echo $!; wait; true");
    let ended = program::run("sh", &mut endless, Duration::from_millis(500), &Keeper::default()).unwrap();
    assert_eq!(ended.code, None);
    wait_for_end_of(ended.stdout.trim());
    // What goes on by the program's own will is not waited for.
    let mut starter = std::process::Command::new("sh");
    starter.arg("-c").arg("sleep 1000 & echo $!");
    let ended = program::run("sh", &mut starter, TIMEOUT, &Keeper::default()).unwrap();
    assert_eq!(ended.code, Some(0));
    let pid = ended.stdout.trim().to_string();
    assert!(is_running(&pid), "a server that a switch starts is not killed");
    assert!(std::process::Command::new("kill").arg(&pid).status().unwrap().success());
    let mut chatty = std::process::Command::new("sh");
    chatty.arg("-c").arg("head -c 1000000 /dev/zero; exit 3");
    assert_eq!(program::run("sh", &mut chatty, TIMEOUT, &Keeper::default()).unwrap().code, Some(3));
}

#[test]
fn what_a_killed_daemon_left_running_is_ended_by_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let notes = || std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    // The earlier daemon is a thread here, and sees that its program was ended.
    let keeper = Keeper::new(dir.path().to_path_buf(), Arc::default());
    let earlier = std::thread::spawn(move || {
        let mut endless = std::process::Command::new("sh");
        endless.arg("-c").arg("sleep 1000 & wait");
        program::run("sh", &mut endless, TIMEOUT, &keeper).unwrap()
    });
    let is_note = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json");
    while !earlier.is_finished() && !notes().iter().any(is_note) {
        std::thread::yield_now();
    }
    end_earlier(dir.path()).unwrap();
    assert_eq!(earlier.join().unwrap().code, None, "a signal ended it");
    // A note of a process that is another one by now ends nothing.
    let me = std::process::id();
    std::fs::write(dir.path().join("program-1.json"), format!(r#"{{"pid": {me}, "started": 1}}"#)).unwrap();
    end_earlier(dir.path()).unwrap();
    assert_eq!(notes(), Vec::<PathBuf>::new());
}

#[test]
fn a_program_ends_with_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let ending = Arc::new(AtomicBool::new(false));
    let keeper = Keeper::new(dir.path().to_path_buf(), Arc::clone(&ending)).ending_within(Duration::ZERO);
    let running = keeper.clone();
    let thread = std::thread::spawn(move || {
        let mut endless = std::process::Command::new("sh");
        endless.arg("-c").arg("exec sleep 1000");
        program::run("sh", &mut endless, TIMEOUT, &running).unwrap()
    });
    while !thread.is_finished() && std::fs::read_dir(dir.path()).unwrap().count() == 0 {
        std::thread::yield_now();
    }
    ending.store(true, Ordering::SeqCst);
    let ended = thread.join().unwrap();
    assert_eq!((ended.code, ended.reason().as_str()), (None, "it was ended with the daemon"));
    // Nor is another one begun.
    let next = program::run("true", &mut std::process::Command::new("true"), TIMEOUT, &keeper);
    assert!(matches!(next, Err(DeployError::Transient(reason)) if reason.contains("the daemon ends")));
}

/// Whether a process is there and not only waits to be reaped.
fn is_running(pid: &str) -> bool {
    program::started(pid.parse().unwrap()).is_some()
}

#[track_caller]
fn wait_for_end_of(pid: &str) {
    assert!(pid.parse::<u32>().is_ok(), "{pid:?}");
    let start = std::time::Instant::now();
    while is_running(pid) {
        assert!(start.elapsed() < TIMEOUT, "{pid} goes on");
        std::thread::yield_now();
    }
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
