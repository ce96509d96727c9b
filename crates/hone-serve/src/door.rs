//! The door: deployments come in, are verified, loaded and tried, and only then serve. One thread owns everything
//! about them; whatever fails, what served goes on serving.
//!
//! At most two models are in memory. Where there is no room for the second, a deployment is only verified (`staged`), and
//! the switch to it loads it in a pause: requests wait, the running ones end, the old model is dropped, the new one is
//! loaded and tried. If that fails the old one is loaded again.

pub mod files;
pub mod load;

#[cfg(test)]
mod tests;

use crate::clock::now_ms;
use crate::engine_thread::{EngineOrder, Loaded, Serving};
use crate::error::ApiError;
use anyhow::{Context, Result, anyhow};
use axum::http::StatusCode;
use files::{Files, Record, ServedFile, check_manifest, check_request, disk_error};
use hone_generate::memory::{SHARE_OF_AVAILABLE, free_bytes};
use hone_generate::{Engine, EngineOptions};
use hone_pipeline::wire::{DeployRequest, ServerDeployment};
use std::collections::BTreeMap;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};

/// Orders that may wait for the thread; one more is answered 503.
pub const DOOR_QUEUE: usize = 8;
/// Blobs that no deployment names are kept this long: they may be on their way into one.
const BLOB_GRACE_MS: u64 = 3_600_000;

/// Why nothing serves while a server that was started anew loads what served last.
pub const LOADING: &str = "the model is loading";
/// Why nothing serves after a fault of the engine.
const FAULT: &str = "the model's engine failed; it is loaded again";

type Reply = oneshot::Sender<Result<ServerDeployment, ApiError>>;

/// What the door is asked.
pub enum DoorOrder {
    /// Stage, verify, load, try.
    Deploy(Box<DeployRequest>, Reply),
    /// Serve a deployment from the next request on.
    Switch(u64, Reply),
    /// Serve the previous one.
    Rollback(Reply),
    /// The serving model's engine failed and is gone: load it again.
    Reload,
}

/// What everybody may see of the door.
#[derive(Clone, Debug, Default)]
pub struct DoorView {
    /// All deployments by number.
    pub deployments: Vec<ServerDeployment>,
    /// Why nothing serves, while nothing does.
    pub reason: String,
}

/// What the door needs.
pub struct DoorOptions {
    /// Sizes and device of every engine.
    pub engine: EngineOptions,
    /// The name that deployments must have.
    pub model_name: String,
    /// Deployments kept beside the serving and the previous one.
    pub keep_deployments: usize,
    /// Bytes that models with their caches may take together; 0 = what is available.
    pub max_memory_bytes: u64,
}

/// The thread's state.
pub struct Door {
    options: DoorOptions,
    files: Files,
    records: BTreeMap<u64, Record>,
    served: ServedFile,
    /// Loaded and tried, not serving yet: at most one, to bound memory.
    waiting: Option<Loaded>,
    /// Verified, and to be loaded by the switch to it: there was no room.
    staged: Option<u64>,
    /// Bytes that the serving model takes.
    serving_bytes: u64,
    /// Whether admissions are held.
    is_paused: bool,
    /// Why nothing serves, while nothing does.
    reason: String,
    engine: mpsc::Sender<EngineOrder>,
    serving: watch::Receiver<Option<Serving>>,
    view: watch::Sender<DoorView>,
}

impl Door {
    /// Reads what is on disk. Nothing is loaded yet.
    pub fn open(
        options: DoorOptions,
        files: Files,
        engine: mpsc::Sender<EngineOrder>,
        serving: watch::Receiver<Option<Serving>>,
        view: watch::Sender<DoorView>,
    ) -> Result<Door> {
        let (records, served) = (files.records()?, files.served()?);
        let reason = LOADING.to_string();
        let door = Door {
            options,
            files,
            records,
            served,
            waiting: None,
            staged: None,
            serving_bytes: 0,
            is_paused: false,
            reason,
            engine,
            serving,
            view,
        };
        door.publish();
        Ok(door)
    }

    /// Body of the thread: loads what served last, then takes orders until the last sender is gone.
    pub fn run(mut self, mut orders: mpsc::Receiver<DoorOrder>) {
        self.start();
        while let Some(order) = orders.blocking_recv() {
            let (result, reply) = match order {
                DoorOrder::Deploy(request, reply) => (self.deploy(&request), reply),
                DoorOrder::Switch(id, reply) => (self.switch(id), reply),
                DoorOrder::Rollback(reply) => (self.rollback(), reply),
                DoorOrder::Reload => {
                    // A switch may have come before it.
                    if self.serving_id().is_none() {
                        self.start();
                    }
                    continue;
                }
            };
            self.publish();
            // Whoever asked may be gone; the result is in the list of deployments.
            let _ = reply.send(result);
        }
    }

