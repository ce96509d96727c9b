//! `hone up`: one process per role, restarted with back-off when it failed, stopped in order.
//!
//! A role process gets an open pipe as stdin; its end means that the supervisor is gone
//! ([`stop_when_parent_ends`]). Its environment says `HONE_SUPERVISED=1`, and `HONE_RESTARTED=1` from its second
//! start on.

#[cfg(test)]
mod tests;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often the supervisor looks at its processes.
const POLL: Duration = Duration::from_millis(20);
/// Longest line that is passed on.
const MAX_LINE_BYTES: u64 = 64 << 10;
/// A log file that has reached this size is put aside as `NAME.log.1`, in the place of an older one.
const MAX_LOG_BYTES: u64 = 64 << 20;
/// How often that is looked at.
const LINES_PER_LOOK: usize = 1_000;

/// One role of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// Name for people and for `logs/NAME.log`.
    pub name: String,
    /// Arguments of `program`.
    pub args: Vec<String>,
}

/// How roles are run.
#[derive(Clone, Debug)]
pub struct SupervisorOptions {
    /// The `hone` binary.
    pub program: PathBuf,
    /// Where `NAME.log` files go.
    pub log_dir: PathBuf,
    /// Wait before the first restart; doubled for each further one in a row.
    pub first_backoff: Duration,
    /// Longest wait before a restart.
    pub max_backoff: Duration,
    /// A role that ran so long starts again without a wait.
    pub healthy_after: Duration,
    /// How long one role may take to end after SIGTERM before it is killed.
    pub grace: Duration,
}

impl SupervisorOptions {
    /// Options with the default times.
    #[must_use]
    pub fn new(program: PathBuf, log_dir: PathBuf) -> SupervisorOptions {
        SupervisorOptions {
            program,
            log_dir,
            first_backoff: Duration::from_millis(500),
            max_backoff: Duration::from_secs(30),
            healthy_after: Duration::from_secs(60),
            grace: Duration::from_secs(300),
        }
    }
}

/// What happens to a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SupervisorEvent {
    /// Its process runs.
    Started {
        /// The role.
        role: String,
        /// Its process id.
        pid: u32,
    },
    /// It wrote a line on stdout or stderr (also in its log file).
    Line {
        /// The role.
        role: String,
        /// Without the line break.
        line: String,
    },
    /// Its process ended; it starts again after the wait, or never when `restart_in` is `None`.
    Exited {
        /// The role.
        role: String,
        /// Exit code or signal in words.
        how: String,
        /// Wait before its restart.
        restart_in: Option<Duration>,
    },
}

/// Runs all roles until `stop` is set or none is left. A role that ends with 0 is done, one that ends with 2
/// (wrong usage or configuration) is not tried again; any other end is a failure and starts only that role again,
/// with the environment variable `HONE_RESTARTED=1`. On `stop` the roles end one after the other, in their order:
/// SIGTERM, `grace`, then SIGKILL to the role's process group.
///
/// # Errors
/// A role could not be started at all, or every role ended badly.
pub fn run(
    options: &SupervisorOptions,
    roles: &[Role],
    stop: &Arc<AtomicBool>,
    on_event: &(dyn Fn(SupervisorEvent) + Sync),
) -> Result<()> {
    hone_disk::create_dir(&options.log_dir)?;
    std::thread::scope(|scope| {
        let mut running: Vec<Running> = roles.iter().map(Running::new).collect();
        let result = supervise(options, &mut running, stop, on_event, scope);
        for role in &mut running {
            role.end(options.grace, on_event);
        }
        result?;
        if !stop.load(Ordering::SeqCst) && !running.is_empty() && running.iter().all(|role| role.ended_badly) {
            bail!("every role ended badly (hint: the last lines in {})", options.log_dir.display());
        }
        Ok(())
    })
}

/// For a role process: sets `stop` when stdin ends, that is when the supervisor is gone. The thread ends with the
/// process: nothing else can wake it.
pub fn stop_when_parent_ends(stop: Arc<AtomicBool>) {
    let watch = move || {
        let mut buffer = [0; 256];
        while matches!(std::io::stdin().read(&mut buffer), Ok(1..)) {}
        stop.store(true, Ordering::SeqCst);
    };
    if let Err(error) = std::thread::Builder::new().name("parent-watch".to_string()).spawn(watch) {
        tracing::warn!("the end of the supervisor will not be noticed: failed to start a thread: {error}");
    }
}

/// A role and its process, if it has one.
struct Running<'a> {
    role: &'a Role,
    child: Option<Child>,
    started: Instant,
    next_start: Option<Instant>,
    backoff: Duration,
    num_starts: u64,
    ended_badly: bool,
}

