//! Single files: atomic writes, streaming, appending, hashing; and the creation of folders.

use crate::faults;
use anyhow::{Context, Result};
use serde::Serialize;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes read at a time when hashing or copying.
pub(crate) const CHUNK: usize = 1 << 20;

/// Creates a folder and its missing parents, and syncs the parents so that the names last. Fine if it exists.
pub fn create_dir(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = parent_of(path) {
        create_dir(parent)?;
    }
    faults::step("mkdir").and_then(|()| make_dir(path)).with_context(|| format!("create folder {}", path.display()))?;
    sync_parent(path)
}

/// Writes a file so that a reader sees the old bytes or the new ones, never a mixture, also after a power cut.
/// The parent must exist.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = temporary_beside(path)?;
    let result = write_temporary(&temporary, bytes).and_then(|()| rename_file(&temporary, path));
    if result.is_err() {
        let _ = faults::step("unlink").and_then(|()| fs::remove_file(&temporary));
    }
    result.with_context(|| format!("write {}", path.display()))?;
    sync_parent(path)
}

/// Writes a value as indented JSON with a final newline, by [`write_atomic`].
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let bytes = json_bytes(value).with_context(|| format!("encode {}", path.display()))?;
    write_atomic(path, &bytes)
}

/// As [`write_json`], in a file that only its owner may read.
pub fn write_private_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let bytes = json_bytes(value).with_context(|| format!("encode {}", path.display()))?;
    let temporary = temporary_beside(path)?;
    let result = write_owned(&temporary, &bytes).and_then(|()| rename_file(&temporary, path));
    if result.is_err() {
        let _ = faults::step("unlink").and_then(|()| fs::remove_file(&temporary));
    }
    result.with_context(|| format!("write {}", path.display()))?;
    sync_parent(path)
}

/// The bytes that [`write_json`] writes.
pub(crate) fn json_bytes(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Creates (or empties) a plain file: a log, or what another process writes. For bytes that matter see
/// [`create_streamed`].
pub fn create_file(path: &Path) -> Result<File> {
    faults::step("create").and_then(|()| File::create(path)).with_context(|| format!("create {}", path.display()))
}

/// Creates (or empties) a file for streaming into a staging folder. It is not durable before
/// [`crate::manifest::write`] or [`crate::sync_tree`] has run over its folder, or [`StreamedFile::sync`] returned.
pub fn create_streamed(path: &Path) -> Result<StreamedFile> {
    create_file(path).map(StreamedFile)
}

/// A file that is written in many goes.
#[derive(Debug)]
pub struct StreamedFile(File);

impl StreamedFile {
    /// Makes its bytes durable.
    ///
    /// # Errors
    /// Whatever the disk answers.
    pub fn sync(&self) -> io::Result<()> {
        faults::step("sync_file")?;
        self.0.sync_all()
    }
}

impl Write for StreamedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        faults::write_all(&mut self.0, bytes, "write")?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Appends one line (the newline is added) with a single write, so that two writers never tear a line. Not
/// synced: a log's last lines may be lost by a power cut. Creates the file; the parent must exist.
pub fn append_line(path: &Path, line: &str) -> Result<()> {
    let append = || {
        let mut file = OpenOptions::new().append(true).create(true).open(path)?;
        faults::write_all(&mut file, format!("{line}\n").as_bytes(), "append")
    };
    append().with_context(|| format!("append to {}", path.display()))
}

/// Size in bytes and BLAKE3 (lower-case hex) of a file.
pub fn hash_file(path: &Path) -> Result<(u64, String)> {
    let hash = || hash_reader(&mut File::open(path)?, &mut io::sink());
    hash().with_context(|| format!("read {}", path.display()))
}

/// BLAKE3 (lower-case hex) of bytes in memory.
#[must_use]
pub fn hash_bytes(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// Copies a stream to a writer; returns its size and BLAKE3.
pub(crate) fn hash_reader(reader: &mut dyn Read, writer: &mut dyn Write) -> io::Result<(u64, String)> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; CHUNK];
    let mut size = 0;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok((size, hasher.finalize().to_hex().to_string())),
            Ok(read) => {
                hasher.update(&buffer[..read]);
                writer.write_all(&buffer[..read])?;
                size += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A name beside `path` that no other writer uses.
pub(crate) fn temporary_beside(path: &Path) -> Result<PathBuf> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().with_context(|| format!("{} has no file name", path.display()))?;
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let temporary = format!(".{}.{}-{number}.tmp", name.to_string_lossy(), std::process::id());
    Ok(path.with_file_name(temporary))
}

/// Makes the names in a folder durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    faults::step("sync_dir")
        .and_then(|()| File::open(dir)?.sync_all())
        .with_context(|| format!("sync folder {}", dir.display()))
}

/// Makes the name of `path` in its folder durable.
pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    sync_dir(parent_of(path).unwrap_or(Path::new("/")))
}

/// The folder that holds `path`; `.` for a bare name, `None` for the root.
pub(crate) fn parent_of(path: &Path) -> Option<&Path> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Some(Path::new(".")),
        parent => parent,
    }
}

/// Writes and syncs a new file.
pub(crate) fn write_temporary(path: &Path, bytes: &[u8]) -> io::Result<()> {
    faults::step("create")?;
    let mut file = File::create(path)?;
    faults::write_all(&mut file, bytes, "write")?;
    faults::step("sync_file")?;
    file.sync_all()
}

/// As [`write_temporary`], never readable by others.
fn write_owned(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    faults::step("create")?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    faults::write_all(&mut file, bytes, "write")?;
    faults::step("sync_file")?;
    file.sync_all()
}

/// Renames within one folder, without syncing it.
pub(crate) fn rename_file(from: &Path, to: &Path) -> io::Result<()> {
    faults::step("rename")?;
    fs::rename(from, to)
}

fn make_dir(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        result => result,
    }
}
