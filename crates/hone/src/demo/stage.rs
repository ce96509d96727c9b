//! The processes of the demo: `hone up` for the services, and what they tell.

use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use hone_pipeline::ids::{CheckpointId, DatasetId};
use hone_pipeline::state::{DatasetState, DeploymentState, State};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long the processes may take to end in order.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// Addresses that were free a moment ago.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// That of the Binary skill server, whose problems the demo learns.
    pub binary: SocketAddr,
    /// That of the SYLLO skill server.
    pub syllo: SocketAddr,
    /// The inference server's.
    pub serve: SocketAddr,
    /// The monitor's.
    pub monitor: SocketAddr,
}

/// Free ports on loopback.
pub fn free_ports() -> Result<Ports> {
    let listeners: Vec<TcpListener> = (0..4)
        .map(|_| TcpListener::bind(("127.0.0.1", 0)))
        .collect::<std::io::Result<_>>()
        .context("find free ports")?;
    let address = |index: usize| listeners[index].local_addr().context("read a port");
    Ok(Ports { binary: address(0)?, syllo: address(1)?, serve: address(2)?, monitor: address(3)? })
}

/// The configuration that the demo writes into its workspace.
pub fn settings(ports: &Ports) -> Vec<(String, Value)> {
    let pairs = [
        ("model_name", json!("hone-demo")),
        ("batch_size", json!(32)),
        ("learning_rate", json!(1e-3)),
        ("weight_decay", json!(0.01)),
        ("max_length", json!(128)),
        ("epochs", json!(4)),
        ("save_steps", json!(100)),
        ("preview_steps", json!(100)),
        ("seed", json!(1)),
        // The shown number of steps is that of new problems only.
        ("replay.share", json!(0)),
        // Nobody is there to look at a checkpoint that is a little worse than the one before.
        ("promotion.on_regression", json!("continue")),
        ("validation.auto_share", json!(0)),
        ("auto_generate.enabled", json!(true)),
        ("auto_generate.count", json!(800)),
        ("auto_generate.threshold", json!(1)),
        ("auto_generate.cooldown_sec", json!(1)),
        // Levels take more checkpoints than a demo has; its own questions show what was learned.
        ("curriculum.enabled", json!(false)),
        ("evaluation.sealed_questions", json!(0)),
        // SYLLO takes hours of one processor, not a minute, and more room than this model's context has above level 1.
        (
            "skills",
            json!([
                {"name": "binary", "url": format!("http://{}", ports.binary)},
                {"name": "syllo", "url": format!("http://{}", ports.syllo), "generate": false},
            ]),
        ),
        ("roles", json!(["skill:binary", "skill:syllo", "serve", "monitor", "daemon"])),
        ("serve.listen", json!(ports.serve.to_string())),
        ("serve.slots", json!(16)),
        ("serve.max_context", json!(256)),
        ("monitor.listen", json!(ports.monitor.to_string())),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
}

/// The running processes.
pub struct Stage {
    /// Where they answer.
    pub ports: Ports,
    processes: Vec<(Child, PathBuf)>,
}

impl Stage {
    /// Starts everything but the daemon (the questions come first), and waits until the skills answer.
    pub fn start(ws: &Workspace, ports: Ports, timeout: Duration) -> Result<Stage> {
        let mut stage = Stage { ports, processes: Vec::new() };
        stage.spawn(ws, "skill:binary,skill:syllo,serve,monitor", "services")?;
        let start = Instant::now();
        for skill in [ports.binary, ports.syllo] {
            let url = format!("http://{skill}/health");
            while ureq::get(&url).call().is_err() {
                stage.check_alive()?;
                if start.elapsed() > timeout {
                    bail!("reach the skill server at {url} within {} s", timeout.as_secs());
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(stage)
    }

    /// Starts the daemon.
    pub fn start_daemon(&mut self, ws: &Workspace) -> Result<()> {
        self.spawn(ws, "daemon", "daemon-supervisor")
    }

    fn spawn(&mut self, ws: &Workspace, roles: &str, name: &str) -> Result<()> {
        let log = ws.layout().logs().join(format!("{name}.log"));
        hone_disk::create_dir(&ws.layout().logs())?;
        let out: File = hone_disk::create_file(&log)?;
        let program = std::env::current_exe().context("find the program itself")?;
        let child = Command::new(program)
            .arg("--root")
            .arg(&ws.root)
            .args(ws.set.iter().flat_map(|(key, value)| ["--set".to_string(), format!("{key}={value}")]))
            .args(["--supervised", "up", "--roles", roles])
            .stdin(Stdio::piped())
            .stdout(out.try_clone().context("open the log")?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("start {roles}"))?;
        self.processes.push((child, log));
        Ok(())
    }

    /// Fails when one of the processes has ended.
    pub fn check_alive(&mut self) -> Result<()> {
        for (child, log) in &mut self.processes {
            if child.try_wait().context("look at a process")?.is_some() {
                return Err(super::ended("the roles", log));
            }
        }
        Ok(())
    }

    /// Waits until the first champion is served.
    pub fn wait_until_served(&mut self, ws: &Workspace, limit: Duration) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < limit {
            self.check_alive()?;
            if ws.state()?.deployments.values().any(|d| d.state == DeploymentState::Live) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("see a served model within {} s; look into {}", limit.as_secs(), ws.layout().logs().display())
    }

    /// Ends what was started last: the daemon, so that the served model stays as it is.
    pub fn stop_last(&mut self) {
        if let Some((mut child, _)) = self.processes.pop() {
            end(&mut child);
        }
    }

    /// Ends all processes in order.
    pub fn stop(&mut self) {
        while !self.processes.is_empty() {
            self.stop_last();
        }
    }
}

/// SIGTERM, then a bounded wait.
fn end(child: &mut Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    let start = Instant::now();
    while start.elapsed() < STOP_TIMEOUT && !matches!(child.try_wait(), Ok(Some(_))) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = child.kill();
    let _ = child.wait();
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What was already told.
#[derive(Default)]
pub struct Seen {
    datasets: BTreeSet<DatasetId>,
    checkpoints: BTreeSet<CheckpointId>,
    judgements: BTreeSet<CheckpointId>,
    deployments: usize,
}

impl Seen {
    /// New facts of the state, in the order of the loop.
    pub fn news(&mut self, state: &State) -> Vec<(&'static str, String)> {
        let mut news = Vec::new();
        for dataset in state.datasets.values() {
            let words = match &dataset.state {
                DatasetState::Accepted => format!("{} passed both gates: {} rows", dataset.file_name, dataset.rows),
                DatasetState::Rejected { reasons } => {
                    format!("{} was refused: {}", dataset.file_name, reasons.join("; "))
                }
                _ => continue,
            };
            if self.datasets.insert(dataset.id) {
                news.push(("file", words));
            }
        }
        for checkpoint in state.checkpoints.values() {
            let Some(loss) = checkpoint.train_loss else { continue };
            if self.checkpoints.insert(checkpoint.id) {
                news.push(("checkpoint", format!("{} written, training loss {loss:.4}", checkpoint.id)));
            }
        }
        for judgement in state.judgements.values() {
            if self.judgements.insert(judgement.challenger) {
                news.push(("verdict", format!("{}: {}", judgement.challenger, judgement.reason)));
            }
        }
        let live: Vec<_> = state
            .deployments
            .values()
            .filter(|d| matches!(d.state, DeploymentState::Live | DeploymentState::Superseded) && !d.steps.is_empty())
            .collect();
        for deployment in live.iter().skip(self.deployments) {
            let took = deployment.steps.last().map_or(0, |(_, at)| at.saturating_sub(deployment.created_ms));
            news.push(("deployed", format!("{} is served, {took} ms after the verdict", deployment.checkpoint)));
        }
        self.deployments = self.deployments.max(live.len());
        news
    }
}
