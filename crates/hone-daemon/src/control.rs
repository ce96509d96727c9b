//! The control socket `run/control.sock` (mode 0600): one JSON request per line, one JSON reply per line.

use hone_pipeline::wire::{ControlReply, ControlRequest};
use std::path::Path;
use std::time::Duration;

/// Why a request got no reply.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens: no daemon runs on this workspace.
    #[error("no daemon runs on this workspace")]
    NoDaemon,
    /// It listens but did not answer in time.
    #[error("the daemon did not answer within {timeout_ms} ms")]
    Timeout {
        /// The limit.
        timeout_ms: u64,
    },
    /// The answer is not a reply, or the connection broke.
    #[error("the daemon's answer cannot be read: {0}")]
    Broken(String),
}

/// Sends one request to the daemon of the workspace `root` and waits for its reply.
///
/// # Errors
/// See [`ControlError`].
pub fn send(_root: &Path, _request: &ControlRequest, _timeout: Duration) -> Result<ControlReply, ControlError> {
    Err(ControlError::Broken("not built yet".to_string()))
}
