//! The training loop and the three children: check, train, evaluate.
//!
//! - [`train_slice`]: one slice of a job, from tokens to a complete staged checkpoint
//! - [`order`], [`schedule`]: which examples a step trains, and how fast; pure
//! - [`rows`], [`selfcheck`]: files to tokenised examples, and what must hold before the first step
//! - [`kept_back`]: rows that are never trained, for evaluation
//! - [`checkpoint`], [`resume`]: the two folders that a slice leaves
//! - [`preview`]: greedy answers while it trains
//! - [`evaluate`]: loss on files, answers to questions
//! - [`plan()`]: what a job will take, before it starts
//! - [`run_child`]: the children's mains, as `hone_pipeline::wire` has their contract
//!
//! No queue, no state, no decision lives here: a slice gets a request and reports messages.
#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "tests write fixtures"))]

pub mod checkpoint;
pub mod child;
pub mod clock;
pub mod evaluate;
pub mod kept_back;
pub mod order;
pub mod plan;
pub mod preview;
pub mod replay;
pub mod resume;
pub mod rows;
pub mod schedule;
pub mod selfcheck;
pub mod slice;

#[cfg(test)]
mod testing;

pub use child::run_child;
pub use evaluate::{evaluate_file, kept_answers};
pub use plan::{MicroBatchPlan, Plan, plan};
pub use slice::{YieldFlag, train_slice};

/// A deterministic failure: trying the same request again gives the same. Its text says why and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// Marks an error as deterministic, unless it comes from the operating system (disk, memory): that may pass.
pub(crate) fn refuse(error: anyhow::Error) -> anyhow::Error {
    if error.chain().any(|cause| cause.is::<std::io::Error>() || cause.is::<Refusal>()) {
        return error;
    }
    Refusal(format!("{error:#}")).into()
}
