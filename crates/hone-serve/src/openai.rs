//! The OpenAI protocol as pure functions: a body becomes a typed request or an error that names the field; events
//! of the engine become a whole answer or chunks of a stream. No HTTP, no engine, no clock.

pub mod calls;
pub mod chunk;
mod fields;
pub mod format;
pub mod logprobs;
pub mod messages;
pub mod request;
pub mod response;

#[cfg(test)]
mod tests;
