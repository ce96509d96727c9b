//! Manifests: the list of a folder's files with sizes and hashes, written last. A folder without one, or one
//! that does not match it to the byte, is not complete.
//!
//! `manifest.json`: `{"format_version": 1, "files": [{"path": "config.json", "size": 123, "blake3": "<hex>"}]}`,
//! paths relative with `/`, sorted. The BLAKE3 of the manifest's own bytes names the content of the folder.

use crate::files::{hash_file, json_bytes, write_json};
use crate::tree::{Links, files_below, sync_file, sync_tree};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Component, Path};

/// Name of the manifest within its folder.
pub const FILE: &str = "manifest.json";
/// Version written; no other is read.
pub const FORMAT_VERSION: u32 = 1;

/// The list of a folder's files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Every file below the folder but the manifest, sorted by path.
    pub files: Vec<Entry>,
}

/// One file of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Relative to the folder, with `/`.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// BLAKE3 of the bytes, lower-case hex.
    pub blake3: String,
}

/// Hashes and syncs every file below `dir`, then writes the manifest, durably and last. Returns the BLAKE3 of
/// `manifest.json`.
pub fn write(dir: &Path) -> Result<String> {
    for path in files_below(dir, Links::Refused)? {
        sync_file(&dir.join(&path))?;
    }
    let (manifest, _) = compute(dir)?;
    sync_tree(dir)?;
    write_json(&dir.join(FILE), &manifest)?;
    Ok(hash_file(&dir.join(FILE))?.1)
}

/// The manifest that `dir` would get, and the BLAKE3 that its bytes would have; nothing is written. A manifest that
/// lies there already is not looked at, and a link to a file counts as the file. This names base models, which stay
/// where their owner put them.
pub fn compute(dir: &Path) -> Result<(Manifest, String)> {
    let mut files = Vec::new();
    for path in files_below(dir, Links::ToFiles)? {
        if path == Path::new(FILE) {
            continue;
        }
        let (size, blake3) = hash_file(&dir.join(&path))?;
        let path = path.to_str().with_context(|| format!("{} is not a UTF-8 name", path.display()))?.to_string();
        files.push(Entry { path, size, blake3 });
    }
    let manifest = Manifest { format_version: FORMAT_VERSION, files };
    let hash = blake3::hash(&json_bytes(&manifest)?).to_hex().to_string();
    Ok((manifest, hash))
}

/// Reads a folder's manifest; returns it with the BLAKE3 of its bytes. The files are not looked at.
pub fn read(dir: &Path) -> Result<(Manifest, String)> {
    let path = dir.join(FILE);
    let bytes = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let manifest: Manifest = serde_json::from_slice(&bytes).with_context(|| format!("parse {}", path.display()))?;
    let version = manifest.format_version;
    ensure!(version == FORMAT_VERSION, "{} has format {version}, this hone reads {FORMAT_VERSION}", path.display());
    for entry in &manifest.files {
        let plain = Path::new(&entry.path).components().all(|c| matches!(c, Component::Normal(_)));
        ensure!(plain && !entry.path.is_empty(), "{} names {:?}, outside its folder", path.display(), entry.path);
    }
    Ok((manifest, blake3::hash(&bytes).to_hex().to_string()))
}

/// Holds a folder against its manifest: every listed file is there with its size and hash, and no other file
/// is. With `expected_hash`, the manifest itself must have that BLAKE3. The first difference is the error.
pub fn verify(dir: &Path, expected_hash: Option<&str>) -> Result<Manifest> {
    let (manifest, hash) = read(dir)?;
    if let Some(expected) = expected_hash {
        ensure!(hash == expected, "{}/{FILE} has hash {hash}, expected {expected}", dir.display());
    }
    let listed: BTreeSet<&Path> = manifest.files.iter().map(|entry| Path::new(&entry.path)).collect();
    for path in files_below(dir, Links::Refused)? {
        if path != Path::new(FILE) && !listed.contains(path.as_path()) {
            bail!("{} is not in the manifest", dir.join(path).display());
        }
    }
    for entry in &manifest.files {
        let path = dir.join(&entry.path);
        let (size, blake3) = hash_file(&path)?;
        ensure!(size == entry.size, "{} has {size} bytes, its manifest says {}", path.display(), entry.size);
        ensure!(blake3 == entry.blake3, "{} differs from its manifest", path.display());
    }
    Ok(manifest)
}
