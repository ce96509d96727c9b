//! The moves of files that datasets go through. Each is idempotent: done again after a crash at any instant it
//! ends in the same place, and no file is lost or doubled.
//!
//! `take_file`: sidecar, then file, by rename from the inbox into `datasets/dataset-N/`. `move_rejected`: the
//! report, then the file, into `rejected/`, then the folder goes. `drop_duplicate`: the folder goes.

use crate::Layout;
use anyhow::{Context, Result, ensure};
use hone_pipeline::state::{Dataset, DatasetState};
use serde_json::{Value, json};
use std::path::{Component, Path, PathBuf};

/// The sidecar of a file: `<file>.meta.json` beside it.
#[must_use]
pub fn sidecar_of(file: &Path) -> PathBuf {
    append_to_name(file, "", ".meta.json")
}

/// The marker by which `hone submit --schema` tells the daemon the schema: `.<file>.submit.json` beside the
/// file, `{"schema_id": "…"}`. It is written before the file and removed when the file is taken.
#[must_use]
pub fn submit_marker_of(file: &Path) -> PathBuf {
    append_to_name(file, ".", ".submit.json")
}

/// Writes the marker of a file that is about to be put into the inbox.
pub fn write_submit_marker(file: &Path, schema_id: &str) -> Result<()> {
    hone_disk::write_json(&submit_marker_of(file), &json!({ "schema_id": schema_id }))
}

/// The schema that a file's marker names; `None` when there is no (readable) marker.
#[must_use]
pub fn read_submit_marker(file: &Path) -> Option<String> {
    let marker: Value = serde_json::from_slice(&std::fs::read(submit_marker_of(file)).ok()?).ok()?;
    marker.get("schema_id")?.as_str().map(str::to_string)
}

/// Takes an arriving file from the inbox into its folder. True when it is there afterwards; false when it is
/// neither there nor in the inbox. A file that is in its folder already is left alone, and so is whatever has
/// appeared in the inbox under its name since.
pub fn take_file(layout: &Layout, dataset: &Dataset) -> Result<bool> {
    let (source, target) = (inbox_file(layout, dataset)?, layout.dataset_file(dataset));
    if target.is_file() {
        return Ok(true);
    }
    if !is_plain_file(&source) {
        return Ok(false);
    }
    hone_disk::create_dir(&layout.dataset(dataset.id))?;
    let sidecar = sidecar_of(&source);
    if is_plain_file(&sidecar) {
        hone_disk::rename(&sidecar, &layout.dataset_meta(dataset.id))?;
    }
    hone_disk::remove_file(&submit_marker_of(&source))?;
    hone_disk::rename(&source, &target)?;
    Ok(true)
}

/// Moves a refused file to `rejected/<file>` with `<file>.report.json` (the report, and the dataset's id), and
/// drops its folder. Where another file of that name lies there already, it becomes `dataset-N-<file>`.
/// Returns where the file is now.
pub fn move_rejected(layout: &Layout, dataset: &Dataset) -> Result<PathBuf> {
    hone_disk::create_dir(&layout.rejected())?;
    let source = layout.dataset_file(dataset);
    let target = rejected_target(layout, dataset);
    if layout.dataset(dataset.id).is_dir() {
        hone_disk::write_json(&rejected_report_of(&target), &rejected_report(layout, dataset)?)?;
    }
    if source.is_file() {
        hone_disk::rename(&source, &target)?;
    }
    hone_disk::remove_tree(&layout.dataset(dataset.id))?;
    Ok(target)
}

/// The stored report of a dataset, wherever it lies now; none where no check has ended yet.
///
/// # Errors
/// It is there and cannot be read, or is larger than 64 MiB.
pub fn read_report(layout: &Layout, dataset: &Dataset) -> Result<Option<Value>> {
    const MAX_BYTES: u64 = 64 << 20;
    let filed = rejected_report_of(&rejected_target(layout, dataset));
    let is_rejected = matches!(dataset.state, DatasetState::Rejected { .. });
    let path = if is_rejected && filed.is_file() { filed } else { layout.dataset_report(dataset.id) };
    let Ok(info) = path.metadata() else { return Ok(None) };
    ensure!(info.len() <= MAX_BYTES, "the report is larger than {MAX_BYTES} bytes");
    let bytes = std::fs::read(&path).context("read the report")?;
    serde_json::from_slice(&bytes).context("parse the report")
}

/// Where the file of a dataset lies now; none where it is gone.
#[must_use]
pub fn present_file(layout: &Layout, dataset: &Dataset) -> Option<PathBuf> {
    let is_rejected = matches!(dataset.state, DatasetState::Rejected { .. });
    let filed = is_rejected.then(|| rejected_target(layout, dataset)).filter(|file| file.is_file());
    filed.or_else(|| Some(layout.dataset_file(dataset)).filter(|file| file.is_file()))
}

/// Drops the folder of a file whose bytes are a dataset already.
pub fn drop_duplicate(layout: &Layout, dataset: &Dataset) -> Result<()> {
    ensure!(matches!(dataset.state, DatasetState::Duplicate { .. }), "{} is not a duplicate", dataset.id);
    hone_disk::remove_tree(&layout.dataset(dataset.id))
}

fn inbox_file(layout: &Layout, dataset: &Dataset) -> Result<PathBuf> {
    let relative = Path::new(&dataset.inbox_path);
    let inside = relative.components().all(|c| matches!(c, Component::Normal(_)));
    ensure!(inside && !dataset.inbox_path.is_empty(), "{:?} is not a path within the inbox", dataset.inbox_path);
    Ok(layout.inbox().join(relative))
}

fn is_plain_file(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|info| info.is_file())
}

fn append_to_name(file: &Path, prefix: &str, suffix: &str) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!("{prefix}{name}{suffix}"))
}

fn rejected_report_of(target: &Path) -> PathBuf {
    append_to_name(target, "", ".report.json")
}

/// The plain name if it is free, or if its report is of this dataset (an earlier try); else one that is unique.
fn rejected_target(layout: &Layout, dataset: &Dataset) -> PathBuf {
    let plain = layout.rejected().join(&dataset.file_name);
    let report = std::fs::read(rejected_report_of(&plain));
    let ours = match &report {
        Ok(bytes) => {
            let report: Value = serde_json::from_slice(bytes).unwrap_or_default();
            report.get("dataset").and_then(Value::as_str) == Some(dataset.id.to_string().as_str())
        }
        Err(_) => !plain.exists(),
    };
    if ours { plain } else { layout.rejected().join(format!("{}-{}", dataset.id, dataset.file_name)) }
}

/// The stored report with the dataset's id; where the check died without one, the reasons alone.
fn rejected_report(layout: &Layout, dataset: &Dataset) -> Result<Value> {
    let path = layout.dataset_report(dataset.id);
    let mut report: Value = match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("parse {}", path.display()))?,
        Err(_) => json!({ "verdict": "rejected" }),
    };
    if let DatasetState::Rejected { reasons } = &dataset.state {
        report["reasons"] = json!(reasons);
    }
    report["dataset"] = json!(dataset.id.to_string());
    report["file"] = json!(dataset.inbox_path);
    Ok(report)
}

#[cfg(test)]
mod tests;
