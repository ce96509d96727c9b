//! One owner, whatever lies in its lock file.

use super::*;

impl Workspace {
    fn ping(&self) -> u32 {
        let start = Instant::now();
        loop {
            match control::send(self.path(), &ControlRequest::Ping, TIMEOUT) {
                Ok(ControlReply::Pong { pid, .. }) => return pid,
                _ if start.elapsed() < TIMEOUT => std::thread::sleep(POLL),
                other => panic!("{other:?}"),
            }
        }
    }

    /// What a second daemon says when it ends.
    fn second_daemon(&self) -> String {
        let second = Process::new(env!("CARGO_BIN_EXE_hone-fake-worker")).arg("daemon").arg(self.path()).output();
        let second = second.unwrap();
        assert!(!second.status.success());
        String::from_utf8(second.stderr).unwrap()
    }
}

#[test]
fn a_reused_empty_foreign_or_deleted_lock_file_starts_and_a_second_owner_is_refused() {
    let mut ws = Workspace::new(|_| {});
    let lock = Layout::new(ws.path()).owner_lock();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    // Its number is that of a living process, which is another one.
    let reused = format!("pid {} on host {host}\n", std::process::id());
    for left_behind in [Some(reused.as_str()), Some(""), Some("pid 7 on host elsewhere\n"), Some("\0\u{1}"), None] {
        match left_behind {
            Some(text) => std::fs::write(&lock, text).unwrap(),
            None => std::fs::remove_file(&lock).unwrap(),
        }
        ws.start();
        let pid = ws.daemon.as_ref().unwrap().id();
        assert_eq!(ws.ping(), pid, "{left_behind:?}");
        let refusal = ws.second_daemon();
        assert!(refusal.contains(&format!("in use by pid {pid} on host {host}")), "{left_behind:?}: {refusal}");
        ws.kill();
    }
}

#[test]
fn a_lock_file_that_is_removed_under_a_living_owner_comes_back_and_there_is_never_a_second_owner() {
    let mut ws = Workspace::new(|_| {});
    ws.start();
    let pid = ws.ping();
    let lock = Layout::new(ws.path()).owner_lock();
    std::fs::remove_file(&lock).unwrap();
    assert!(ws.second_daemon().contains("in use by"));
    ws.wait_for("the file is back", |_| lock.exists());
    assert!(ws.second_daemon().contains(&format!("in use by pid {pid} on host ")));
    assert_eq!(ws.ping(), pid);
}
