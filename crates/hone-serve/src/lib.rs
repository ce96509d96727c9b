//! The OpenAI-compatible server: HTTP routes, the engine thread with hot swap, and the door through which
//! checkpoints are deployed.
//!
//! It serves one model at a time under one stable name. It knows nothing of training, of the workspace's
//! database, or of where a checkpoint came from: files arrive as blobs named by their hash, a deployment
//! names the blobs that it needs, and only a deployment that was verified, loaded and tried is switched to.

mod options;

pub use options::{DEFAULT_LISTEN, Keys, ServeOptions};

use anyhow::{Result, anyhow};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Serves until `stop` is set, then lets running requests end (at most [`ServeOptions::drain_ms`]) and returns.
///
/// `on_ready` is called once with the bound address, as soon as requests are answered; the last served
/// deployment may still be loading then (`/ready` says so). Errors: an address that cannot be bound, a
/// public address without keys, a serve root that cannot be opened, an engine that ended.
pub fn run(options: ServeOptions, stop: Arc<AtomicBool>, on_ready: impl FnOnce(SocketAddr)) -> Result<()> {
    let _ = (options, stop, on_ready);
    Err(anyhow!("not built yet"))
}
