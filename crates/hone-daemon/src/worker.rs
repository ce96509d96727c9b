//! Child processes: started, listened to, ended, reaped.
//!
//! A child is `program child KIND --request FILE` in a process group of its own. Its stdin stays open as long
//! as the daemon lives; its stdout is one [`WorkerLine`] per line, kept in `events.jsonl` of its run folder;
//! its stderr goes to `stderr.log` there. When it has ended, its whole group is killed *before* it is reaped
//! (until then its number cannot be reused), so that nothing of it works on.

mod earlier;
mod memory;
mod pipe;
#[cfg(test)]
mod tests;

pub(crate) use earlier::wait_for_earlier_children;

use anyhow::{Context, Result};
use hone_pipeline::event::WorkerExit;
use hone_pipeline::ids::LeaseToken;
use hone_pipeline::wire::{WorkerLine, WorkerMessage, WorkerOrder};
use pipe::{Ended, Line, read_lines};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longest line of a child's stdout in bytes: the results of an evaluation hold two numbers per row.
const MAX_LINE_BYTES: usize = 64 << 20;
/// Longest line of a child's stderr; a longer one is cut.
const MAX_LOG_LINE_BYTES: usize = 8 << 10;
/// Most bytes of `events.jsonl` and of `stderr.log`.
const MAX_KEPT_BYTES: usize = 64 << 20;
/// Lines of stderr that a crash is explained with.
const NUM_LAST_LINES: usize = 6;
/// How long pipes are read on after the child ended (something outside its group may hold them open).
const DRAIN: Duration = Duration::from_secs(2);

/// What to start.
pub(crate) struct ChildSpec {
    /// The `hone` binary.
    pub program: PathBuf,
    /// A program with its arguments that is started instead; it gets `--request FILE` after them. Empty = `program`.
    pub instead: Vec<String>,
    /// `check-job`, `train-job` or `eval-job`.
    pub kind: &'static str,
    /// Folder of its request and logs; exists.
    pub run_dir: PathBuf,
    /// The request file; written.
    pub request: PathBuf,
    /// What every line must carry.
    pub token: LeaseToken,
    /// Address space in bytes; 0 = no limit.
    pub max_memory_bytes: u64,
    /// After this it is killed.
    pub time_limit: Option<Duration>,
}

/// The loop's hold on a child, also before it was started and after it ended. Shared with the thread that waits
/// for the child: that thread is blocked, so a channel could not reach it.
#[derive(Clone, Default)]
pub(crate) struct ChildHandle {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    /// Set while the process exists and is not reaped.
    group: Option<Pid>,
    stdin: Option<ChildStdin>,
    kill_reason: Option<String>,
    asked_to_yield: bool,
}

impl ChildHandle {
    /// Ends the whole process group; a child that is not started yet ends as soon as it is. Nothing to do when
    /// it has ended.
    pub fn kill(&self, reason: &str) {
        let mut shared = self.lock();
        shared.kill_reason.get_or_insert_with(|| reason.to_string());
        kill_group(shared.group);
    }

    /// Asks for a checkpoint at the next step.
    pub fn ask_to_yield(&self) {
        let mut shared = self.lock();
        shared.asked_to_yield = true;
        send_yield(&mut shared);
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn started(&self, child: &mut Child) -> Result<()> {
        let pid = group_of(child).context("read the child's process id")?;
        let mut shared = self.lock();
        shared.group = Some(pid);
        shared.stdin = child.stdin.take();
        if shared.asked_to_yield {
            send_yield(&mut shared);
        }
        if shared.kill_reason.is_some() {
            kill_group(shared.group);
        }
        Ok(())
    }

    /// Waits until the child has ended, kills what is left of its group, and only then reaps it.
    fn wait(&self, child: &mut Child) -> std::io::Result<ExitStatus> {
        let pid = self.lock().group;
        if let Some(pid) = pid {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(pid), options) {}
        }
        let mut shared = self.lock();
        kill_group(shared.group.take());
        shared.stdin = None;
        child.wait()
    }
}

