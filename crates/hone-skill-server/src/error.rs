//! Errors as clients see them, and the one place that maps them to a status.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hone_skills::SkillError;
use serde_json::json;

/// Why a request was not answered.
#[derive(Debug)]
pub(crate) enum ApiError {
    NotFound,
    MethodNotAllowed,
    /// The body is not JSON, or did not arrive.
    BodyInvalid(String),
    BodyTooLarge,
    /// JSON of another shape.
    RequestInvalid(String),
    TooManySamples(usize),
    Skill(SkillError),
    /// The metadata of one sample of a `/verify`.
    Sample {
        id: String,
        error: SkillError,
    },
    /// The queue is full.
    Busy,
    /// The worker is gone: the server is stopping.
    Stopping,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code, message) = self.parts();
        let body = json!({ "error": { "message": message, "code": code } });
        let mut response = (status, axum::Json(body)).into_response();
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl ApiError {
    fn parts(self) -> (StatusCode, &'static str, String) {
        use StatusCode as S;
        match self {
            ApiError::NotFound => (
                S::NOT_FOUND,
                "not_found",
                "no such path; there are GET /health, /info, /levels and POST /generate, /verify".to_string(),
            ),
            ApiError::MethodNotAllowed => {
                (S::METHOD_NOT_ALLOWED, "method_not_allowed", "this path has another method".to_string())
            }
            ApiError::BodyInvalid(message) => (S::BAD_REQUEST, "body_invalid", message),
            ApiError::BodyTooLarge => {
                let message = format!("the body is larger than {} bytes", crate::MAX_BODY_BYTES);
                (S::PAYLOAD_TOO_LARGE, "body_too_large", message)
            }
            ApiError::RequestInvalid(message) => (S::UNPROCESSABLE_ENTITY, "request_invalid", message),
            ApiError::TooManySamples(count) => {
                let message = format!("{count} samples, allowed are {}", crate::MAX_VERIFY_SAMPLES);
                (S::UNPROCESSABLE_ENTITY, "too_many_samples", message)
            }
            ApiError::Skill(error) => (S::UNPROCESSABLE_ENTITY, skill_code(&error), error.to_string()),
            ApiError::Sample { id, error } => {
                (S::UNPROCESSABLE_ENTITY, skill_code(&error), format!("sample {id:?}: {error}"))
            }
            ApiError::Busy => {
                (S::TOO_MANY_REQUESTS, "busy", format!("{} requests already wait, try again", crate::MAX_QUEUED))
            }
            ApiError::Stopping => (S::SERVICE_UNAVAILABLE, "stopping", "the server is stopping".to_string()),
        }
    }
}

fn skill_code(error: &SkillError) -> &'static str {
    match error {
        SkillError::UnknownLevel { .. } => "unknown_level",
        SkillError::CountInvalid { .. } => "count_invalid",
        SkillError::MetadataInvalid(_) => "metadata_invalid",
    }
}
