//! A target whose files come by the real `rsync` over ssh. Only what the door says is missing travels, each blob under
//! its hash; rsync's own temporary names keep half a file from ever being seen as a blob. What a broken transfer brought
//! stays in `rsync-partial/` beside the blobs (the server prunes it) and is not sent again. Everything else goes through the
//! door, which verifies every blob before it is used.

use super::http::Http;
use super::program::{self, Keeper};
use super::{DeployError, DeployTarget, MissingBlob};
use hone_pipeline::wire::{DeployFile, DeployRequest, ServerDeployment};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// rsync's exit codes after which another try gives the same: usage, protocol, unsupported, refused options.
const HOPELESS: [i32; 4] = [1, 2, 4, 6];

/// Where rsync keeps what broken transfers brought, in the serve root.
const PARTIAL_DIR: &str = hone_disk::blobs::RSYNC_PARTIAL_DIR;

/// A server behind ssh.
pub struct Rsync {
    door: Http,
    /// `user@host:/path/of/serve-root`, or a path of this machine.
    destination: String,
    /// The remote shell with its flags, e.g. `ssh -i /etc/hone/key -p 2222`.
    rsh: Option<String>,
    timeout: Duration,
    keeper: Keeper,
}

impl Rsync {
    /// The server behind `door`, whose files lie in `destination`. `timeout` bounds the transfer of one file.
    #[must_use]
    pub fn new(door: Http, destination: &str, rsh: Option<&str>, timeout: Duration) -> Rsync {
        let destination = destination.trim_end_matches('/').to_string();
        Rsync { door, destination, rsh: rsh.map(str::to_string), timeout, keeper: Keeper::default() }
    }

    /// The same target, whose transfers do not outlive the daemon.
    #[must_use]
    pub fn kept_by(self, keeper: Keeper) -> Rsync {
        Rsync { keeper, ..self }
    }

    fn command(&self, hash: &str, file: &Path) -> Command {
        let mut command = Command::new("rsync");
        // Links are followed: the blob is the bytes. A delta is made only to what a broken transfer left: with
        // `--whole-file`, which is also rsync's choice between two folders of one machine, that would be sent again.
        command.args(["--copy-links", "--no-whole-file", "--times"]);
        command.arg(format!("--partial-dir={}/{PARTIAL_DIR}", path_of(&self.destination)));
        if let Some(rsh) = &self.rsh {
            command.arg("-e").arg(rsh);
        }
        command.arg("--").arg(file).arg(format!("{}/blobs/{hash}", self.destination));
        command
    }
}

impl DeployTarget for Rsync {
    fn missing(&self, files: &[DeployFile]) -> Result<Vec<MissingBlob>, DeployError> {
        self.door.missing(files)
    }

    fn put(&self, blob: &MissingBlob, file: &Path) -> Result<(), DeployError> {
        let ended = program::run("rsync", &mut self.command(&blob.hash, file), self.timeout, &self.keeper)?;
        let reason = || format!("rsync to {} failed: {}", self.destination, ended.reason());
        match ended.code {
            Some(0) => Ok(()),
            Some(code) if HOPELESS.contains(&code) => Err(DeployError::Permanent(reason())),
            _ => Err(DeployError::Transient(reason())),
        }
    }

    fn create(&self, request: &DeployRequest) -> Result<ServerDeployment, DeployError> {
        self.door.create(request)
    }

    fn switch(&self, id: u64) -> Result<ServerDeployment, DeployError> {
        self.door.switch(id)
    }

    fn list(&self) -> Result<Vec<ServerDeployment>, DeployError> {
        self.door.list()
    }
}

/// The path of `host:path`, or the path itself.
fn path_of(destination: &str) -> &str {
    match destination.split_once(':') {
        Some((host, path)) if !host.contains('/') => path,
        _ => destination,
    }
}
