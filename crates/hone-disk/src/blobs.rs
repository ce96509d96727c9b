//! A folder of files named by the hash of their bytes: what is there is complete and right.

use crate::files::{create_dir, hash_file, hash_reader, rename_file, sync_parent, temporary_beside};
use crate::tree::{link_or_copy, remove_file};
use crate::{create_file, faults};
use anyhow::{Context, Result, ensure};
use std::io::Read;
use std::path::{Path, PathBuf};

/// The folder. Each file's name is the BLAKE3 (lower-case hex) of its bytes.
#[derive(Clone, Debug)]
pub struct BlobDir {
    dir: PathBuf,
}

impl BlobDir {
    /// Opens the folder, creating it where it is absent.
    pub fn open(dir: &Path) -> Result<BlobDir> {
        create_dir(dir)?;
        Ok(BlobDir { dir: dir.to_path_buf() })
    }

    /// Where the blob lies, whether it is there or not. Refuses what is not a BLAKE3 in lower-case hex.
    pub fn path(&self, hash: &str) -> Result<PathBuf> {
        let hex = hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        ensure!(hex, "{hash:?} is not a BLAKE3 hash in lower-case hex");
        Ok(self.dir.join(hash))
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

    /// Stores a stream of bytes. Refused, with nothing left behind, when its hash is not `hash`.
    pub fn put(&self, hash: &str, reader: &mut dyn Read) -> Result<()> {
        let path = self.path(hash)?;
        let temporary = temporary_beside(&path)?;
        let result = self.receive(hash, reader, &temporary, &path);
        if result.is_err() {
            let _ = remove_file(&temporary);
        }
        result.with_context(|| format!("store blob {hash}"))
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

    fn receive(&self, hash: &str, reader: &mut dyn Read, temporary: &Path, path: &Path) -> Result<()> {
        let mut file = create_file(temporary)?;
        faults::step("write")?;
        let (_, found) = hash_reader(reader, &mut file)?;
        ensure!(found == hash, "the bytes have hash {found}");
        faults::step("sync_file")?;
        file.sync_all()?;
        rename_file(temporary, path)?;
        sync_parent(path)
    }
}
