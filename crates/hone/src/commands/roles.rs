//! The roles of a host: `hone up` runs them all, each also runs alone in the foreground.

use super::data::row_door::row_door;
use super::init::identity_of;
use super::keys::keys_file;
use crate::config::{Config, Skill};
use crate::exit::UsageError;
use crate::output;
use crate::workspace::{CONTROL_TIMEOUT, Workspace, now_ms};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use hone_daemon::alerts::Alerter;
use hone_daemon::notify::Notifier;
use hone_daemon::supervisor::{self, Role, SupervisorEvent, SupervisorOptions};
use hone_daemon::{DaemonOptions, DataManagerConfig, Limits, LoopConfig};
use hone_monitor::{ControlDoor, MonitorOptions};
use hone_pipeline::finding::SchemaOrigin;
use hone_pipeline::state::{LogEntry, LogSeverity};
use hone_serve::{Keys, ServeOptions, WeightFormat};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Flags of `hone up`.
#[derive(Args, Debug)]
pub struct UpArgs {
    /// Only these roles (default: `roles` of config.json).
    #[arg(long, value_delimiter = ',')]
    roles: Vec<String>,
}

/// Flags of roles that listen.
#[derive(Args, Debug)]
pub struct ListenArgs {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

/// `hone skill …`.
#[derive(Subcommand, Debug)]
pub enum SkillVerb {
    /// Serve one of hone's own skills over the Skill API.
    Serve {
        /// Name, e.g. `binary`.
        name: String,
        /// Address to listen on; port 0 takes a free one.
        #[arg(long, value_name = "ADDRESS")]
        listen: Option<SocketAddr>,
    },
    /// Hold any skill server against the contract (less than 30 seconds).
    Conform {
        /// Its base URL, e.g. http://127.0.0.1:8090.
        url: String,
    },
}

/// Flags of the hidden `hone child`.
#[derive(Args, Debug)]
pub struct ChildArgs {
    /// `check-job`, `train-job` or `eval-job`.
    pub kind: String,
    /// The request file.
    #[arg(long)]
    pub request: PathBuf,
}

/// Usual ports of hone's own skills.
const SKILL_PORTS: &[(&str, u16)] = &[("syllo", 8080), ("binary", 8090)];

/// A key from the environment, without white space around it: a secret's file often ends with a line break.
#[must_use]
pub fn key_from_env(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|key| key.trim().to_string())
}

/// Sets a flag on SIGINT and SIGTERM; a second signal ends the process at once.
pub fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop)).context("watch signals")?;
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("watch signals")?;
    }
    Ok(stop)
}

/// `hone up`.
pub fn up(ws: &Workspace, args: &UpArgs) -> Result<()> {
    ws.require()?;
    let config = ws.config()?;
    let names = if args.roles.is_empty() { config.roles.clone() } else { args.roles.clone() };
    let mut roles = Vec::new();
    for name in &names {
        roles.push(role(ws, &config, name)?);
    }
    output::line(&format!("hone up: {} in {}", names.join(", "), ws.root.display()));
    for skill in config.skills.iter().filter(|skill| is_own_and_here(&config, skill)) {
        let role = format!("skill:{}", skill.name);
        if !names.contains(&role) {
            let (name, url) = (&skill.name, &skill.url);
            output::line(&format!(
                "  skill     {name} is asked at {url}, but {role:?} is not among the roles: it must run by itself"
            ));
        }
    }
    for name in &names {
        match name.as_str() {
            "serve" => output::line(&format!("  server    http://{}/v1", config.serve.listen)),
            "monitor" => output::line(&format!("  dashboard http://{}/", config.monitor_listen)),
            _ => {}
        }
    }
    output::line(&format!("  logs      {}", ws.layout().logs().display()));
    output::line("Ctrl-C stops all in order.");
    let options = SupervisorOptions {
        program: std::env::current_exe().context("find the program itself")?,
        log_dir: ws.layout().logs(),
        first_backoff: Duration::from_secs(1),
        max_backoff: Duration::from_secs(60),
        healthy_after: Duration::from_secs(60),
        grace: Duration::from_secs(60),
    };
    let stop = role_stop(ws)?;
    let (alerter, telling) = Alerter::start()?;
    let alerter = Mutex::new(alerter);
    let on_event = |event: SupervisorEvent| {
        tell_death(ws, &config, &alerter, &event);
        show_event(event);
    };
    let result = supervisor::run(&options, &roles, &stop, &on_event);
    drop(alerter);
    if telling.join().is_err() {
        tracing::warn!("the last alerts were not delivered: their thread panicked");
    }
    result
}

