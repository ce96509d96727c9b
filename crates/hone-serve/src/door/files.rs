//! What the door keeps on disk, and nothing of what it decides:
//!
//! ```text
//! <root>/blobs/<blake3>                      bytes, named by their hash
//! <root>/deployments/<id>/deployment.json    Record
//! <root>/deployments/<id>/model/             links to blobs: a Hugging Face folder
//! <root>/served.json                         ServedFile: what serves, replaced at each switch
//! ```

use crate::error::ApiError;
use anyhow::{Context, Result, ensure};
use axum::http::StatusCode;
use hone_disk::blobs::{BlobDir, RSYNC_PARTIAL_DIR};
use hone_pipeline::wire::{DeployRequest, WIRE_FORMAT_VERSION};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tracing::warn;

/// Version of both files; no other is read.
const FORMAT_VERSION: u32 = 1;
const RECORD_FILE: &str = "deployment.json";
const SERVED_FILE: &str = "served.json";
/// Longest name of a file in a model folder.
const MAX_NAME_BYTES: usize = 200;
/// Most files of a deployment.
const MAX_FILES: usize = 1000;

/// `deployment.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Its number.
    pub id: u64,
    /// What was asked for.
    pub request: DeployRequest,
    /// Why it cannot serve; empty when it can.
    pub error: String,
    /// When it came, in ms since the epoch.
    pub created_ms: u64,
}

/// `served.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedFile {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The deployment that serves.
    pub serving: Option<u64>,
    /// What a rollback goes to.
    pub previous: Option<u64>,
    /// The highest number ever given: numbers never repeat.
    pub last_id: u64,
}

/// The serve root.
pub struct Files {
    root: PathBuf,
    blobs: BlobDir,
}

impl Files {
    /// Opens the root, makes what is absent, and removes what an interrupted staging left.
    pub fn open(root: &Path) -> Result<Files> {
        let files = Files { root: root.to_path_buf(), blobs: BlobDir::open(&root.join("blobs"))? };
        hone_disk::create_dir(&files.deployments())?;
        for (name, path) in entries(&files.deployments())? {
            if name.starts_with('.') {
                hone_disk::remove_tree(&path)?;
            }
        }
        Ok(files)
    }

    /// The folder of blobs.
    pub fn blobs(&self) -> &BlobDir {
        &self.blobs
    }

    /// Where a deployment's model lies.
    pub fn model_dir(&self, id: u64) -> PathBuf {
        self.dir(id).join("model")
    }

    /// All records. One that cannot be read is left out with a warning: its folder is what a later prune removes.
    pub fn records(&self) -> Result<BTreeMap<u64, Record>> {
        let mut records = BTreeMap::new();
        for (name, path) in entries(&self.deployments())? {
            let Ok(id) = name.parse::<u64>() else { continue };
            match read_json::<Record>(&path.join(RECORD_FILE)) {
                Ok(record) if record.format_version == FORMAT_VERSION && record.id == id => {
                    records.insert(id, record);
                }
                Ok(_) => warn!(id, "deployment left out: its record has another format or number"),
                Err(error) => warn!(id, "deployment left out: failed to {error:#}"),
            }
        }
        Ok(records)
    }

    /// What serves; nothing in a new root. A file that cannot be read is an error: guessing could serve another model.
    pub fn served(&self) -> Result<ServedFile> {
        let path = self.root.join(SERVED_FILE);
        if !path.exists() {
            return Ok(ServedFile { format_version: FORMAT_VERSION, serving: None, previous: None, last_id: 0 });
        }
        let served: ServedFile = read_json(&path)?;
        ensure!(served.format_version == FORMAT_VERSION, "{SERVED_FILE} has format {}", served.format_version);
        Ok(served)
    }

    /// Writes what serves.
    pub fn write_served(&self, served: &ServedFile) -> Result<()> {
        hone_disk::write_json(&self.root.join(SERVED_FILE), served)
    }

    /// Makes the folder of a deployment from blobs, each verified, and makes it visible at once.
    pub fn stage(&self, id: u64, request: &DeployRequest, now_ms: u64) -> Result<Record, ApiError> {
        let staging = self.deployments().join(format!(".staging-{id}"));
        let staged = self.stage_into(&staging, id, request, now_ms);
        if staged.is_err()
            && let Err(error) = hone_disk::remove_tree(&staging)
        {
            warn!(id, "failed to {error:#}");
        }
        staged
    }

