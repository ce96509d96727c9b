//! Slow work off the loop, one piece at a time, with a time limit that is real.
//!
//! A piece of work gets a [`Deadline`] and stops at it between two files. A thread that hangs all the same (a disk
//! that does not answer) cannot be ended: the loop goes on without it, says so, and starts nothing more here until it
//! has come back.

use anyhow::{Context, Result};
use hone_store::retention::Deadline;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// Beyond so many times its limit a piece of work counts as hanging.
const HANGS_AFTER: u32 = 2;

type Work = Box<dyn FnOnce(Deadline) + Send>;

/// The thread and what it does.
pub(crate) struct BackgroundWorker {
    orders: SyncSender<(Work, Duration)>,
    running: Option<Running>,
}

struct Running {
    name: &'static str,
    since: Instant,
    limit: Duration,
    told: bool,
}

impl BackgroundWorker {
    /// A worker with nothing to do, and its thread, which ends with the worker.
    pub fn start() -> Result<(BackgroundWorker, JoinHandle<()>)> {
        let (orders, work) = sync_channel::<(Work, Duration)>(1);
        let body = move || work.into_iter().for_each(|(work, limit)| work(Deadline::new(limit)));
        let thread = std::thread::Builder::new().name("background".to_string()).spawn(body);
        Ok((BackgroundWorker { orders, running: None }, thread.context("start the background thread")?))
    }

    /// Hands over a piece of work; false while another one is under way.
    pub fn run(&mut self, name: &'static str, limit: Duration, work: impl FnOnce(Deadline) + Send + 'static) -> bool {
        if self.running.is_some() {
            return false;
        }
        match self.orders.try_send((Box::new(work), limit)) {
            Ok(()) => {
                self.running = Some(Running { name, since: Instant::now(), limit, told: false });
                true
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    /// The piece of work said that it has ended.
    pub fn ended(&mut self) {
        self.running = None;
    }

    /// Said once: the work under way hangs.
    pub fn newly_hanging(&mut self, now: Instant) -> Option<String> {
        let running = self.running.as_mut().filter(|running| !running.told)?;
        let since = now.saturating_duration_since(running.since);
        running.told = since > running.limit * HANGS_AFTER;
        let (name, seconds) = (running.name, since.as_secs());
        running.told.then(|| format!("{name} has not come back for {seconds} s (hint: does the disk answer?)"))
    }
}
