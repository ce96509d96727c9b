//! What a stand-in for systemd hears of a real daemon: ready only when it serves, more time only for steps that are
//! done, a ping only while the work loop goes round.

use super::*;
use hone_disk::FileLock;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;

/// How often a healthy loop pings.
const PING: Duration = Duration::from_secs(1);

/// The manager's socket.
struct Manager(UnixDatagram);

impl Manager {
    fn new(ws: &Workspace) -> (Manager, std::path::PathBuf) {
        let path = ws.path().join("notify");
        (Manager(UnixDatagram::bind(&path).unwrap()), path)
    }

    /// The next word within a time.
    fn hears(&self, within: Duration) -> Option<String> {
        self.0.set_read_timeout(Some(within)).unwrap();
        let mut buffer = [0; 100];
        let length = self.0.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }
}

fn serves_commands(ws: &Workspace) -> bool {
    control::send(ws.path(), &ControlRequest::Ping, TIMEOUT).is_ok()
}

#[test]
fn it_is_ready_when_it_serves_and_asks_for_more_time_as_it_gets_on() {
    let mut ws = Workspace::new(|_| {});
    // A child of an earlier daemon, as far as its lock tells; a process of its own, should patience end.
    let run = Layout::new(ws.path()).runs().join("earlier");
    std::fs::create_dir_all(&run).unwrap();
    let lock = FileLock::try_exclusive(&run.join("lock")).unwrap().unwrap();
    let mut earlier = Process::new("sleep").arg("600").process_group(0).spawn().unwrap();
    std::fs::write(run.join("lock"), format!("pid {} on host here\n", earlier.id())).unwrap();
    let (manager, socket) = Manager::new(&ws);
    ws.start_with(&[("NOTIFY_SOCKET", &socket)]);
    let is_more_time = |word: &String| word.starts_with("EXTEND_TIMEOUT_USEC=");
    for step in ["the workspace is taken", "the state is loaded", "one child lives"] {
        let word = manager.hears(TIMEOUT).unwrap();
        assert!(is_more_time(&word), "{step}: {word}");
    }
    // Nothing gets on while that child lives, so nothing more is asked for, and nobody is served.
    assert_eq!(manager.hears(PING / 2), None);
    assert!(!serves_commands(&ws));
    drop(lock);
    let word = manager.hears(TIMEOUT).unwrap();
    assert!(is_more_time(&word), "it has ended: {word}");
    assert_eq!(manager.hears(TIMEOUT).as_deref(), Some("READY=1"));
    assert!(serves_commands(&ws), "at the first try");
    assert!(earlier.try_wait().unwrap().is_none(), "nobody lost patience");
    earlier.kill().and_then(|()| earlier.wait()).unwrap();
    assert_eq!(manager.hears(TIMEOUT).as_deref(), Some("WATCHDOG=1"));
}

#[test]
fn it_pings_only_while_its_work_loop_goes_round() {
    // budget: 12 s
    if !std::env::var("HONE_SLOW").is_ok_and(|slow| slow == "1") {
        return;
    }
    let mut ws = Workspace::new(|_| {});
    let (manager, socket) = Manager::new(&ws);
    ws.start_with(&[("NOTIFY_SOCKET", &socket)]);
    while manager.hears(TIMEOUT).unwrap() != "WATCHDOG=1" {}
    // The loop reads its configuration and never comes back: a pipe without a writer. Its other threads live on.
    let file = ws.path().join("settings.json");
    let settings = std::fs::read(&file).unwrap();
    let pipe = ws.path().join("pipe");
    assert!(Process::new("mkfifo").arg(&pipe).status().unwrap().success());
    std::fs::rename(&pipe, &file).unwrap();
    ws.submit("a.jsonl", &rows("a", 2));
    // One round may have been under way.
    let is_silent = (0..10).any(|_| manager.hears(3 * PING).is_none());
    assert!(is_silent, "it pings on");
    assert!(ws.daemon.as_mut().unwrap().try_wait().unwrap().is_none(), "it lives");
    let mut writer = std::fs::File::options().write(true).open(&file).unwrap();
    let whole = ws.path().join("whole");
    std::fs::write(&whole, &settings).unwrap();
    std::fs::rename(&whole, &file).unwrap();
    writer.write_all(&settings).unwrap();
    drop(writer);
    assert_eq!(manager.hears(TIMEOUT).as_deref(), Some("WATCHDOG=1"), "it goes round again");
}
