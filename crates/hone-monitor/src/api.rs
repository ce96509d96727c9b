//! Routes, keys and refusals.

mod door;
mod records;
mod rows;
mod views;

use crate::dashboard;
use crate::desk::Desk;
use crate::events::EventLog;
use crate::hub::Hub;
use crate::{ControlDoor, MonitorOptions, RowDoor};
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hone_pipeline::wire::is_loopback_name;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

/// What requests share.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Inner>);

struct Inner {
    hub: Hub,
    log: EventLog,
    desk: Desk,
    key: Option<String>,
    admin_key: Option<String>,
    control: Option<ControlDoor>,
    rows: Option<RowDoor>,
    serve_url: Option<String>,
    /// Commands, chats and rows under way.
    under_way: Arc<Semaphore>,
    stop: Arc<AtomicBool>,
}

impl Shared {
    pub(crate) fn new(hub: Hub, log: EventLog, desk: Desk, options: MonitorOptions, stop: Arc<AtomicBool>) -> Shared {
        let MonitorOptions { key, admin_key, control, rows, serve_url, .. } = options;
        let under_way = Arc::new(Semaphore::new(door::MAX_UNDER_WAY));
        Shared(Arc::new(Inner { hub, log, desk, key, admin_key, control, rows, serve_url, under_way, stop }))
    }

    fn may_read(&self, headers: &HeaderMap) -> bool {
        let shown = |key: &Option<String>| key.as_deref().is_some_and(|key| shows_key(headers, key));
        self.0.key.is_none() || shown(&self.0.key) || shown(&self.0.admin_key)
    }
}

pub(crate) fn router(shared: Shared) -> Router {
    let guarded = Router::new()
        .route("/api/unified", get(views::unified))
        .route("/api/sources", get(views::sources))
        .route("/api/cache/clear", post(views::clear_cache))
        .route("/api/events", get(views::events))
        .route("/api/history/runs", get(records::runs))
        .route("/api/history/run", get(records::run))
        .route("/api/history/evaluations", get(records::evaluations))
        .route("/api/history/events", get(records::past_events))
        .route("/api/checkpoints", get(records::checkpoints))
        .route("/api/checkpoints/{number}", get(records::checkpoint))
        .route("/api/datasets", get(records::datasets))
        .route("/api/datasets/{number}/report", get(records::report))
        .route("/api/datasets/{number}/rows/{line}", get(rows::row))
        .route("/api/logs", get(records::logs))
        .route("/api/session", get(door::session))
        .route("/api/control", post(door::control))
        .route("/api/chat", post(door::chat))
        .route("/metrics", get(views::metrics_text))
        .route_layer(from_fn_with_state(shared.clone(), require_key));
    dashboard::routes()
        .route("/api/health", get(views::health))
        .merge(guarded)
        .fallback(|| async { error(StatusCode::NOT_FOUND, "not_found", "no such path") })
        .method_not_allowed_fallback(|| async {
            error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path wants another method")
        })
        .layer(DefaultBodyLimit::max(door::MAX_BODY_BYTES))
        .layer(from_fn(harden))
        .with_state(shared)
}

async fn require_key(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).map(|host| host.to_str().unwrap_or_default());
    if shared.0.key.is_none() && !host.is_none_or(is_loopback_name) {
        let message =
            "without a key the monitor answers this machine only: ask for 127.0.0.1 or localhost, or set HONE_READ_KEY";
        return failed(&Refusal::Forbidden(message.to_string()));
    }
    if shared.may_read(request.headers()) {
        return next.run(request).await;
    }
    let message = "show the monitor's key as Authorization: Bearer KEY or X-API-Key: KEY";
    failed(&Refusal::KeyRequired(message.to_string()))
}

fn shows_key(headers: &HeaderMap, key: &str) -> bool {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
    let shown = bearer.or_else(|| text(HeaderName::from_static("x-api-key")));
    shown.is_some_and(|shown| shown.as_bytes().ct_eq(key.as_bytes()).into())
}

/// Headers that keep a browser from doing anything but showing this page.
async fn harden(request: Request, next: Next) -> Response {
    const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' \
                          data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Why a request is refused.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The request is wrong: what, and what is allowed.
    Invalid(String),
    /// No key, or not the one.
    KeyRequired(String),
    /// Not here, whatever the key.
    Forbidden(String),
    /// There is no such thing.
    NotFound(String),
    /// It could not be read.
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Refusal {
        Refusal::Failed(error)
    }
}

/// The one place where refusals become status codes.
pub(crate) fn failed(refusal: &Refusal) -> Response {
    match refusal {
        Refusal::Invalid(message) => error(StatusCode::BAD_REQUEST, "request_invalid", message),
        Refusal::KeyRequired(message) => {
            let mut response = error(StatusCode::UNAUTHORIZED, "key_required", message);
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            response
        }
        Refusal::Forbidden(message) => error(StatusCode::FORBIDDEN, "forbidden", message),
        Refusal::NotFound(message) => error(StatusCode::NOT_FOUND, "not_found", message),
        Refusal::Failed(cause) => {
            tracing::warn!("failed to answer: {cause:#}");
            error(StatusCode::SERVICE_UNAVAILABLE, "unreadable", "the workspace cannot be read now; see the log")
        }
    }
}

pub(crate) fn error(status: StatusCode, code: &str, message: &str) -> Response {
    (status, axum::Json(json!({ "error": { "message": message, "code": code } }))).into_response()
}
