//! `hone up`: one process per role, restarted with back-off when it failed, stopped in order.
//!
//! A role process gets an open pipe as stdin; its end means that the supervisor is gone
//! ([`stop_when_parent_ends`]).

use anyhow::{Result, bail};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// One role of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// Name for people and for `logs/NAME.log`.
    pub name: String,
    /// Arguments of `program`.
    pub args: Vec<String>,
}

/// How roles are run.
#[derive(Clone, Debug)]
pub struct SupervisorOptions {
    /// The `hone` binary.
    pub program: PathBuf,
    /// Where `NAME.log` files go.
    pub log_dir: PathBuf,
    /// Wait before the first restart; doubled for each further one in a row.
    pub first_backoff: Duration,
    /// Longest wait before a restart.
    pub max_backoff: Duration,
    /// A role that ran so long starts again without a wait.
    pub healthy_after: Duration,
    /// How long one role may take to end after SIGTERM before it is killed.
    pub grace: Duration,
}

/// What happens to a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SupervisorEvent {
    /// Its process runs.
    Started {
        /// The role.
        role: String,
        /// Its process id.
        pid: u32,
    },
    /// It wrote a line on stdout or stderr (also in its log file).
    Line {
        /// The role.
        role: String,
        /// Without the line break.
        line: String,
    },
    /// Its process ended; it starts again after the wait, or never when `restart_in` is `None`.
    Exited {
        /// The role.
        role: String,
        /// Exit code or signal in words.
        how: String,
        /// Wait before its restart.
        restart_in: Option<Duration>,
    },
}

/// Runs all roles until `stop` is set or none is left. A role that ends with 0 is done, one that ends with 2
/// (wrong usage or configuration) is not tried again; any other end is a failure and starts only that role again, with
/// the environment variable `HONE_RESTARTED=1`.
///
/// # Errors
/// No role could be started, or every role ended badly.
pub fn run(
    _options: &SupervisorOptions,
    _roles: &[Role],
    _stop: &Arc<AtomicBool>,
    _on_event: &(dyn Fn(SupervisorEvent) + Sync),
) -> Result<()> {
    bail!("not built yet")
}

/// For a role process: sets `stop` when stdin ends, that is when the supervisor is gone.
pub fn stop_when_parent_ends(_stop: Arc<AtomicBool>) {}
