//! One blocking HTTP call with a time and a size limit. Redirects are not followed; a key goes only to the
//! address that it was meant for.

use serde_json::Value;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::time::Duration;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);

/// One call.
pub(crate) struct Call<'a> {
    /// `GET`, `POST` or `PUT`.
    pub method: &'static str,
    /// The whole address.
    pub url: &'a str,
    /// Sent as `Authorization: Bearer`.
    pub key: Option<&'a str>,
    /// What is sent.
    pub body: Body<'a>,
    /// For the whole call.
    pub timeout: Duration,
    /// Longest answer.
    pub max_bytes: u64,
}

/// What is sent.
pub(crate) enum Body<'a> {
    Empty,
    Json(&'a Value),
    File(&'a File),
    /// The rest of a file from an offset on; the first is its whole size.
    Rest(u64, u64, &'a File),
}

/// What came back, whatever its status.
pub(crate) struct Answer {
    pub status: u16,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The message of an error answer, in the shapes that servers use; else its first characters.
    pub fn message(&self) -> String {
        let json: Value = serde_json::from_slice(&self.bytes).unwrap_or_default();
        let told = ["/error/message", "/error", "/message", "/detail"]
            .iter()
            .find_map(|pointer| json.pointer(pointer).and_then(Value::as_str).map(str::to_string));
        told.unwrap_or_else(|| String::from_utf8_lossy(&self.bytes).chars().take(200).collect())
    }
}

/// Makes the call. The error says why there is no whole answer.
pub(crate) fn send(call: &Call) -> Result<Answer, String> {
    if call.url.starts_with("https://") {
        return Err(format!("{}: https is not built in (hint: put a local tunnel or proxy before it)", call.url));
    }
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(call.timeout))
        .timeout_connect(Some(CONNECT.min(call.timeout)))
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .build()
        .into();
    let mut request = ureq::http::Request::builder().method(call.method).uri(call.url);
    if let Some(key) = call.key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    let response = match call.body {
        Body::Empty => request.body(()).map_err(|e| e.to_string()).and_then(|r| run(&agent, r)),
        Body::Json(value) => {
            let bytes = serde_json::to_vec(value).expect("a JSON value is plain data");
            let request = request.header("content-type", "application/json").body(bytes);
            request.map_err(|e| e.to_string()).and_then(|r| run(&agent, r))
        }
        Body::File(file) => {
            let request = request.header("content-type", "application/octet-stream").body(file);
            request.map_err(|e| e.to_string()).and_then(|r| run(&agent, r))
        }
        Body::Rest(total, offset, mut file) => {
            file.seek(SeekFrom::Start(offset)).map_err(|error| error.to_string())?;
            let range = format!("bytes {offset}-{}/{total}", total.saturating_sub(1));
            let request = request
                .header("content-type", "application/octet-stream")
                .header("content-length", total - offset)
                .header("content-range", range)
                .body(ureq::SendBody::from_reader(&mut file));
            request.map_err(|e| e.to_string()).and_then(|r| run(&agent, r))
        }
    };
    let mut response = response?;
    let bytes = response.body_mut().with_config().limit(call.max_bytes).read_to_vec().map_err(|e| e.to_string())?;
    Ok(Answer { status: response.status().as_u16(), bytes })
}

fn run<B: ureq::AsSendBody>(
    agent: &ureq::Agent,
    request: ureq::http::Request<B>,
) -> Result<ureq::http::Response<ureq::Body>, String> {
    agent.run(request).map_err(|error| error.to_string())
}
