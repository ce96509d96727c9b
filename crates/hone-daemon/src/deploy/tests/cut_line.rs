//! A line that breaks: for tests of uploads that go on.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// A line between a client and a server that is cut, for each connection, after so many bytes to the server.
pub(super) struct CutLine {
    /// Where clients connect.
    pub(super) url: String,
    address: std::net::SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl CutLine {
    /// Starts it before the server at `url`.
    pub(super) fn start(url: &str, limit: u64) -> CutLine {
        let server = url.trim_start_matches("http://").to_string();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            for client in listener.incoming() {
                if flag.load(Ordering::SeqCst) {
                    return;
                }
                pass(&client.unwrap(), &TcpStream::connect(&server).unwrap(), limit);
            }
        });
        CutLine { url: format!("http://{address}"), address, stop, thread: Some(thread) }
    }
}

impl Drop for CutLine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().unwrap().join();
    }
}

fn pass(client: &TcpStream, server: &TcpStream, limit: u64) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut limited = client.take(limit);
            let _ = std::io::copy(&mut limited, &mut &*server);
            let _ = server.shutdown(std::net::Shutdown::Write);
            if limited.limit() == 0 {
                let _ = client.shutdown(std::net::Shutdown::Both);
            }
        });
        let _ = std::io::copy(&mut &*server, &mut &*client);
        let _ = client.shutdown(std::net::Shutdown::Both);
    });
}
