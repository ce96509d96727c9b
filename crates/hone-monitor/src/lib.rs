//! The monitoring API and the dashboard. It only reads: the database is opened read-only and files are never written.
//! A command from the page goes through the daemon's own door, with the admin key.
//!
//! | route | answer |
//! | --- | --- |
//! | `GET /` | the dashboard: one page, no request leaves this server |
//! | `GET /api/unified` | `{format_version, at_ms, version, sources: {NAME: {data, age_ms, error, critical}}}` |
//! | `GET /api/health` | `{status: "ok" or "degraded", failing: [NAME]}` of the critical sources |
//! | `GET /api/sources` | what each source is, how it fares, its refresh interval and time limit |
//! | `POST /api/cache/clear` | every source is read anew for the next answer |
//! | `GET /api/events?after=N` | server-sent events `{seq, at_ms, severity, kind, subject, message}`, resumed by `Last-Event-ID` |
//! | `GET /api/history/runs?before&limit` | `{runs: [job], next}`, newest first |
//! | `GET /api/history/run?job=N&metric&from&to&points` | one metric by optimizer step: `{steps, at_ms, mean, min, max, superseded, non_finite, …}` |
//! | `GET /api/history/evaluations?points` | per suite the loss and token accuracy of each checkpoint |
//! | `GET /api/history/events?before&limit&severity&text` | `{events: [event], next}`, newest first |
//! | `GET /api/checkpoints?before&limit&state`, `/api/checkpoints/N` | the ledger page by page; what led to one and what became of it |
//! | `GET /api/datasets?before&limit&state`, `/api/datasets/N/report` | files page by page; the report of both gates |
//! | `GET /api/datasets/N/rows/LINE` | a row as the trainer sees it: its tokens, and which of them are trained |
//! | `GET /api/logs?limit` | the last lines of each role's log |
//! | `GET /api/session` | what this page may do: `{control: "open", "key_required" or "off", chat}` |
//! | `POST /api/control` | `{"command": …}` for the daemon, with the admin key; its answer `{message}` |
//! | `POST /api/chat` | a chat completion, sent on to the inference server with the caller's key |
//! | `GET /metrics` | Prometheus text |
//!
//! Each source is read on its own thread, when someone asks and its last reading is older than its refresh interval; an
//! answer waits for each source at most for its time limit. A failing source keeps its last data, with their age and
//! the error. With a key, all but `/`, its assets and `/api/health` want `Authorization: Bearer KEY` or `X-API-Key: KEY`.

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "tests write fixtures"))]

mod api;
mod clock;
mod dashboard;
mod desk;
mod events;
pub mod export;
mod history;
mod hub;
mod metrics;
mod sources;
#[cfg(test)]
mod tests;

use anyhow::{Context, Result};
use axum::serve::{Listener, ListenerExt};
use hone_pipeline::wire::{ControlReply, ControlRequest, StartRefused};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};

/// How often the stop flag is looked at.
const STOP_POLL: Duration = Duration::from_millis(25);
/// How long requests in flight and source threads may take to end after the stop.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// What a monitor watches and where it answers.
#[derive(Clone)]
pub struct MonitorOptions {
    /// Where to listen; port 0 picks a free one. Beyond loopback only with a key.
    pub listen: SocketAddr,
    /// Root of the workspace; it is only read.
    pub root: PathBuf,
    /// Base URL of the inference server, e.g. `http://127.0.0.1:8765`; none = not watched.
    pub serve_url: Option<String>,
    /// Read key of the inference server, where it wants one.
    pub serve_key: Option<String>,
    /// Bearer key that clients of the monitor must show; none = open, on loopback only.
    pub key: Option<String>,
    /// Key that commands want, and that reads as well; none = read-only.
    pub admin_key: Option<String>,
    /// The way to the daemon; none = read-only.
    pub control: Option<ControlDoor>,
    /// The way to rows of files; none = they are not shown.
    pub rows: Option<RowDoor>,
    /// Names and base URLs of the skill servers.
    pub skills: Vec<(String, String)>,
}

/// A row that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowAsked {
    /// The file.
    pub file: PathBuf,
    /// Its schema, where the gates know it.
    pub schema_id: Option<String>,
    /// The line, as findings name it.
    pub line: u64,
}

/// Shows one row as `hone data show --json` does, or says for the log why not.
pub type RowDoor = Arc<dyn Fn(&RowAsked) -> Result<serde_json::Value, String> + Send + Sync>;

/// Sends one request to the daemon and waits for its reply, or says in a sentence for people why there is none.
pub type ControlDoor = Arc<dyn Fn(&ControlRequest) -> Result<ControlReply, String> + Send + Sync>;

