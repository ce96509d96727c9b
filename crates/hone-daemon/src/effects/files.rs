//! Effects that move files: into datasets, out of them, and checkpoints into place.

use super::{Env, Given};
use crate::inbox::Fingerprint;
use anyhow::{Context, Result, bail};
use hone_pipeline::event::{Effect, Event};
use hone_pipeline::ids::{CheckpointId, DatasetId};
use hone_pipeline::state::Dataset;
use hone_store::datasets;
use hone_store::publish::{self as store, PublishError};
use hone_store::retention::Deadline;

/// A file that has changed since the scan found it complete stays where it is; the next scan looks at it anew.
pub(super) fn take(env: &Env, given: &Given, effect: Effect, seen: Option<Fingerprint>) {
    if let (Effect::TakeFile { dataset, inbox_path }, Some(seen)) = (&effect, seen)
        && Fingerprint::of(&env.layout.inbox().join(inbox_path)).is_some_and(|now| now != seen)
    {
        return env.event(Event::FileTaken { dataset: *dataset, found: false });
    }
    file_effect(env, given, effect);
}

pub(super) fn file_effect(env: &Env, given: &Given, effect: Effect) {
    match move_file(env, given, &effect) {
        Ok(event) => env.event(event),
        Err(error) => env.again(effect, &error),
    }
}

fn move_file(env: &Env, given: &Given, effect: &Effect) -> Result<Event> {
    let layout = &env.layout;
    match *effect {
        Effect::TakeFile { dataset, .. } => {
            let found = datasets::take_file(layout, find(given, dataset)?)?;
            Ok(Event::FileTaken { dataset, found })
        }
        Effect::MoveRejected { dataset } => {
            datasets::move_rejected(layout, find(given, dataset)?)?;
            Ok(Event::Filed { dataset })
        }
        Effect::DropDuplicate { dataset } => {
            datasets::drop_duplicate(layout, find(given, dataset)?)?;
            Ok(Event::Filed { dataset })
        }
        _ => bail!("move a file for an effect that moves none"),
    }
}

pub(super) fn publish(env: &Env, given: &Given, checkpoint: CheckpointId) {
    let Some(record) = given.state.checkpoints.get(&checkpoint) else { return };
    match store::publish(&env.layout, record) {
        Ok(()) => {
            if let Err(error) =
                store::prune_resume(&env.layout, &given.state, given.config.settings.retention.keep_resume)
            {
                tracing::warn!("old resume states stay: failed to {error:#}");
            }
            env.event(Event::CheckpointPublished { checkpoint });
        }
        Err(PublishError::Host(error)) => env.again(Effect::Publish { checkpoint }, &error),
        Err(PublishError::Refused(error)) => {
            env.event(Event::PublishFailed { checkpoint, reason: format!("{error:#}") });
        }
    }
}

/// Done at the next start where it fails now.
pub(super) fn remove_pruned(env: &Env, given: &Given) {
    let limit = std::time::Duration::from_millis(given.config.housekeeping.max_ms);
    match hone_store::retention::remove_pruned(&env.layout, &given.state, Deadline::new(limit)) {
        Ok(gone) if !gone.is_empty() => tracing::info!(count = gone.len(), "pruned files are gone"),
        Ok(_) => {}
        Err(error) => env.again(Effect::RemovePruned, &error),
    }
}

pub(super) fn find(given: &Given, dataset: DatasetId) -> Result<&Dataset> {
    given.state.datasets.get(&dataset).with_context(|| format!("find {dataset}"))
}