/// How a child ended.
#[derive(Debug)]
pub(crate) struct ChildEnd {
    /// What it said it cannot do.
    pub failed: Option<String>,
    /// Why the daemon ended it.
    pub killed: Option<String>,
    /// True for exit code 0.
    pub success: bool,
    /// Whether it ended for want of memory.
    pub out_of_memory: bool,
    /// Whether it was ended from outside, by SIGKILL or SIGTERM, and not for want of memory.
    pub by_signal: bool,
    /// Exit code or signal in words, with the last lines of its stderr.
    pub explanation: String,
}

impl ChildEnd {
    /// The end in the terms of `decide`.
    pub fn into_exit(self) -> WorkerExit {
        match self {
            ChildEnd { killed: Some(reason), .. } => WorkerExit::Crashed { reason },
            ChildEnd { failed: Some(reason), .. } => WorkerExit::Failed { reason },
            ChildEnd { success: true, .. } => WorkerExit::Done,
            ChildEnd { out_of_memory: true, explanation: reason, .. } => WorkerExit::OutOfMemory { reason },
            ChildEnd { explanation: reason, .. } => WorkerExit::Crashed { reason },
        }
    }
}

/// Runs a child to its end. `on_message` gets everything it says, in order, before this returns; a line that is
/// not of the contract, too long, or under another token ends the child.
pub(crate) fn run_child(
    spec: &ChildSpec,
    handle: &ChildHandle,
    on_message: &mut (dyn FnMut(WorkerMessage) + Send),
) -> Result<ChildEnd> {
    let events = hone_disk::create_file(&spec.run_dir.join("events.jsonl"))?;
    let log = hone_disk::create_file(&spec.run_dir.join("stderr.log"))?;
    let kills_before = memory::kernel_kills();
    let mut child = spawn(spec)?;
    if let Err(error) = handle.started(&mut child) {
        let _ = child.kill().and_then(|()| child.wait());
        return Err(error);
    }
    limit_memory(&child, spec.max_memory_bytes);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let ended = Ended::new(DRAIN);
    let deadline = spec.time_limit.map(|limit| (Instant::now() + limit, limit));
    let mut failed = None;
    let (status, last_lines) = std::thread::scope(|scope| {
        let errors = scope.spawn(|| stderr.map(|pipe| keep_log(pipe, log, &ended)).unwrap_or_default());
        let listener = scope.spawn(|| {
            let Some(pipe) = stdout else { return };
            let mut listener = Listener { spec, handle, events: Kept::new(events), failed: &mut failed, on_message };
            read_lines(pipe, MAX_LINE_BYTES, &ended, &mut |line| listener.line(&line), &mut || {
                if let Some((_, limit)) = deadline.filter(|(at, _)| Instant::now() > *at) {
                    handle.kill(&format!("it took more than {} s", limit.as_secs()));
                }
            });
        });
        let status = handle.wait(&mut child);
        ended.set();
        let _ = listener.join();
        (status, errors.join().unwrap_or_default())
    });
    let killed = handle.lock().kill_reason.clone();
    let status = status.context("wait for the child")?;
    let out_of_memory = memory::ran_out(status, &last_lines, kills_before);
    let by_signal = !out_of_memory && matches!(status.signal(), Some(9 | 15));
    let explanation = explain(status, &last_lines);
    Ok(ChildEnd { failed, killed, success: status.success(), out_of_memory, by_signal, explanation })
}

fn spawn(spec: &ChildSpec) -> Result<Child> {
    let mut command = match spec.instead.split_first() {
        None => Command::new(&spec.program),
        Some((program, _)) => Command::new(program),
    };
    match spec.instead.split_first() {
        None => command.args(["child", spec.kind]),
        Some((_, args)) => command.args(args),
    };
    command.arg("--request").arg(&spec.request);
    // Children read files of strangers and need no key.
    command.env_remove("HONE_ADMIN_KEY").env_remove("HONE_READ_KEY");
    command.env_remove("HONE_SUPERVISED").env_remove("HONE_RESTARTED");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    command.spawn().with_context(|| format!("start {} child {}", spec.program.display(), spec.kind))
}

