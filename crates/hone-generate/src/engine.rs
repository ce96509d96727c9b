//! The engine: a bounded queue of requests in front of the cache slots of one model.

use crate::request::{GenEvent, GenRequest, Output, Refusal, RequestId};
use anyhow::{Result, anyhow};
use std::path::Path;

/// Sizes and device of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// Device name: `cpu` or `reference`.
    pub device: String,
    /// Threads for arithmetic; 0 uses all processors.
    pub threads: usize,
    /// Requests that run together.
    pub slots: usize,
    /// Tokens that a slot holds, prompt and answer together; 0 takes the model's own limit. Never above that limit.
    pub max_context: usize,
    /// Requests that may wait for a slot.
    pub max_waiting: usize,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions { device: "cpu".into(), threads: 0, slots: 8, max_context: 0, max_waiting: 64 }
    }
}

/// One model that generates for many requests at once.
#[derive(Debug)]
pub struct Engine {
    options: EngineOptions,
}

impl Engine {
    /// Loads a Hugging Face model directory: configuration, weights, tokenizer, end tokens.
    ///
    /// # Errors
    /// A missing or unreadable file, an unsupported architecture, an unknown device.
    pub fn new(model_dir: &Path, options: &EngineOptions) -> Result<Engine> {
        let _ = (model_dir, options);
        Err(anyhow!("the generation engine is not built yet"))
    }

    /// Puts a request into the waiting queue. It starts in the next [`Engine::step`] with a free slot.
    ///
    /// # Errors
    /// A [`Refusal`], after which the engine is unchanged.
    pub fn submit(&mut self, id: RequestId, request: GenRequest) -> Result<(), Refusal> {
        let _ = (id, request);
        Err(Refusal::Full { limit: self.options.max_waiting })
    }

    /// Forgets a request, waiting or running, at once; its slot is free for the next step. False if it is not known.
    pub fn cancel(&mut self, id: RequestId) -> bool {
        let _ = id;
        false
    }

    /// Admits waiting requests into free slots and generates one token for every running request.
    ///
    /// # Errors
    /// Only for faults of the engine as a whole (the device); the engine should then be dropped.
    pub fn step(&mut self) -> Result<Vec<GenEvent>> {
        Err(anyhow!("the generation engine is not built yet"))
    }

    /// True if nothing waits and nothing runs.
    pub fn idle(&self) -> bool {
        true
    }

    /// Requests that hold a slot.
    pub fn num_running(&self) -> usize {
        0
    }

    /// Requests that wait for a slot.
    pub fn num_waiting(&self) -> usize {
        0
    }

    /// Tokens that prompt and answer may have together.
    pub fn max_context(&self) -> usize {
        self.options.max_context
    }

    /// Answers all requests, batched, in their order.
    ///
    /// # Errors
    /// A refusal of any request (named by its index), non-finite logits, or a fault of the device.
    pub fn generate(&mut self, requests: &[GenRequest]) -> Result<Vec<Output>> {
        let _ = requests;
        Err(anyhow!("the generation engine is not built yet"))
    }
}
