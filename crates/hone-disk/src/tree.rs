//! Moving, linking, removing and syncing files and whole folders.

use crate::faults;
use crate::files::{CHUNK, parent_of, rename_file, sync_dir, sync_parent, temporary_beside};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Renames a file or a folder durably: both parents are synced. A file at `to` is replaced, a folder that is
/// not empty is refused. Across file systems: copied beside `to`, synced, renamed, then `from` is removed, so
/// that at any instant at least one of the two is complete.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    match rename_file(from, to) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => return move_across(from, to),
        Err(error) => return Err(error).with_context(|| format!("rename {} to {}", from.display(), to.display())),
    }
    sync_parent(to)?;
    if parent_of(from) != parent_of(to) {
        sync_parent(from)?;
    }
    Ok(())
}

/// Makes `to` a hard link of the file `from`, or a copy where the file system cannot link. An existing `to` is
/// replaced atomically. The two may share their bytes: neither may be written in place afterwards.
pub fn link_or_copy(from: &Path, to: &Path) -> Result<()> {
    let temporary = temporary_beside(to)?;
    let result = link(from, &temporary).or_else(|_| copy_file(from, &temporary));
    let result = result.and_then(|()| rename_file(&temporary, to));
    // Renaming one hard link onto another of the same file does nothing and leaves both names.
    let _ = faults::step("unlink").and_then(|()| fs::remove_file(&temporary));
    result.with_context(|| format!("link {} to {}", from.display(), to.display()))?;
    sync_parent(to)
}

/// Copies a folder to a place that does not exist yet, durably: it becomes visible when it is whole. The two share
/// nothing afterwards.
pub fn copy_dir(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        bail!("{} exists already", to.display());
    }
    let temporary = temporary_beside(to)?;
    let result = copy_tree(from, &temporary).and_then(|()| rename(&temporary, to));
    if result.is_err() {
        let _ = remove_tree(&temporary);
    }
    result.with_context(|| format!("copy {} to {}", from.display(), to.display()))
}

/// Removes a file; fine if it is absent.
pub fn remove_file(path: &Path) -> Result<()> {
    let remove = || {
        faults::step("unlink")?;
        fs::remove_file(path)
    };
    match remove() {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("remove {}", path.display())),
    }
}

/// Removes a folder with everything in it; fine if it is absent. The folder first gets a temporary name, so that
/// nobody sees half of it.
pub fn remove_tree(path: &Path) -> Result<()> {
    let temporary = temporary_beside(path)?;
    match rename_file(path, &temporary) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("remove {}", path.display())),
    }
    faults::step("remove_tree")
        .and_then(|()| fs::remove_dir_all(&temporary))
        .with_context(|| format!("remove {}", temporary.display()))?;
    sync_parent(path)
}

/// Syncs every file and folder below `dir`, and `dir` itself.
pub fn sync_tree(dir: &Path) -> Result<()> {
    for entry in sorted_entries(dir)? {
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            sync_tree(&path)?;
        } else {
            sync_file(&path)?;
        }
    }
    sync_dir(dir)
}

/// Syncs the bytes of one file.
pub(crate) fn sync_file(path: &Path) -> Result<()> {
    faults::step("sync_file")
        .and_then(|()| File::open(path)?.sync_all())
        .with_context(|| format!("sync {}", path.display()))
}

/// What a symbolic link in a folder means.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// It does not belong there.
    Refused,
    /// One to a file stands for that file (as in the cache of a model hub).
    ToFiles,
}

/// All files below `dir`, relative to it, sorted by their path. Special files are refused.
pub(crate) fn files_below(dir: &Path, links: Links) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    collect_files(dir, Path::new(""), links, &mut files)?;
    files.sort();
    Ok(files)
}

fn collect_files(dir: &Path, prefix: &Path, links: Links, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in sorted_entries(dir)? {
        let (kind, path) = (entry.file_type()?, prefix.join(entry.file_name()));
        let is_linked_file = kind.is_symlink() && links == Links::ToFiles && entry.path().is_file();
        if kind.is_dir() {
            collect_files(&entry.path(), &path, links, files)?;
        } else if kind.is_file() || is_linked_file {
            files.push(path);
        } else {
            bail!("{} is neither a file nor a folder", entry.path().display());
        }
    }
    Ok(())
}

fn sorted_entries(dir: &Path) -> Result<Vec<fs::DirEntry>> {
    let list = || fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>();
    let mut entries = list().with_context(|| format!("list {}", dir.display()))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    Ok(entries)
}

fn move_across(from: &Path, to: &Path) -> Result<()> {
    let temporary = temporary_beside(to)?;
    copy_tree(from, &temporary).with_context(|| format!("copy {} to {}", from.display(), temporary.display()))?;
    rename_file(&temporary, to).with_context(|| format!("rename {} to {}", temporary.display(), to.display()))?;
    sync_parent(to)?;
    if from.is_dir() { remove_tree(from) } else { remove_file(from) }
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        return Ok(copy_file(from, to)?);
    }
    crate::create_dir(to)?;
    for entry in sorted_entries(from)? {
        copy_tree(&entry.path(), &to.join(entry.file_name()))?;
    }
    sync_dir(to)
}

fn link(from: &Path, to: &Path) -> io::Result<()> {
    faults::step("link")?;
    // Of the file itself: the link of a symbolic link would be another symbolic link, at a place where it leads nowhere.
    fs::hard_link(fs::canonicalize(from)?, to)
}

/// Copies and syncs one file.
fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    faults::step("copy")?;
    let (mut source, mut target) = (File::open(from)?, File::create(to)?);
    let mut buffer = vec![0; CHUNK];
    loop {
        match source.read(&mut buffer)? {
            0 => break,
            read => target.write_all(&buffer[..read])?,
        }
    }
    faults::step("sync_file")?;
    target.sync_all()
}
