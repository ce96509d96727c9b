//! `hone doctor`: what is wrong with this host, and how to mend it. Every check looks and says; none changes anything.
//! A check that cannot be made says `unknown`, never `ok`.

use crate::commands::keys::keys_file;
use crate::commands::roles::key_from_env;
use crate::config::Config;
use crate::exit::Refused;
use crate::output;
use crate::workspace::{Workspace, now_ms};
use anyhow::Result;
use hone_pipeline::state::{State, TimeMs};
use hone_serve::list_keys;
use hone_store::network_file_system;
use serde::Serialize;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

#[cfg(test)]
mod tests;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Health {
    Ok,
    Unknown,
    Warning,
    Bad,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    health: Health,
    message: String,
    /// What to do; empty when there is nothing to do.
    hint: String,
}

/// Memory below which training of anything but tiny models is likely to be ended by the system.
const LITTLE_MEMORY_BYTES: u64 = 2_000_000_000;
/// 1 January 2024: a clock before it was never set.
const NO_EARLIER_MS: TimeMs = 1_704_067_200_000;
/// How far in the future the newest event may lie.
const CLOCK_SLACK_MS: TimeMs = 60_000;
const CONNECT_WAIT: Duration = Duration::from_millis(300);

/// Runs the verb: exit code 1 when something is bad.
pub fn run(ws: &Workspace) -> Result<()> {
    let mut findings = Vec::new();
    match ws.config() {
        Err(error) => findings.push(bad("configuration", format!("{error:#}"), "mend config.json as each line says")),
        Ok(config) => {
            findings.push(ok("configuration", "config.json is valid"));
            findings.extend(with_config(ws, &config));
        }
    }
    findings.push(memory(std::fs::read_to_string("/proc/meminfo").ok().as_deref()));
    let missing = hone_model::device::missing_for_cuda;
    findings.push(gpu(Path::new("/proc/driver/nvidia/version"), Path::new("/dev/kfd"), &missing));
    let is_bad = findings.iter().any(|finding| finding.health == Health::Bad);
    if ws.json {
        output::json(&findings);
    } else {
        findings.iter().for_each(show);
    }
    if is_bad { Err(Refused.into()) } else { Ok(()) }
}

fn show(finding: &Finding) {
    let mark = match finding.health {
        Health::Ok => "ok     ",
        Health::Unknown => "unknown",
        Health::Warning => "warning",
        Health::Bad => "BAD    ",
    };
    output::line(&format!("{mark} {:<13} {}", finding.check, finding.message));
    if !finding.hint.is_empty() {
        output::line(&format!("        {:<13} hint: {}", "", finding.hint));
    }
}

fn with_config(ws: &Workspace, config: &Config) -> Vec<Finding> {
    let layout = ws.layout();
    let free = rustix::fs::statvfs(&ws.root).ok().map(|info| info.f_bavail.saturating_mul(info.f_frsize));
    let mut findings = vec![disk(free, config.settings.min_free_bytes)];
    findings.push(keys(config.serve.listen, config.monitor_listen, &known_keys(ws)));
    let alive = ws.daemon_pid().is_some();
    for (role, address) in [("serve", config.serve.listen), ("monitor", config.monitor_listen)] {
        if config.roles.iter().any(|name| name == role) {
            findings.push(port(role, address, alive));
        }
    }
    let state = match ws.state() {
        Ok(state) => state,
        Err(error) => {
            findings.push(bad(
                "workspace",
                format!("{error:#}"),
                "`hone init` makes a workspace; --root names another",
            ));
            return findings;
        }
    };
    findings.push(ok("workspace", &format!("{} is readable and whole", layout.db().display())));
    let newest = ws.store().ok().and_then(|store| store.events(None, 1).ok());
    findings.push(clock(now_ms(), newest.and_then(|events| events.last().map(|(_, entry)| entry.at_ms))));
    findings.push(model(ws, &state));
    if let Err(error) = super::roles::same_base_model(ws, config) {
        let text = format!("the daemon will not start: failed to {error:#}");
        let (message, hint) = text.split_once("\nhint: ").unwrap_or((&text, ""));
        findings.push(bad("lineage", message.to_string(), hint));
    }
    findings.push(file_system("inbox", magic_of(&layout.inbox())));
    findings.push(writable(&layout.inbox()));
    findings
}

