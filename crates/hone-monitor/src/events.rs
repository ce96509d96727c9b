//! The event log as server-sent events. One thread reads the database for all streams.

use crate::clock;
use anyhow::Result;
use axum::response::sse::{Event, KeepAlive, Sse};
use hone_pipeline::state::LogEntry;
use hone_store::Store;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

/// Streams at the same time; one more is answered 429.
pub(crate) const MAX_STREAMS: usize = 128;
/// How often a stream looks for news.
const POLL: Duration = Duration::from_millis(500);
/// How often a stream looks at the stop flag while it waits.
const STOP_POLL: Duration = Duration::from_millis(100);
/// Lines read at once; the rest follows at the next look.
const MAX_LINES: usize = 500;
/// Lines of the past that a stream without a position begins with.
const NUM_BACKLOG: usize = 50;
/// A comment is sent after this silence, so that dead connections are noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Events that wait for a slow client before its stream waits for it.
const STREAM_BUFFER: usize = 64;

/// The way to the thread that reads the log.
#[derive(Clone)]
pub(crate) struct EventLog {
    door: SyncSender<Ask>,
    streams: Arc<Semaphore>,
}

struct Ask {
    after: Option<u64>,
    reply: oneshot::Sender<Result<Vec<(u64, LogEntry)>>>,
}

impl EventLog {
    /// Starts the reader; it ends when the log is dropped.
    pub(crate) fn start(root: &Path) -> std::io::Result<(EventLog, JoinHandle<()>)> {
        let (door, asks) = sync_channel(MAX_STREAMS);
        let root = root.to_path_buf();
        let thread = std::thread::Builder::new().name("monitor-events".to_string());
        let thread = thread.spawn(move || answer(root, &asks))?;
        Ok((EventLog { door, streams: Arc::new(Semaphore::new(MAX_STREAMS)) }, thread))
    }

    /// A stream of the events after `after`, or of the newest ones and what follows; none when too many are open.
    pub(crate) fn stream(
        &self,
        after: Option<u64>,
        stop: Arc<AtomicBool>,
    ) -> Option<Sse<impl tokio_stream::Stream<Item = Result<Event, Infallible>> + use<>>> {
        let permit = self.streams.clone().try_acquire_owned().ok()?;
        let (sender, receiver) = mpsc::channel(STREAM_BUFFER);
        tokio::spawn(follow(self.clone(), after, sender, stop, permit));
        Some(Sse::new(ReceiverStream::new(receiver)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
    }

    async fn read(&self, after: Option<u64>) -> Result<Vec<(u64, LogEntry)>> {
        let (reply, answer) = oneshot::channel();
        // There are as many places as streams, and each stream has one ask at a time.
        let sent = self.door.try_send(Ask { after, reply });
        anyhow::ensure!(sent.is_ok(), "the event reader has ended");
        answer.await?
    }
}

/// Sends news until the client or the monitor goes. The permit is given back with it.
async fn follow(
    log: EventLog,
    after: Option<u64>,
    sender: mpsc::Sender<Result<Event, Infallible>>,
    stop: Arc<AtomicBool>,
    _permit: OwnedSemaphorePermit,
) {
    let mut after = match after {
        Some(position) if is_ahead(&log, position).await => None,
        position => position,
    };
    let mut last_error = String::new();
    while !stop.load(Ordering::Relaxed) {
        match log.read(after).await {
            Ok(lines) => {
                last_error.clear();
                for (seq, entry) in lines {
                    after = Some(seq);
                    if sender.send(Ok(event(seq, &entry))).await.is_err() {
                        return;
                    }
                }
                // From now on only what is new, also where the log is still empty.
                after = after.or(Some(0));
            }
            Err(error) => {
                let message = format!("{error:#}");
                let told = Event::default().event("problem").data(json!({ "message": message }).to_string());
                if message != last_error && sender.send(Ok(told)).await.is_err() {
                    return;
                }
                last_error = message;
            }
        }
        for _ in 0..POLL.as_millis() / STOP_POLL.as_millis() {
            if stop.load(Ordering::Relaxed) || sender.is_closed() {
                return;
            }
            tokio::time::sleep(STOP_POLL).await;
        }
    }
}

/// True when the position lies beyond the log's end: it comes from another workspace.
async fn is_ahead(log: &EventLog, position: u64) -> bool {
    match log.read(None).await {
        Ok(lines) => lines.last().is_none_or(|(newest, _)| *newest < position),
        Err(_) => false,
    }
}

fn event(seq: u64, entry: &LogEntry) -> Event {
    Event::default().id(seq.to_string()).event("log").data(event_json(seq, entry).to_string())
}

/// A line of the log as people get it.
pub(crate) fn event_json(seq: u64, entry: &LogEntry) -> Value {
    let LogEntry { at_ms, severity, kind, subject, message } = entry;
    json!({
        "seq": seq, "at_ms": at_ms, "severity": severity, "kind": kind, "subject": subject, "message": message
    })
}

fn answer(root: PathBuf, asks: &Receiver<Ask>) {
    let mut store = None;
    while let Ok(Ask { after, reply }) = asks.recv() {
        let lines = read_lines(&root, &mut store, after);
        if lines.is_err() {
            // Opened anew at the next ask: the workspace may be made, moved or mended meanwhile.
            store = None;
        }
        let _ = reply.send(lines);
    }
}

fn read_lines(root: &Path, store: &mut Option<(u64, Store)>, after: Option<u64>) -> Result<Vec<(u64, LogEntry)>> {
    let limit = if after.is_some() { MAX_LINES } else { NUM_BACKLOG };
    crate::sources::open_store(root, store, clock::now_ms())?.events(after, limit)
}
