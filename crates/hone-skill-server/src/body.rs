//! What requests ask for, read from the JSON of their bodies.

use crate::error::ApiError;
use hone_skills::{GenerateRequest, Split};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::{SystemTime, UNIX_EPOCH};

/// Drawn seeds stay below this, so that every JSON reader keeps them exact.
const MAX_DRAWN_SEED: u64 = 1 << 53;

/// One answer to judge, as clients send it. Fields beyond these are ignored.
#[derive(Debug, Deserialize)]
pub(crate) struct VerifySample {
    pub id: String,
    pub level: u32,
    pub metadata: Value,
    pub response: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GenerateBody {
    level: u32,
    count: usize,
    seed: Option<u64>,
    #[serde(default)]
    split: Split,
    #[serde(default)]
    steps: bool,
}

#[derive(Deserialize)]
struct VerifyBody {
    samples: Vec<VerifySample>,
}

/// The body of `POST /generate`.
pub(crate) fn generate(body: &[u8]) -> Result<GenerateRequest, ApiError> {
    let GenerateBody { level, count, seed, split, steps } = read(body)?;
    Ok(GenerateRequest { level, count, seed: seed.unwrap_or_else(drawn_seed), split, steps })
}

/// The body of `POST /verify`.
pub(crate) fn verify(body: &[u8]) -> Result<Vec<VerifySample>, ApiError> {
    let VerifyBody { samples } = read(body)?;
    if samples.len() > crate::MAX_VERIFY_SAMPLES {
        return Err(ApiError::TooManySamples(samples.len()));
    }
    Ok(samples)
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let value: Value =
        serde_json::from_slice(body).map_err(|e| ApiError::BodyInvalid(format!("the body is not JSON: {e}")))?;
    serde_json::from_value(value).map_err(|e| ApiError::RequestInvalid(e.to_string()))
}

/// A seed that differs from call to call; told in the answer, so that the batch can be made again.
fn drawn_seed() -> u64 {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    (nanos % u128::from(MAX_DRAWN_SEED)) as u64
}