/// A role that ended badly cannot tell it itself. (The lock: events come from the threads of all roles.)
fn tell_death(ws: &Workspace, config: &Config, alerter: &Mutex<Alerter>, event: &SupervisorEvent) {
    let SupervisorEvent::Exited { role, how, restart_in: Some(wait) } = event else { return };
    let entry = LogEntry {
        at_ms: now_ms(),
        severity: LogSeverity::Error,
        kind: "role_died".to_string(),
        subject: role.clone(),
        message: format!("{role} ended ({how}); it starts again in {} s", wait.as_secs()),
    };
    let mut alerter = alerter.lock().unwrap_or_else(PoisonError::into_inner);
    alerter.heard(&entry, &config.alerts, &ws.root, Instant::now());
}

/// In the log of a role: errors, warnings, and why a command ended.
const NEEDS_A_PERSON: [&str; 3] = ["ERROR", "WARN", "hone: failed to"];

/// What `hone up` prints of its roles: starts, ends, and lines that need a person.
fn show_event(event: SupervisorEvent) {
    match event {
        SupervisorEvent::Started { role, pid } => output::line(&format!("{role}: started (pid {pid})")),
        SupervisorEvent::Exited { role, how, restart_in } => output::line(&match restart_in {
            Some(wait) => format!("{role}: ended ({how}); starts again in {} s", wait.as_secs()),
            None => format!("{role}: ended ({how})"),
        }),
        SupervisorEvent::Line { role, line } if NEEDS_A_PERSON.iter().any(|mark| line.contains(mark)) => {
            output::line(&format!("{role}: {line}"));
        }
        SupervisorEvent::Line { .. } => {}
    }
}

/// The flag of [`stop_flag`]; under a supervisor, which holds our stdin, it is also set when that is gone.
fn role_stop(ws: &Workspace) -> Result<Arc<AtomicBool>> {
    let stop = stop_flag()?;
    if ws.supervised {
        supervisor::stop_when_parent_ends(Arc::clone(&stop));
    }
    Ok(stop)
}

/// Arguments of the process of one role.
fn role(ws: &Workspace, config: &Config, name: &str) -> Result<Role> {
    let mut args: Vec<String> = vec!["--supervised".into(), "--root".into(), ws.root.display().to_string()];
    for (key, value) in &ws.set {
        args.extend(["--set".to_string(), format!("{key}={value}")]);
    }
    match name.split_once(':') {
        None if ["daemon", "serve", "monitor"].contains(&name) => args.push(name.to_string()),
        Some(("skill", skill)) if SKILL_PORTS.iter().any(|(own, _)| *own == skill) => {
            args.extend(["skill".to_string(), "serve".to_string(), skill.to_string()]);
            if let Some(address) = skill_address(config, skill) {
                args.extend(["--listen".to_string(), address]);
            }
        }
        _ => {
            let skills: Vec<String> = SKILL_PORTS.iter().map(|(own, _)| format!("skill:{own}")).collect();
            let message = format!("run the role {name:?}: unknown (daemon, serve, monitor, {})", skills.join(", "));
            return Err(UsageError(message).into());
        }
    }
    Ok(Role { name: name.to_string(), args })
}

/// The address in the configured URL of a skill.
fn skill_address(config: &Config, skill: &str) -> Option<String> {
    let url = &config.skills.iter().find(|s| s.name == skill)?.url;
    let address = url.strip_prefix("http://")?.trim_end_matches('/');
    let address = address.replacen("localhost", "127.0.0.1", 1);
    address.parse::<SocketAddr>().ok().map(|a| a.to_string())
}

/// Whether `hone up` could run the server of a skill: hone brings it along, and it is asked on this host.
fn is_own_and_here(config: &Config, skill: &Skill) -> bool {
    let address = skill_address(config, &skill.name).and_then(|address| address.parse::<SocketAddr>().ok());
    SKILL_PORTS.iter().any(|(own, _)| *own == skill.name) && address.is_some_and(|address| address.ip().is_loopback())
}

