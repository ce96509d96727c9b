//! A folder of files named by the hash of their bytes: what is there is complete and right.

use crate::files::{create_dir, hash_file};
use crate::tree::link_or_copy;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

mod upload;

pub use upload::{Part, Received};

/// Folder beside the blobs in which rsync keeps what a broken transfer brought.
pub const RSYNC_PARTIAL_DIR: &str = "rsync-partial";

/// The folder. Each file's name is the BLAKE3 (lower-case hex) of its bytes.
#[derive(Clone, Debug)]
pub struct BlobDir {
    dir: PathBuf,
    /// Blobs whose parts are being written by this process. A lock, because uploads come on any thread and none of
    /// them owns the folder.
    uploads: Arc<Mutex<BTreeSet<String>>>,
}

impl BlobDir {
    /// Opens the folder, creating it where it is absent.
    pub fn open(dir: &Path) -> Result<BlobDir> {
        create_dir(dir)?;
        Ok(BlobDir { dir: dir.to_path_buf(), uploads: Arc::default() })
    }

    /// Where the blob lies, whether it is there or not. Refuses what is not a BLAKE3 in lower-case hex.
    pub fn path(&self, hash: &str) -> Result<PathBuf> {
        let hex = hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        ensure!(hex, "{hash:?} is not a BLAKE3 hash in lower-case hex");
        Ok(self.dir.join(hash))
    }

    /// Bytes that may still be written to the file system of the folder.
    pub fn free_bytes(&self) -> Result<u64> {
        let info = rustix::fs::statvfs(&self.dir).with_context(|| format!("read room of {}", self.dir.display()))?;
        Ok(info.f_bavail.saturating_mul(info.f_frsize))
    }

    /// True when the blob is there.
    #[must_use]
    pub fn contains(&self, hash: &str) -> bool {
        self.path(hash).is_ok_and(|path| path.is_file())
    }

    /// Those of the hashes whose blobs are not there, in order, each once.
    #[must_use]
    pub fn missing(&self, hashes: &[String]) -> Vec<String> {
        let mut missing: Vec<String> = Vec::new();
        for hash in hashes {
            if !self.contains(hash) && !missing.contains(hash) {
                missing.push(hash.clone());
            }
        }
        missing
    }

    /// Stores a file of this machine by a hard link (or a copy), after its hash was verified.
    pub fn put_file(&self, hash: &str, file: &Path) -> Result<()> {
        let path = self.path(hash)?;
        if path.is_file() {
            return Ok(());
        }
        let (_, found) = hash_file(file)?;
        ensure!(found == hash, "{} has hash {found}, expected {hash}", file.display());
        link_or_copy(file, &path)
    }

    /// Makes `dest` a hard link (or a copy) of a blob. The parent of `dest` must exist.
    pub fn link_to(&self, hash: &str, dest: &Path) -> Result<()> {
        link_or_copy(&self.path(hash)?, dest)
    }
}
