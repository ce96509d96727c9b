//! Finding the workspace, and reading its state without owning it.

use crate::config::Config;
use crate::exit::UsageError;
use anyhow::{Context, Result};
use hone_daemon::control::{self, ControlError};
use hone_daemon::status::TrainingStatus;
use hone_pipeline::event::Command;
use hone_pipeline::state::State;
use hone_pipeline::wire::{ControlReply, ControlRequest};
use hone_store::{Layout, Store};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a command waits for the daemon's answer.
pub const CONTROL_TIMEOUT: Duration = Duration::from_secs(10);

/// What every verb knows.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// The workspace's root.
    pub root: PathBuf,
    /// `--set` pairs.
    pub set: Vec<(String, String)>,
    /// Answer with JSON.
    pub json: bool,
    /// Whether a supervisor holds our stdin.
    pub supervised: bool,
}

impl Workspace {
    /// The folders of the workspace.
    #[must_use]
    pub fn layout(&self) -> Layout {
        Layout::new(&self.root)
    }

    /// The configuration in force.
    pub fn config(&self) -> Result<Config> {
        Config::load(&self.root, &self.set)
    }

    /// The state as committed, read without owning the workspace.
    pub fn state(&self) -> Result<State> {
        self.store()?.load()
    }

    /// The database, read-only.
    pub fn store(&self) -> Result<Store> {
        self.require()?;
        Ok(Store::open_read_only(&self.root)?)
    }

    /// Fails with what to do when there is no workspace here.
    pub fn require(&self) -> Result<()> {
        if self.layout().db().exists() {
            return Ok(());
        }
        let message = format!(
            "find a workspace at {}\nhint: `hone init --tiny` or `hone init --model DIR` makes one; --root DIR or HONE_ROOT names another place",
            self.root.display()
        );
        Err(UsageError(message).into())
    }

    /// Sends a command to the daemon, or acts in-process when none runs.
    pub fn command(&self, command: Command) -> Result<String> {
        self.require()?;
        if !self.set.is_empty() {
            let message = "do that with --set: the daemon acts by the configuration that it has read itself\nhint: put the value into config.json (it is read again by itself), or give --set to the daemon";
            return Err(UsageError(message.to_string()).into());
        }
        let request = ControlRequest::Command { command: command.clone() };
        match control::send(&self.root, &request, CONTROL_TIMEOUT) {
            Ok(ControlReply::Ok { message }) => Ok(message),
            Ok(ControlReply::Error { message }) => anyhow::bail!("do that: {message}"),
            Ok(ControlReply::Pong { .. }) => anyhow::bail!("talk with the daemon: it answered something else"),
            Err(ControlError::NoDaemon) => {
                let config = self.config()?;
                hone_daemon::apply_offline(&self.root, &config.settings, &command).context("do that")
            }
            Err(error) => Err(error).context("talk with the daemon"),
        }
    }

    /// The process of the daemon that answers on the control socket.
    #[must_use]
    pub fn daemon_pid(&self) -> Option<u32> {
        match control::send(&self.root, &ControlRequest::Ping, CONTROL_TIMEOUT) {
            Ok(ControlReply::Pong { pid, .. }) => Some(pid),
            _ => None,
        }
    }

    /// What the daemon says of itself; none where no daemon answers (or one of another version, which does not say it).
    #[must_use]
    pub fn daemon_status(&self) -> Option<TrainingStatus> {
        match control::send(&self.root, &ControlRequest::Status, CONTROL_TIMEOUT) {
            Ok(ControlReply::Pong { status: Some(status), .. }) => serde_json::from_value(status).ok(),
            _ => None,
        }
    }
}

/// `--root`, else `HONE_ROOT`, else the nearest folder upwards that holds `hone.db`, else `./hone-root`.
pub fn find_root(flag: Option<PathBuf>) -> Result<PathBuf> {
    if let Some(root) = flag {
        return absolute(&root);
    }
    let here = std::env::current_dir().context("read the current folder")?;
    let above = here.ancestors().find(|dir| dir.join("hone.db").is_file());
    absolute(above.unwrap_or(&here.join("hone-root")))
}

/// An absolute path, also for what does not exist yet.
///
/// # Errors
/// It is not UTF-8: it could neither be recorded nor told.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    if path.to_str().is_none() {
        return Err(UsageError(format!("use {path:?}: the path is not UTF-8 (hint: rename it)")).into());
    }
    std::path::absolute(path).with_context(|| format!("make {} absolute", path.display()))
}

/// Now, in milliseconds since the Unix epoch.
#[must_use]
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