    /// A deployment that failed after its staging: the record stays for people, the files go.
    pub fn mark_failed(&self, record: &Record) -> Result<()> {
        hone_disk::write_json(&self.dir(record.id).join(RECORD_FILE), record)?;
        hone_disk::remove_tree(&self.model_dir(record.id))
    }

    /// Holds every file of a deployment against its record. A blob that differs is removed, so that it is sent again.
    pub fn verify(&self, record: &Record) -> Result<(), ApiError> {
        self.verify_in(&self.model_dir(record.id), &record.request)
    }

    /// Removes a deployment.
    pub fn remove(&self, id: u64) -> Result<()> {
        hone_disk::remove_tree(&self.dir(id))
    }

    /// Removes blobs that no record names and whose last change (also a link made to them) is older than `grace_ms`:
    /// younger ones may be on their way into a deployment. So are what broken transfers of rsync left. Returns how many.
    pub fn prune_blobs(&self, records: &BTreeMap<u64, Record>, now_ms: u64, grace_ms: u64) -> Result<usize> {
        let wanted: BTreeSet<&str> =
            records.values().flat_map(|record| &record.request.files).map(|file| file.blake3.as_str()).collect();
        let mut removed = 0;
        let partial = self.root.join(RSYNC_PARTIAL_DIR);
        let partial = if partial.is_dir() { entries(&partial)? } else { Vec::new() };
        let partial = partial.into_iter().map(|(_, path)| (String::new(), path));
        for (name, path) in entries(&self.root.join("blobs"))?.into_iter().chain(partial) {
            let Ok(metadata) = path.metadata() else { continue };
            let changed_ms = (metadata.ctime().max(0) as u64) * 1000;
            if !wanted.contains(name.as_str()) && changed_ms.saturating_add(grace_ms) <= now_ms {
                hone_disk::remove_file(&path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn deployments(&self) -> PathBuf {
        self.root.join("deployments")
    }

    fn dir(&self, id: u64) -> PathBuf {
        self.deployments().join(id.to_string())
    }

    fn stage_into(&self, staging: &Path, id: u64, request: &DeployRequest, now_ms: u64) -> Result<Record, ApiError> {
        let hashes: Vec<String> = request.files.iter().map(|file| file.blake3.clone()).collect();
        let missing = self.blobs.missing(&hashes);
        if !missing.is_empty() {
            return Err(missing_blobs(&missing));
        }
        let model_dir = staging.join("model");
        let link = || -> Result<()> {
            hone_disk::remove_tree(staging)?;
            hone_disk::create_dir(&model_dir)?;
            request.files.iter().try_for_each(|file| self.blobs.link_to(&file.blake3, &model_dir.join(&file.path)))
        };
        link().map_err(|error| disk_error(&error))?;
        self.verify_in(&model_dir, request)?;
        let record = Record {
            format_version: FORMAT_VERSION,
            id,
            request: request.clone(),
            error: String::new(),
            created_ms: now_ms,
        };
        let publish = || -> Result<()> {
            hone_disk::write_json(&staging.join(RECORD_FILE), &record)?;
            hone_disk::sync_tree(staging)?;
            hone_disk::rename(staging, &self.dir(id))
        };
        publish().map_err(|error| disk_error(&error))?;
        Ok(record)
    }

    fn verify_in(&self, model_dir: &Path, request: &DeployRequest) -> Result<(), ApiError> {
        let mut damaged = Vec::new();
        for file in &request.files {
            let found = hone_disk::hash_file(&model_dir.join(&file.path)).ok();
            if found.as_ref().is_some_and(|(_, hash)| *hash == file.blake3) {
                let size = found.map_or(0, |(size, _)| size);
                if size != file.size {
                    let message = format!("{} has {size} bytes, the deployment says {}", file.path, file.size);
                    return Err(ApiError::invalid("files", message));
                }
                continue;
            }
            let blob = self.blobs.path(&file.blake3).and_then(|path| hone_disk::remove_file(&path));
            blob.map_err(|error| disk_error(&error))?;
            damaged.push(file.blake3.clone());
        }
        if damaged.is_empty() { Ok(()) } else { Err(damaged_blobs(&damaged)) }
    }
}

/// Refuses what no trainer of ours sends: other formats, names that leave the folder, doubled names, no files.
pub fn check_request(request: &DeployRequest, model_name: &str) -> Result<(), ApiError> {
    if request.format_version != WIRE_FORMAT_VERSION {
        let message = format!("format {} is not known here, only {WIRE_FORMAT_VERSION}", request.format_version);
        return Err(ApiError::invalid("format_version", message));
    }
    if request.model_name != model_name {
        let message = format!(
            "this server serves {model_name:?} and the deployment is for {:?}; set the same `model_name` on both hosts and \
             restart this server, which has its name from its start",
            request.model_name
        );
        return Err(ApiError {
            param: Some("model_name".to_string()),
            ..ApiError::new(StatusCode::CONFLICT, "model_name_differs", message)
        });
    }
    if !is_hash(&request.manifest_hash) {
        return Err(ApiError::invalid("manifest_hash", "`manifest_hash` must be a BLAKE3 hash in lower-case hex"));
    }
    if request.files.is_empty() || request.files.len() > MAX_FILES {
        return Err(ApiError::invalid("files", format!("`files` must name 1 to {MAX_FILES} files")));
    }
    let mut names = BTreeSet::new();
    for (index, file) in request.files.iter().enumerate() {
        if !is_plain_name(&file.path) {
            let message = format!("{:?} is not a plain file name (letters, digits, `.`, `_`, `-`)", file.path);
            return Err(ApiError::invalid(format!("files[{index}].path"), message));
        }
        if !is_hash(&file.blake3) {
            let message = "a file's `blake3` must be a BLAKE3 hash in lower-case hex";
            return Err(ApiError::invalid(format!("files[{index}].blake3"), message));
        }
        if !names.insert(file.path.as_str()) {
            return Err(ApiError::invalid("files", format!("{:?} is named twice", file.path)));
        }
        if file.path == hone_disk::manifest::FILE && file.blake3 != request.manifest_hash {
            return Err(ApiError::invalid(
                "manifest_hash",
                "`manifest_hash` is not the hash of the manifest in `files`",
            ));
        }
    }
    Ok(())
}

/// The manifest of a checkpoint, when the deployment has it, must name the files that the deployment has.
pub fn check_manifest(model_dir: &Path, request: &DeployRequest) -> Result<()> {
    if !request.files.iter().any(|file| file.path == hone_disk::manifest::FILE) {
        return Ok(());
    }
    let (manifest, hash) = hone_disk::manifest::read(model_dir)?;
    ensure!(hash == request.manifest_hash, "the manifest has another hash than the deployment says");
    for file in request.files.iter().filter(|file| file.path != hone_disk::manifest::FILE) {
        let listed = manifest.files.iter().any(|entry| entry.path == file.path && entry.blake3 == file.blake3);
        ensure!(listed, "{} is not in the checkpoint's manifest with this hash", file.path);
    }
    Ok(())
}

/// A blob's name.
pub fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// An error of the disk: the log has it in full, the client only learns that it is not its fault.
pub fn disk_error(error: &anyhow::Error) -> ApiError {
    tracing::error!("failed to {error:#}");
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "disk_error", "the server's disk refused; its log says why")
}

fn is_plain_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    !name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.starts_with('.') && name.bytes().all(plain)
}

fn missing_blobs(hashes: &[String]) -> ApiError {
    let message = format!("{} blobs are not here yet, among them {}; send them first", hashes.len(), hashes[0]);
    ApiError { param: Some("files".to_string()), ..ApiError::new(StatusCode::CONFLICT, "blobs_missing", message) }
}

fn damaged_blobs(hashes: &[String]) -> ApiError {
    let message =
        format!("{} blobs were damaged and are gone, among them {}; send them again", hashes.len(), hashes[0]);
    ApiError { param: Some("files".to_string()), ..ApiError::new(StatusCode::CONFLICT, "blobs_damaged", message) }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("parse {}", path.display()))
}

fn entries(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let list = || -> std::io::Result<Vec<_>> {
        std::fs::read_dir(dir)?
            .map(|entry| entry.map(|e| (e.file_name().to_string_lossy().into_owned(), e.path())))
            .collect()
    };
    list().with_context(|| format!("list {}", dir.display()))
}
