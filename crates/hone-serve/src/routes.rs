//! The routes: each handler is a few lines over what does the work.

mod admin;

use crate::answer::{answer, stamp_headers};
use crate::app::App;
use crate::engine_thread::Serving;
use crate::error::ApiError;
use crate::openai::request::Endpoint;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post, put};
use axum::{Json, Router};
use serde_json::{Value, json};
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A client has this long to send a JSON body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Every route with its methods. What a path needs is said by [`crate::access`].
pub const ROUTES: [(&str, &[&str]); 14] = [
    ("/v1/chat/completions", &["POST"]),
    ("/v1/completions", &["POST"]),
    ("/v1/models", &["GET"]),
    ("/v1/models/{id}", &["GET"]),
    ("/models/info", &["GET"]),
    ("/health", &["GET"]),
    ("/ready", &["GET"]),
    ("/metrics", &["GET"]),
    ("/openapi.json", &["GET"]),
    ("/admin/blobs/missing", &["POST"]),
    ("/admin/blobs/{hash}", &["PUT"]),
    ("/admin/deployments", &["POST", "GET"]),
    ("/admin/deployments/{id}/switch", &["POST"]),
    ("/admin/rollback", &["POST"]),
];
/// The description of all of them, for programs.
const OPENAPI: &str = include_str!("../../../docs/openapi.json");

/// All routes of the table, with the check of keys and the counting of requests around them.
pub fn router(app: Arc<App>) -> Router {
    let router = ROUTES.iter().fold(Router::new(), |router, (path, _)| router.route(path, handlers(path)));
    router
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(app.clone(), around))
        .with_state(app)
}

fn handlers(path: &str) -> MethodRouter<Arc<App>> {
    match path {
        "/v1/chat/completions" => post(chat),
        "/v1/completions" => post(completions),
        "/v1/models" => get(models),
        "/v1/models/{id}" => get(model),
        "/models/info" => get(info),
        "/health" => get(health),
        "/ready" => get(ready),
        "/metrics" => get(metrics),
        "/openapi.json" => get(openapi),
        "/admin/blobs/missing" => post(admin::missing),
        "/admin/blobs/{hash}" => put(admin::put_blob),
        "/admin/deployments" => post(admin::deploy).get(admin::list),
        "/admin/deployments/{id}/switch" => post(admin::switch),
        "/admin/rollback" => post(admin::rollback),
        other => unreachable!("{other} stands in the table without a handler"),
    }
}

/// Keys before, counting after.
async fn around(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_string();
    let response = match app.access.check(&path, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    app.metrics.add_request(&path, response.status().as_u16());
    response
}

async fn chat(State(app): State<Arc<App>>, body: Body) -> Result<Response, ApiError> {
    generate(&app, Endpoint::Chat, body).await
}

async fn completions(State(app): State<Arc<App>>, body: Body) -> Result<Response, ApiError> {
    generate(&app, Endpoint::Completions, body).await
}

async fn generate(app: &App, endpoint: Endpoint, body: Body) -> Result<Response, ApiError> {
    let started = Instant::now();
    let place = app.places.clone().try_acquire_owned().map_err(|_| ApiError::queue_full())?;
    let body = read_body(body, app.max_body_bytes).await?;
    answer(app, endpoint, body, place, started).await
}

async fn models(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let serving = app.serving()?;
    let list = json!({"object": "list", "data": [model_object(&app, &serving)]});
    let mut response = Json(list).into_response();
    stamp_headers(response.headers_mut(), &serving.served);
    Ok(response)
}

async fn model(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let serving = app.serving()?;
    if id != app.model_name {
        return Err(ApiError::model_not_found(&id));
    }
    Ok(Json(model_object(&app, &serving)))
}

fn model_object(app: &App, serving: &Serving) -> Value {
    json!({
        "id": app.model_name,
        "object": "model",
        "created": serving.since_ms / 1000,
        "owned_by": "hone",
        "max_model_len": serving.served.max_context,
        "dtype": serving.served.weights.name(),
    })
}

async fn info(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let serving = app.serving()?;
    let mut response = Json(serving.served.info(&app.model_name, serving.since_ms)).into_response();
    stamp_headers(response.headers_mut(), &serving.served);
    Ok(response)
}

async fn health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

async fn ready(State(app): State<Arc<App>>) -> Response {
    match app.serving() {
        Ok(serving) => {
            Json(json!({"status": "ready", "checkpoint": serving.served.checkpoint.to_string()})).into_response()
        }
        Err(error) => {
            let is_loading = error.message == crate::door::LOADING;
            let body = json!({"status": "not ready", "reason": error.message, "loading": is_loading});
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let mut response = app.metrics.render(&app.model_name).into_response();
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], OPENAPI).into_response()
}

async fn unknown_route() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "unknown_url", "there is no such route here")
}

async fn wrong_method() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this route does not take that method")
}

/// A whole body, bounded in size and time.
async fn read_body(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let reading = axum::body::to_bytes(body, limit);
    match tokio::time::timeout(BODY_TIMEOUT, reading).await {
        Ok(Ok(bytes)) => Ok(bytes),
        // The limit is the only error of `to_bytes` with a source of this name; all others are broken connections.
        Ok(Err(error)) if error.source().is_some_and(|source| source.to_string().contains("length limit")) => {
            Err(too_large(limit as u64))
        }
        Ok(Err(_)) => Err(ApiError::bad_request("the body broke off")),
        Err(_) => Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the body took too long to arrive")),
    }
}

fn too_large(limit: u64) -> ApiError {
    let message = format!("the body is larger than {limit} bytes");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
}
