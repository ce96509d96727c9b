//! From staged folders to visible checkpoints, and the cleaning up behind them.

use crate::Layout;
use anyhow::{Context, Result, anyhow};
use hone_pipeline::ids::CheckpointId;
use hone_pipeline::state::{Checkpoint, CheckpointState, State};
use std::collections::BTreeSet;
use std::path::Path;

/// Why a checkpoint did not become visible.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// What is staged is not complete or not what the worker said: `Event::PublishFailed`.
    #[error("{0:#}")]
    Refused(anyhow::Error),
    /// This host could not do it now (no room, no permission): nothing is lost, to be tried again later.
    #[error("{0:#}")]
    Host(anyhow::Error),
}

/// Makes a staged checkpoint visible: verifies both staged folders against their manifests (the weights against
/// the hash that the worker told), syncs them, renames the resume state to `resume/step-N` and then the weights
/// to `checkpoints/checkpoint-N`. Nothing to do for a part that is in place already with the same manifest.
pub fn publish(layout: &Layout, checkpoint: &Checkpoint) -> Result<(), PublishError> {
    let CheckpointState::Staged { staging, resume_staging } = &checkpoint.state else {
        return Err(PublishError::Refused(anyhow!("{} is not staged", checkpoint.id)));
    };
    let (staging, resume_staging) = (layout.root().join(staging), layout.root().join(resume_staging));
    let (weights, resume) = (layout.checkpoint(checkpoint.id), layout.resume(checkpoint.id));
    let hash = Some(checkpoint.manifest_hash.as_str());
    let verify = || {
        verify_staged(&resume_staging, &resume, None).context("verify the resume state")?;
        verify_staged(&staging, &weights, hash).context("verify the weights")
    };
    verify().map_err(PublishError::Refused)?;
    // The weights come last: where they are visible, the resume state is, too.
    let place = || {
        move_into_place(&resume_staging, &resume).context("publish the resume state")?;
        move_into_place(&staging, &weights).context("publish the weights")
    };
    place().map_err(PublishError::Host)
}

/// Removes what unfinished slices left behind: staging folders that no staged checkpoint and no lease names,
/// and temporary names in the folders of the workspace. For the start of a daemon, when no child
/// of an earlier one lives any more.
pub fn sweep_staging(layout: &Layout, state: &State) -> Result<()> {
    let mut keep: BTreeSet<String> = BTreeSet::new();
    for checkpoint in state.checkpoints.values() {
        if let CheckpointState::Staged { staging, resume_staging } = &checkpoint.state {
            keep.extend([staging.clone(), resume_staging.clone()]);
        }
    }
    if let Some(lease) = &state.lease {
        keep.extend([Layout::checkpoint_staging(lease.token), Layout::resume_staging(lease.token)]);
    }
    for folder in ["checkpoints", "resume", "datasets", "runs", "runs/checks", "snapshots"] {
        if !layout.root().join(folder).is_dir() {
            continue;
        }
        for name in names_in(&layout.root().join(folder))? {
            let left_over = name.starts_with(".staging-") || (name.starts_with('.') && name.ends_with(".tmp"));
            let relative = format!("{folder}/{name}");
            if left_over && !keep.contains(&relative) {
                remove_any(&layout.root().join(relative))?;
            }
        }
    }
    Ok(())
}

/// Removes old resume folders: the `keep` newest, the latest checkpoint's, the champion's (what a rewind goes back to) and
/// those that other lineages go on from stay. Returns the steps whose folders went.
pub fn prune_resume(layout: &Layout, state: &State, keep: usize) -> Result<Vec<u64>> {
    let names = names_in(&layout.resume_root())?;
    let mut steps: Vec<u64> = names.iter().filter_map(|name| name.strip_prefix("step-")?.parse().ok()).collect();
    steps.sort_unstable();
    let latest = state.latest_checkpoint().map(|checkpoint| checkpoint.id.0);
    let num_old = steps.len().saturating_sub(keep);
    steps.truncate(num_old);
    steps.retain(|step| latest.is_none_or(|latest| *step < latest));
    steps.retain(|step| state.champion != Some(CheckpointId(*step)) && !state.is_left_at(CheckpointId(*step)));
    for step in &steps {
        hone_disk::remove_tree(&layout.resume(CheckpointId(*step)))?;
    }
    Ok(steps)
}

/// Verifies a staged folder or, where an earlier try has moved it, the folder in its place.
fn verify_staged(staging: &Path, place: &Path, expected_hash: Option<&str>) -> Result<()> {
    let folder = if staging.is_dir() { staging } else { place };
    hone_disk::manifest::verify(folder, expected_hash).map(drop)
}

fn move_into_place(staging: &Path, place: &Path) -> Result<()> {
    if !staging.is_dir() {
        return Ok(());
    }
    // A folder of that number can only be of a checkpoint that never became visible in the ledger.
    hone_disk::remove_tree(place)?;
    hone_disk::sync_tree(staging)?;
    hone_disk::rename(staging, place)
}

fn names_in(folder: &Path) -> Result<Vec<String>> {
    let list = || std::fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>();
    let entries = list().with_context(|| format!("list {}", folder.display()))?;
    Ok(entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

fn remove_any(path: &Path) -> Result<()> {
    if path.is_dir() { hone_disk::remove_tree(path) } else { hone_disk::remove_file(path) }
}

#[cfg(test)]
mod tests;
