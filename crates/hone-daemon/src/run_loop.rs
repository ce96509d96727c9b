//! The one loop that owns the state: receive, decide, commit, apply, start effects.

use crate::options::DaemonOptions;
use anyhow::{Result, bail};
use hone_pipeline::config::Settings;
use hone_pipeline::event::Command;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Runs the daemon until `stop` is set (like `hone stop`: the running slice writes its checkpoint first), a
/// `stop` command ended its work, or the workspace cannot be used. `on_ready` is called once the owner lock is
/// held, the state is recovered and the control socket answers.
///
/// # Errors
/// The workspace is owned by another daemon, cannot be read, or a commit failed.
pub fn run(_options: DaemonOptions, _stop: Arc<AtomicBool>, _on_ready: impl FnOnce()) -> Result<()> {
    bail!("not built yet")
}

/// A command without a running daemon: takes the owner lock, decides in this process and commits. Effects are
/// left to the next daemon, which derives them from the state. Returns the sentence for the person.
///
/// # Errors
/// A daemon is running, the workspace cannot be read, or the command is refused.
pub fn apply_offline(_root: &Path, _settings: &Settings, _command: Command) -> Result<String> {
    bail!("not built yet")
}
