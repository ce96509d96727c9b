//! Routes.

use crate::error::ApiError;
use crate::worker::{Door, Work};
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hone_skills::Skill;
use serde_json::json;

/// The description of this API for machines; checked in beside the sources.
pub(crate) const OPENAPI: &str = include_str!("../openapi.json");

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

async fn generate(State(door): State<Door>, body: Result<Bytes, BytesRejection>) -> Result<Response, ApiError> {
    Ok(json_response(door.ask(Work::Generate(whole(body)?)).await?))
}

async fn verify(State(door): State<Door>, body: Result<Bytes, BytesRejection>) -> Result<Response, ApiError> {
    Ok(json_response(door.ask(Work::Verify(whole(body)?)).await?))
}

/// The body as it came: it is read as JSON by the worker, since a large one takes its time.
fn whole(body: Result<Bytes, BytesRejection>) -> Result<Vec<u8>, ApiError> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::BodyTooLarge,
        _ => ApiError::BodyInvalid("the body did not arrive whole".to_string()),
    })?;
    Ok(body.into())
}

fn json_response(body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}
