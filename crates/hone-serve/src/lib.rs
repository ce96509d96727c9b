//! The OpenAI-compatible server: HTTP routes, the engine thread with hot swap, and the door through which
//! checkpoints are deployed.
//!
//! It serves one model at a time under one stable name. It knows nothing of training, of the workspace's
//! database, or of where a checkpoint came from: files arrive as blobs named by their hash, a deployment
//! names the blobs that it needs, and only a deployment that was verified, loaded and tried is switched to.
//! Every answer carries the checkpoint that made it: `system_fingerprint`, `x-hone-checkpoint`, `x-hone-manifest`.

mod access;
mod answer;
mod app;
mod clock;
mod connection;
mod door;
mod engine_thread;
mod error;
mod keys;
mod metrics;
mod openai;
mod options;
mod prepare;
mod routes;
mod served;
mod server;

pub use hone_generate::WeightFormat;
pub use keys::{KeyLevel, StoredKey, list_keys, make_key, remove_key, rotate_key};
pub use options::{DEFAULT_LISTEN, Keys, ServeOptions};
pub use routes::ROUTES;
pub use server::run;
