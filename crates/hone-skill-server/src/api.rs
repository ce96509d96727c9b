//! Routes and request shapes.

use crate::error::ApiError;
use crate::worker::{Door, VerifySample, Work};
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hone_skills::{GenerateRequest, Skill, Split};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// The description of this API for machines; checked in beside the sources.
pub(crate) const OPENAPI: &str = include_str!("../openapi.json");
/// Drawn seeds stay below this, so that every JSON reader keeps them exact.
const MAX_DRAWN_SEED: u64 = 1 << 53;

pub(crate) fn router(skill: &'static dyn Skill, door: Door) -> Router {
    Router::new()
        .route("/health", get(|| async { axum::Json(json!({ "status": "ok" })) }))
        .route("/info", get(move || async move { axum::Json(skill.info()) }))
        .route("/levels", get(move || async move { axum::Json(json!({ "levels": skill.levels() })) }))
        .route("/openapi.json", get(|| async { json_response(OPENAPI.as_bytes().to_vec()) }))
        .route("/generate", post(generate))
        .route("/verify", post(verify))
        .fallback(|| async { ApiError::NotFound })
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed })
        .layer(DefaultBodyLimit::max(crate::MAX_BODY_BYTES))
        .layer(axum::middleware::from_fn(refuse_announced_size))
        .with_state(door)
}

/// Answers at once where the header tells that the body is too large; the body limit catches the rest.
async fn refuse_announced_size(request: Request, next: Next) -> Result<Response, ApiError> {
    let length =
        request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > crate::MAX_BODY_BYTES as u64) {
        return Err(ApiError::BodyTooLarge);
    }
    Ok(next.run(request).await)
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

async fn generate(State(door): State<Door>, body: Result<Bytes, BytesRejection>) -> Result<Response, ApiError> {
    let GenerateBody { level, count, seed, split, steps } = read(body)?;
    let seed = seed.unwrap_or_else(drawn_seed);
    let body = door.ask(Work::Generate(GenerateRequest { level, count, seed, split, steps })).await?;
    Ok(json_response(body))
}

#[derive(Deserialize)]
struct VerifyBody {
    samples: Vec<VerifySample>,
}

async fn verify(State(door): State<Door>, body: Result<Bytes, BytesRejection>) -> Result<Response, ApiError> {
    let VerifyBody { samples } = read(body)?;
    if samples.len() > crate::MAX_VERIFY_SAMPLES {
        return Err(ApiError::TooManySamples(samples.len()));
    }
    Ok(json_response(door.ask(Work::Verify(samples)).await?))
}

fn read<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, ApiError> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::BodyTooLarge,
        _ => ApiError::BodyInvalid("the body did not arrive whole".to_string()),
    })?;
    let value: Value =
        serde_json::from_slice(&body).map_err(|e| ApiError::BodyInvalid(format!("the body is not JSON: {e}")))?;
    serde_json::from_value(value).map_err(|e| ApiError::RequestInvalid(e.to_string()))
}

fn json_response(body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// A seed that differs from call to call; told in the answer, so that the batch can be made again.
fn drawn_seed() -> u64 {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    (nanos % u128::from(MAX_DRAWN_SEED)) as u64
}
