//! The effects of retention: measuring, removing what the state says is gone, daily snapshots, and the clearing of
//! what nobody needs any more. Everything here is idempotent, and stops at its [`Deadline`] between two files; the
//! next call goes on.
//!
//! `snapshots/YYYY-MM-DD/checkpoint-N/` holds the files of the checkpoint of that day by hard links (a copy where the
//! file system has none), complete when it is visible. Reports are never removed.

use crate::Layout;
use anyhow::{Context, Result, bail};
use hone_pipeline::ids::CheckpointId;
use hone_pipeline::state::{Checkpoint, CheckpointState, Dataset, Gone, Job, State, TimeMs, Work};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// Until when work may go on.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    start: Instant,
    limit: Duration,
}

impl Deadline {
    /// A deadline that begins to run now.
    #[must_use]
    pub fn new(limit: Duration) -> Deadline {
        Deadline { start: Instant::now(), limit }
    }

    /// # Errors
    /// The time is over.
    pub fn check(&self) -> Result<()> {
        if self.start.elapsed() > self.limit {
            bail!("end in time: more than {} s went by; the next run goes on", self.limit.as_secs());
        }
        Ok(())
    }
}

/// How long things stay, in milliseconds; 0 = for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// Refused files (their reports stay).
    pub rejected_ms: u64,
    /// Run folders: requests, events, metrics, raw answers.
    pub runs_ms: u64,
    /// Log files that were put aside.
    pub logs_ms: u64,
    /// Snapshots; this is a number of days with one, not a time.
    pub keep_snapshots: usize,
}

/// Bytes of every published checkpoint with a folder of its own, by its manifest.
///
/// # Errors
/// The deadline passed. A folder whose manifest cannot be read counts as empty.
pub fn checkpoint_sizes(layout: &Layout, state: &State, deadline: Deadline) -> Result<BTreeMap<CheckpointId, u64>> {
    let here = |c: &&Checkpoint| c.state == CheckpointState::Published && c.parent.is_some();
    let mut sizes = BTreeMap::new();
    for checkpoint in state.checkpoints.values().filter(here) {
        deadline.check()?;
        let size = match hone_disk::manifest::read(&layout.checkpoint(checkpoint.id)) {
            Ok((manifest, _)) => manifest.files.iter().map(|file| file.size).sum(),
            Err(_) => 0,
        };
        sizes.insert(checkpoint.id, size);
    }
    Ok(sizes)
}

/// Removes the folders of checkpoints that the state calls pruned, and the files of data sets that it calls gone
/// (their reports stay). Returns what went.
///
/// # Errors
/// Something could not be removed, or the deadline passed.
pub fn remove_pruned(layout: &Layout, state: &State, deadline: Deadline) -> Result<Vec<String>> {
    let mut gone = Vec::new();
    for checkpoint in state.checkpoints.values().filter(|c| c.state == CheckpointState::Pruned) {
        for folder in [layout.checkpoint(checkpoint.id), layout.resume(checkpoint.id)] {
            if folder.exists() {
                deadline.check()?;
                hone_disk::remove_tree(&folder)?;
                gone.push(relative(layout, &folder));
            }
        }
    }
    for dataset in state.datasets.values().filter(|d| d.gone.is_some()) {
        if dataset.gone == Some(Gone::Forgotten) {
            deadline.check()?;
            forget(layout, state, dataset)?;
        }
        for file in [layout.dataset_file(dataset), layout.dataset_meta(dataset.id)] {
            if file.exists() {
                deadline.check()?;
                hone_disk::remove_file(&file)?;
                gone.push(relative(layout, &file));
            }
        }
    }
    Ok(gone)
}

/// Takes the snapshot of a day (`YYYY-MM-DD`), where there is none yet. False when there is nothing to do.
///
/// # Errors
/// A file could not be linked or copied; the next call begins anew.
pub fn take_snapshot(layout: &Layout, checkpoint: CheckpointId, day: &str) -> Result<bool> {
    let (target, source) = (layout.snapshots().join(day), layout.checkpoint(checkpoint));
    if target.exists() || !source.is_dir() {
        return Ok(false);
    }
    let staging = layout.snapshots().join(format!(".{day}.tmp"));
    hone_disk::remove_tree(&staging)?;
    let folder = staging.join(checkpoint.to_string());
    hone_disk::create_dir(&folder)?;
    let (manifest, _) = hone_disk::manifest::read(&source).context("read the checkpoint's manifest")?;
    let files = manifest.files.iter().map(|file| file.path.as_str());
    for path in files.chain([hone_disk::manifest::FILE]) {
        let to = folder.join(path);
        to.parent().map_or(Ok(()), hone_disk::create_dir)?;
        hone_disk::link_or_copy(&source.join(path), &to)?;
    }
    hone_disk::rename(&staging, &target)?;
    Ok(true)
}

