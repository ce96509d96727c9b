//! A line to a server that can be slow, be cut, answer in the server's place, or strike the server: a small proxy.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes passed on at once.
const CHUNK: usize = 16 << 10;

/// What goes wrong with requests that begin with a text, e.g. `POST /v1/chat`.
#[derive(Clone)]
pub enum Fault {
    /// The line answers in the server's place.
    Answer(Arc<dyn Fn() -> (u16, String) + Send + Sync>),
    /// The request arrives late.
    Late(Duration),
    /// Once: as soon as so many bytes of the request are through (all of them where it has fewer), this is done, and the
    /// connection is cut.
    Strike(u64, Arc<dyn Fn() + Send + Sync>),
}

/// How a line behaves.
#[derive(Clone, Default)]
pub struct Behaviour {
    /// Bytes a second towards the server.
    pub bytes_per_s: Option<u64>,
    /// Each connection is cut after so many bytes towards the server.
    pub cut_after: Option<u64>,
    /// The beginning of the requests that something happens to, and what.
    pub fault: Option<(String, Fault)>,
}

/// A line; it ends with its owner.
pub struct Line {
    /// Where clients connect.
    pub url: String,
    shared: Arc<Shared>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    server: String,
    /// Whether it knows requests; else bytes pass as they are.
    speaks_http: bool,
    behaviour: Mutex<Behaviour>,
    /// Connections that are open, to be ended with the line.
    open: Mutex<Vec<TcpStream>>,
    num_cuts: AtomicUsize,
    num_strikes: AtomicUsize,
    stop: AtomicBool,
}

impl Line {
    /// A line before `server` (`host:port`) that does nothing wrong yet.
    pub fn before(server: &str) -> Line {
        Line::start(Shared { server: server.to_string(), speaks_http: true, ..Shared::default() })
    }

    /// The same for another protocol; it has no faults of requests.
    pub fn of_bytes(server: &str) -> Line {
        Line::start(Shared { server: server.to_string(), ..Shared::default() })
    }

    fn start(shared: Shared) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(shared);
        let behind = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let mut passing = Vec::new();
            for client in listener.incoming() {
                if behind.stop.load(Ordering::SeqCst) {
                    break;
                }
                let behind = Arc::clone(&behind);
                passing.push(std::thread::spawn(move || behind.pass(&client.unwrap())));
            }
            passing.into_iter().for_each(|thread| thread.join().unwrap());
        });
        Line { url: format!("http://{address}"), shared, address, thread: Some(thread) }
    }

    /// From the next connection on.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.shared.behaviour.lock().unwrap() = behaviour;
    }

    /// The same, with one fault.
    pub fn fail(&self, request: &str, fault: Fault) {
        self.behave(Behaviour { fault: Some((request.to_string(), fault)), ..Behaviour::default() });
    }

    /// Where clients of another protocol connect.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How often it was cut by its limit of bytes.
    pub fn num_cuts(&self) -> usize {
        self.shared.num_cuts.load(Ordering::SeqCst)
    }

    /// How often it struck.
    pub fn num_strikes(&self) -> usize {
        self.shared.num_strikes.load(Ordering::SeqCst)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        self.shared.open.lock().unwrap().iter().for_each(cut);
        let _ = self.thread.take().unwrap().join();
    }
}

impl Shared {
    fn pass(&self, client: &TcpStream) {
        let mut reader = BufReader::new(client);
        let head = if self.speaks_http { read_head(&mut reader) } else { Some(String::new()) };
        let Some(head) = head else { return };
        let behaviour = self.behaviour.lock().unwrap().clone();
        let fault = behaviour.fault.filter(|(request, _)| head.starts_with(request.as_str())).map(|(_, fault)| fault);
        let (mut limit, mut strike) = (behaviour.cut_after, None);
        match fault {
            Some(Fault::Answer(answer)) => return reply(client, &mut reader, &head, answer()),
            Some(Fault::Late(wait)) => std::thread::sleep(wait),
            Some(Fault::Strike(after, what)) => {
                self.behaviour.lock().unwrap().fault = None;
                limit = Some(after.min(head.len() as u64 + body_length(&head)));
                strike = Some(what);
            }
            None => {}
        }
        let Ok(server) = TcpStream::connect(&self.server) else { return cut(client) };
        self.open.lock().unwrap().extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut upwards = head.as_bytes().chain(&mut reader);
                let is_cut = copy(&mut upwards, &server, behaviour.bytes_per_s, limit);
                if !is_cut {
                    return;
                }
                if let Some(what) = strike {
                    what();
                    self.num_strikes.fetch_add(1, Ordering::SeqCst);
                } else {
                    self.num_cuts.fetch_add(1, Ordering::SeqCst);
                }
                cut(&server);
                cut(client);
            });
            let _ = std::io::copy(&mut &server, &mut &*client);
            cut(client);
        });
        cut(&server);
    }
}

fn cut(stream: &TcpStream) {
    let _ = stream.shutdown(Shutdown::Both);
}

/// The head of a request with its empty line; none where the client went away.
fn read_head(reader: &mut BufReader<&TcpStream>) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        reader.read_line(&mut head).ok().filter(|read| *read > 0)?;
    }
    Some(head)
}

fn body_length(head: &str) -> u64 {
    let lines = head.lines().map(str::to_ascii_lowercase);
    lines.filter_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).next().unwrap_or(0)
}

fn reply(client: &TcpStream, body: &mut impl Read, head: &str, (status, text): (u16, String)) {
    let _ = std::io::copy(&mut body.take(body_length(head)), &mut std::io::sink());
    let length = text.len();
    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    let _ = (&mut &*client).write_all(format!("{head}{text}").as_bytes());
}

/// Whether `limit` was reached.
fn copy(from: &mut impl Read, mut to: &TcpStream, bytes_per_s: Option<u64>, limit: Option<u64>) -> bool {
    let (started, mut passed) = (Instant::now(), 0_u64);
    let mut chunk = vec![0; CHUNK];
    loop {
        let left = limit.map_or(CHUNK as u64, |limit| limit - passed).min(CHUNK as u64) as usize;
        if left == 0 {
            return true;
        }
        match from.read(&mut chunk[..left]) {
            Ok(read) if read > 0 && to.write_all(&chunk[..read]).is_ok() => passed += read as u64,
            _ => {
                let _ = to.shutdown(Shutdown::Write);
                return false;
            }
        }
        if let Some(rate) = bytes_per_s {
            let due = Duration::from_secs_f64(passed as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(started.elapsed()));
        }
    }
}
