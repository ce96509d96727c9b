//! The control socket `run/control.sock` (mode 0600): one JSON request per line, one JSON reply per line.
//!
//! Whoever may open the socket may command the daemon, so its mode and its folder's mode are the access
//! control. Requests and replies are bounded; a silent client is dropped.

mod server;
#[cfg(test)]
mod tests;

pub(crate) use server::{Asked, Server};

use hone_pipeline::wire::{ControlReply, ControlRequest};
use hone_store::Layout;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest request or reply in bytes.
pub const MAX_LINE_BYTES: u64 = 1 << 20;
/// Longest path that a socket address holds on every system.
const MAX_SOCKET_PATH: usize = 100;

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
pub fn send(root: &Path, request: &ControlRequest, timeout: Duration) -> Result<ControlReply, ControlError> {
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let explain = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => ControlError::NoDaemon,
        ErrorKind::WouldBlock | ErrorKind::TimedOut => ControlError::Timeout { timeout_ms },
        _ => ControlError::Broken(error.to_string()),
    };
    let address = SocketPath::new(&Layout::new(root).control_socket()).map_err(explain)?;
    let mut stream = UnixStream::connect(&address.path).map_err(explain)?;
    stream.set_read_timeout(Some(timeout)).map_err(explain)?;
    stream.set_write_timeout(Some(timeout)).map_err(explain)?;
    let mut line = serde_json::to_vec(request).expect("a request is plain data");
    line.push(b'\n');
    stream.write_all(&line).map_err(explain)?;
    let mut reply = Vec::new();
    BufReader::new(stream).take(MAX_LINE_BYTES).read_until(b'\n', &mut reply).map_err(explain)?;
    if reply.is_empty() {
        return Err(ControlError::Broken("it closed the connection".to_string()));
    }
    serde_json::from_slice(&reply).map_err(|error| ControlError::Broken(error.to_string()))
}

/// A path by which a socket can be reached although its own path is too long for a socket address: through the
/// open folder. The folder stays open as long as this lives.
struct SocketPath {
    path: PathBuf,
    _folder: Option<File>,
}

impl SocketPath {
    fn new(socket: &Path) -> std::io::Result<SocketPath> {
        let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else {
            return Err(ErrorKind::InvalidInput.into());
        };
        if socket.as_os_str().len() <= MAX_SOCKET_PATH || !cfg!(target_os = "linux") {
            return Ok(SocketPath { path: socket.to_path_buf(), _folder: None });
        }
        let folder = File::open(folder)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
        Ok(SocketPath { path, _folder: Some(folder) })
    }
}
