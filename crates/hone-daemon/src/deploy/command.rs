//! A target that the user's own programs serve (vLLM, llama.cpp, a cluster): `stage`, `switch`, `verify` and `rollback`
//! are shell commands. Each is told what it is about by its environment:
//!
//! ```text
//! HONE_STEP            stage | switch | verify | rollback
//! HONE_CHECKPOINT      120
//! HONE_MANIFEST_HASH   BLAKE3 of manifest.json, hex
//! HONE_MODEL_NAME      the name that clients ask for
//! HONE_MODEL_DIR       the checkpoint's folder on this host (Hugging Face format)
//! HONE_TARGET_URL      the target's url
//! ```
//!
//! Exit code 0: done; 75: not now, try again; any other: it cannot be done. `verify` prints, as its last line, what is
//! served: `{"checkpoint": 120, "manifest_hash": "…"}`. `rollback` is told the checkpoint that it is to lead back to; where
//! it fails or `verify` then tells another one, `stage` and `switch` are run for it.

use super::program::{self, EXIT_TRANSIENT, Keeper};
use super::{DeployError, DeployTarget, MissingBlob};
use hone_pipeline::ids::CheckpointId;
use hone_pipeline::wire::{DeployFile, DeployRequest, ServerDeployment};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Command as Program;
use std::time::Duration;

/// The user's commands.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Copies and prepares.
    pub stage: String,
    /// Makes it serve.
    pub switch: String,
    /// Tells what serves.
    pub verify: String,
    /// Goes back to what was served before; `None` where a deployment of it does.
    pub rollback: Option<String>,
}

/// A target served by programs of the user.
pub struct Command {
    programs: Programs,
    checkpoint: CheckpointId,
    environment: Vec<(&'static str, String)>,
    timeout: Duration,
    keeper: Keeper,
}

/// What `verify` prints.
#[derive(Deserialize)]
struct Served {
    checkpoint: u64,
    manifest_hash: String,
}

impl Command {
    /// The target at `url`, for the deployment that `request` describes. `timeout` bounds each program.
    #[must_use]
    pub fn new(
        programs: &Programs,
        url: &str,
        request: &DeployRequest,
        model_dir: &Path,
        timeout: Duration,
    ) -> Command {
        let environment = vec![
            ("HONE_CHECKPOINT", request.checkpoint.0.to_string()),
            ("HONE_MANIFEST_HASH", request.manifest_hash.clone()),
            ("HONE_MODEL_NAME", request.model_name.clone()),
            ("HONE_MODEL_DIR", PathBuf::from(model_dir).display().to_string()),
            ("HONE_TARGET_URL", url.to_string()),
        ];
        let keeper = Keeper::default();
        Command { programs: programs.clone(), checkpoint: request.checkpoint, environment, timeout, keeper }
    }

    /// The same target, whose programs do not outlive the daemon.
    #[must_use]
    pub fn kept_by(self, keeper: Keeper) -> Command {
        Command { keeper, ..self }
    }

    fn step(&self, step: &str, command: &str) -> Result<String, DeployError> {
        let mut program = Program::new("sh");
        program.arg("-c").arg(command).env("HONE_STEP", step).envs(self.environment.iter().cloned());
        let ended = program::run("sh", &mut program, self.timeout, &self.keeper)?;
        let reason = || format!("the {step} command failed: {}", ended.reason());
        match ended.code {
            Some(0) => Ok(ended.stdout),
            Some(EXIT_TRANSIENT) | None => Err(DeployError::Transient(reason())),
            Some(_) => Err(DeployError::Permanent(reason())),
        }
    }

    fn described(&self, state: &str) -> ServerDeployment {
        let manifest_hash = self.environment[1].1.clone();
        let (checkpoint, state) = (self.checkpoint, state.to_string());
        ServerDeployment { id: checkpoint.0, checkpoint, manifest_hash, state, error: String::new(), created_ms: 0 }
    }
}

impl DeployTarget for Command {
    /// The stage program brings everything.
    fn missing(&self, _files: &[DeployFile]) -> Result<Vec<MissingBlob>, DeployError> {
        Ok(Vec::new())
    }

    fn put(&self, blob: &MissingBlob, _file: &Path) -> Result<(), DeployError> {
        Err(DeployError::Permanent(format!("the stage command brings files, not blobs ({})", blob.hash)))
    }

    fn create(&self, _request: &DeployRequest) -> Result<ServerDeployment, DeployError> {
        self.step("stage", &self.programs.stage)?;
        Ok(self.described("loaded"))
    }

    fn switch(&self, _id: u64) -> Result<ServerDeployment, DeployError> {
        self.step("switch", &self.programs.switch)?;
        Ok(self.described("serving"))
    }

    fn list(&self) -> Result<Vec<ServerDeployment>, DeployError> {
        let output = self.step("verify", &self.programs.verify)?;
        let last = output.trim().lines().next_back().unwrap_or_default();
        let served: Served = serde_json::from_str(last).map_err(|error| {
            let expected = "{\"checkpoint\": N, \"manifest_hash\": \"…\"}";
            DeployError::Permanent(format!("the verify command's last line is not {expected}: {error}"))
        })?;
        let checkpoint = CheckpointId(served.checkpoint);
        let manifest_hash = served.manifest_hash;
        Ok(vec![ServerDeployment { id: checkpoint.0, checkpoint, manifest_hash, ..self.described("serving") }])
    }

    fn rollback(&self) -> Option<Result<(), DeployError>> {
        let command = self.programs.rollback.as_ref()?;
        Some(self.step("rollback", command).map(drop))
    }
}
