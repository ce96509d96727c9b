//! Children of a daemon that is gone. They end by themselves when their stdin ends; until then each holds the
//! lock in its run folder.

use anyhow::{Context, Result, bail};
use hone_disk::FileLock;
use rustix::process::{Pid, Signal, kill_process_group};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(20);
/// How long a killed child may take to disappear.
const KILL_WAIT: Duration = Duration::from_secs(10);
/// Run folders lie this deep below `runs/` at most.
const MAX_DEPTH: usize = 3;

/// Waits until no child of an earlier daemon lives in `runs`, at most `wait`; then kills the ones that do and
/// waits for their end. `ended` is called for each step forward: when fewer of them live than before.
///
/// # Errors
/// One cannot be killed or does not disappear: the device is not free.
pub(crate) fn wait_for_earlier_children(runs: &Path, wait: Duration, ended: &mut dyn FnMut()) -> Result<()> {
    let mut locks = Vec::new();
    collect_locks(runs, 0, &mut locks);
    let start = Instant::now();
    let mut num_before = usize::MAX;
    while has_holder(&mut locks)? && start.elapsed() < wait {
        if locks.len() < num_before {
            num_before = locks.len();
            ended();
        }
        std::thread::sleep(POLL);
    }
    ended();
    for lock in &locks {
        kill_holder(lock)?;
    }
    let start = Instant::now();
    while has_holder(&mut locks)? {
        if start.elapsed() > KILL_WAIT {
            bail!("wait for the end of a child of an earlier daemon: {} is still held", locks[0].display());
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// Drops the locks that nobody holds (and their files, so that the next start need not look); says whether any
/// is left.
fn has_holder(locks: &mut Vec<PathBuf>) -> Result<bool> {
    let mut held = Vec::new();
    for path in locks.drain(..) {
        match FileLock::try_exclusive(&path)? {
            Some(_lock) => hone_disk::remove_file(&path)?,
            None => held.push(path),
        }
    }
    *locks = held;
    Ok(!locks.is_empty())
}

fn kill_holder(lock: &Path) -> Result<()> {
    let holder = FileLock::holder(lock).unwrap_or_default();
    let pid = holder.strip_prefix("pid ").and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    let pid = pid.and_then(Pid::from_raw).with_context(|| format!("read who holds {}", lock.display()))?;
    tracing::warn!(%holder, "a child of an earlier daemon is ended");
    // It leads its own group. Fails only when it has ended by itself just now.
    let _ = kill_process_group(pid, Signal::KILL);
    Ok(())
}

fn collect_locks(folder: &Path, depth: usize, locks: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && depth < MAX_DEPTH {
            collect_locks(&entry.path(), depth + 1, locks);
        } else if kind.is_file() && entry.file_name() == "lock" {
            locks.push(entry.path());
        }
    }
}
