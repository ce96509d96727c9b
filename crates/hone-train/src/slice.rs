//! One slice of a training job.

use anyhow::{Result, bail};
use hone_pipeline::wire::{TrainRequest, WorkerMessage};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A deterministic failure: trying the same request again gives the same. Its text says why and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// Set from outside to end a slice at its next optimizer step, with a checkpoint.
#[derive(Clone, Debug, Default)]
pub struct YieldFlag(Arc<AtomicBool>);

impl YieldFlag {
    /// Asks the slice to end.
    pub fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether it was asked to.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Trains from `request.position` to the next checkpoint and stages it. `report` gets `Alive`, `Step`,
/// `Preview`, `Warning` and, last, `Staged`. A deterministic failure is an error that holds a [`Refusal`].
pub fn train_slice(
    _request: &TrainRequest,
    _report: &mut dyn FnMut(WorkerMessage),
    _yield_flag: &YieldFlag,
) -> Result<()> {
    bail!("not built yet")
}