    /// Serves what served last. A failure is for people to see: nothing else is served in its place.
    fn start(&mut self) {
        let Some(id) = self.served.serving else {
            self.reason = "no model is deployed yet".to_string();
            return self.publish();
        };
        if let Err(problem) = self.load(id).and_then(|loaded| self.hand_over(loaded)) {
            error!(id, "failed to load the last served deployment: {}", problem.message);
            self.reason = format!("the last served deployment cannot be loaded: {}", problem.message);
            self.is_paused = false;
            // The thread is gone only when the server stops.
            let _ = self.engine.blocking_send(EngineOrder::GiveUp(ApiError::unavailable(self.reason.clone())));
        }
        self.publish();
    }

    fn deploy(&mut self, request: &DeployRequest) -> Result<ServerDeployment, ApiError> {
        check_request(request, &self.options.model_name)?;
        let known = self.records.values().rev().find(|record| record.error.is_empty() && record.request == *request);
        let id = match known.map(|record| record.id) {
            Some(id) if self.serving_id() == Some(id) || self.waiting_id() == Some(id) => return self.describe(id),
            Some(id) => id,
            None => self.stage(request)?,
        };
        (self.waiting, self.staged) = (None, None);
        let result = self.load_or_stage(id);
        if let Err(problem) = &result {
            self.mark_failed(id, &problem.message);
        }
        result?;
        info!(id, checkpoint = %request.checkpoint, loaded = self.waiting.is_some(), "deployment verified");
        self.describe(id)
    }

    /// Loads and tries it where there is room; the switch to it does otherwise.
    fn load_or_stage(&mut self, id: u64) -> Result<(), ApiError> {
        let record = self.usable(id)?;
        self.files.verify(record)?;
        if self.has_room(record)? {
            self.waiting = Some(self.load_verified(record)?);
        } else {
            self.staged = Some(id);
        }
        Ok(())
    }

    fn switch(&mut self, id: u64) -> Result<ServerDeployment, ApiError> {
        if self.serving_id() == Some(id) {
            return self.describe(id);
        }
        let result = match self.waiting.take() {
            Some(loaded) if loaded.served.deployment == id => self.serve(loaded),
            other => {
                drop(other);
                self.bring(id).and_then(|loaded| self.serve(loaded))
            }
        };
        if let Err(problem) = &result {
            if self.staged == Some(id) {
                self.mark_failed(id, &problem.message);
            }
            if self.is_paused {
                warn!(id, "the deployment cannot serve; what served before is loaded again: {}", problem.message);
                self.start();
            }
        }
        self.staged = None;
        result?;
        if let Err(error) = self.prune() {
            warn!("failed to {error:#}");
        }
        self.describe(id)
    }

    /// Loads and tries what is switched to; in a pause where there is no room for it beside what serves.
    fn bring(&mut self, id: u64) -> Result<Loaded, ApiError> {
        let record = self.usable(id)?;
        self.files.verify(record)?;
        if !self.has_room(record)? {
            self.is_paused = true;
            self.wait_for(EngineOrder::Hold)?;
        }
        self.load_verified(self.usable(id)?)
    }

    /// Makes a loaded model the serving one, for good.
    fn serve(&mut self, loaded: Loaded) -> Result<(), ApiError> {
        let id = loaded.served.deployment;
        let previous = if self.served.serving == Some(id) { self.served.previous } else { self.served.serving };
        let served = ServedFile { serving: Some(id), previous, ..self.served.clone() };
        self.files.write_served(&served).map_err(|error| disk_error(&error))?;
        self.served = served;
        self.hand_over(loaded)
    }

    fn rollback(&mut self) -> Result<ServerDeployment, ApiError> {
        match self.served.previous {
            Some(id) => self.switch(id),
            None => Err(conflict("nothing_to_roll_back_to", "nothing was served before what is served now")),
        }
    }

    fn stage(&mut self, request: &DeployRequest) -> Result<u64, ApiError> {
        let id = self.served.last_id.max(self.records.last_key_value().map_or(0, |(id, _)| *id)) + 1;
        let record = self.files.stage(id, request, now_ms())?;
        self.records.insert(id, record);
        let served = ServedFile { last_id: id, ..self.served.clone() };
        self.files.write_served(&served).map_err(|error| disk_error(&error))?;
        self.served = served;
        Ok(id)
    }

    /// Verifies, loads and tries.
    fn load(&self, id: u64) -> Result<Loaded, ApiError> {
        let record = self.usable(id)?;
        self.files.verify(record)?;
        self.load_verified(record)
    }

    /// A deployment that did not fail.
    fn usable(&self, id: u64) -> Result<&Record, ApiError> {
        let Some(record) = self.records.get(&id) else {
            return Err(ApiError::new(
                StatusCode::NOT_FOUND,
                "deployment_not_found",
                format!("there is no deployment {id}"),
            ));
        };
        if !record.error.is_empty() {
            return Err(conflict("deployment_failed", format!("deployment {id} failed: {}", record.error)));
        }
        Ok(record)
    }

