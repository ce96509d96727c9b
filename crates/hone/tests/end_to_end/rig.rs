//! A workspace in a temporary folder, with the real binary's processes around it.

use hone_skills::{GenerateRequest, Split};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const HONE: &str = env!("CARGO_BIN_EXE_hone");

/// Everything of one test; ends its processes when dropped.
pub struct Rig {
    dir: tempfile::TempDir,
    daemon: Option<Child>,
    serve: Option<Child>,
    skill: Option<Child>,
    monitor: Option<Child>,
    variables: Vec<(String, String)>,
}

/// What a command printed.
pub struct Answer(Output);

impl Answer {
    /// The last line of stdout as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.0.stdout);
        let line = text.lines().last().unwrap_or_default();
        serde_json::from_str(line)
            .unwrap_or_else(|e| panic!("{e}: stdout {text:?}, stderr {}", String::from_utf8_lossy(&self.0.stderr)))
    }
}

/// Rows of Binary level 1, as JSONL.
pub fn rows_of_binary(seed: u64, count: usize) -> String {
    let request = GenerateRequest { level: 1, count, seed, split: Split::Train, steps: false };
    let batch = hone_skills::find("binary").unwrap().generate(&request).unwrap();
    let lines: Vec<String> = batch.samples.iter().map(|s| json!({"messages": s.messages}).to_string() + "\n").collect();
    lines.concat()
}

/// An address of the loopback that is free now.
pub fn free_address() -> String {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().to_string()
}

