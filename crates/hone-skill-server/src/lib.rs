//! The Skill API v1 over HTTP for the skills of hone-skills.
//!
//! | route | answer |
//! | --- | --- |
//! | `GET /health` | `{"status":"ok"}` |
//! | `GET /info` | [`hone_skills::Info`] |
//! | `GET /levels` | `{"levels": [`[`hone_skills::LevelInfo`]`]}` |
//! | `GET /openapi.json` | this API as an OpenAPI 3.1 document |
//! | `POST /generate` `{level, count, seed?, split?, steps?}` | [`hone_skills::Batch`]; an absent seed is drawn and told |
//! | `POST /verify` `{samples:[{id, level, metadata, response}]}` | `{"results":[{id, solved, score, parsed, reason}]}` |
//!
//! Errors are `{"error":{"message","code"}}`: 400 no JSON, 404 no such path, 405 no such method, 413 body too large, 422
//! JSON that asks for what does not exist (an unknown level is never answered with another one), 429 too much at once.
//! Bodies are read, samples made and judged on one thread of their own, so that `/health` answers at any time.
//!
//! Not here: keys. A server that knows none listens on loopback only.

mod api;
mod body;
mod error;
#[cfg(test)]
mod tests;
mod worker;

use anyhow::{Context, Result, bail};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Largest request body.
pub const MAX_BODY_BYTES: usize = 32 * 1024 * 1024;
/// Most samples of one `POST /verify`.
pub const MAX_VERIFY_SAMPLES: usize = 10_000;
/// Requests that may wait for the thread that does the work.
pub const MAX_QUEUED: usize = 16;
/// How often the stop flag is looked at.
const STOP_POLL: Duration = Duration::from_millis(25);
/// How long requests in flight may take to end after the stop.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Refused: an address that other machines can reach, which a server without keys must not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BeyondLoopback(pub SocketAddr);

impl fmt::Display for BeyondLoopback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BeyondLoopback(address) = self;
        write!(
            f,
            "listen on {address}: a skill server has no keys and listens on loopback only\nhint: listen on 127.0.0.1"
        )
    }
}

impl std::error::Error for BeyondLoopback {}

/// Serves one skill until `stop` is set. Blocks; owns its runtime. `on_ready` gets the bound address
/// (useful with port 0) once requests are answered.
///
/// # Errors
/// An unknown skill, an address beyond loopback ([`BeyondLoopback`]), or one that cannot be bound.
pub fn run(
    skill_name: &str,
    listen: SocketAddr,
    stop: Arc<AtomicBool>,
    on_ready: impl FnOnce(SocketAddr),
) -> Result<()> {
    let Some(skill) = hone_skills::find(skill_name) else {
        bail!("there is no skill {skill_name:?} (known: {})", hone_skills::names().join(", "));
    };
    if !listen.ip().is_loopback() {
        return Err(BeyondLoopback(listen).into());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("skill-http")
        .enable_all()
        .build()
        .context("start the runtime")?;
    let listener =
        runtime.block_on(tokio::net::TcpListener::bind(listen)).with_context(|| format!("listen on {listen}"))?;
    let address = listener.local_addr().context("read the bound address")?;
    let worker = worker::Worker::start(skill).context("start the worker thread")?;
    let router = api::router(skill, worker.door());
    tracing::info!(skill = skill_name, %address, "skill server listens");
    on_ready(address);
    let served = runtime.block_on(serve(listener, router, &stop));
    runtime.shutdown_timeout(DRAIN_LIMIT);
    worker.join();
    tracing::info!(skill = skill_name, "skill server stopped");
    served
}

/// Serves until the flag is set, then until requests in flight ended or [`DRAIN_LIMIT`] passed.
async fn serve(listener: tokio::net::TcpListener, router: axum::Router, stop: &Arc<AtomicBool>) -> Result<()> {
    let server = axum::serve(listener, router).with_graceful_shutdown(stopped(stop.clone()));
    tokio::select! {
        served = async { server.await } => served.context("serve the Skill API"),
        () = async { stopped(stop.clone()).await; tokio::time::sleep(DRAIN_LIMIT).await } => Ok(()),
    }
}

async fn stopped(stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(STOP_POLL).await;
    }
}
