//! A target whose blob folder is on this machine: files are linked (or copied), not sent. Everything else goes
//! through the same door.

use super::http::Http;
use super::{DeployError, DeployTarget, MissingBlob};
use hone_disk::blobs::BlobDir;
use hone_pipeline::wire::{DeployFile, DeployRequest, ServerDeployment};
use std::path::{Path, PathBuf};

/// A server on this machine.
pub struct Local {
    door: Http,
    serve_root: PathBuf,
}

impl Local {
    /// The server behind `door`, whose files lie in `serve_root`.
    #[must_use]
    pub fn new(door: Http, serve_root: &Path) -> Local {
        Local { door, serve_root: serve_root.to_path_buf() }
    }

    fn blobs(&self) -> Result<BlobDir, DeployError> {
        BlobDir::open(&self.serve_root.join("blobs")).map_err(host_trouble)
    }
}

impl DeployTarget for Local {
    fn missing(&self, files: &[DeployFile]) -> Result<Vec<MissingBlob>, DeployError> {
        let hashes: Vec<String> = files.iter().map(|file| file.blake3.clone()).collect();
        let missing = self.blobs()?.missing(&hashes);
        Ok(missing.into_iter().map(|hash| MissingBlob { hash, arrived: 0 }).collect())
    }

    fn put(&self, blob: &MissingBlob, file: &Path) -> Result<(), DeployError> {
        self.blobs()?.put_file(&blob.hash, file).map_err(host_trouble)
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

fn host_trouble(error: anyhow::Error) -> DeployError {
    DeployError::Transient(format!("failed to {error:#}"))
}
