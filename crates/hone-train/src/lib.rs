//! The training loop and the three children: check, train, evaluate.
//!
//! - [`train_slice`]: one slice of a job, from tokens to a complete staged checkpoint
//! - [`order`], [`schedule`]: which rows a step trains and how fast; pure

//! - [`selfcheck`]: what must hold before the first step
//! - [`checkpoint`], [`resume`]: the two folders that a slice leaves
//! - [`evaluate`]: loss on files, answers to questions
//! - [`plan()`]: what a job will take, before it starts
//! - [`run_child`]: the children's mains, as `hone_pipeline::wire` has their contract
//!
//! No queue, no state, no decision lives here: a slice gets a request and reports messages.

pub mod child;
pub mod clock;
pub mod evaluate;
pub mod order;
pub mod plan;
pub mod schedule;
pub mod slice;

pub use child::run_child;
pub use evaluate::evaluate_file;
pub use plan::{Plan, plan};
pub use slice::{Refusal, YieldFlag, train_slice};
