//! Running a user's program with a time limit: its last words come back, and neither it nor what it started outlives the
//! limit.

use super::DeployError;
use crate::worker::{group_of, kill_group};
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
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

/// Runs the program to its end, at most `timeout`; then it is ended with everything that it started. What it leaves running
/// when it ends by itself goes on, and is not listened to. `name` is told when it cannot be started.
///
/// # Errors
/// It cannot be started: trying again does not help.
pub fn run(name: &str, command: &mut Command, timeout: Duration) -> Result<Ended, DeployError> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(|error| {
        DeployError::Permanent(format!("{name} cannot be started: {error} (hint: is it installed on this host?)"))
    })?;
    let mut stdout = Output::of(child.stdout.take());
    let mut stderr = Output::of(child.stderr.take());
    let start = Instant::now();
    let (code, late) = loop {
        let ended = child.try_wait();
        // After the look at the program: what it said before its end is there.
        let said = [stdout.read(), stderr.read()].contains(&true);
        match ended {
            Ok(Some(status)) => break (status.code(), None),
            Ok(None) if start.elapsed() < timeout => {
                if !said {
                    std::thread::sleep(POLL);
                }
            }
            Ok(None) => {
                kill_group(group_of(&child));
                // Fails only when it has just ended by itself.
                let _ = child.wait();
                break (None, Some(format!("it was ended after its {} s", timeout.as_secs())));
            }
            Err(error) => break (None, Some(error.to_string())),
        }
    };
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
