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
use hone_disk::blobs::{Part, Received};
use hone_pipeline::wire::{DeployRequest, ServerDeployment};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
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
    /// Sizes in the same order: with them the answer refuses what the disk has no room for.
    #[serde(default)]
    sizes: Vec<u64>,
}

/// `POST /admin/blobs/missing`: which blobs are not here, and how much of each has arrived.
pub async fn missing(State(app): State<Arc<App>>, body: Body) -> Result<Json<Value>, ApiError> {
    let Hashes { hashes, sizes } = read_json(&app, body).await?;
    if !sizes.is_empty() && sizes.len() != hashes.len() {
        return Err(ApiError::invalid("sizes", "`sizes` must have one number per hash"));
    }
    if hashes.len() > MAX_HASHES || !hashes.iter().all(|hash| is_hash(hash)) {
        let message = format!("`hashes` must hold at most {MAX_HASHES} BLAKE3 hashes in lower-case hex");
        return Err(ApiError::invalid("hashes", message));
    }
    let blobs = app.blobs.clone();
    let look = move || {
        let missing = blobs.missing(&hashes);
        let arrived: BTreeMap<String, u64> = missing
            .iter()
            .map(|hash| (hash.clone(), blobs.arrived(hash)))
            .filter(|(_, arrived)| *arrived > 0)
            .collect();
        let size = |hash: &String| hashes.iter().position(|h| h == hash).and_then(|i| sizes.get(i)).copied();
        let total: u64 = missing.iter().filter_map(size).sum();
        (missing, total.saturating_sub(arrived.values().sum()), arrived)
    };
    let (missing, needed, arrived) = tokio::task::spawn_blocking(look).await.map_err(|_| ApiError::internal())?;
    if needed > 0 {
        check_room(&app, needed)?;
    }
    Ok(Json(json!({"missing": missing, "arrived": arrived})))
}

/// `PUT /admin/blobs/{hash}`: the bytes are streamed to disk and become a blob when they are whole and their hash is
/// right. With `Content-Range: bytes FIRST-LAST/TOTAL` an upload goes on where it broke off.
pub async fn put_blob(
    State(app): State<Arc<App>>,
    Path(hash): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    if !is_hash(&hash) {
        return Err(ApiError::invalid("hash", "a blob's name must be its BLAKE3 hash in lower-case hex"));
    }
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let part =
        match headers.get(header::CONTENT_RANGE) {
            Some(range) => range.to_str().ok().and_then(part_of).ok_or_else(|| {
                ApiError::invalid("content-range", "`Content-Range` must be `bytes FIRST-LAST/TOTAL`")
            })?,
            None => {
                let message = "an upload must say its size in `Content-Length`, or its place in `Content-Range`";
                let total = length.ok_or_else(|| ApiError::invalid("content-length", message))?;
                Part { offset: 0, total }
            }
        };
    if part.total > app.max_blob_bytes {
        return Err(too_large(app.max_blob_bytes));
    }
    check_room(&app, part.total.saturating_sub(part.offset))?;
    let (sender, receiver) = mpsc::channel(BLOB_PIECES);
    let blobs = app.blobs.clone();
    let broken = Arc::new(AtomicBool::new(false));
    let reader_broken = broken.clone();
    let writing = tokio::task::spawn_blocking(move || {
        let mut reader = BodyReader { pieces: receiver, current: Bytes::new(), broken: reader_broken };
        blobs.receive_part(&hash, part, &mut reader)
    });
    let sent = send_pieces(body, sender, app.max_blob_bytes, &broken).await;
    let written = writing.await.map_err(|_| ApiError::internal())?;
    sent?;
    match written {
        Ok(Received::Whole) => Ok((StatusCode::CREATED, Json(json!({"arrived": part.total})))),
        Ok(Received::Partly(arrived)) => Ok((StatusCode::ACCEPTED, Json(json!({"arrived": arrived})))),
        Ok(Received::Gap(arrived)) => {
            let message = format!("only {arrived} bytes are here; go on from there");
            Err(ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable", message))
        }
        Ok(Received::Busy) => {
            let message = "another upload of this blob is under way";
            Err(ApiError::new(StatusCode::CONFLICT, "upload_in_progress", message))
        }
        Err(error) => Err(upload_error(&error)),
    }
}

fn upload_error(error: &anyhow::Error) -> ApiError {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>());
    match io.map(io::Error::kind) {
        Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => no_room("the disk is full"),
        Some(_) => disk_error(error),
        None => {
            ApiError::new(StatusCode::BAD_REQUEST, "hash_mismatch", "the bytes do not have the hash that names them")
        }
    }
}

/// `bytes 0-99/200`.
fn part_of(range: &str) -> Option<Part> {
    let (span, total) = range.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = span.split_once('-')?;
    let (offset, last, total) = (first.parse().ok()?, last.parse::<u64>().ok()?, total.parse().ok()?);
    (offset <= last && last < total).then_some(Part { offset, total })
}

/// Refuses what would not leave [`App::min_free_bytes`] on the disk, before any of it comes.
fn check_room(app: &App, needed: u64) -> Result<(), ApiError> {
    let free = app.blobs.free_bytes().map_err(|error| disk_error(&error))?;
    if free >= needed.saturating_add(app.min_free_bytes) {
        return Ok(());
    }
    let reserve = app.min_free_bytes;
    Err(no_room(&format!("{needed} bytes are to come, {free} are free, and {reserve} must stay free")))
}

fn no_room(message: &str) -> ApiError {
    ApiError::new(StatusCode::INSUFFICIENT_STORAGE, "no_room", message)
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
            Ok(Some(Err(_))) => {
                // Worth another try from where it stopped, should the client still listen.
                let message = "the upload broke off";
                return give_up(ApiError::new(StatusCode::REQUEST_TIMEOUT, "upload_broken", message));
            }
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
