//! One owner per workspace.

use crate::Layout;
use hone_disk::FileLock;
use std::path::Path;

/// The right to change a workspace. Freed when dropped and when the process ends, however it ends.
#[derive(Debug)]
pub struct OwnerLock {
    _lock: FileLock,
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
/// lock file never blocks: only a living process does.
pub fn owner_lock(root: &Path) -> Result<OwnerLock, OwnerLockError> {
    let layout = Layout::new(root);
    hone_disk::create_dir(&layout.run_dir())?;
    match FileLock::try_exclusive(&layout.owner_lock())? {
        Some(lock) => Ok(OwnerLock { _lock: lock }),
        None => {
            let holder = FileLock::holder(&layout.owner_lock());
            Err(OwnerLockError::Held { holder: holder.unwrap_or_else(|| "another process".to_string()) })
        }
    }
}
