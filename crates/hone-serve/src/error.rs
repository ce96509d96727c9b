//! Errors as clients see them: the OpenAI shape with a real status code. Messages name neither paths nor internals.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// An answer that is an error: `{"error": {"message", "type", "param", "code"}}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// What the client is told, and what to do.
    pub message: String,
    /// The field of the request that is wrong, e.g. `messages[0].role`.
    pub param: Option<String>,
    /// Stable name, for programs.
    pub code: Option<&'static str>,
    /// After how many seconds trying again makes sense.
    pub retry_after_s: Option<u32>,
}

impl ApiError {
    /// An error without a field.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError { status, message: message.into(), param: None, code: Some(code), retry_after_s: None }
    }

    /// 400: a field of the request is wrong.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError { param: Some(param.into()), ..ApiError::new(StatusCode::BAD_REQUEST, "invalid_value", message) }
    }

    /// 400: a field asks for something that this server does not do.
    pub fn unsupported(param: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError { code: Some("unsupported_parameter"), ..ApiError::invalid(param, message) }
    }

    /// The same error about a field of `parent`.
    pub fn within(self, parent: &str) -> ApiError {
        ApiError { param: self.param.map(|param| format!("{parent}.{param}")), ..self }
    }

    /// 400: the body as a whole is wrong.
    pub fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_request", message)
    }

    /// 404: a model that is not the served one.
    pub fn model_not_found(model: &str) -> ApiError {
        ApiError {
            param: Some("model".to_string()),
            ..ApiError::new(
                StatusCode::NOT_FOUND,
                "model_not_found",
                format!("the model `{model}` is not served here; GET /v1/models tells the name of the one that is"),
            )
        }
    }

    /// 400: prompt and answer do not fit.
    pub fn context_overflow(param: &str, limit: usize, prompt: usize, answer: usize) -> ApiError {
        ApiError {
            code: Some("context_length_exceeded"),
            ..ApiError::invalid(
                param,
                format!(
                    "this model's maximum context length is {limit} tokens, but {} are needed ({prompt} in the prompt, \
                     {answer} for the answer); shorten the prompt or lower max_tokens",
                    prompt + answer
                ),
            )
        }
    }

    /// 429: the queue is full.
    pub fn queue_full() -> ApiError {
        ApiError {
            retry_after_s: Some(1),
            ..ApiError::new(
                StatusCode::TOO_MANY_REQUESTS,
                "queue_full",
                "too many requests are waiting already; try again in a moment",
            )
        }
    }

    /// 503: nothing can be answered now.
    pub fn unavailable(message: impl Into<String>) -> ApiError {
        ApiError {
            retry_after_s: Some(2),
            ..ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "model_not_ready", message)
        }
    }

    /// 504: the answer took longer than it may.
    pub fn timeout() -> ApiError {
        let message = "the answer took longer than this server allows; ask for fewer tokens or try again";
        ApiError::new(StatusCode::GATEWAY_TIMEOUT, "request_timeout", message)
    }

    /// 500: our fault; the details are in the log.
    pub fn internal() -> ApiError {
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "the server could not answer; its log says why",
        )
    }

    /// The JSON body.
    pub fn body(&self) -> Value {
        json!({"error": {"message": self.message, "type": self.kind(), "param": self.param, "code": self.code}})
    }

    fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            503 => "service_unavailable_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