    /// Whether a model can be loaded beside the serving one. Models that still end their answers must be gone first: no
    /// third one is ever held.
    fn has_room(&self, record: &Record) -> Result<bool, ApiError> {
        self.wait_for(EngineOrder::Settle)?;
        let planned = Engine::planned_bytes(&self.files.model_dir(record.id), &self.options.engine);
        let needed = planned.context("plan the model's memory").map_err(|error| self.refusal(record, &error))?;
        let limit = self.options.max_memory_bytes;
        if limit > 0 && needed > limit {
            let mib = |bytes: u64| bytes.div_ceil(1 << 20);
            let (needed, limit) = (mib(needed), mib(limit));
            let error = anyhow!("it needs {needed} MiB with its cache, and serve.max_memory_mb allows {limit} MiB");
            return Err(self.refusal(record, &error));
        }
        if self.serving_id().is_none() {
            return Ok(true);
        }
        let free = match limit {
            0 => free_bytes(&self.options.engine.device).map(|free| (free as f64 * SHARE_OF_AVAILABLE) as u64),
            limit => Some(limit.saturating_sub(self.serving_bytes)),
        };
        Ok(free.is_none_or(|free| needed <= free))
    }

    /// The next attempt to deploy the same thing starts from blobs again.
    fn mark_failed(&mut self, id: u64, reason: &str) {
        let Some(record) = self.records.get_mut(&id) else { return };
        record.error = reason.to_string();
        if let Err(error) = self.files.mark_failed(record) {
            warn!(id, "failed to {error:#}");
        }
    }

    fn load_verified(&self, record: &Record) -> Result<Loaded, ApiError> {
        let model_dir = self.files.model_dir(record.id);
        let load = || -> Result<Loaded> {
            check_manifest(&model_dir, &record.request)?;
            load::load(record.id, &record.request, &model_dir, &self.options.engine)
        };
        load().map_err(|error| self.refusal(record, &error))
    }

    fn refusal(&self, record: &Record, error: &anyhow::Error) -> ApiError {
        warn!(id = record.id, "failed to {error:#}");
        // Where the files lie is nobody's business but the log's.
        let reason = format!("{error:#}").replace(&format!("{}/", self.files.model_dir(record.id).display()), "");
        let message = format!("the deployment cannot serve: {reason}");
        ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "deployment_failed", message)
    }

    fn hand_over(&mut self, loaded: Loaded) -> Result<(), ApiError> {
        self.serving_bytes = loaded.engine.bytes();
        self.wait_for(|done| EngineOrder::Switch { model: Box::new(loaded), done })?;
        self.is_paused = false;
        // From now on there is one reason why nothing might serve.
        self.reason = FAULT.to_string();
        Ok(())
    }

    /// Gives an order to the engine thread and waits until it is done.
    fn wait_for(&self, order: impl FnOnce(oneshot::Sender<()>) -> EngineOrder) -> Result<(), ApiError> {
        let (done, is_done) = oneshot::channel();
        self.engine.blocking_send(order(done)).map_err(|_| ApiError::internal())?;
        is_done.blocking_recv().map_err(|_| ApiError::internal())
    }

    /// Removes what is neither serving, previous nor loaded, but for the newest few; then blobs that nobody names.
    fn prune(&mut self) -> Result<()> {
        let needed = [self.served.serving, self.served.previous, self.waiting_id(), self.staged];
        let others: Vec<u64> = self.records.keys().rev().copied().filter(|id| !needed.contains(&Some(*id))).collect();
        for id in others.into_iter().skip(self.options.keep_deployments) {
            self.files.remove(id)?;
            self.records.remove(&id);
        }
        let removed = self.files.prune_blobs(&self.records, now_ms(), BLOB_GRACE_MS)?;
        if removed > 0 {
            info!(removed, "unused blobs removed");
        }
        Ok(())
    }

    fn serving_id(&self) -> Option<u64> {
        self.serving.borrow().as_ref().map(|serving| serving.served.deployment)
    }

    fn waiting_id(&self) -> Option<u64> {
        self.waiting.as_ref().map(|loaded| loaded.served.deployment)
    }

    fn describe(&self, id: u64) -> Result<ServerDeployment, ApiError> {
        self.records.get(&id).map(|record| self.to_wire(record)).ok_or_else(ApiError::internal)
    }

    fn to_wire(&self, record: &Record) -> ServerDeployment {
        let state = match record.id {
            _ if !record.error.is_empty() => "failed",
            id if self.serving_id() == Some(id) => "serving",
            id if self.served.previous == Some(id) => "previous",
            id if self.staged == Some(id) => "staged",
            _ => "loaded",
        };
        ServerDeployment {
            id: record.id,
            checkpoint: record.request.checkpoint,
            manifest_hash: record.request.manifest_hash.clone(),
            state: state.to_string(),
            error: record.error.clone(),
            created_ms: record.created_ms,
        }
    }

    fn publish(&self) {
        let deployments = self.records.values().map(|record| self.to_wire(record)).collect();
        self.view.send_replace(DoorView { deployments, reason: self.reason.clone() });
    }
}

fn conflict(code: &'static str, message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::CONFLICT, code, message)
}
