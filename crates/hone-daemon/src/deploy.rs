//! Bringing a checkpoint to a server: stage, verify, load, smoke, switch, confirm. Any failure leaves the
//! server as it was.

pub mod http;
pub mod local;

use hone_pipeline::wire::{DeployRequest, ServerDeployment};
use std::path::Path;

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

/// A server that checkpoints are brought to.
pub trait DeployTarget {
    /// Which of these blobs (BLAKE3, hex) it lacks.
    ///
    /// # Errors
    /// See [`DeployError`].
    fn missing(&self, hashes: &[String]) -> Result<Vec<String>, DeployError>;
    /// Brings one blob.
    ///
    /// # Errors
    /// See [`DeployError`].
    fn put(&self, hash: &str, file: &Path) -> Result<(), DeployError>;
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
    /// Serve what was served before.
    ///
    /// # Errors
    /// See [`DeployError`].
    fn rollback(&self) -> Result<ServerDeployment, DeployError>;
}

/// Brings the files of `model_dir` named in `request` to `target` and makes it serve them. `on_step` is told each
/// finished step: `stage`, `verify`, `load`, `smoke`, `switch`, `confirm`. Safe to repeat.
///
/// # Errors
/// See [`DeployError`]; the target then serves what it served before.
pub fn push(
    _target: &dyn DeployTarget,
    _request: &DeployRequest,
    _model_dir: &Path,
    _on_step: &mut dyn FnMut(&str),
) -> Result<ServerDeployment, DeployError> {
    Err(DeployError::Permanent("not built yet".to_string()))
}