/// Removes what has had its time. Returns what went.
///
/// # Errors
/// Something could not be removed, or the deadline passed.
pub fn sweep_rest(layout: &Layout, state: &State, rest: &Rest, now: TimeMs, deadline: Deadline) -> Result<Vec<String>> {
    let mut gone = Vec::new();
    let mut remove = |path: &Path| {
        deadline.check()?;
        if path.is_dir() {
            hone_disk::remove_tree(path)?
        } else {
            hone_disk::remove_file(path)?
        }
        gone.push(relative(layout, path));
        anyhow::Ok(())
    };
    let is_old = |path: &Path, keep_ms: u64| keep_ms > 0 && age_ms(path, now).is_some_and(|age| age > keep_ms);
    for path in entries(&layout.rejected())? {
        if !name_of(&path).ends_with(".report.json") && is_old(&path, rest.rejected_ms) {
            remove(&path)?;
        }
    }
    for path in entries(&layout.logs())? {
        if name_of(&path).ends_with(".log.1") && is_old(&path, rest.logs_ms) {
            remove(&path)?;
        }
    }
    let needed = runs_in_use(layout, state);
    for group in entries(&layout.runs())? {
        for path in entries(&group).unwrap_or_default() {
            if !needed.iter().any(|run| run.starts_with(&path)) && is_old(&path, rest.runs_ms) {
                remove(&path)?;
            }
        }
    }
    let days: Vec<PathBuf> = entries(&layout.snapshots())?;
    let days: Vec<&PathBuf> = days.iter().filter(|path| !name_of(path).starts_with('.')).collect();
    let num_old = if rest.keep_snapshots == 0 { 0 } else { days.len().saturating_sub(rest.keep_snapshots) };
    for path in &days[..num_old] {
        remove(path)?;
    }
    Ok(gone)
}

/// What quotes a forgotten data set goes: previews and logs of the jobs that were trained on it, and the words of its
/// report. Its hash and its counts stay.
fn forget(layout: &Layout, state: &State, dataset: &Dataset) -> Result<()> {
    let report = layout.dataset_report(dataset.id);
    if !report.is_file() || std::fs::read(&report).is_ok_and(|bytes| is_forgotten(&bytes)) {
        return Ok(());
    }
    let replays = |job: &Job| job.replay.as_ref().is_some_and(|replay| replay.datasets.contains(&dataset.id));
    let uses = |job: &&Job| job.datasets.contains(&dataset.id) || replays(job);
    for job in state.jobs.values().filter(uses) {
        hone_disk::remove_tree(&layout.runs().join(job.id.to_string()))?;
    }
    hone_disk::remove_tree(&layout.check_run(dataset.id))?;
    hone_disk::remove_file(&layout.dataset_deep_report(dataset.id))?;
    // Last: while the report still quotes, all of this is done again.
    let words = json!({
        "format_version": 1, "verdict": "accepted", "forgotten": true, "schema_id": dataset.schema_id,
        "rows": dataset.rows, "blake3": dataset.blake3,
    });
    hone_disk::write_json(&report, &words)
}

fn is_forgotten(report: &[u8]) -> bool {
    serde_json::from_slice(report).is_ok_and(|report: Value| report["forgotten"] == true)
}

/// Run folders of what the device does and of every check under way; with them what an evaluation goes on from.
fn runs_in_use(layout: &Layout, state: &State) -> BTreeSet<PathBuf> {
    let leased = state.lease.as_ref().map_or(Vec::new(), |lease| match lease.work {
        Work::Train { job } => vec![layout.run(job, lease.token)],
        Work::Evaluate { checkpoint } => {
            vec![layout.eval_run(checkpoint, lease.token), layout.eval_results(checkpoint)]
        }
    });
    let checked = state.datasets.moving().filter(|d| d.check_started).map(|d| layout.check_run(d.id));
    leased.into_iter().chain(checked).collect()
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = || std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>();
    let mut paths = match list() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        result => result.with_context(|| format!("list {}", folder.display()))?,
    };
    paths.sort();
    Ok(paths)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// How long something has lain where it is: since it was written, or moved there, whichever is later. (A move keeps the
/// time of the last write, which is that of the people the file came from; it changes the time of the last change.)
fn age_ms(path: &Path, now: TimeMs) -> Option<u64> {
    let info = path.symlink_metadata().ok()?;
    let ms = |seconds: i64, ns: i64| Some(u64::try_from(seconds).ok()? * 1_000 + u64::try_from(ns).ok()? / 1_000_000);
    let (written, moved) = (ms(info.mtime(), info.mtime_nsec())?, ms(info.ctime(), info.ctime_nsec())?);
    now.checked_sub(written.max(moved))
}

fn relative(layout: &Layout, path: &Path) -> String {
    path.strip_prefix(layout.root()).unwrap_or(path).display().to_string()
}
