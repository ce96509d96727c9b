//! Bringing a checkpoint to a server: stage, verify, load, smoke, switch, confirm. Any failure leaves the
//! server as it was, and everything is safe to repeat: blobs are named by their content, the server knows a
//! request that it has seen, and switching to what serves does nothing.

pub mod command;
pub mod http;
pub mod local;
pub(crate) mod program;
pub mod rsync;
#[cfg(test)]
mod tests;
pub mod watch;

use anyhow::{Context, Result, ensure};
use hone_disk::{hash_file, manifest};
use hone_pipeline::ids::CheckpointId;
use hone_pipeline::wire::{DeployFile, DeployRequest, ServerDeployment};
use std::path::Path;
use tracing::warn;

/// Names of the finished steps, in order. The server verifies, loads and tries in one call, so `verify`, `load`
/// and `smoke` end at the same time; where it has no room for two models, `load` and `smoke` end with `switch`.
pub const STEPS: [&str; 6] = ["stage", "verify", "load", "smoke", "switch", "confirm"];

/// How often one try of a deployment goes on after a broken upload.
const MAX_RESUMPTIONS: usize = 50;

/// Why a step gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeployError {
    /// The server does not answer, or is busy: worth another try.
    #[error("{0}")]
    Transient(String),
    /// Trying again gives the same.
    #[error("{0}")]
    Permanent(String),
}

/// A blob that a target lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingBlob {
    /// BLAKE3, hex.
    pub hash: String,
    /// How many of its bytes arrived before an upload broke off.
    pub arrived: u64,
}

/// A server that checkpoints are brought to.
pub trait DeployTarget {
    /// Which of these files it lacks.
    ///
    /// # Errors
    /// See [`DeployError`]; also where it has no room for them.
    fn missing(&self, files: &[DeployFile]) -> Result<Vec<MissingBlob>, DeployError>;
    /// Brings one blob, or the rest of it.
    ///
    /// # Errors
    /// See [`DeployError`].
    fn put(&self, blob: &MissingBlob, file: &Path) -> Result<(), DeployError>;
    /// Verify, load, smoke prompts; nothing is served yet.
    ///
    /// # Errors
    /// See [`DeployError`].
    fn create(&self, request: &DeployRequest) -> Result<ServerDeployment, DeployError>;
    /// Serve it from the next request on.
    ///
    /// # Errors
    /// See [`DeployError`].
    fn switch(&self, id: u64) -> Result<ServerDeployment, DeployError>;
    /// All deployments that the server knows.
    ///
    /// # Errors
    /// See [`DeployError`].
    fn list(&self) -> Result<Vec<ServerDeployment>, DeployError>;
    /// Serve what was served before, by the target's own way back; `None` where a deployment of it is the way.
    fn rollback(&self) -> Option<Result<(), DeployError>> {
        None
    }
}

/// Brings the files of `model_dir` named in `request` to `target` and makes it serve them. `on_step` is told each
/// finished step of [`STEPS`].
///
/// # Errors
/// See [`DeployError`]; the target then serves what it served before, unless it is the confirmation that failed.
pub fn push(
    target: &dyn DeployTarget,
    request: &DeployRequest,
    model_dir: &Path,
    on_step: &mut dyn FnMut(&str),
) -> Result<ServerDeployment, DeployError> {
    stage(target, request, model_dir)?;
    on_step("stage");
    let created = target.create(request)?;
    refuse_other(&created, request, "loaded")?;
    if created.state == "failed" {
        return Err(DeployError::Permanent(format!("the server refused it: {}", created.error)));
    }
    // Where there is no room for two models the switch loads it.
    let (before, with_switch) = STEPS[1..5].split_at(if created.state == "staged" { 1 } else { 3 });
    before.iter().for_each(|step| on_step(step));
    let switched = target.switch(created.id)?;
    with_switch.iter().for_each(|step| on_step(step));
    refuse_other(&switched, request, "switched to")?;
    confirm(target, request, on_step)
}

/// Makes `target` serve again what it served before, which `request` describes, by its own way back. `None` where it has
/// none, or where it does not lead there: a [`push`] does.
pub fn go_back(
    target: &dyn DeployTarget,
    request: &DeployRequest,
    on_step: &mut dyn FnMut(&str),
) -> Option<ServerDeployment> {
    // A try before this one may have led there and ended before it was noted: going back twice would lead away.
    let is_there = target.list().is_ok_and(|list| list.iter().any(|found| refuse_other(found, request, "").is_ok()));
    if !is_there {
        match target.rollback()? {
            Ok(()) => on_step("switch"),
            Err(error) => {
                warn!("the target's own way back failed, the checkpoint is deployed anew: {error}");
                return None;
            }
        }
    }
    match confirm(target, request, on_step) {
        Ok(serving) => Some(serving),
        Err(error) => {
            warn!("the target's own way back leads elsewhere, the checkpoint is deployed anew: {error}");
            None
        }
    }
}

