//! The only place of the server that reads the clock or draws a random number.

use std::hash::{BuildHasher, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch; 0 when the clock stands before it.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis() as u64)
}

/// A number that differs from call to call: for request ids, and for seeds that a client left open.
pub fn random_u64() -> u64 {
    RandomState::new().hash_one(now_ms())
}
