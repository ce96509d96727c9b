//! The numeric engine: configuration, weights, forward, backward, optimizer, decoding.
//!
//! Token ids in, numbers out. It knows tensors and nothing else of the system: no text, no data sets, no
//! files but model folders. One decoder family is written by hand, forward and backward, with switches read
//! from `config.json` ([`Config`]); a dozen operations on one arena of numbers make up a [`device::Device`].
//!
//! Shapes in the documentation: `N` tokens of a micro-batch, `H` hidden size, `A` query heads, `K` key/value
//! heads, `D` numbers per head, `I` intermediate size, `V` vocabulary. All tensors are row-major f32.

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "tests write fixtures"))]

mod batch;
mod config;
mod decoder;
pub mod device;
pub mod gguf;
mod lora;
mod method;
mod model;
mod score;
pub mod selftest;
mod train;
mod weights;

pub use batch::{Batch, BatchStats, SegmentScore};
pub use config::{Config, ConfigError, Family, ParameterSpec, Rope, RopeScaling};
pub use decoder::{CACHE_BLOCK, Decoder, DecoderOptions, FormatLoss, Region, WeightSource};
pub use lora::{Adapter, LoraConfig, Target};
pub use method::Method;
pub use score::Scorer;
pub use train::{AdamW, OptimizerState, Stored, Trainer, TrainerOptions};
pub use weights::{Dtype, HostWeights, INDEX_FILE, Shards};