fn disk(free: Option<u64>, min: u64) -> Finding {
    match free {
        None => unknown("disk", "the free room cannot be read"),
        Some(free) if free < min => bad(
            "disk",
            format!("{} are free, limits.min_free_gb asks for {}", output::bytes(free), output::bytes(min)),
            "make room, lower retention.max_total_gb, or `hone checkpoints prune`; the daemon waits meanwhile",
        ),
        Some(free) if free < min.saturating_mul(3) => warning(
            "disk",
            format!("{} are free, not far from the limit of {}", output::bytes(free), output::bytes(min)),
            "`hone checkpoints prune --dry-run` says what retention would free",
        ),
        Some(free) => ok("disk", &format!("{} are free", output::bytes(free))),
    }
}

fn memory(meminfo: Option<&str>) -> Finding {
    let field = |name: &str| -> Option<u64> {
        let line = meminfo?.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
    };
    match (field("MemAvailable:"), field("MemTotal:")) {
        (Some(free), Some(total)) if free < LITTLE_MEMORY_BYTES => warning(
            "memory",
            format!("{} of {} are available", output::bytes(free), output::bytes(total)),
            "`hone plan FILE` says what a job needs; a smaller batch_size or max_length needs less",
        ),
        (Some(free), Some(total)) => {
            ok("memory", &format!("{} of {} are available", output::bytes(free), output::bytes(total)))
        }
        _ => unknown("memory", "this system does not tell"),
    }
}

/// No driver is no defect: hone computes on the processor. What is there but cannot be asked is unknown.
fn gpu(nvidia: &Path, amd: &Path, missing: &dyn Fn() -> Vec<String>) -> Finding {
    match (nvidia.exists(), amd.exists()) {
        (true, _) => match missing().split_first() {
            None => ok("gpu", &usable_gpu()),
            Some((first, others)) => {
                let mut hint = format!("install what is missing, or set \"device\": \"cpu\"; lacking: {first}");
                others.iter().for_each(|other| hint.push_str(&format!("; {other}")));
                bad("gpu", "an NVIDIA driver is loaded, but the device `cuda` cannot be used".to_string(), &hint)
            }
        },
        (false, true) => unknown("gpu", "an AMD device is here; hone does not use it"),
        (false, false) => unknown("gpu", "no GPU driver is loaded; training and serving use the processor"),
    }
}

fn usable_gpu() -> String {
    match hone_model::device::Gpu::first() {
        Ok(gpu) => format!(
            "{}, {} of {} free, compute capability {}.{} (`hone selftest --device cuda` tests it)",
            gpu.name,
            output::bytes(gpu.memory.1),
            output::bytes(gpu.memory.0),
            gpu.capability.0,
            gpu.capability.1
        ),
        Err(error) => format!("it cannot be asked: {error:#}"),
    }
}

/// Which servers of this host have a key to ask for.
struct KnownKeys {
    /// The inference server takes those of the environment and of `hone keys make`.
    serve: Result<bool, String>,
    /// The monitor takes the read key of the environment.
    monitor: bool,
}

fn known_keys(ws: &Workspace) -> KnownKeys {
    let given = |name: &str| key_from_env(name).is_some_and(|key| !key.is_empty());
    let serve = match given("HONE_READ_KEY") || given("HONE_ADMIN_KEY") {
        true => Ok(true),
        false => list_keys(&keys_file(ws)).map(|keys| !keys.is_empty()).map_err(|error| format!("{error:#}")),
    };
    KnownKeys { serve, monitor: given("HONE_READ_KEY") }
}

fn keys(serve: SocketAddr, monitor: SocketAddr, known: &KnownKeys) -> Finding {
    let has_key = *known.serve.as_ref().unwrap_or(&false);
    let beyond = [("serve.listen", serve, has_key), ("monitor.listen", monitor, known.monitor)];
    let beyond: Vec<_> = beyond.into_iter().filter(|(_, address, _)| !address.ip().is_loopback()).collect();
    let names = |has_key: bool| -> Vec<String> {
        let these = beyond.iter().filter(|(.., has)| *has == has_key);
        these.map(|(key, address, _)| format!("{key} {address}")).collect()
    };
    match (&known.serve, names(false), names(true)) {
        (Err(error), ..) => bad(
            "keys",
            format!("the file of keys cannot be used: failed to {error}"),
            "mend it, or remove it and make new keys by `hone keys make`",
        ),
        (_, open, closed) if open.is_empty() && closed.is_empty() => ok("keys", "servers listen on loopback only"),
        (_, open, closed) if open.is_empty() => {
            ok("keys", &format!("{} beyond loopback, with a key", closed.join(", ")))
        }
        (_, open, _) => bad(
            "keys",
            format!("{} would listen beyond loopback without a key", open.join(", ")),
            "`hone keys make NAME` makes one for the server; the monitor takes HONE_READ_KEY; or listen on 127.0.0.1",
        ),
    }
}

