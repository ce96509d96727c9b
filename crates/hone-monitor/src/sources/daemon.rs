//! Whether the daemon lives: whether a process holds the workspace's owner lock. Nothing is locked to find out, since a
//! starting daemon could meet that lock. And `daemon`: what it says is wrong, asked through its control socket.
//!
//! `daemon`: `{answers, config_error, config_changes: [sentence], silent_ms, disk_low, free_bytes, troubles: [{what, error,
//! tries, since_ms}]}`; everything but `answers` is null when it does not.

use crate::ControlDoor;
use anyhow::{Result, bail};
use hone_pipeline::wire::{ControlReply, ControlRequest};
use hone_store::Layout;
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The owner of the workspace.
pub(super) struct Daemon {
    pub(super) alive: bool,
    /// E.g. `pid 123 on host box`; of the last owner when it is not alive.
    pub(super) holder: Option<String>,
}

/// What the daemon says of itself. That it does not run is no error here: `training_status` says so.
pub(super) fn ask(door: Option<&ControlDoor>) -> Result<Value> {
    const TOLD: [&str; 6] = ["config_error", "config_changes", "silent_ms", "disk_low", "free_bytes", "troubles"];
    let status = match door.map(|door| door(&ControlRequest::Status)) {
        Some(Ok(ControlReply::Pong { status, .. })) => status,
        Some(Ok(other)) => bail!("the daemon's answer makes no sense: {other:?}"),
        Some(Err(_)) | None => None,
    };
    let mut told = json!({ "answers": status.is_some() });
    for name in TOLD {
        told[name] = status.as_ref().map(|status| status[name].clone()).unwrap_or_default();
    }
    Ok(told)
}

pub(super) fn look(layout: &Layout) -> Daemon {
    let path = layout.owner_lock();
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let holder = Some(text.trim().to_string()).filter(|text| !text.is_empty());
    let alive = match std::fs::read_to_string("/proc/locks") {
        Ok(locks) => path.metadata().is_ok_and(|metadata| is_locked(&locks, metadata.ino())),
        Err(_) => holder.as_deref().and_then(pid_of).is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists()),
    };
    Daemon { alive, holder }
}

/// True when the kernel's list has a lock of a whole file (`flock`) on this inode. Lines look like
/// `1: FLOCK  ADVISORY  WRITE 4011 08:01:263203 0 EOF`; those with `->` only wait for one.
fn is_locked(locks: &str, inode: u64) -> bool {
    locks.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let file = match words[..] {
            [_, "FLOCK", _, _, _, file, ..] => file,
            _ => return false,
        };
        file.rsplit(':').next().and_then(|inode| inode.parse().ok()) == Some(inode)
    })
}

fn pid_of(holder: &str) -> Option<u32> {
    holder.strip_prefix("pid ")?.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCKS: &str = "1: POSIX  ADVISORY  WRITE 4012 08:01:77 0 EOF\n2: FLOCK  ADVISORY  WRITE 4011 08:01:263203 0 EOF\n\
                         2: -> FLOCK  ADVISORY  WRITE 4013 08:01:55 0 EOF\n";

    #[test]
    fn only_a_held_lock_on_the_whole_file_counts() {
        assert!(is_locked(LOCKS, 263_203));
        assert!(!is_locked(LOCKS, 77));
        assert!(!is_locked(LOCKS, 55));
        assert!(!is_locked("", 1));
    }

    #[test]
    fn the_owner_is_alive_exactly_while_it_holds_the_lock() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path());
        assert!(!look(&layout).alive);
        let lock = hone_store::owner_lock(root.path()).unwrap();
        let daemon = look(&layout);
        assert!(daemon.alive);
        assert_eq!(daemon.holder.as_deref().and_then(pid_of), Some(std::process::id()));
        drop(lock);
        let daemon = look(&layout);
        assert!(!daemon.alive && daemon.holder.is_some());
    }
}
