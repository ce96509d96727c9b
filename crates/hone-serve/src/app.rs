//! What all handlers share: ends of channels, limits, counters. No lock is held here.

use crate::access::Access;
use crate::door::{DoorOrder, DoorView};
use crate::engine_thread::{EngineOrder, Serving};
use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::prepare::PrepareOrder;
use hone_disk::blobs::BlobDir;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};

/// Shared by all handlers.
pub struct App {
    /// The name that clients ask for.
    pub model_name: String,
    /// Largest JSON body in bytes.
    pub max_body_bytes: usize,
    /// Largest blob in bytes.
    pub max_blob_bytes: u64,
    /// Bytes of the disk that uploads leave free.
    pub min_free_bytes: u64,
    /// How long an answer may take from the arrival of its request.
    pub request_timeout: Option<Duration>,
    /// Who may ask what.
    pub access: Access,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// One for each choice that may run or wait.
    pub places: Arc<Semaphore>,
    /// To the thread that makes prompts.
    pub prepare: mpsc::Sender<PrepareOrder>,
    /// To the thread that computes.
    pub engine: mpsc::Sender<EngineOrder>,
    /// To the thread that deploys.
    pub door: mpsc::Sender<DoorOrder>,
    /// What serves.
    pub serving: watch::Receiver<Option<Serving>>,
    /// What is deployed.
    pub view: watch::Receiver<DoorView>,
    /// Where blobs arrive.
    pub blobs: BlobDir,
}

impl App {
    /// What serves now, or the 503 that says why nothing does.
    pub fn serving(&self) -> Result<Serving, ApiError> {
        let serving = self.serving.borrow().clone();
        serving.ok_or_else(|| ApiError::unavailable(self.view.borrow().reason.clone()))
    }
}
