//! Reading lines from a pipe of a child, without ever being stuck in it: a descendant outside the child's
//! process group may hold the pipe open for ever.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::Read;
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const CHUNK: usize = 64 << 10;
/// How often the reader looks at the clock and whether the child has ended.
const POLL: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// A line without its line break.
pub(super) struct Line<'a> {
    pub bytes: &'a [u8],
    /// False when it is longer than the limit: these are its first bytes.
    pub complete: bool,
}

/// Whether and when the child ended.
pub(super) struct Ended {
    at: OnceLock<Instant>,
    drain: Duration,
}

impl Ended {
    pub fn new(drain: Duration) -> Ended {
        Ended { at: OnceLock::new(), drain }
    }

    pub fn set(&self) {
        let _ = self.at.set(Instant::now());
    }

    fn is_over(&self) -> bool {
        self.at.get().is_some_and(|at| at.elapsed() > self.drain)
    }
}

/// Calls `on_line` for every line until the pipe ends, `on_line` says no, or the child ended a while ago. The last
/// line need not be terminated. `on_wait` is called about ten times a second.
pub(super) fn read_lines<P: Read + AsFd>(
    mut pipe: P,
    max_bytes: usize,
    ended: &Ended,
    on_line: &mut dyn FnMut(Line) -> bool,
    on_wait: &mut dyn FnMut(),
) {
    let (mut buffer, mut chunk) = (Vec::new(), vec![0; CHUNK]);
    let mut last_wait = Instant::now();
    loop {
        if last_wait.elapsed() >= Duration::from_millis(100) {
            on_wait();
            last_wait = Instant::now();
        }
        let ready = poll(&mut [PollFd::new(&pipe, PollFlags::IN)], Some(&POLL));
        if matches!(ready, Ok(0) | Err(rustix::io::Errno::INTR)) {
            if ended.is_over() {
                break;
            }
            continue;
        }
        let num_read = match pipe.read(&mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(num_read) => num_read,
        };
        let mut rest = &chunk[..num_read];
        while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
            buffer.extend_from_slice(&rest[..at]);
            rest = &rest[at + 1..];
            let complete = buffer.len() <= max_bytes;
            buffer.truncate(max_bytes);
            if !on_line(Line { bytes: &buffer, complete }) {
                return;
            }
            buffer.clear();
        }
        buffer.extend_from_slice(rest);
        if buffer.len() > max_bytes {
            buffer.truncate(max_bytes);
            if !on_line(Line { bytes: &buffer, complete: false }) {
                return;
            }
            buffer.clear();
        }
    }
    if !buffer.is_empty() {
        on_line(Line { bytes: &buffer, complete: true });
    }
}
