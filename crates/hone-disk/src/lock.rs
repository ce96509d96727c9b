//! A lock on a file or a folder, held by the operating system for as long as the process lives.

use anyhow::{Context, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::Path;

/// An exclusive lock on a file. Freed when dropped and when the process ends, however it ends. What the file
/// says is for people only: stale, empty or foreign content never matters.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

impl FileLock {
    /// Takes the lock; `None` when another process (or another handle of this one) holds it. Writes this
    /// process and host into the file. The file is never removed: its parent must exist.
    pub fn try_exclusive(path: &Path) -> Result<Option<FileLock>> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .with_context(|| format!("open lock {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("lock {}", path.display())),
        }
        let holder = format!("pid {} on host {}\n", std::process::id(), host_name());
        file.set_len(0).and_then(|()| file.write_all(holder.as_bytes())).context("write the holder into the lock")?;
        Ok(Some(FileLock { _file: file }))
    }

    /// Takes the lock of a folder, which unlike a file nobody removes while what lies in it is used; `None` when it is
    /// held. Nothing is written.
    pub fn try_exclusive_dir(path: &Path) -> Result<Option<FileLock>> {
        let folder = File::open(path).with_context(|| format!("open {}", path.display()))?;
        match folder.try_lock() {
            Ok(()) => Ok(Some(FileLock { _file: folder })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", path.display())),
        }
    }

    /// Who last took the lock, e.g. `pid 123 on host box`; `None` when the file is absent or empty.
    #[must_use]
    pub fn holder(path: &Path) -> Option<String> {
        let text = std::fs::read_to_string(path).ok()?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_string())
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
