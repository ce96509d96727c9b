//! Running a user's program with a time limit: its last words come back, and neither it nor what it started outlives the
//! limit, or the daemon. What a daemon that was killed left running the next one ends, by the notes of its [`Keeper`].

use super::DeployError;
use crate::worker::{group_of, kill_group};
use anyhow::{Context, Result};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Exit code of a program that may do better another time (`EX_TEMPFAIL`).
pub const EXIT_TRANSIENT: i32 = 75;
/// How much of what a program prints is kept.
const MAX_OUTPUT_BYTES: usize = 64 << 10;
/// Read at once: what a pipe holds.
const PIECE_BYTES: usize = 64 << 10;
/// How much of what it says when it fails is passed on.
const MAX_REASON_CHARS: usize = 400;
const POLL: Duration = Duration::from_millis(20);
/// Of the files that note running programs.
const NOTE_PREFIX: &str = "program-";
/// How long a program may go on when the daemon ends.
const ENDING_WAIT: Duration = Duration::from_secs(5);
/// How long the end of an earlier program is waited for once it was killed.
const KILLED_WAIT: Duration = Duration::from_secs(10);

/// Sees to it that no program outlives the daemon.
#[derive(Clone, Debug, Default)]
pub struct Keeper {
    /// Where running programs are noted; none = they are not.
    folder: Option<PathBuf>,
    /// Set when the daemon ends.
    ending: Arc<AtomicBool>,
    /// How long a program may go on then.
    ending_wait: Duration,
}

/// A running program: the number alone may be another process's by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    pid: i32,
    /// When it began, in the kernel's ticks since the start of the machine.
    started: u64,
}

impl Keeper {
    /// One that notes running programs in `folder`.
    #[must_use]
    pub fn new(folder: PathBuf, ending: Arc<AtomicBool>) -> Keeper {
        Keeper { folder: Some(folder), ending, ending_wait: ENDING_WAIT }
    }

    /// The same with another wait at the daemon's end.
    #[cfg(test)]
    pub(super) fn ending_within(self, ending_wait: Duration) -> Keeper {
        Keeper { ending_wait, ..self }
    }

    /// The file of the note, to be removed when the program has ended. One that cannot be written costs what it is for, and no
    /// deployment.
    fn note(&self, child: &Child) -> Option<PathBuf> {
        static COUNTER: AtomicU64 = AtomicU64::new(1);
        let folder = self.folder.as_ref()?;
        let pid = i32::try_from(child.id()).ok()?;
        let note = Note { pid, started: started(pid)? };
        let path = folder.join(format!("{NOTE_PREFIX}{}.json", COUNTER.fetch_add(1, Ordering::Relaxed)));
        if let Err(error) = hone_disk::create_dir(folder).and_then(|()| hone_disk::write_json(&path, &note)) {
            tracing::warn!("a program that outlives this daemon would not be known: failed to {error:#}");
        }
        Some(path)
    }
}

/// Ends what an earlier daemon, which was killed, left running, with all that it started. The caller is the only daemon.
///
/// # Errors
/// The folder cannot be listed, or a note not be removed.
pub fn end_earlier(folder: &Path) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry.with_context(|| format!("list {}", folder.display()))?.path();
        let is_note = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(NOTE_PREFIX));
        if !is_note {
            continue;
        }
        let note = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Note>(&bytes).ok());
        let begun = Instant::now();
        while note.is_some_and(|note| started(note.pid) == Some(note.started)) && begun.elapsed() < KILLED_WAIT {
            kill_group(note.and_then(|note| Pid::from_raw(note.pid)));
            std::thread::sleep(POLL);
        }
        hone_disk::remove_file(&path)?;
    }
    Ok(())
}

/// When a process began (field 22 of `/proc/PID/stat`, proc(5)); none where it is not there or only waits to be reaped.
pub(super) fn started(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let is_dead = matches!(*fields.first()?, "Z" | "X");
    fields.get(19)?.parse().ok().filter(|_| !is_dead)
}

/// How a program ended.
pub struct Ended {
    /// Its exit code; `None` when a signal or the time limit ended it.
    pub code: Option<i32>,
    /// What it printed on stdout.
    pub stdout: String,
    /// What it printed on stderr, or that it took too long.
    pub stderr: String,
}

impl Ended {
    /// The last thing that it said.
    #[must_use]
    pub fn reason(&self) -> String {
        let text = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        let skipped = text.trim().chars().count().saturating_sub(MAX_REASON_CHARS);
        text.trim().chars().skip(skipped).collect()
    }
}

/// Runs the program to its end, at most `timeout`; then it is ended with everything that it started, as it is soon after the
/// daemon ends. What it leaves running when it ends by itself goes on, and is not listened to. `name` is told when it cannot be
/// started.
///
/// # Errors
/// It cannot be started: trying again does not help.
pub fn run(name: &str, command: &mut Command, timeout: Duration, keeper: &Keeper) -> Result<Ended, DeployError> {
    if keeper.ending.load(Ordering::SeqCst) {
        return Err(DeployError::Transient(format!("{name} is not started: the daemon ends")));
    }
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(|error| {
        DeployError::Permanent(format!("{name} cannot be started: {error} (hint: is it installed on this host?)"))
    })?;
    let note = keeper.note(&child);
    let mut stdout = Output::of(child.stdout.take());
    let mut stderr = Output::of(child.stderr.take());
    let (start, mut ending) = (Instant::now(), None);
    let (code, late) = loop {
        let ended = child.try_wait();
        // After the look at the program: what it said before its end is there.
        let said = [stdout.read(), stderr.read()].contains(&true);
        match ended {
            Ok(Some(status)) => break (status.code(), None),
            Ok(None) => {
                if keeper.ending.load(Ordering::SeqCst) {
                    ending.get_or_insert_with(Instant::now);
                }
                let why = match ending {
                    Some(since) if since.elapsed() >= keeper.ending_wait => "it was ended with the daemon".to_string(),
                    _ if start.elapsed() >= timeout => format!("it was ended after its {} s", timeout.as_secs()),
                    _ => {
                        if !said {
                            std::thread::sleep(POLL);
                        }
                        continue;
                    }
                };
                kill_group(group_of(&child));
                // Fails only when it has just ended by itself.
                let _ = child.wait();
                break (None, Some(why));
            }
            Err(error) => break (None, Some(error.to_string())),
        }
    };
    if let Some(note) = note {
        // One that stays names a process that has ended.
        let _ = hone_disk::remove_file(&note);
    }
    Ok(Ended { code, stdout: stdout.text(), stderr: late.unwrap_or_else(|| stderr.text()) })
}

/// One of a program's outputs: its beginning is kept, and the rest read so that the program never waits for a full pipe.
struct Output<R> {
    stream: Option<R>,
    kept: Vec<u8>,
}

impl<R: Read + AsFd> Output<R> {
    /// Reading never waits: whoever inherited the pipe may hold it open for ever.
    fn of(stream: Option<R>) -> Output<R> {
        let stream = stream.filter(|stream| rustix::io::ioctl_fionbio(stream, true).is_ok());
        Output { stream, kept: Vec::new() }
    }

    /// Reads what is there, at most a pipe's content; whether anything was.
    fn read(&mut self) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        let mut piece = [0; PIECE_BYTES];
        match stream.read(&mut piece) {
            Ok(0) => self.stream = None,
            Ok(length) => {
                let room = MAX_OUTPUT_BYTES.saturating_sub(self.kept.len());
                self.kept.extend_from_slice(&piece[..length.min(room)]);
                return true;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.stream = None,
        }
        false
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.kept).into_owned()
    }
}
