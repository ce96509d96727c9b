//! The vocabulary of hone and every decision it takes, as pure functions.
//!
//! Nothing in this crate reads a file, a clock, a thread or a random number. Everything that changes
//! state is `decide(&State, Event, now) -> Decision { changes, effects }`; the daemon commits the
//! changes in one transaction and then starts the effects, which come back as events.

pub mod compare;
pub mod config;
pub mod content;
pub mod curriculum;
pub mod decide;
pub mod event;
pub mod finding;
pub mod ids;
pub mod retention;
pub mod spec;
pub mod state;
pub mod wire;
