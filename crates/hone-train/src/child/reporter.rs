//! The lines that a child prints: its messages, and signs of life in between.

use hone_pipeline::ids::LeaseToken;
use hone_pipeline::wire::{WorkerLine, WorkerMessage};
use std::io::Write;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// Without any message for this long, the last phase is told again.
const SIGN_OF_LIFE: Duration = Duration::from_millis(1500);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// The work is taken to be stuck when it reported nothing for this long: longer than any single micro-batch,
/// load or write takes. From then on there are no more signs of life, and the lease runs out.
const STUCK: Duration = Duration::from_secs(600);

/// Prints [`WorkerLine`]s. The work reports; a thread repeats the phase while the work is busy.
pub struct Reporter {
    shared: Arc<Mutex<Shared>>,
    /// Dropped to end the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A mutex and not a channel: a line must be out before `report` returns, so that nothing is lost when the
/// process exits right after it.
struct Shared {
    out: Box<dyn Write + Send>,
    token: LeaseToken,
    phase: String,
    last_line: Instant,
    last_report: Instant,
}

impl Reporter {
    /// Starts with the phase `starting`, and says so.
    pub fn start(out: Box<dyn Write + Send>, token: LeaseToken) -> Reporter {
        let now = Instant::now();
        let phase = "starting".to_string();
        let shared = Shared { out, token, phase: phase.clone(), last_line: now, last_report: now };
        let shared = Arc::new(Mutex::new(shared));
        let (stop, stopped) = channel();
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                lock(&of_thread).sign_of_life(Instant::now());
            }
        });
        let reporter = Reporter { shared, stop: Some(stop), thread: Some(thread) };
        reporter.report(WorkerMessage::Alive { phase });
        reporter
    }

    /// Prints one message. Ends the process when nobody reads any more: the parent is gone.
    pub fn report(&self, message: WorkerMessage) {
        let mut shared = lock(&self.shared);
        shared.last_report = Instant::now();
        if let WorkerMessage::Alive { phase } = &message {
            shared.phase.clone_from(phase);
        }
        shared.print(message);
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It only panics when printing does, which has been said on stderr by then.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn sign_of_life(&mut self, now: Instant) {
        let is_due = now.duration_since(self.last_line) >= SIGN_OF_LIFE;
        if is_due && now.duration_since(self.last_report) < STUCK {
            self.print(WorkerMessage::Alive { phase: self.phase.clone() });
        }
    }

    fn print(&mut self, message: WorkerMessage) {
        let mut line = serde_json::to_vec(&WorkerLine { token: self.token, message }).expect("a message is plain data");
        line.push(b'\n');
        if self.out.write_all(&line).and_then(|()| self.out.flush()).is_err() {
            std::process::exit(i32::from(super::EXIT_ORPHAN));
        }
        self.last_line = Instant::now();
    }
}

/// A panic elsewhere does not make the output unusable: lines are written whole.
fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