/// `hone daemon`.
pub fn daemon(ws: &Workspace) -> Result<()> {
    ws.require()?;
    let config = ws.config()?;
    same_base_model(ws, &config)?;
    let (root, set) = (ws.root.clone(), ws.set.clone());
    let program = std::env::current_exe().context("find the program itself")?;
    let load = Box::new(move || Ok(loop_config(&Config::load(&root, &set)?)));
    let options = DaemonOptions {
        scan_interval: config.inbox.scan_interval,
        settle: config.inbox.settle,
        torn: config.inbox.torn,
        admin_key: key_from_env("HONE_ADMIN_KEY"),
        notifier: Notifier::new(std::env::var("NOTIFY_SOCKET").ok().as_deref())?,
        started_by_hand: std::env::var_os("HONE_RESTARTED").is_none(),
        ..DaemonOptions::new(ws.root.clone(), program, load)
    };
    let stop = role_stop(ws)?;
    hone_daemon::run(options, stop, || tracing::info!("daemon ready"))
}

/// The base model is locked within a lineage: its place, and what it is.
pub fn same_base_model(ws: &Workspace, config: &Config) -> Result<()> {
    let state = ws.state()?;
    let Some(lineage) = &state.lineage else { return Ok(()) };
    let base = ws.root.join(&lineage.base_model);
    if let Some(path) = config.model_path.as_ref().filter(|path| ws.root.join(path) != base) {
        let shown = path.display();
        let known = state.other_lineages.values().find(|other| ws.root.join(&other.base_model) == ws.root.join(path));
        let way = match known {
            Some(other) => format!("hone lineage switch {}", other.number),
            None => format!("hone lineage new --model {shown}"),
        };
        let (number, trained) = (lineage.number, &lineage.base_model);
        let message = format!(
            "use model_path {shown}: lineage {number}, which is trained, began with {trained}\nhint: `{way}` trains it, or put that path back"
        );
        return Err(UsageError(message).into());
    }
    let (was, is) = (&lineage.identity, identity_of(&base).context("read the base model")?);
    let differs = [
        ("the architecture", was.architecture != is.architecture),
        ("the vocabulary", was.vocab_size != is.vocab_size),
        ("the context length", was.context_length != is.context_length),
        ("the tokenizer", was.tokenizer_hash != is.tokenizer_hash),
        ("the chat template", was.template_hash != is.template_hash),
    ];
    let differs: Vec<&str> = differs.into_iter().filter(|(_, differs)| *differs).map(|(what, _)| what).collect();
    if differs.is_empty() {
        return Ok(());
    }
    let message = format!(
        "train on from {}: {} changed since lineage {} began\nhint: put the folder back as it was, or copy it elsewhere and `hone lineage new --model DIR`",
        lineage.base_model,
        differs.join(", "),
        lineage.number
    );
    Err(UsageError(message).into())
}

/// What the daemon's loop reads again before each job.
pub fn loop_config(config: &Config) -> LoopConfig {
    let schema_id = match config.schema_id.1 {
        SchemaOrigin::Default => None,
        _ => Some(config.schema_id.0.clone()),
    };
    let ms = |wait: Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    LoopConfig {
        settings: config.settings.clone(),
        schema_id,
        limits: Limits {
            max_line_bytes: config.max_line_bytes,
            max_file_bytes: config.max_file_bytes,
            max_unpacked_bytes: config.max_unpacked_bytes,
            max_answer_tokens: config.max_answer_tokens,
            check_max_ms: ms(config.check_timeout),
            watch_interval_ms: ms(config.watch.interval),
            max_answer_ms: ms(config.watch.max_answer),
            max_error_share: config.watch.max_error_share,
            canary_file: config.watch.canary_file.clone(),
            min_canary_share: config.watch.min_canary_share,
            ..Limits::default()
        },
        housekeeping: config.housekeeping.clone(),
        alerts: config.alerts.clone(),
        sealed_questions: config.sealed_questions,
        trainer_command: config.trainer_command.clone(),
        model_name: Some(config.model_name.clone()),
        content: config.content.clone(),
        data_manager: DataManagerConfig {
            enabled: config.auto_generate.enabled,
            count: config.auto_generate.count,
            threshold: usize::try_from(config.auto_generate.threshold).unwrap_or(usize::MAX),
            cooldown_ms: ms(config.auto_generate.cooldown),
            priority: config.auto_generate.priority,
            replay_share: config.auto_generate.replay_share,
            steps: config.auto_generate.steps,
            order: config.auto_generate.order,
            skills: config.skills.iter().map(Skill::endpoint).collect(),
        },
    }
}

