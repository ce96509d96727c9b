//! What the page may ask others to do: the daemon, through its control socket, and the inference server. The monitor
//! itself writes nothing. A command wants the admin key; a chat is sent on with the key that the caller shows. Both
//! refuse requests that a page of another site made a browser send.

use super::{Refusal, Shared, error, failed, shows_key};
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hone_pipeline::event::Command;
use hone_pipeline::wire::{ControlReply, ControlRequest};
use serde::Deserialize;
use serde_json::json;
use std::io::Read;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

/// Largest body of a command or a chat.
pub(super) const MAX_BODY_BYTES: usize = 1 << 20;
/// How long a chat may take in all.
const CHAT_LIMIT: Duration = Duration::from_secs(600);
/// Bytes passed on at a time, and pieces that wait for a slow browser.
const PIECE_BYTES: usize = 8 << 10;
const MAX_PIECES: usize = 16;
/// Commands and chats under way at the same time.
pub(super) const MAX_UNDER_WAY: usize = 8;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ControlBody {
    command: Command,
}

/// What the page can do here, so that it offers nothing that would be refused.
pub(super) async fn session(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    let inner = &shared.0;
    let control = match (&inner.control, &inner.admin_key) {
        (None, _) | (_, None) => "off",
        (Some(_), Some(key)) if shows_key(&headers, key) => "open",
        _ => "key_required",
    };
    let chat = if inner.serve_url.is_some() { "open" } else { "off" };
    axum::Json(json!({ "control": control, "chat": chat })).into_response()
}

pub(super) async fn control(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    match command_of(&shared, &headers, &body) {
        Ok(command) => carry_out(&shared, command).await,
        Err(refusal) => failed(&refusal),
    }
}

fn command_of(shared: &Shared, headers: &HeaderMap, body: &[u8]) -> Result<Command, Refusal> {
    same_site(headers)?;
    let Some(key) = &shared.0.admin_key else {
        let message = "this monitor is read-only: no admin key is configured (set HONE_ADMIN_KEY and start it again)";
        return Err(Refusal::Forbidden(message.to_string()));
    };
    if !shows_key(headers, key) {
        return Err(Refusal::KeyRequired("a command wants the admin key".to_string()));
    }
    let parsed = serde_json::from_slice::<ControlBody>(body);
    parsed.map(|body| body.command).map_err(|error| Refusal::Invalid(format!("no such command: {error}")))
}

async fn carry_out(shared: &Shared, command: Command) -> Response {
    let Some(door) = shared.0.control.clone() else {
        return failed(&Refusal::Forbidden("this monitor has no way to the daemon".to_string()));
    };
    let Ok(_permit) = shared.0.under_way.clone().try_acquire_owned() else { return busy() };
    let answer = tokio::task::spawn_blocking(move || door(&ControlRequest::Command { command })).await;
    match answer {
        Ok(Ok(ControlReply::Ok { message })) => axum::Json(json!({ "message": message })).into_response(),
        Ok(Ok(ControlReply::Error { message })) => error(StatusCode::CONFLICT, "refused", &message),
        Ok(Ok(ControlReply::Pong { .. })) | Err(_) => {
            error(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the daemon's answer makes no sense; see the log")
        }
        Ok(Err(message)) => error(StatusCode::SERVICE_UNAVAILABLE, "daemon_unreachable", &message),
    }
}

/// Refuses what a page of another site made a browser send: commands and chats are JSON, and a browser names the
/// site that asks.
pub(super) fn same_site(headers: &HeaderMap) -> Result<(), Refusal> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let other_site = || Refusal::Forbidden("requests from other sites are refused".to_string());
    if let Some(site) = text(HeaderName::from_static("sec-fetch-site"))
        && !matches!(site, "same-origin" | "none")
    {
        return Err(other_site());
    }
    if let Some(origin) = text(header::ORIGIN) {
        let host = text(header::HOST).ok_or_else(other_site)?;
        let of_origin = origin.split_once("://").map(|(_, host)| host);
        if of_origin != Some(host) {
            return Err(other_site());
        }
    }
    let content_type = text(header::CONTENT_TYPE).unwrap_or_default();
    if content_type.split(';').next().map(str::trim) != Some("application/json") {
        return Err(Refusal::Invalid("send JSON, with content-type: application/json".to_string()));
    }
    Ok(())
}

pub(super) async fn chat(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    if let Err(refusal) = same_site(&headers) {
        return failed(&refusal);
    }
    let Some(url) = &shared.0.serve_url else {
        return failed(&Refusal::Forbidden("this monitor knows no inference server".to_string()));
    };
    let Ok(permit) = shared.0.under_way.clone().try_acquire_owned() else { return busy() };
    let url = format!("{}/v1/chat/completions", url.trim_end_matches('/'));
    let keys = [header::AUTHORIZATION, HeaderName::from_static("x-api-key")];
    let keys: Vec<(HeaderName, HeaderValue)> =
        keys.into_iter().filter_map(|name| Some((name.clone(), headers.get(name)?.clone()))).collect();
    let (sender, pieces) = mpsc::channel(MAX_PIECES);
    let (told, head) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        pass_on(&url, keys, &body, told, &sender);
    });
    match head.await {
        Ok((status, content_type)) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
            (status, [(header::CONTENT_TYPE, content_type)], Body::from_stream(ReceiverStream::new(pieces)))
                .into_response()
        }
        Err(_) => error(StatusCode::BAD_GATEWAY, "inference_unreachable", "the inference server does not answer"),
    }
}

/// Sends a chat to the inference server and its answer back, piece by piece. Ends when either side goes.
fn pass_on(
    url: &str,
    keys: Vec<(HeaderName, HeaderValue)>,
    body: &[u8],
    told: oneshot::Sender<(u16, String)>,
    pieces: &mpsc::Sender<Result<Bytes, std::io::Error>>,
) {
    let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(CHAT_LIMIT)).build();
    let mut request = ureq::Agent::from(config).post(url).content_type("application/json");
    for (name, value) in keys {
        request = request.header(name, value);
    }
    let Ok(response) = request.send(body) else { return };
    let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or("application/json").to_string();
    if told.send((response.status().as_u16(), content_type)).is_err() {
        return;
    }
    let mut reader = response.into_body().into_reader();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = match reader.read(&mut piece) {
            Ok(0) => return,
            Ok(length) => Ok(Bytes::copy_from_slice(&piece[..length])),
            Err(error) => Err(error),
        };
        let broken = read.is_err();
        if pieces.blocking_send(read).is_err() || broken {
            return;
        }
    }
}

pub(super) fn busy() -> Response {
    let mut response =
        error(StatusCode::TOO_MANY_REQUESTS, "busy", &format!("{MAX_UNDER_WAY} requests are under way already"));
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
    response
}
