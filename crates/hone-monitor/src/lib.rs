//! The monitoring API and the dashboard. It only reads: the database is opened read-only, files are never written, and
//! no command enters here.
//!
//! | route | answer |
//! | --- | --- |
//! | `GET /` | the dashboard: one page, no request leaves this server |
//! | `GET /api/unified` | `{format_version, at_ms, version, sources: {NAME: {data, age_ms, error, critical}}}` |
//! | `GET /api/health` | `{status: "ok" or "degraded", failing: [NAME]}` of the critical sources |
//! | `GET /api/sources` | what each source is, how it fares, its refresh interval and time limit |
//! | `GET /api/events?after=N` | server-sent events `{seq, at_ms, severity, kind, subject, message}`, resumed by `Last-Event-ID` |
//! | `GET /metrics` | Prometheus text |
//!
//! Each source is read on its own thread, when someone asks and its last reading is older than its refresh interval; an
//! answer waits for each source at most for its time limit. A failing source keeps its last data, with their age and
//! the error. With a key, all but `/`, its assets and `/api/health` want `Authorization: Bearer KEY` or `X-API-Key: KEY`.

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "tests write fixtures"))]

mod api;
mod clock;
mod dashboard;
mod events;
mod hub;
mod metrics;
mod sources;
#[cfg(test)]
mod tests;

use anyhow::{Context, Result, bail};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

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
}

impl fmt::Debug for MonitorOptions {
    /// Leaves the keys out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MonitorOptions { listen, root, serve_url, serve_key: _, key: _ } = self;
        let mut debug = f.debug_struct("MonitorOptions");
        debug.field("listen", listen).field("root", root).field("serve_url", serve_url).finish_non_exhaustive()
    }
}

/// Serves the monitor until `stop` is set. Blocks; owns its runtime. `on_ready` gets the bound address.
///
/// # Errors
/// An address beyond loopback without a key, an empty key, or an address that cannot be bound. A missing or broken
/// workspace is not an error here: the sources say so.
pub fn run(options: MonitorOptions, stop: Arc<AtomicBool>, on_ready: impl FnOnce(SocketAddr)) -> Result<()> {
    if options.key.as_deref() == Some("") {
        bail!("the monitor's key is empty (leave it out to listen on loopback without one)");
    }
    if options.key.is_none() && !options.listen.ip().is_loopback() {
        bail!("the monitor listens beyond loopback ({}) only with a key (set one, or use 127.0.0.1)", options.listen);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("monitor-http")
        .enable_all()
        .build()
        .context("start the runtime")?;
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind(options.listen))
        .with_context(|| format!("listen on {}", options.listen))?;
    let address = listener.local_addr().context("read the bound address")?;
    let (hub, mut threads) = hub::Hub::start(sources::all(&options)).context("start the sources")?;
    let (log, log_thread) = events::EventLog::start(&options.root).context("start the event reader")?;
    threads.push(log_thread);
    let router = api::router(api::Shared::new(hub, log, options.key, stop.clone()));
    tracing::info!(%address, "monitor listens");
    on_ready(address);
    let served = runtime.block_on(serve(listener, router, &stop));
    runtime.shutdown_timeout(DRAIN_LIMIT);
    join(threads);
    tracing::info!("monitor stopped");
    served
}

/// Serves until the flag is set, then until requests in flight ended or [`DRAIN_LIMIT`] passed.
async fn serve(listener: tokio::net::TcpListener, router: axum::Router, stop: &Arc<AtomicBool>) -> Result<()> {
    let server = axum::serve(listener, router).with_graceful_shutdown(stopped(stop.clone()));
    tokio::select! {
        served = async { server.await } => served.context("serve the monitor"),
        () = async { stopped(stop.clone()).await; tokio::time::sleep(DRAIN_LIMIT).await } => Ok(()),
    }
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
