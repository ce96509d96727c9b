//! Uploads that go on where they broke off. What has arrived lies in `.part-<hash>` beside the blobs; it becomes a
//! blob when it is whole and its hash is right.

use super::BlobDir;
use crate::faults;
use crate::files::{CHUNK, hash_file, rename_file, sync_parent};
use crate::tree::remove_file;
use anyhow::{Context, Result, ensure};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

/// Where a part of a blob belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The first byte.
    pub offset: u64,
    /// The size of the whole blob.
    pub total: u64,
}

/// What became of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// The blob is there.
    Whole,
    /// So many bytes of it are.
    Partly(u64),
    /// Nothing was taken: the part begins beyond the bytes that are here.
    Gap(u64),
    /// Nothing was taken: another upload of the same blob is under way.
    Busy,
}

impl BlobDir {
    /// How many bytes of a blob arrived before its upload broke off; 0 when none did.
    #[must_use]
    pub fn arrived(&self, hash: &str) -> u64 {
        let partial = self.path(hash).map(|path| part_path(&path));
        partial.ok().and_then(|path| path.metadata().ok()).map_or(0, |info| info.len())
    }

    /// Takes a part of a blob, which may overlap what is here already. What was read before `reader` failed is kept for
    /// the next try. A whole blob whose hash is wrong is an error, and nothing of it is kept.
    pub fn receive_part(&self, hash: &str, part: Part, reader: &mut dyn Read) -> Result<Received> {
        let path = self.path(hash)?;
        if path.is_file() {
            return Ok(Received::Whole);
        }
        let Some(_turn) = Turn::take(self, hash) else { return Ok(Received::Busy) };
        let partial = part_path(&path);
        let arrived = self.arrived(hash);
        if part.offset > arrived {
            return Ok(Received::Gap(arrived));
        }
        let written = append_from(&partial, part, reader).with_context(|| format!("receive blob {hash}"))?;
        if written < part.total {
            return Ok(Received::Partly(written));
        }
        let (size, found) = hash_file(&partial)?;
        if found != hash || size != part.total {
            remove_file(&partial)?;
        }
        ensure!(size == part.total, "store blob {hash}: {size} bytes came, {} were announced", part.total);
        ensure!(found == hash, "store blob {hash}: the bytes have hash {found}");
        rename_file(&partial, &path).with_context(|| format!("store blob {hash}"))?;
        sync_parent(&path)?;
        Ok(Received::Whole)
    }
}

/// Writes what `reader` gives at the part's offset and returns how long the file is then, synced.
fn append_from(partial: &Path, part: Part, reader: &mut dyn Read) -> Result<u64> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(partial)?;
    faults::step("write")?;
    file.set_len(part.offset)?;
    file.seek(SeekFrom::Start(part.offset))?;
    let (mut buffer, mut written) = (vec![0; CHUNK], part.offset);
    let outcome = loop {
        match reader.read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(read) => {
                file.write_all(&buffer[..read])?;
                written += read as u64;
                // More than was announced is cut off by the check of the whole.
                if written > part.total {
                    break Ok(());
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
    };
    sync(&file)?;
    outcome?;
    Ok(written)
}

fn sync(file: &File) -> Result<()> {
    faults::step("sync_file")?;
    Ok(file.sync_all()?)
}

fn part_path(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".part-{name}"))
}

/// The right to write one blob's part; given back when dropped.
struct Turn<'a> {
    dir: &'a BlobDir,
    hash: String,
}

impl Turn<'_> {
    fn take<'a>(dir: &'a BlobDir, hash: &str) -> Option<Turn<'a>> {
        let mut uploads = dir.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        uploads.insert(hash.to_string()).then(|| Turn { dir, hash: hash.to_string() })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.dir.uploads.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.hash);
    }
}
