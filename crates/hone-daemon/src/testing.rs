//! An HTTP server for tests: one thread, one request per connection, the answer by a closure.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// A request as the closure sees it.
pub struct Request {
    /// E.g. `GET /health`.
    pub line: String,
    /// Header lines, lower case.
    pub headers: Vec<String>,
    /// Its body, or as much of it as came.
    pub body: Vec<u8>,
}

/// Listens on a free port of the loopback until it is dropped.
pub struct HttpServer {
    /// E.g. `http://127.0.0.1:1234`.
    pub url: String,
    address: std::net::SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Starts it; `answer` gives status and body.
    pub fn start(mut answer: impl FnMut(Request) -> (u16, String) + Send + 'static) -> HttpServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if flag.load(Ordering::SeqCst) {
                    return;
                }
                let mut stream = stream.unwrap();
                if let Some(request) = read(&stream) {
                    let (status, body) = answer(request);
                    let head =
                        format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                    // A client that has enough may have gone.
                    let _ = stream.write_all(format!("{head}{body}").as_bytes());
                }
            }
        });
        HttpServer { url: format!("http://{address}"), address, stop, thread: Some(thread) }
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        let thread = self.thread.take().unwrap();
        if thread.join().is_err() && !std::thread::panicking() {
            panic!("the answer of a test server panicked");
        }
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let line = line.rsplit_once(' ')?.0.to_string();
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        if header.trim().is_empty() {
            break;
        }
        headers.push(header.trim().to_ascii_lowercase());
    }
    let length: u64 = headers.iter().find_map(|h| h.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
    let mut body = Vec::new();
    // A line that is cut gives what has come.
    let _ = reader.take(length).read_to_end(&mut body);
    Some(Request { line, headers, body })
}