fn port(role: &'static str, address: SocketAddr, daemon_alive: bool) -> Finding {
    if address.port() == 0 || TcpListener::bind(address).is_ok() {
        return ok("port", &format!("{role} can listen on {address}"));
    }
    let answers = TcpStream::connect_timeout(&address, CONNECT_WAIT).is_ok();
    match (answers, daemon_alive) {
        (true, true) => ok("port", &format!("{address} is in use, probably by the {role} of `hone up`")),
        (true, false) => bad(
            "port",
            format!("{address} ({role}) is in use by another program"),
            &format!("set {role}.listen to a free address, or end that program"),
        ),
        (false, _) => bad(
            "port",
            format!("{role} cannot listen on {address}"),
            "the address may not be of this host, or the port may need more rights",
        ),
    }
}

fn clock(now: TimeMs, newest_event: Option<TimeMs>) -> Finding {
    match newest_event {
        _ if now < NO_EARLIER_MS => bad("clock", "the clock was never set".to_string(), "set it, e.g. by NTP"),
        Some(event) if event > now + CLOCK_SLACK_MS => warning(
            "clock",
            format!("the newest event lies {} s in the future: the clock went back", (event - now) / 1000),
            "leases and retention count on it; set it by NTP and wait until the time has passed",
        ),
        _ => ok("clock", "it agrees with the event log"),
    }
}

fn model(ws: &Workspace, state: &State) -> Finding {
    let Some(latest) = state.latest_checkpoint() else {
        return bad("model", "there is no checkpoint to train from".to_string(), "`hone init --model DIR` makes one");
    };
    let dir = match ws.layout().checkpoint_model_dir(state, latest.id) {
        Ok(dir) => dir,
        Err(error) => {
            return bad("model", format!("{error:#}"), "`hone rewind` goes back to a checkpoint that is here");
        }
    };
    let missing: Vec<&str> =
        ["config.json", "tokenizer.json"].into_iter().filter(|name| !dir.join(name).is_file()).collect();
    let weights = std::fs::read_dir(&dir)
        .map(|entries| entries.flatten().any(|entry| entry.file_name().to_string_lossy().ends_with(".safetensors")));
    let hint = "`hone checkpoints verify` names what differs; `hone rewind` goes back to a whole one";
    match weights {
        Err(error) => bad("model", format!("{} cannot be read: {error}", dir.display()), hint),
        Ok(false) => bad("model", format!("{} holds no weights (*.safetensors)", dir.display()), hint),
        Ok(true) if !missing.is_empty() => {
            bad("model", format!("{} lacks {}", dir.display(), missing.join(", ")), hint)
        }
        Ok(true) => ok("model", &format!("the files of {} are there", latest.id)),
    }
}

fn magic_of(path: &Path) -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        rustix::fs::statfs(path).ok().map(|info| info.f_type.unsigned_abs())
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = path;
        None
    }
}

fn file_system(check: &'static str, magic: Option<u64>) -> Finding {
    match magic {
        None => unknown(check, "its file system cannot be told"),
        Some(magic) => match network_file_system(magic) {
            Some(name) => warning(
                check,
                format!("it lies on a network file system ({name}): changes are seen by the periodic scan only"),
                "write under a name that ends in .part and rename when done; queue.settle_sec may need to be longer",
            ),
            None => ok(check, "it lies on a local disk"),
        },
    }
}

fn writable(inbox: &Path) -> Finding {
    match rustix::fs::access(inbox, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK) {
        Ok(()) => ok("permissions", "the inbox can be written"),
        Err(error) => bad(
            "permissions",
            format!("{} cannot be written: {error}", inbox.display()),
            "give this user write access to the workspace",
        ),
    }
}

fn ok(check: &'static str, message: &str) -> Finding {
    Finding { check, health: Health::Ok, message: message.to_string(), hint: String::new() }
}

fn unknown(check: &'static str, message: &str) -> Finding {
    Finding { check, health: Health::Unknown, message: message.to_string(), hint: String::new() }
}

fn warning(check: &'static str, message: String, hint: &str) -> Finding {
    Finding { check, health: Health::Warning, message, hint: hint.to_string() }
}

fn bad(check: &'static str, message: String, hint: &str) -> Finding {
    Finding { check, health: Health::Bad, message, hint: hint.to_string() }
}
