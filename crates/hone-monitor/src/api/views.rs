//! The present: what the sources say now, and the stream of events.

use super::{Refusal, Shared, error, failed};
use crate::clock;
use crate::events::MAX_STREAMS;
use crate::hub::{Reading, Source};
use crate::metrics;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Version of the JSON of `/api/unified`.
const FORMAT_VERSION: u32 = 1;

pub(super) async fn unified(State(shared): State<Shared>) -> Response {
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

pub(super) async fn health(State(shared): State<Shared>) -> Response {
    let readings = shared.0.hub.readings().await;
    let is_failing = |(source, reading): &&(&Source, Reading)| source.critical && reading.error.is_some();
    let failing: Vec<&str> = readings.iter().filter(is_failing).map(|(source, _)| source.name).collect();
    let status = if failing.is_empty() { "ok" } else { "degraded" };
    axum::Json(json!({ "status": status, "failing": failing })).into_response()
}

pub(super) async fn sources(State(shared): State<Shared>) -> Response {
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

/// Makes every source be read anew for the next answer. It touches nothing but the monitor's own memory.
pub(super) async fn clear_cache(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    if let Err(refusal) = super::door::same_site(&headers) {
        return failed(&refusal);
    }
    shared.0.hub.clear();
    axum::Json(json!({ "cleared": true })).into_response()
}

#[derive(Deserialize)]
pub(super) struct EventsQuery {
    after: Option<u64>,
}

pub(super) async fn events(
    State(shared): State<Shared>,
    query: Result<Query<EventsQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    let Ok(Query(EventsQuery { after })) = query else {
        return failed(&Refusal::Invalid("after is the number of an event".to_string()));
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

pub(super) async fn metrics_text(State(shared): State<Shared>) -> Response {
    let readings = shared.0.hub.readings().await;
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (content_type, metrics::text(&readings)).into_response()
}