impl Rig {
    /// `hone init --tiny` with fast settings; `extra` wins.
    pub fn new(extra: &[(&str, &str)]) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let listen = extra.iter().find(|(key, _)| *key == "serve.listen").map(|(_, listen)| (*listen).to_string());
        let listen = listen.unwrap_or_else(free_address);
        let mut settings = vec![
            ("batch_size", "8"),
            ("learning_rate", "1e-3"),
            ("max_length", "128"),
            ("preview_steps", "0"),
            ("serve.max_context", "256"),
            ("limits.lease_sec", "30"),
            // A tiny model may get worse for a while; nobody is there to look.
            ("promotion.on_regression", "continue"),
            // Every row is counted; `kept_back` has it on.
            ("validation.auto_share", "0"),
        ];
        settings.extend_from_slice(extra);
        let rig = Rig { dir, daemon: None, serve: None, skill: None, monitor: None, variables: Vec::new() };
        let pairs: Vec<String> = settings
            .iter()
            .map(|(key, value)| format!("{key}={}", value.trim_matches('"')))
            .chain([format!("serve.listen={listen}")])
            .collect();
        let mut args = vec!["init", "--tiny"];
        for pair in &pairs {
            args.extend(["--set", pair]);
        }
        let answer = rig.hone(&args);
        assert!(answer.0.status.success(), "{}", String::from_utf8_lossy(&answer.0.stderr));
        rig
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Every process from now on has it in its environment.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_string(), value.to_string()));
    }

    pub fn hone(&self, args: &[&str]) -> Answer {
        Answer(self.command(args).output().unwrap())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(HONE);
        command.arg("--root").arg(self.root()).args(args).stdin(Stdio::null()).env("NO_COLOR", "1");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts a command and ends it with SIGKILL, unless it ended before.
    pub fn hone_killed_after(&self, args: &[&str], wait: Duration) {
        let mut child = self.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(wait);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Whether a command ends with 0.
    pub fn succeeds(&self, args: &[&str]) -> bool {
        self.hone(args).0.status.success()
    }

    /// The folder of the base model.
    pub fn base_model(&self) -> PathBuf {
        let path = self.hone(&["config", "show", "--json"]).json()["model_path"]["value"].clone();
        self.root().join(path.as_str().unwrap())
    }

    pub fn status(&self) -> Value {
        self.hone(&["status", "--json"]).json()
    }

    /// Writes a file outside the workspace; returns its path.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    pub fn write_validation(&self, rows: &str) {
        std::fs::write(self.root().join("validation/held-out.jsonl"), rows).unwrap();
    }

    /// As a person would with `cp`.
    pub fn drop_in_inbox(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.root().join("inbox").join(name), bytes).unwrap();
    }

    /// The report of a rejected file.
    pub fn report(&self, name: &str) -> Option<Value> {
        let bytes = std::fs::read(self.root().join(format!("rejected/{name}.report.json"))).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    pub fn start_serve(&mut self) {
        self.serve = Some(self.spawn(&["serve"]));
    }

    pub fn serve_pid(&self) -> u32 {
        self.serve.as_ref().unwrap().id()
    }

    /// SIGKILL; it may be dead already.
    pub fn kill_serve(&mut self) {
        let mut child = self.serve.take().unwrap();
        let _ = child.kill();
        child.wait().unwrap();
    }

    pub fn start_daemon(&mut self) {
        self.daemon = Some(self.spawn(&["daemon"]));
    }

    /// One of hone's own skills.
    pub fn start_skill(&mut self, name: &str, listen: &str) {
        self.skill = Some(self.spawn(&["skill", "serve", name, "--listen", listen]));
    }

    pub fn start_monitor(&mut self, listen: &str) {
        self.monitor = Some(self.spawn(&["monitor", "--listen", listen]));
    }

    fn spawn(&self, role: &[&str]) -> Child {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_file(role[0]));
        self.command(role).stdout(Stdio::null()).stderr(log.unwrap()).spawn().unwrap()
    }

    fn log_file(&self, role: &str) -> PathBuf {
        self.dir.path().join(format!("{role}.log"))
    }

    /// The log of a role, and the part of it that is above debug.
    pub fn log(&self, role: &str) -> (String, String) {
        let text = std::fs::read_to_string(self.log_file(role)).unwrap();
        // `TIME LEVEL …`; a line without a level goes on with the one before.
        let mut shown = true;
        let above_debug = text.lines().filter(|line| {
            match line.split_whitespace().nth(1) {
                Some("TRACE" | "DEBUG") => shown = false,
                Some("INFO" | "WARN" | "ERROR") => shown = true,
                _ => {}
            }
            shown
        });
        let above_debug = above_debug.map(|line| format!("{line}\n")).collect();
        (text, above_debug)
    }

    /// Neither the logs of these roles nor the events hold a key, and above debug none of these texts.
    #[track_caller]
    pub fn check_discretion(&self, roles: &[&str], keys: &[&str], texts: &[&str]) {
        let events = hone_store::Store::open_read_only(&self.root()).unwrap().events(Some(0), 100_000).unwrap();
        assert!(!events.is_empty(), "the events are there");
        let events = serde_json::to_string(&events).unwrap();
        let logs = roles.iter().map(|role| (*role, self.log(role)));
        for (role, (all, above_debug)) in logs.chain([("events", (events.clone(), events))]) {
            assert!(role == "events" || above_debug.contains(" INFO "), "the log of {role} is there: {all}");
            for key in keys {
                let line = all.lines().find(|line| line.contains(key));
                assert!(line.is_none(), "a key in {role}: {line:?}");
            }
            for text in texts {
                let line = above_debug.lines().find(|line| line.contains(text));
                assert!(line.is_none(), "{text:?} in {role}: {line:?}");
            }
        }
    }

    /// SIGKILL.
    pub fn kill_daemon(&mut self) {
        let mut child = self.daemon.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGKILL to every child of the daemon, and how many that were; there may be none at this instant.
    pub fn kill_children_of_daemon(&self) -> usize {
        let parent = self.daemon.as_ref().unwrap().id().to_string();
        let mut num_killed = 0;
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let ppid = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
            if ppid == Some(parent.as_str()) {
                let pid = entry.file_name().to_string_lossy().into_owned();
                num_killed += usize::from(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
            }
        }
        num_killed
    }

    /// `hone stop`, and the daemon ends by itself.
    pub fn stop_daemon_gently(&mut self) {
        self.hone(&["stop"]);
        let mut child = self.daemon.take().unwrap();
        let start = Instant::now();
        while child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < Duration::from_secs(120), "the daemon does not stop");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(child.wait().unwrap().success());
    }

    /// Polls `hone status --json` until `done`.
    #[track_caller]
    pub fn wait(&self, what: &str, limit: Duration, done: impl Fn(&Value) -> bool) {
        let start = Instant::now();
        loop {
            let status = self.status();
            if done(&status) {
                return;
            }
            if start.elapsed() > limit {
                let log = std::fs::read_to_string(self.dir.path().join("daemon.log")).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(40).collect();
                panic!("{what}: not within {} s; {status}\n{}", limit.as_secs(), tail.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The newest entry of `hone checkpoints --json`.
    pub fn last_checkpoint(&self) -> Value {
        self.hone(&["checkpoints", "--json"]).json().as_array().unwrap().last().unwrap().clone()
    }

    /// The greatest number of a folder `checkpoint-N`, asked of the file system alone.
    pub fn newest_checkpoint_folder(&self) -> Option<u64> {
        let names = std::fs::read_dir(self.root().join("checkpoints")).ok()?.flatten().map(|entry| entry.file_name());
        names.filter_map(|name| name.to_str()?.strip_prefix("checkpoint-")?.parse().ok()).max()
    }

    /// The weights of the newest checkpoint.
    pub fn last_weights(&self) -> Vec<u8> {
        let id = self.last_checkpoint()["checkpoint"]["id"].as_u64().unwrap();
        std::fs::read(self.root().join(format!("checkpoints/checkpoint-{id}/model.safetensors"))).unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for child in [&mut self.daemon, &mut self.serve, &mut self.skill, &mut self.monitor].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
