//! Room on the disk: which checkpoints go, and waiting while there is too little.
//!
//! A checkpoint is `Pruned` in the state before its files go; what of it still lies on disk is removed again at every
//! start. While the disk is low nothing new is begun: files wait in the inbox, checks and slices do not start, and
//! what fails meanwhile is not held against the data.

use super::draft::Draft;
use crate::event::Effect;
use crate::ids::CheckpointId;
use crate::retention::{old_datasets, plan};
use crate::state::{Change, Checkpoint, CheckpointState, Dataset, Gone, TimeMs};
use std::collections::BTreeMap;

/// Wait before a slice that found no room is tried again.
pub(super) const ROOM_WAIT_MS: TimeMs = 60_000;

pub(super) fn measured(draft: &mut Draft, sizes: &BTreeMap<CheckpointId, u64>) {
    let settings = draft.settings;
    let plan = plan(draft.state(), &settings.retention, &settings.targets, sizes, draft.now);
    let datasets = old_datasets(draft.state(), &settings.retention, draft.now);
    let any = !plan.prune.is_empty() || !datasets.is_empty();
    for (id, reason) in plan.prune {
        let checkpoint = draft.state().checkpoints[&id].clone();
        draft.put(Change::PutCheckpoint(Checkpoint { state: CheckpointState::Pruned, ..checkpoint }));
        draft.info("checkpoint_pruned", id, reason);
    }
    for id in datasets {
        let dataset = draft.state().datasets[&id].clone();
        let gone = Some(Gone::Aged);
        draft.put(Change::PutDataset(Dataset { gone, ..dataset }));
        draft.info("dataset_pruned", id, "its rows go; its report stays");
    }
    if any {
        draft.effect(Effect::RemovePruned);
    }
}

pub(super) fn space(draft: &mut Draft, free_bytes: u64) {
    let (min, low) = (draft.settings.min_free_bytes, draft.state().disk_low);
    // A little more than the limit must be free again, so that the state does not flutter.
    let enough = min.saturating_add(min / 10);
    let megabytes = free_bytes / 1_000_000;
    if !low && free_bytes < min {
        draft.put(Change::SetDiskLow { low: true });
        let message = format!("{megabytes} MB are free, limits.min_free_gb asks for more: nothing new is begun");
        draft.error("disk_low", "disk", message);
    } else if low && free_bytes >= enough {
        draft.put(Change::SetDiskLow { low: false });
        draft.info("disk_has_room", "disk", format!("{megabytes} MB are free again"));
    }
}

pub(super) fn recover(draft: &mut Draft) {
    let state = draft.state();
    let pruned = state.checkpoints.values().any(|c| c.state == CheckpointState::Pruned);
    if pruned || state.datasets.values().any(|d| d.gone.is_some()) {
        draft.effect(Effect::RemovePruned);
    }
}