/// Asks what serves now.
fn confirm(
    target: &dyn DeployTarget,
    request: &DeployRequest,
    on_step: &mut dyn FnMut(&str),
) -> Result<ServerDeployment, DeployError> {
    let serving = target.list()?.into_iter().find(|deployment| deployment.state == "serving");
    let serving = serving.ok_or_else(|| DeployError::Transient("the server serves nothing".to_string()))?;
    refuse_other(&serving, request, "serves")?;
    on_step("confirm");
    Ok(serving)
}

/// Brings what the target lacks. An upload that breaks off goes on at once where it stopped, as long as each try brings
/// the target further; otherwise the deployment waits for its next try, which goes on from there as well.
fn stage(target: &dyn DeployTarget, request: &DeployRequest, model_dir: &Path) -> Result<(), DeployError> {
    let mut before = u64::MAX;
    let mut resumptions = 0;
    loop {
        let missing = target.missing(&request.files)?;
        let mut result = Ok(());
        for blob in &missing {
            let file = request
                .files
                .iter()
                .find(|file| file.blake3 == blob.hash)
                .ok_or_else(|| DeployError::Permanent(format!("the server asks for {}, not of ours", blob.hash)))?;
            result = target.put(blob, &model_dir.join(&file.path));
            if result.is_err() {
                break;
            }
        }
        let left = bytes_left(&missing, request);
        match result {
            Ok(()) => return Ok(()),
            Err(DeployError::Transient(_)) if left < before && resumptions < MAX_RESUMPTIONS => {
                before = left;
                resumptions += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

fn bytes_left(missing: &[MissingBlob], request: &DeployRequest) -> u64 {
    let left = |blob: &MissingBlob| {
        let size = request.files.iter().find(|file| file.blake3 == blob.hash).map_or(0, |file| file.size);
        size.saturating_sub(blob.arrived)
    };
    missing.iter().map(left).sum()
}

/// What a deployment of a checkpoint consists of.
pub struct Description<'a> {
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// BLAKE3 of its manifest, as the ledger has it.
    pub manifest_hash: &'a str,
    /// The name that clients ask for.
    pub model_name: &'a str,
    /// The data profile.
    pub profile: &'a str,
    /// Extra variables of the chat template.
    pub chat_template_kwargs: &'a serde_json::Map<String, serde_json::Value>,
}

/// The request for the model in `model_dir`: the files that serving needs, by the folder's manifest; a folder
/// without one (a base model) is hashed here.
///
/// # Errors
/// The folder cannot be read, its manifest is not the one in the ledger, or there are no weights.
pub fn request(model_dir: &Path, description: &Description) -> Result<DeployRequest> {
    let mut files = Vec::new();
    if model_dir.join(manifest::FILE).is_file() {
        let (manifest, hash) = manifest::read(model_dir)?;
        ensure!(
            hash == description.manifest_hash,
            "the manifest of {} is not the one in the ledger",
            description.checkpoint
        );
        let needed = manifest.files.into_iter().filter(|entry| is_for_serving(&entry.path));
        files.extend(needed.map(|entry| DeployFile { path: entry.path, size: entry.size, blake3: entry.blake3 }));
        let size = model_dir.join(manifest::FILE).metadata().context("read the manifest's size")?.len();
        files.push(DeployFile { path: manifest::FILE.to_string(), size, blake3: hash });
    } else {
        for entry in std::fs::read_dir(model_dir).with_context(|| format!("list {}", model_dir.display()))? {
            let entry = entry.context("list the model folder")?;
            let Some(path) = entry.file_name().to_str().filter(|name| is_for_serving(name)).map(str::to_string) else {
                continue;
            };
            let (size, blake3) = hash_file(&entry.path())?;
            files.push(DeployFile { path, size, blake3 });
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
    }
    ensure!(files.iter().any(|file| file.path.ends_with(".safetensors")), "{} holds no weights", model_dir.display());
    Ok(DeployRequest {
        format_version: hone_pipeline::wire::WIRE_FORMAT_VERSION,
        checkpoint: description.checkpoint,
        manifest_hash: description.manifest_hash.to_string(),
        model_name: description.model_name.to_string(),
        files,
        chat_template_kwargs: description.chat_template_kwargs.clone(),
        profile: description.profile.to_string(),
    })
}

fn is_for_serving(path: &str) -> bool {
    const NAMES: [&str; 7] = [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "chat_template.json",
    ];
    NAMES.contains(&path)
        || (!path.contains('/') && (path.ends_with(".safetensors") || path.ends_with(".safetensors.index.json")))
}

fn refuse_other(found: &ServerDeployment, request: &DeployRequest, what: &str) -> Result<(), DeployError> {
    if found.checkpoint == request.checkpoint && found.manifest_hash == request.manifest_hash {
        return Ok(());
    }
    Err(DeployError::Transient(format!("the server {what} {} instead of {}", found.checkpoint, request.checkpoint)))
}
