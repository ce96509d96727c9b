//! The workspace on disk: its folders ([`Layout`]), the state in SQLite ([`Store`]), the owner lock, and the
//! moves of files that follow from decisions ([`datasets`], [`publish`], [`retention`]).
//!
//! Only this crate knows SQLite. It decides nothing: what is written comes from `hone_pipeline::decide`.

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "tests write fixtures"))]

pub mod backup;
pub mod datasets;
mod filesystem;
#[cfg(test)]
mod fixtures;
mod layout;
mod owner;
pub mod publish;
pub mod retention;
mod store;

pub use filesystem::network_file_system;
pub use layout::Layout;
pub use owner::{OwnerLock, OwnerLockError, owner_lock};
pub use store::{EventFilter, FORMAT_VERSION, OpenError, QueuePage, Seen, Store};
