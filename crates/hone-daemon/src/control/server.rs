//! The daemon's end of the control socket.

use super::{MAX_LINE_BYTES, SocketPath};
use anyhow::{Context, Result};
use hone_pipeline::wire::{ControlReply, ControlRequest};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Clients served at the same time; one more is told so.
const MAX_CLIENTS: usize = 16;
/// A client that says nothing for so long is dropped.
const CLIENT_SILENCE: Duration = Duration::from_secs(5);
/// How long the loop may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// How often the listener looks whether it is to end.
const POLL: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// A request on its way to the loop.
pub(crate) struct Asked {
    /// What is asked.
    pub request: ControlRequest,
    /// Where the reply goes.
    pub reply: SyncSender<ControlReply>,
}

/// The listening socket and its thread. Dropping it ends both and removes the socket.
pub(crate) struct Server {
    socket: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at `socket`; every request is handed to `ask`, which says whether the loop still takes it. A
    /// socket that an earlier daemon left is replaced (the caller holds the owner lock).
    pub fn start(socket: &Path, ask: impl Fn(Asked) -> bool + Send + Sync + 'static) -> Result<Server> {
        let listener = bind(socket).with_context(|| format!("listen at {}", socket.display()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (flag, ask) = (Arc::clone(&stop), Arc::new(ask));
        let thread = std::thread::Builder::new()
            .name("control".to_string())
            .spawn(move || accept(&listener, &flag, &ask))
            .context("start the control thread")?;
        Ok(Server { socket: socket.to_path_buf(), stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = hone_disk::remove_file(&self.socket);
    }
}

/// Binds under a temporary name, closes it to others, then renames: nobody ever reaches an open socket.
fn bind(socket: &Path) -> Result<UnixListener> {
    let folder = socket.parent().context("the socket has no folder")?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).context("close the folder to others")?;
    let temporary = folder.join(".control.sock.tmp");
    hone_disk::remove_file(&temporary)?;
    let listener = UnixListener::bind(&SocketPath::new(&temporary)?.path)?;
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600))
        .context("close the socket to others")?;
    hone_disk::rename(&temporary, socket)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn accept<F: Fn(Asked) -> bool + Send + Sync + 'static>(listener: &UnixListener, stop: &Arc<AtomicBool>, ask: &Arc<F>) {
    let mut clients: Vec<JoinHandle<()>> = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let mut ready = [PollFd::new(listener, PollFlags::IN)];
        if !matches!(poll(&mut ready, Some(&POLL)), Ok(1..)) {
            continue;
        }
        let Ok((stream, _)) = listener.accept() else { continue };
        clients.retain(|client| !client.is_finished());
        if clients.len() >= MAX_CLIENTS {
            let _ = answer(&stream, &refusal("too many clients at once; try again"));
            continue;
        }
        let (ask, stop) = (Arc::clone(ask), Arc::clone(stop));
        let client = std::thread::Builder::new().name("control-client".to_string());
        match client.spawn(move || serve(&stream, &stop, &*ask)) {
            Ok(client) => clients.push(client),
            Err(error) => tracing::warn!("a control client is dropped: failed to start its thread: {error}"),
        }
    }
    for client in clients {
        let _ = client.join();
    }
}

fn serve(stream: &UnixStream, stop: &AtomicBool, ask: &dyn Fn(Asked) -> bool) {
    let timeouts = stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_read_timeout(Some(CLIENT_SILENCE)))
        .and_then(|()| stream.set_write_timeout(Some(CLIENT_SILENCE)));
    if timeouts.is_err() {
        return;
    }
    let mut reader = BufReader::new(stream);
    while !stop.load(Ordering::SeqCst) {
        let mut line = Vec::new();
        match (&mut reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let reply = match serde_json::from_slice(&line) {
            Ok(request) => wait_for_reply(request, ask),
            Err(error) => refusal(&format!("this is not a request: {error}")),
        };
        let readable = line.ends_with(b"\n");
        if answer(stream, &reply).is_err() || !readable {
            return;
        }
    }
}

fn wait_for_reply(request: ControlRequest, ask: &dyn Fn(Asked) -> bool) -> ControlReply {
    let (reply, receiver): (_, Receiver<ControlReply>) = sync_channel(1);
    if !ask(Asked { request, reply }) {
        return refusal("the daemon is ending");
    }
    receiver.recv_timeout(ANSWER_WAIT).unwrap_or_else(|_| refusal("the daemon is busy or ending; try again"))
}

fn answer(mut stream: &UnixStream, reply: &ControlReply) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(reply).expect("a reply is plain data");
    line.push(b'\n');
    stream.write_all(&line)
}

fn refusal(message: &str) -> ControlReply {
    ControlReply::Error { message: message.to_string() }
}
