//! Batched text generation: cache slots, sampling, stop strings, grammars.
//!
//! An [`Engine`] owns one model, its tokenizer and a fixed number of cache slots. Requests wait in a bounded queue, enter a
//! free slot, and all slots advance together, one token for each call of [`Engine::step`]. Nothing here is asynchronous and
//! nothing starts a thread beyond what the model uses for its arithmetic: whoever owns the engine calls `step` in a loop.
//!
//! This crate knows no HTTP, no chat templates and no checkpoints: prompts arrive as token ids.

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "tests write fixtures"))]

mod engine;
mod grammar;
pub mod memory;
mod request;
mod sample;
mod stop;

pub use engine::{AfterStep, Engine, EngineOptions};
pub use grammar::{Grammar, GrammarError, Grammars, compact_json_schema};
pub use hone_model::FormatLoss;
pub use hone_model::device::WeightFormat;
pub use request::{
    FinishReason, GenEvent, GenEventKind, GenRequest, LogitRule, Output, Refusal, RequestId, Sampling, TokenLogprob,
    TokenLogprobs, Usage,
};
