//! The routes of the door. Disk work runs on blocking threads, deployments on the door's own.

use super::{read_body, too_large};
use crate::app::App;
use crate::door::DoorOrder;
use crate::door::files::{disk_error, is_hash};
use crate::error::ApiError;
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use hone_pipeline::wire::{DeployRequest, ServerDeployment};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt;

/// Most hashes of one question.
const MAX_HASHES: usize = 10_000;
/// Pieces of a blob that may wait for the disk.
const BLOB_PIECES: usize = 8;
/// An upload that sends nothing for this long is given up.
const BLOB_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Body of `POST /admin/blobs/missing`.
#[derive(Deserialize)]
struct Hashes {
    hashes: Vec<String>,
}

/// `POST /admin/blobs/missing`.
pub async fn missing(State(app): State<Arc<App>>, body: Body) -> Result<Json<Value>, ApiError> {
    let Hashes { hashes } = read_json(&app, body).await?;
    if hashes.len() > MAX_HASHES || !hashes.iter().all(|hash| is_hash(hash)) {
        let message = format!("`hashes` must hold at most {MAX_HASHES} BLAKE3 hashes in lower-case hex");
        return Err(ApiError::invalid("hashes", message));
    }
    let blobs = app.blobs.clone();
    let missing = tokio::task::spawn_blocking(move || blobs.missing(&hashes)).await;
    Ok(Json(json!({"missing": missing.map_err(|_| ApiError::internal())?})))
}

/// `PUT /admin/blobs/{hash}`: the bytes are streamed to a temporary file and kept when their hash is right. Resuming
/// a broken upload (`Content-Range`) is not built; a broken one leaves nothing behind and starts again.
pub async fn put_blob(
    State(app): State<Arc<App>>,
    Path(hash): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, ApiError> {
    if !is_hash(&hash) {
        return Err(ApiError::invalid("hash", "a blob's name must be its BLAKE3 hash in lower-case hex"));
    }
    if headers.contains_key(header::CONTENT_RANGE) {
        let message = "partial uploads are not supported; send the whole blob";
        return Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, "ranges_not_supported", message));
    }
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > app.max_blob_bytes) {
        return Err(too_large(app.max_blob_bytes));
    }
    let (sender, receiver) = mpsc::channel(BLOB_PIECES);
    let blobs = app.blobs.clone();
    let broken = Arc::new(AtomicBool::new(false));
    let reader_broken = broken.clone();
    let writing = tokio::task::spawn_blocking(move || {
        let mut reader = BodyReader { pieces: receiver, current: Bytes::new(), broken: reader_broken };
        blobs.put(&hash, &mut reader)
    });
    let sent = send_pieces(body, sender, app.max_blob_bytes, &broken).await;
    let written = writing.await.map_err(|_| ApiError::internal())?;
    sent?;
    written.map(|()| StatusCode::CREATED).map_err(|error| {
        if error.chain().any(|cause| cause.is::<io::Error>()) {
            return disk_error(&error);
        }
        ApiError::new(StatusCode::BAD_REQUEST, "hash_mismatch", "the bytes do not have the hash that names them")
    })
}

/// `POST /admin/deployments`.
pub async fn deploy(State(app): State<Arc<App>>, body: Body) -> Result<Json<ServerDeployment>, ApiError> {
    let request: DeployRequest = read_json(&app, body).await?;
    ask(&app, |reply| DoorOrder::Deploy(Box::new(request), reply)).await
}

/// `GET /admin/deployments`: a list by number.
pub async fn list(State(app): State<Arc<App>>) -> Json<Vec<ServerDeployment>> {
    Json(app.view.borrow().deployments.clone())
}

/// `POST /admin/deployments/{id}/switch`.
pub async fn switch(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<ServerDeployment>, ApiError> {
    let Ok(id) = id.parse() else {
        return Err(ApiError::invalid("id", "a deployment's id is a number"));
    };
    ask(&app, |reply| DoorOrder::Switch(id, reply)).await
}

/// `POST /admin/rollback`.
pub async fn rollback(State(app): State<Arc<App>>) -> Result<Json<ServerDeployment>, ApiError> {
    ask(&app, DoorOrder::Rollback).await
}

type DoorReply = oneshot::Sender<Result<ServerDeployment, ApiError>>;

async fn ask(app: &App, order: impl FnOnce(DoorReply) -> DoorOrder) -> Result<Json<ServerDeployment>, ApiError> {
    let (reply, answer) = oneshot::channel();
    app.door.try_send(order(reply)).map_err(|error| match error {
        TrySendError::Full(_) => ApiError::unavailable("too many deployments are under way; try again in a moment"),
        TrySendError::Closed(_) => ApiError::internal(),
    })?;
    answer.await.map_err(|_| ApiError::internal())?.map(Json)
}

async fn read_json<T: DeserializeOwned>(app: &App, body: Body) -> Result<T, ApiError> {
    let bytes = read_body(body, app.max_body_bytes).await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::bad_request(format!("the body is not as expected: {error}")))
}

/// Passes the body on. `broken` is set before the sender is dropped, so that the reader never takes a torn body for a
/// whole one.
async fn send_pieces(body: Body, pieces: mpsc::Sender<Bytes>, limit: u64, broken: &AtomicBool) -> Result<(), ApiError> {
    let give_up = |error: ApiError| {
        broken.store(true, Ordering::SeqCst);
        Err(error)
    };
    let mut stream = body.into_data_stream();
    let mut received = 0;
    loop {
        let piece = match tokio::time::timeout(BLOB_IDLE_TIMEOUT, stream.next()).await {
            Ok(None) => return Ok(()),
            Ok(Some(Ok(piece))) => piece,
            Ok(Some(Err(_))) => return give_up(ApiError::bad_request("the upload broke off")),
            Err(_) => {
                let message = "the upload stood still for too long";
                return give_up(ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message));
            }
        };
        received += piece.len() as u64;
        if received > limit {
            return give_up(too_large(limit));
        }
        // The writer ends early only with an error of its own, which its result tells.
        if pieces.send(piece).await.is_err() {
            return Ok(());
        }
    }
}

/// The other end: a body as a blocking reader.
struct BodyReader {
    pieces: mpsc::Receiver<Bytes>,
    current: Bytes,
    broken: Arc<AtomicBool>,
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece,
                None if self.broken.load(Ordering::SeqCst) => return Err(io::ErrorKind::UnexpectedEof.into()),
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.current.len());
        buffer[..length].copy_from_slice(&self.current.split_to(length));
        Ok(length)
    }
}
