//! The monitoring API and the dashboard.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// What a monitor watches and where it answers.
#[derive(Clone, Debug)]
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

/// Serves the monitor until `stop` is set. Blocks; owns its runtime. `on_ready` gets the bound address.
///
/// # Errors
/// An address beyond loopback without a key, or one that cannot be bound. A missing or broken workspace is
/// not an error here: the sources say so.
pub fn run(options: MonitorOptions, stop: Arc<AtomicBool>, on_ready: impl FnOnce(SocketAddr)) -> anyhow::Result<()> {
    let _ = (options, stop, on_ready);
    anyhow::bail!("not built yet")
}