/// `hone serve`.
pub fn serve(ws: &Workspace, args: &ListenArgs) -> Result<()> {
    let config = ws.config()?;
    let key = |name: &str| key_from_env(name).into_iter().collect::<Vec<String>>();
    let options = ServeOptions {
        device: config.settings.train.device.clone(),
        threads: config.serve.threads,
        // `auto` is no format: the one that the model is stored in.
        weights: WeightFormat::by_name(&config.serve.dtype),
        slots: config.serve.slots,
        max_context: config.serve.max_context,
        max_queue: config.serve.max_queue,
        min_free_bytes: config.serve.min_free_bytes,
        cache_bytes: config.serve.cache_mb << 20,
        max_memory_bytes: config.serve.max_memory_mb << 20,
        default_max_tokens: config.serve.default_max_tokens,
        keep_deployments: config.serve.keep_deployments,
        max_blob_bytes: config.serve.max_blob_mb << 20,
        request_timeout_ms: config.serve.request_timeout_sec * 1000,
        stall_timeout_ms: config.serve.stall_timeout_sec * 1000,
        drain_ms: config.serve.drain_sec * 1000,
        max_body_bytes: config.serve.max_body_mb << 20,
        max_choices: config.serve.max_choices,
        keys_file: Some(keys_file(ws)),
        keys: Keys { read: key("HONE_READ_KEY"), admin: key("HONE_ADMIN_KEY") },
        ..ServeOptions::new(
            args.listen.unwrap_or(config.serve.listen),
            ws.layout().serve_root(),
            config.model_name.clone(),
        )
    };
    let stop = role_stop(ws)?;
    hone_serve::run(options, stop, |address| tracing::info!(%address, "server ready"))
}

/// `hone monitor`.
pub fn monitor(ws: &Workspace, args: &ListenArgs) -> Result<()> {
    ws.require()?;
    let config = ws.config()?;
    let key = key_from_env;
    let options = MonitorOptions {
        listen: args.listen.unwrap_or(config.monitor_listen),
        root: ws.root.clone(),
        serve_url: Some(format!("http://{}", config.serve.listen)),
        serve_key: key("HONE_READ_KEY").or_else(|| key("HONE_ADMIN_KEY")),
        key: key("HONE_READ_KEY"),
        admin_key: key("HONE_ADMIN_KEY"),
        control: Some(control_door(ws.root.clone())),
        rows: Some(row_door(ws)),
        skills: config.skills.iter().map(|skill| (skill.name.clone(), skill.url.clone())).collect(),
    };
    let stop = role_stop(ws)?;
    hone_monitor::run(options, stop, |address| tracing::info!(%address, "monitor ready"))
}

/// `hone skill …`.
pub fn skill(ws: &Workspace, verb: &SkillVerb) -> Result<()> {
    let (name, listen) = match verb {
        SkillVerb::Serve { name, listen } => (name, listen),
        SkillVerb::Conform { url } => return conform(ws, url),
    };
    if hone_skills::find(name).is_none() {
        let message = format!("serve the skill {name:?}: unknown (known: {})", hone_skills::names().join(", "));
        return Err(UsageError(message).into());
    }
    let port = SKILL_PORTS.iter().find(|(skill, _)| skill == name).map_or(0, |(_, port)| *port);
    let listen = listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], port)));
    let stop = role_stop(ws)?;
    hone_skill_server::run(name, listen, stop, |address| {
        tracing::info!(skill = %name, %address, "skill server ready");
    })
}

/// The monitor's way to the daemon.
fn control_door(root: PathBuf) -> ControlDoor {
    Arc::new(move |request| {
        hone_daemon::control::send(&root, request, CONTROL_TIMEOUT).map_err(|error| error.to_string())
    })
}

fn conform(ws: &Workspace, url: &str) -> Result<()> {
    let found = hone_daemon::conform::conform(url);
    if ws.json {
        output::json(&found);
    } else {
        for fault in &found.faults {
            let level = fault.level.map_or(String::new(), |level| format!(", level {level}"));
            output::line(&format!("{}{level}: {}", fault.check, fault.message));
        }
        // Of a server that did not answer there is nothing to sum up.
        if !found.skill.is_empty() {
            output::line(&format!(
                "{} version {}: {} levels looked at, {} faults",
                found.skill,
                found.version,
                found.levels.len(),
                found.faults.len()
            ));
        }
    }
    if found.faults.is_empty() { Ok(()) } else { bail!("conform: {url} does not keep Skill API v1") }
}

/// True once a stop was asked for.
#[must_use]
pub fn is_stopped(stop: &AtomicBool) -> bool {
    stop.load(Ordering::SeqCst)
}
