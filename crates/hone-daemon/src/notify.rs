//! What systemd is told (`sd_notify`): ready, still starting, alive, stopping. Datagrams to the socket that
//! `NOTIFY_SOCKET` names; nobody answers, and a manager that is gone is no trouble of ours.

use anyhow::{Context, Result};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

#[cfg(test)]
mod tests;

/// The way to the service manager; does nothing where there is none.
#[derive(Debug, Default)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
}

impl Notifier {
    /// Connects to the socket of the manager; `None` = started by hand. A name that begins with `@` is abstract.
    ///
    /// # Errors
    /// The socket is not there.
    pub fn new(socket: Option<&str>) -> Result<Notifier> {
        let Some(name) = socket.filter(|name| !name.is_empty()) else { return Ok(Notifier::default()) };
        let socket = UnixDatagram::unbound().context("open a socket for the service manager")?;
        socket.set_nonblocking(true).context("open a socket for the service manager")?;
        match name.strip_prefix('@') {
            #[cfg(target_os = "linux")]
            Some(name) => {
                use std::os::linux::net::SocketAddrExt;
                let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
                socket.connect_addr(&address).context("reach the service manager")?;
            }
            _ => socket.connect(Path::new(name)).context("reach the service manager")?,
        }
        Ok(Notifier { socket: Some(socket) })
    }

    /// The daemon answers and its state is recovered.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// It starts, makes progress, and needs so much longer.
    pub fn extend_start(&self, by: Duration) {
        self.send(&format!("EXTEND_TIMEOUT_USEC={}", by.as_micros()));
    }

    /// The loop has gone round. Sent by the loop itself, so that it stops with it.
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// It ends in order.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    fn send(&self, message: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(message.as_bytes())
        {
            tracing::debug!(message, "the service manager does not listen: {error}");
        }
    }
}
