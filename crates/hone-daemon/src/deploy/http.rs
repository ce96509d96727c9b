//! A target reached only through its HTTP door.

use super::{DeployError, DeployTarget, MissingBlob};
use crate::http::{self, Answer, Body, Call};
use hone_pipeline::wire::{DeployFile, DeployRequest, ServerDeployment};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

/// Longest answer of the door in bytes.
const MAX_ANSWER_BYTES: u64 = 16 << 20;
/// Hashes of one question.
const MAX_HASHES: usize = 1000;

/// The door of a server.
pub struct Http {
    url: String,
    key: Option<String>,
    call_timeout: Duration,
    load_timeout: Duration,
}

impl Http {
    /// The door at `url` (no request is made). `load_timeout` bounds loading and switching, `call_timeout` any
    /// other call; sending one file has ten times as long.
    #[must_use]
    pub fn new(url: &str, key: Option<String>, call_timeout: Duration, load_timeout: Duration) -> Http {
        Http { url: url.trim_end_matches('/').to_string(), key, call_timeout, load_timeout }
    }

    fn call(&self, method: &'static str, path: &str, body: Body, timeout: Duration) -> Result<Answer, DeployError> {
        let url = format!("{}{path}", self.url);
        let key = self.key.as_deref();
        let call = Call { method, url: &url, key, body, timeout, max_bytes: MAX_ANSWER_BYTES };
        let answer = http::send(&call).map_err(|reason| {
            DeployError::Transient(format!("the server at {} does not answer: {reason}", self.url))
        })?;
        if answer.is_success() { Ok(answer) } else { Err(refusal(path, &answer)) }
    }

    fn post<T: DeserializeOwned>(&self, path: &str, body: &Value, timeout: Duration) -> Result<T, DeployError> {
        parse(path, &self.call("POST", path, Body::Json(body), timeout)?)
    }
}

impl DeployTarget for Http {
    fn missing(&self, files: &[DeployFile]) -> Result<Vec<MissingBlob>, DeployError> {
        #[derive(Deserialize)]
        struct Missing {
            missing: Vec<String>,
            #[serde(default)]
            arrived: BTreeMap<String, u64>,
        }
        let mut all = Vec::new();
        for part in files.chunks(MAX_HASHES) {
            let hashes: Vec<&str> = part.iter().map(|file| file.blake3.as_str()).collect();
            let sizes: Vec<u64> = part.iter().map(|file| file.size).collect();
            let body = json!({ "hashes": hashes, "sizes": sizes });
            let Missing { missing, arrived } = self.post("/admin/blobs/missing", &body, self.call_timeout)?;
            all.extend(missing.into_iter().map(|hash| {
                let arrived = arrived.get(&hash).copied().unwrap_or(0);
                MissingBlob { hash, arrived }
            }));
        }
        Ok(all)
    }

    fn put(&self, blob: &MissingBlob, file: &Path) -> Result<(), DeployError> {
        let unreadable = |error: std::io::Error| DeployError::Transient(format!("read a file to send: {error}"));
        let file = File::open(file).map_err(unreadable)?;
        let size = file.metadata().map_err(unreadable)?.len();
        let body = match blob.arrived {
            0 => Body::File(&file),
            // All of it arrived and was not made a blob: the last byte again completes it.
            arrived => Body::Rest(size, arrived.min(size.saturating_sub(1)), &file),
        };
        let path = format!("/admin/blobs/{}", blob.hash);
        self.call("PUT", &path, body, self.call_timeout.saturating_mul(10)).map(drop)
    }

    fn create(&self, request: &DeployRequest) -> Result<ServerDeployment, DeployError> {
        let body = serde_json::to_value(request).expect("a request is plain data");
        self.post("/admin/deployments", &body, self.load_timeout)
    }

    fn switch(&self, id: u64) -> Result<ServerDeployment, DeployError> {
        self.post(&format!("/admin/deployments/{id}/switch"), &json!({}), self.load_timeout)
    }

    fn list(&self) -> Result<Vec<ServerDeployment>, DeployError> {
        let path = "/admin/deployments";
        parse(path, &self.call("GET", path, Body::Empty, self.call_timeout)?)
    }
}

fn parse<T: DeserializeOwned>(path: &str, answer: &Answer) -> Result<T, DeployError> {
    serde_json::from_slice(&answer.bytes)
        .map_err(|error| DeployError::Permanent(format!("the server's answer to {path} cannot be read: {error}")))
}

/// A wrong request or key stays wrong; a conflict (a blob that vanished), a limit or an error of the server may pass.
fn refusal(path: &str, answer: &Answer) -> DeployError {
    let (status, message) = (answer.status, answer.message());
    match status {
        401 | 403 => DeployError::Permanent(format!(
            "the server refuses the key: {message} (hint: HONE_ADMIN_KEY must be the same on both hosts)"
        )),
        408 | 409 | 416 | 425 | 429 | 500..=599 => {
            DeployError::Transient(format!("the server answered {status} to {path}: {message}"))
        }
        _ => DeployError::Permanent(format!("the server answered {status} to {path}: {message}")),
    }
}