impl fmt::Debug for MonitorOptions {
    /// Leaves the keys out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MonitorOptions { listen, root, serve_url, serve_key: _, key: _, admin_key: _, control: _, rows: _, skills } =
            self;
        let mut debug = f.debug_struct("MonitorOptions");
        debug.field("listen", listen).field("root", root).field("serve_url", serve_url).field("skills", skills);
        debug.finish_non_exhaustive()
    }
}

/// Serves the monitor until `stop` is set. Blocks; owns its runtime. `on_ready` gets the bound address.
///
/// # Errors
/// An address beyond loopback without a key or an empty key ([`StartRefused`]), or an address that cannot be bound. A missing or broken
/// workspace is not an error here: the sources say so.
pub fn run(options: MonitorOptions, stop: Arc<AtomicBool>, on_ready: impl FnOnce(SocketAddr)) -> Result<()> {
    let options = with_keys_trimmed(options);
    check_keys(&options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("monitor-http")
        .enable_all()
        .build()
        .context("start the runtime")?;
    let listener =
        runtime.block_on(TcpListener::bind(options.listen)).with_context(|| format!("listen on {}", options.listen))?;
    let address = listener.local_addr().context("read the bound address")?;
    let workspace = Arc::new(sources::Workspace::new(&options.root));
    let histories = Arc::new(Mutex::new(history::HistoryReader::new(workspace.layout().clone())));
    let plugins = sources::all(&options, &workspace, &histories);
    let (hub, mut threads) = hub::Hub::start(plugins).context("start the sources")?;
    let (log, log_thread) = events::EventLog::start(&options.root).context("start the event reader")?;
    let (desk, desk_thread) = desk::Desk::start(&options.root, workspace, histories).context("start the desk")?;
    threads.extend([log_thread, desk_thread]);
    let router = api::router(api::Shared::new(hub, log, desk, options, stop.clone()));
    tracing::info!(%address, "monitor listens");
    on_ready(address);
    let served = runtime.block_on(serve(listener, router, &stop));
    runtime.shutdown_timeout(DRAIN_LIMIT);
    join(threads);
    tracing::info!("monitor stopped");
    served
}

/// White space around keys, such as the line break at the end of a secret's file, is no part of them.
fn with_keys_trimmed(options: MonitorOptions) -> MonitorOptions {
    let trimmed = |key: Option<String>| key.map(|key| key.trim().to_string());
    MonitorOptions {
        serve_key: trimmed(options.serve_key),
        key: trimmed(options.key),
        admin_key: trimmed(options.admin_key),
        ..options
    }
}

fn check_keys(options: &MonitorOptions) -> Result<(), StartRefused> {
    let listen = options.listen;
    if options.key.as_deref() == Some("") {
        let message = "use HONE_READ_KEY: it is empty (leave it out to listen on loopback without a key)";
        return Err(StartRefused(message.to_string()));
    }
    if options.admin_key.as_deref() == Some("") {
        let message = "use HONE_ADMIN_KEY: it is empty (leave it out to have a page that only reads)";
        return Err(StartRefused(message.to_string()));
    }
    if options.key.is_none() && !listen.ip().is_loopback() {
        let message = format!(
            "listen on {listen}: the monitor listens beyond loopback only with a key\nhint: set HONE_READ_KEY, or listen on 127.0.0.1"
        );
        return Err(StartRefused(message));
    }
    Ok(())
}

/// Serves until the flag is set, then until requests in flight ended or [`DRAIN_LIMIT`] passed.
async fn serve(listener: TcpListener, router: axum::Router, stop: &Arc<AtomicBool>) -> Result<()> {
    let server = axum::serve(without_delay(listener), router).with_graceful_shutdown(stopped(stop.clone()));
    tokio::select! {
        served = async { server.await } => served.context("serve the monitor"),
        () = async { stopped(stop.clone()).await; tokio::time::sleep(DRAIN_LIMIT).await } => Ok(()),
    }
}

/// What is written goes out at once: an event, or a token of a chat, does not wait until the page confirms the one before it.
fn without_delay(listener: TcpListener) -> impl Listener<Io = TcpStream, Addr = SocketAddr> {
    listener.tap_io(|stream| {
        // A connection that has ended already shows it when it is read.
        let _ = stream.set_nodelay(true);
    })
}

async fn stopped(stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(STOP_POLL).await;
    }
}

/// Waits for the source threads, which end once the router is gone. One that hangs in the file system is left behind
/// after [`DRAIN_LIMIT`], so that it cannot hold the whole program.
fn join(threads: Vec<JoinHandle<()>>) {
    let deadline = Instant::now() + DRAIN_LIMIT;
    for thread in threads {
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        if !thread.is_finished() {
            tracing::warn!(thread = thread.thread().name(), "a source hangs and is left behind");
        } else if thread.join().is_err() {
            tracing::error!("a source thread panicked");
        }
    }
}
