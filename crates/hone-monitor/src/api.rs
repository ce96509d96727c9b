//! Routes, the key, and the JSON of `/api`.

use crate::clock;
use crate::dashboard;
use crate::events::{EventLog, MAX_STREAMS};
use crate::hub::{Hub, Reading, Source};
use crate::metrics;
use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use subtle::ConstantTimeEq;

/// Version of the JSON of `/api/unified`.
const FORMAT_VERSION: u32 = 1;

/// What requests share.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Inner>);

struct Inner {
    hub: Hub,
    log: EventLog,
    key: Option<String>,
    stop: Arc<AtomicBool>,
}

impl Shared {
    pub(crate) fn new(hub: Hub, log: EventLog, key: Option<String>, stop: Arc<AtomicBool>) -> Shared {
        Shared(Arc::new(Inner { hub, log, key, stop }))
    }
}

pub(crate) fn router(shared: Shared) -> Router {
    let guarded = Router::new()
        .route("/api/unified", get(unified))
        .route("/api/sources", get(sources))
        .route("/api/events", get(events))
        .route("/metrics", get(metrics_text))
        .route_layer(from_fn_with_state(shared.clone(), require_key));
    Router::new()
        .route("/", get(dashboard::page))
        .route("/dashboard.css", get(dashboard::style))
        .route("/dashboard.js", get(dashboard::script))
        .route("/api/health", get(health))
        .merge(guarded)
        .fallback(|| async { error(StatusCode::NOT_FOUND, "not_found", "no such path") })
        .method_not_allowed_fallback(|| async {
            error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "the monitor is only read, by GET")
        })
        .layer(from_fn(harden))
        .with_state(shared)
}

async fn unified(State(shared): State<Shared>) -> Response {
    let readings = shared.0.hub.readings().await;
    let sources: Map<String, Value> = readings.iter().map(|(source, reading)| unified_entry(source, reading)).collect();
    axum::Json(json!({
        "format_version": FORMAT_VERSION,
        "at_ms": clock::now_ms(),
        "version": env!("CARGO_PKG_VERSION"),
        "sources": sources,
    }))
    .into_response()
}

fn unified_entry(source: &Source, reading: &Reading) -> (String, Value) {
    let entry = json!({
        "data": reading.data.as_deref(),
        "age_ms": reading.age_ms(),
        "error": reading.error,
        "critical": source.critical,
    });
    (source.name.to_string(), entry)
}

async fn health(State(shared): State<Shared>) -> Response {
    let readings = shared.0.hub.readings().await;
    let is_failing = |(source, reading): &&(&Source, Reading)| source.critical && reading.error.is_some();
    let failing: Vec<&str> = readings.iter().filter(is_failing).map(|(source, _)| source.name).collect();
    let status = if failing.is_empty() { "ok" } else { "degraded" };
    axum::Json(json!({ "status": status, "failing": failing })).into_response()
}

async fn sources(State(shared): State<Shared>) -> Response {
    let readings = shared.0.hub.readings().await;
    let sources: Vec<Value> = readings
        .iter()
        .map(|(source, reading)| {
            json!({
                "name": source.name,
                "about": source.about,
                "critical": source.critical,
                "refresh_ms": source.refresh.as_millis() as u64,
                "time_limit_ms": source.time_limit.as_millis() as u64,
                "age_ms": reading.age_ms(),
                "error": reading.error,
                "num_reads": reading.num_reads,
                "num_failures": reading.num_failures,
            })
        })
        .collect();
    axum::Json(json!({ "sources": sources })).into_response()
}

#[derive(Deserialize)]
struct EventsQuery {
    after: Option<u64>,
}

async fn events(
    State(shared): State<Shared>,
    query: Result<Query<EventsQuery>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Response {
    let Ok(Query(EventsQuery { after })) = query else {
        return error(StatusCode::BAD_REQUEST, "request_invalid", "after is the number of an event");
    };
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()?.parse().ok());
    match shared.0.log.stream(last.or(after), shared.0.stop.clone()) {
        Some(stream) => stream.into_response(),
        None => {
            let message = format!("{MAX_STREAMS} streams are open already");
            let mut response = error(StatusCode::TOO_MANY_REQUESTS, "busy", &message);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            response
        }
    }
}

async fn metrics_text(State(shared): State<Shared>) -> Response {
    let readings = shared.0.hub.readings().await;
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (content_type, metrics::text(&readings)).into_response()
}

async fn require_key(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    match &shared.0.key {
        Some(key) if !shows_key(request.headers(), key) => {
            let message = "show the monitor's key as Authorization: Bearer KEY or X-API-Key: KEY";
            let mut response = error(StatusCode::UNAUTHORIZED, "key_required", message);
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            response
        }
        _ => next.run(request).await,
    }
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

fn error(status: StatusCode, code: &str, message: &str) -> Response {
    (status, axum::Json(json!({ "error": { "message": message, "code": code } }))).into_response()
}
