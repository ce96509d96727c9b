//! Tests of `control`.

use super::*;
use hone_pipeline::event::Command;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

const TIMEOUT: Duration = Duration::from_secs(20);

fn echo_server(root: &Path) -> (Server, Arc<Mutex<Vec<ControlRequest>>>) {
    std::fs::create_dir_all(root.join("run")).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let server = Server::start(&Layout::new(root).control_socket(), move |asked: Asked| {
        log.lock().unwrap().push(asked.request);
        asked.reply.send(ControlReply::Ok { message: "heard".to_string() }).is_ok()
    });
    (server.unwrap(), seen)
}

#[test]
fn a_request_reaches_the_daemon_and_its_reply_comes_back() {
    let root = tempfile::tempdir().unwrap();
    let (server, seen) = echo_server(root.path());
    let request = ControlRequest::Command { command: Command::Pause { reason: "lunch".to_string() } };
    let reply = send(root.path(), &request, TIMEOUT).unwrap();
    assert_eq!(reply, ControlReply::Ok { message: "heard".to_string() });
    assert_eq!(*seen.lock().unwrap(), [request]);
    let mode = Layout::new(root.path()).control_socket().metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(server);
    assert!(matches!(send(root.path(), &ControlRequest::Ping, TIMEOUT), Err(ControlError::NoDaemon)));
}

#[test]
fn nobody_listening_is_told_apart() {
    let root = tempfile::tempdir().unwrap();
    assert!(matches!(send(root.path(), &ControlRequest::Ping, TIMEOUT), Err(ControlError::NoDaemon)));
    // A socket that a killed daemon left behind.
    std::fs::create_dir_all(root.path().join("run")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(Layout::new(root.path()).control_socket()).unwrap());
    assert!(matches!(send(root.path(), &ControlRequest::Ping, TIMEOUT), Err(ControlError::NoDaemon)));
    let (_server, _) = echo_server(root.path());
    assert!(send(root.path(), &ControlRequest::Ping, TIMEOUT).is_ok(), "the left socket is replaced");
}

#[test]
fn what_is_not_a_request_is_answered_as_such() {
    let root = tempfile::tempdir().unwrap();
    let (_server, seen) = echo_server(root.path());
    let mut stream = UnixStream::connect(Layout::new(root.path()).control_socket()).unwrap();
    stream.write_all(b"hello\n{\"request\":\"ping\"}\n").unwrap();
    let mut lines = BufReader::new(stream).lines();
    let first: ControlReply = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert!(matches!(first, ControlReply::Error { message } if message.contains("not a request")));
    let second: ControlReply = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert!(matches!(second, ControlReply::Ok { .. }), "the connection goes on");
    assert_eq!(*seen.lock().unwrap(), [ControlRequest::Ping]);
}

#[test]
fn a_workspace_with_a_long_path_has_a_socket_too() {
    let root = tempfile::tempdir().unwrap();
    let deep = root.path().join("d".repeat(90)).join("e".repeat(90));
    let (_server, _) = echo_server(&deep);
    assert!(send(&deep, &ControlRequest::Ping, TIMEOUT).is_ok());
}
