//! Sources: each is read on its own thread, on demand, and keeps its last reading.

use anyhow::Result;
use serde_json::Value;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A kind of data that the monitor shows.
pub(crate) struct Plugin {
    /// Key in `/api/unified`.
    pub(crate) name: &'static str,
    /// One sentence for people.
    pub(crate) about: &'static str,
    /// Whether its failure makes the monitor's health `degraded`.
    pub(crate) critical: bool,
    /// A reading younger than this is not read again.
    pub(crate) refresh: Duration,
    /// How long an answer waits for it.
    pub(crate) time_limit: Duration,
    /// Reads it. May block; runs on the source's own thread.
    pub(crate) read: Box<dyn FnMut() -> Result<Value> + Send>,
}

/// The last reading of a source.
#[derive(Clone, Default)]
pub(crate) struct Reading {
    /// The last data that could be read.
    pub(crate) data: Option<Arc<Value>>,
    /// When they were read.
    pub(crate) data_at: Option<Instant>,
    /// When the last attempt ended.
    tried_at: Option<Instant>,
    /// Why the last attempt gave no data.
    pub(crate) error: Option<String>,
    pub(crate) num_reads: u64,
    pub(crate) num_failures: u64,
}

impl Reading {
    pub(crate) fn age_ms(&self) -> Option<u64> {
        self.data_at.map(|at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

/// A running source.
pub(crate) struct Source {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) critical: bool,
    pub(crate) refresh: Duration,
    pub(crate) time_limit: Duration,
    /// Holds at most one ask; a second one would get the same reading.
    ask: SyncSender<()>,
    /// Set to have it read anew although its last reading is fresh.
    stale: Arc<AtomicBool>,
    readings: watch::Receiver<Reading>,
}

/// All running sources. Their threads end when it is dropped.
pub(crate) struct Hub {
    sources: Vec<Source>,
}

impl Hub {
    /// Starts one thread per source.
    pub(crate) fn start(plugins: Vec<Plugin>) -> std::io::Result<(Hub, Vec<JoinHandle<()>>)> {
        let mut threads = Vec::new();
        let mut sources = Vec::new();
        for plugin in plugins {
            let (ask, asks) = sync_channel(1);
            let (sender, readings) = watch::channel(Reading::default());
            let Plugin { name, about, critical, refresh, time_limit, read } = plugin;
            let thread = std::thread::Builder::new().name(format!("monitor-{name}"));
            let stale = Arc::new(AtomicBool::new(false));
            let is_stale = stale.clone();
            threads.push(thread.spawn(move || read_on_demand(read, refresh, &is_stale, &asks, &sender))?);
            sources.push(Source { name, about, critical, refresh, time_limit, ask, stale, readings });
        }
        Ok((Hub { sources }, threads))
    }

    /// Makes the next answer read every source anew.
    pub(crate) fn clear(&self) {
        self.sources.iter().for_each(|source| source.stale.store(true, Ordering::Relaxed));
    }

    /// All sources with readings that are as fresh as they can be within each one's time limit. Waits for all at the
    /// same time, so the whole takes no longer than the longest limit.
    pub(crate) async fn readings(&self) -> Vec<(&Source, Reading)> {
        let start = Instant::now();
        let asked: Vec<_> = self.sources.iter().map(|source| (source, source.ask())).collect();
        let mut readings = Vec::with_capacity(asked.len());
        for (source, asked) in asked {
            readings.push((source, source.wait(asked, start + source.time_limit).await));
        }
        readings
    }
}

/// What asking a source gave.
enum Asked {
    Fresh(Reading),
    Waiting(watch::Receiver<Reading>),
}

impl Source {
    fn ask(&self) -> Asked {
        let mut readings = self.readings.clone();
        let last = readings.borrow_and_update().clone();
        if is_fresh(&last, self.refresh) && !self.stale.load(Ordering::Relaxed) {
            return Asked::Fresh(last);
        }
        match self.ask.try_send(()) {
            // Full: another request has asked already, and this one gets the same reading.
            Ok(()) | Err(TrySendError::Full(())) => Asked::Waiting(readings),
            Err(TrySendError::Disconnected(())) => Asked::Fresh(failed(last, "the source has ended")),
        }
    }

    async fn wait(&self, asked: Asked, deadline: Instant) -> Reading {
        let mut readings = match asked {
            Asked::Fresh(reading) => return reading,
            Asked::Waiting(readings) => readings,
        };
        let outcome = tokio::time::timeout_at(deadline.into(), readings.changed()).await;
        let reading = readings.borrow().clone();
        match outcome {
            Ok(Ok(())) => reading,
            Ok(Err(_)) => failed(reading, "the source has ended"),
            Err(_) => failed(reading, &format!("no answer within {} ms", self.time_limit.as_millis())),
        }
    }
}

fn failed(reading: Reading, error: &str) -> Reading {
    Reading { error: Some(error.to_string()), ..reading }
}

fn is_fresh(reading: &Reading, refresh: Duration) -> bool {
    reading.tried_at.is_some_and(|at| at.elapsed() < refresh)
}

fn read_on_demand(
    mut read: Box<dyn FnMut() -> Result<Value> + Send>,
    refresh: Duration,
    stale: &AtomicBool,
    asks: &Receiver<()>,
    readings: &watch::Sender<Reading>,
) {
    while let Ok(()) = asks.recv() {
        if !stale.swap(false, Ordering::Relaxed) && is_fresh(&readings.borrow(), refresh) {
            continue;
        }
        let outcome = catch_unwind(AssertUnwindSafe(&mut read));
        readings.send_modify(|reading| {
            reading.num_reads += 1;
            reading.tried_at = Some(Instant::now());
            reading.error = match outcome {
                Ok(Ok(data)) => {
                    reading.data = Some(Arc::new(data));
                    reading.data_at = reading.tried_at;
                    None
                }
                Ok(Err(error)) => Some(format!("{error:#}")),
                Err(_) => Some("reading it panicked".to_string()),
            };
            reading.num_failures += u64::from(reading.error.is_some());
        });
    }
}