fn limit_memory(child: &Child, max_bytes: u64) {
    #[cfg(target_os = "linux")]
    if max_bytes > 0 {
        use rustix::process::{Resource, Rlimit, prlimit};
        let limit = Rlimit { current: Some(max_bytes), maximum: Some(max_bytes) };
        if let Err(error) = prlimit(group_of(child), Resource::As, limit) {
            tracing::debug!("a child runs without a memory limit: failed to set it: {error}");
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (child, max_bytes);
}

/// The process group of a child that was started in one of its own and is not reaped.
pub(crate) fn group_of(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

/// Ends all processes of a group at once.
pub(crate) fn kill_group(group: Option<Pid>) {
    if let Some(group) = group {
        // Fails only when nothing of the group is left.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

fn send_yield(shared: &mut Shared) {
    let Some(stdin) = shared.stdin.as_mut() else { return };
    let mut line = serde_json::to_vec(&WorkerOrder::Yield).expect("an order is plain data");
    line.push(b'\n');
    // A child that has just ended cannot take the order and need not.
    let _ = stdin.write_all(&line).and_then(|()| stdin.flush());
}

/// Turns lines of stdout into messages.
struct Listener<'a> {
    spec: &'a ChildSpec,
    handle: &'a ChildHandle,
    events: Kept,
    failed: &'a mut Option<String>,
    on_message: &'a mut (dyn FnMut(WorkerMessage) + Send),
}

impl Listener<'_> {
    /// Returns whether to read on.
    fn line(&mut self, line: &Line) -> bool {
        self.events.write(line.bytes);
        if !line.complete {
            return self.refuse(&format!("it wrote a line of more than {MAX_LINE_BYTES} bytes"));
        }
        if line.bytes.trim_ascii().is_empty() {
            return true;
        }
        match serde_json::from_slice::<WorkerLine>(line.bytes) {
            Ok(told) if told.token == self.spec.token => {
                if let WorkerMessage::Failed { reason } = &told.message {
                    self.failed.get_or_insert_with(|| reason.clone());
                }
                (self.on_message)(told.message);
                true
            }
            Ok(told) => self.refuse(&format!("it spoke for {}, its own is {}", told.token, self.spec.token)),
            Err(error) => self.refuse(&format!("it wrote a line that is not of the contract: {error}")),
        }
    }

    fn refuse(&mut self, reason: &str) -> bool {
        tracing::warn!(child = self.spec.kind, run_dir = %self.spec.run_dir.display(), reason, "a child is ended");
        self.handle.kill(reason);
        false
    }
}

/// Copies stderr into its file; returns its last lines, or those of a panic, which a backtrace may follow.
fn keep_log(pipe: std::process::ChildStderr, log: File, ended: &Ended) -> Vec<String> {
    let (mut last, mut log) = (VecDeque::new(), Kept::new(log));
    let mut panic: Vec<String> = Vec::new();
    let mut on_line = |line: Line| {
        log.write(line.bytes);
        let text = String::from_utf8_lossy(line.bytes).trim_end().to_string();
        if text.contains("panicked at") || panic.len() == 1 {
            panic.push(text.clone());
        }
        if !text.is_empty() {
            last.push_back(text);
        }
        if last.len() > NUM_LAST_LINES {
            last.pop_front();
        }
        true
    };
    read_lines(pipe, MAX_LOG_LINE_BYTES, ended, &mut on_line, &mut || {});
    panic.truncate(2);
    if panic.is_empty() { last.into() } else { panic }
}

/// A log file of a child. Losing its lines is no reason to end the child.
struct Kept {
    file: File,
    left: usize,
}

impl Kept {
    fn new(file: File) -> Kept {
        Kept { file, left: MAX_KEPT_BYTES }
    }

    fn write(&mut self, line: &[u8]) {
        if line.len() < self.left {
            let _ = self.file.write_all(line).and_then(|()| self.file.write_all(b"\n"));
        }
        self.left = self.left.saturating_sub(line.len() + 1);
    }
}

fn explain(status: ExitStatus, last_lines: &[String]) -> String {
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(9)) => "killed by signal 9 (hint: the system may have run out of memory)".to_string(),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended in an unknown way".to_string(),
    };
    if last_lines.is_empty() { how } else { format!("{how}; it said last: {}", last_lines.join(" | ")) }
}

/// Writes a request into a fresh run folder and returns the file.
pub(crate) fn write_request(run_dir: &Path, request: &impl serde::Serialize) -> Result<PathBuf> {
    hone_disk::create_dir(run_dir)?;
    let path = run_dir.join("request.json");
    hone_disk::write_json(&path, request)?;
    Ok(path)
}
