//! Questions about the past, which need the database or files: answered one after the other on a thread of their own,
//! so that no request waits inside the HTTP runtime. A full desk is an answer (429), and so is a slow one (503).

use crate::api::{Refusal, error, failed};
use crate::clock;
use crate::sources::{Histories, Workspace, open_store};
use anyhow::Result;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hone_store::Store;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// Questions that wait; one more is answered 429.
const MAX_WAITING: usize = 32;
/// How long an answer is waited for.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// What questions are answered from.
pub(crate) struct Records {
    pub(crate) workspace: Arc<Workspace>,
    pub(crate) histories: Histories,
    root: PathBuf,
    store: Option<(u64, Store)>,
}

impl Records {
    /// The database, opened read-only.
    pub(crate) fn store(&mut self) -> Result<&Store> {
        open_store(&self.root, &mut self.store, clock::now_ms())
    }
}

type Question = Box<dyn FnOnce(&mut Records) + Send>;

/// The way to the thread that answers.
#[derive(Clone)]
pub(crate) struct Desk {
    door: SyncSender<Question>,
}

impl Desk {
    /// Starts the thread; it ends when the desk is dropped.
    pub(crate) fn start(
        root: &Path,
        workspace: Arc<Workspace>,
        histories: Histories,
    ) -> std::io::Result<(Desk, JoinHandle<()>)> {
        let (door, questions) = sync_channel::<Question>(MAX_WAITING);
        let mut records = Records { workspace, histories, root: root.to_path_buf(), store: None };
        let thread = std::thread::Builder::new().name("monitor-desk".to_string());
        let thread = thread.spawn(move || questions.into_iter().for_each(|question| question(&mut records)))?;
        Ok((Desk { door }, thread))
    }

    /// The answer to a question as JSON, or why there is none.
    pub(crate) async fn ask(
        &self,
        question: impl FnOnce(&mut Records) -> Result<Value, Refusal> + Send + 'static,
    ) -> Response {
        match self.find(question).await {
            Ok(value) => axum::Json(value).into_response(),
            Err(response) => response,
        }
    }

    /// The answer to a question, or the response that says why there is none.
    pub(crate) async fn find<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Records) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Response> {
        let (reply, answer) = oneshot::channel();
        let question: Question = Box::new(move |records| {
            // Whoever asked may have gone.
            let _ = reply.send(question(records));
        });
        if self.door.try_send(question).is_err() {
            let mut response =
                error(StatusCode::TOO_MANY_REQUESTS, "busy", &format!("{MAX_WAITING} questions wait already"));
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            return Err(response);
        }
        match tokio::time::timeout(TIME_LIMIT, answer).await {
            Ok(Ok(Ok(found))) => Ok(found),
            Ok(Ok(Err(refusal))) => Err(failed(&refusal)),
            Ok(Err(_)) => {
                Err(error(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the answer broke off; see the log"))
            }
            Err(_) => {
                let message = format!("no answer within {} s", TIME_LIMIT.as_secs());
                Err(error(StatusCode::SERVICE_UNAVAILABLE, "timeout", &message))
            }
        }
    }
}
