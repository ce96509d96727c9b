//! Running a user's program with a time limit: its last words come back, and it never outlives the limit.

use super::DeployError;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Exit code of a program that may do better another time (`EX_TEMPFAIL`).
pub const EXIT_TRANSIENT: i32 = 75;
/// How much of what a program prints is kept.
const MAX_OUTPUT_BYTES: u64 = 64 << 10;
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

/// Runs the program to its end, at most `timeout`. `name` is told when it cannot be started.
///
/// # Errors
/// It cannot be started: trying again does not help.
pub fn run(name: &str, command: &mut Command, timeout: Duration) -> Result<Ended, DeployError> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| {
        DeployError::Permanent(format!("{name} cannot be started: {error} (hint: is it installed on this host?)"))
    })?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        let stdout = scope.spawn(|| drain(stdout));
        let stderr = scope.spawn(|| drain(stderr));
        let start = Instant::now();
        let (code, late) = loop {
            match child.try_wait() {
                Ok(Some(status)) => break (status.code(), None),
                Ok(None) if start.elapsed() < timeout => std::thread::sleep(POLL),
                Ok(None) => {
                    // Both fail only when it has just ended by itself.
                    let _ = child.kill();
                    let _ = child.wait();
                    break (None, Some(format!("it was ended after its {} s", timeout.as_secs())));
                }
                Err(error) => break (None, Some(error.to_string())),
            }
        };
        let text = |thread: std::thread::ScopedJoinHandle<String>| thread.join().unwrap_or_default();
        let (stdout, stderr) = (text(stdout), text(stderr));
        Ok(Ended { code, stdout, stderr: late.unwrap_or(stderr) })
    })
}

/// Keeps the beginning, and reads on to the end so that the program never waits for a full pipe.
fn drain(stream: Option<impl Read>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut bytes = Vec::new();
    let kept = stream.by_ref().take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes);
    if kept.is_ok() {
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
