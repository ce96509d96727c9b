//! One owner per workspace.
//!
//! What counts is a lock on the workspace's folder itself: nobody can remove that from under a living owner, as they
//! can the lock file `run/owner.lock`. That file tells people who the owner is, and is locked as well, for versions of
//! hone that know nothing else.

use crate::Layout;
use hone_disk::FileLock;
use std::path::{Path, PathBuf};

#[cfg(test)]
mod tests;

/// The right to change a workspace. Freed when dropped and when the process ends, however it ends.
#[derive(Debug)]
pub struct OwnerLock {
    _folder: FileLock,
    _file: FileLock,
    path: PathBuf,
}

impl OwnerLock {
    /// Puts the lock file back where somebody has removed it. Called now and then by a long-lived owner.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep(&mut self) -> anyhow::Result<()> {
        if self.path.exists() {
            return Ok(());
        }
        if let Some(file) = FileLock::try_exclusive(&self.path)? {
            self._file = file;
        }
        Ok(())
    }
}

/// Why the workspace could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum OwnerLockError {
    /// Another process has it.
    #[error("the workspace is in use by {holder}")]
    Held {
        /// E.g. `pid 123 on host box`.
        holder: String,
    },
    /// The lock file could not be used.
    #[error("{0:#}")]
    Io(#[from] anyhow::Error),
}

/// Takes the owner lock of the workspace at `root`, or says who has it. Stale, empty or foreign content of the
/// lock file never blocks, nor does its absence: only a living process does.
pub fn owner_lock(root: &Path) -> Result<OwnerLock, OwnerLockError> {
    let layout = Layout::new(root);
    hone_disk::create_dir(&layout.run_dir())?;
    let path = layout.owner_lock();
    let folder = FileLock::try_exclusive_dir(layout.root())?.ok_or_else(|| held(&path))?;
    let file = FileLock::try_exclusive(&path)?.ok_or_else(|| held(&path))?;
    Ok(OwnerLock { _folder: folder, _file: file, path })
}

fn held(path: &Path) -> OwnerLockError {
    let holder = FileLock::holder(path).unwrap_or_else(|| "another process".to_string());
    OwnerLockError::Held { holder }
}