fn supervise<'scope, 'env>(
    options: &'scope SupervisorOptions,
    running: &mut [Running<'scope>],
    stop: &AtomicBool,
    on_event: &'scope (dyn Fn(SupervisorEvent) + Sync),
    scope: &'scope std::thread::Scope<'scope, 'env>,
) -> Result<()> {
    while !stop.load(Ordering::SeqCst) {
        for role in running.iter_mut() {
            role.look(options, on_event)?;
            if role.next_start.is_some_and(|at| Instant::now() >= at) {
                role.start(options, on_event, scope)?;
            }
        }
        if running.iter().all(|role| role.child.is_none() && role.next_start.is_none()) {
            return Ok(());
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

impl<'a> Running<'a> {
    fn new(role: &'a Role) -> Running<'a> {
        let now = Instant::now();
        let backoff = Duration::ZERO;
        Running { role, child: None, started: now, next_start: Some(now), backoff, num_starts: 0, ended_badly: false }
    }

    fn start<'scope, 'env>(
        &mut self,
        options: &'scope SupervisorOptions,
        on_event: &'scope (dyn Fn(SupervisorEvent) + Sync),
        scope: &'scope std::thread::Scope<'scope, 'env>,
    ) -> Result<()>
    where
        'a: 'scope,
    {
        let log = options.log_dir.join(format!("{}.log", self.role.name.replace([':', '/'], "-")));
        put_aside(&log, MAX_LOG_BYTES)?;
        let mut command = Command::new(&options.program);
        command.args(&self.role.args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-C in a terminal reaches the supervisor alone, which ends the roles in order.
        command.process_group(0).env("HONE_SUPERVISED", "1").env_remove("HONE_RESTARTED");
        if self.num_starts > 0 {
            command.env("HONE_RESTARTED", "1");
        }
        let mut child = command.spawn().with_context(|| format!("start the role {}", self.role.name))?;
        let name = self.role.name.as_str();
        if let Some(pipe) = child.stdout.take() {
            let log = log.clone();
            scope.spawn(move || copy_lines(pipe, name, &log, on_event));
        }
        if let Some(pipe) = child.stderr.take() {
            scope.spawn(move || copy_lines(pipe, name, &log, on_event));
        }
        on_event(SupervisorEvent::Started { role: self.role.name.clone(), pid: child.id() });
        (self.child, self.started, self.next_start) = (Some(child), Instant::now(), None);
        self.num_starts += 1;
        Ok(())
    }

    /// Notices the end of the process and decides what follows.
    fn look(&mut self, options: &SupervisorOptions, on_event: &(dyn Fn(SupervisorEvent) + Sync)) -> Result<()> {
        let Some(child) = self.child.as_mut() else { return Ok(()) };
        if !has_exited(child) {
            return Ok(());
        }
        let status = reap(child).context("wait for a role")?;
        self.child = None;
        self.ended_badly = !status.success();
        let tried_again = !matches!(status.code(), Some(0 | 2));
        let healthy = self.started.elapsed() >= options.healthy_after;
        self.backoff = match self.backoff {
            _ if healthy => options.first_backoff,
            Duration::ZERO => options.first_backoff,
            backoff => (backoff * 2).min(options.max_backoff),
        };
        let restart_in = tried_again.then_some(if healthy { Duration::ZERO } else { self.backoff });
        self.next_start = restart_in.map(|wait| Instant::now() + wait);
        on_event(SupervisorEvent::Exited { role: self.role.name.clone(), how: in_words(status), restart_in });
        Ok(())
    }

    /// Ends the process: SIGTERM, a wait, SIGKILL to its group.
    fn end(&mut self, grace: Duration, on_event: &(dyn Fn(SupervisorEvent) + Sync)) {
        let Some(mut child) = self.child.take() else { return };
        if let Some(pid) = pid_of(&child) {
            // It is not reaped, so the number is still its own.
            let _ = kill_process(pid, Signal::TERM);
        }
        let start = Instant::now();
        while !has_exited(&child) && start.elapsed() < grace {
            std::thread::sleep(POLL);
        }
        let how = match reap(&mut child) {
            Ok(status) => in_words(status),
            Err(error) => format!("its end cannot be read: {error}"),
        };
        on_event(SupervisorEvent::Exited { role: self.role.name.clone(), how, restart_in: None });
    }
}

fn pid_of(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

/// Whether the process has ended; it is not reaped, so its number and its group stay its own.
fn has_exited(child: &Child) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    pid_of(child).is_none_or(|pid| !matches!(waitid(WaitId::Pid(pid), options), Ok(None)))
}

/// Kills what is left of the group, then reaps.
fn reap(child: &mut Child) -> std::io::Result<ExitStatus> {
    if let Some(pid) = pid_of(child) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    drop(child.stdin.take());
    child.wait()
}

fn copy_lines(pipe: impl Read, role: &str, log: &Path, on_event: &(dyn Fn(SupervisorEvent) + Sync)) {
    let mut reader = BufReader::new(pipe);
    for number in 1.. {
        let mut line = Vec::new();
        match (&mut reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(1..) => {}
            _ => return,
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_string();
        if let Err(error) = hone_disk::append_line(log, &line) {
            tracing::warn!(role, "a log line is lost: failed to {error:#}");
        }
        if number % LINES_PER_LOOK == 0
            && let Err(error) = put_aside(log, MAX_LOG_BYTES)
        {
            tracing::warn!(role, "the log grows on: failed to {error:#}");
        }
        on_event(SupervisorEvent::Line { role: role.to_string(), line });
    }
}

/// The other end of the role may do the same at the same time: then there is nothing left to do.
fn put_aside(log: &Path, max_bytes: u64) -> Result<()> {
    if log.metadata().is_ok_and(|info| info.len() > max_bytes) {
        hone_disk::rename(log, &log.with_extension("log.1"))?;
    }
    Ok(())
}

fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "ended in an unknown way".to_string(),
    }
}
