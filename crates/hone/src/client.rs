//! A small client of the OpenAI-compatible server, for `hone chat` and `hone demo`.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// Longest wait for one answer.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Lines of a stream that may wait to be shown.
const STREAM_LINES: usize = 64;
/// How soon a stop is seen.
const STOP_INTERVAL: Duration = Duration::from_millis(50);

/// Where to ask, and with which key.
#[derive(Clone)]
pub struct Client {
    agent: ureq::Agent,
    url: String,
    key: Option<String>,
}

/// An answer with the checkpoint that gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The text.
    pub text: String,
    /// The stamp of the response, `checkpoint-N-…`.
    pub fingerprint: String,
}

impl Client {
    /// A client of the server at `url` (`http://host:port`).
    #[must_use]
    pub fn new(url: &str, key: Option<String>) -> Client {
        let config = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false).build();
        Client { agent: config.into(), url: url.trim_end_matches('/').to_string(), key }
    }

    /// `GET path` as JSON.
    pub fn get(&self, path: &str) -> Result<Value> {
        let mut request = self.agent.get(format!("{}{path}", self.url));
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let mut response = request.call().with_context(|| format!("reach {}", self.url))?;
        read_json(&mut response)
    }

    /// The name that requests must use.
    pub fn model(&self) -> Result<String> {
        let models = self.get("/v1/models")?;
        let id = models["data"][0]["id"].as_str().context("find a model on the server: it lists none yet")?;
        Ok(id.to_string())
    }

    /// One whole answer at temperature 0.
    pub fn ask(&self, model: &str, messages: &Value, max_tokens: u32) -> Result<Reply> {
        let body = json!({"model": model, "messages": messages, "temperature": 0, "max_tokens": max_tokens});
        let mut response = self.post(&body)?;
        let value = read_json(&mut response)?;
        let text = value["choices"][0]["message"]["content"].as_str().context("read the answer's text")?;
        let fingerprint = value["system_fingerprint"].as_str().unwrap_or_default().to_string();
        Ok(Reply { text: text.to_string(), fingerprint })
    }

    /// A streamed answer; every piece goes to `on_text` as it comes. When `stop` is set it ends with what came: the
    /// connection is closed, so the server stops as well.
    pub fn stream(&self, body: &Value, stop: &AtomicBool, on_text: &mut dyn FnMut(&str)) -> Result<Reply> {
        let mut reply = Reply { text: String::new(), fingerprint: String::new() };
        let (sender, lines) = mpsc::sync_channel(STREAM_LINES);
        let (client, body) = (self.clone(), body.clone());
        // Reading blocks, and a stop must not wait for the next token. The thread ends when its receiver is gone.
        let reader = std::thread::spawn(move || client.read_stream(&body, &sender));
        let ended = loop {
            if stop.load(Ordering::SeqCst) {
                return Ok(reply);
            }
            match lines.recv_timeout(STOP_INTERVAL) {
                Ok(line) => {
                    let Some(data) = line.strip_prefix("data: ") else { continue };
                    if data == "[DONE]" {
                        return Ok(reply);
                    }
                    read_chunk(data, &mut reply, on_text)?;
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break reader.join(),
            }
        };
        match ended {
            Ok(result) => result?,
            Err(_) => bail!("read the answer: its reader panicked"),
        }
        bail!("read the whole answer: the stream ended early")
    }

    fn read_stream(&self, body: &Value, lines: &mpsc::SyncSender<String>) -> Result<()> {
        let mut response = self.post(body)?;
        if response.status() != 200 {
            read_json(&mut response)?;
        }
        for line in BufReader::new(response.into_body().into_reader()).lines() {
            if lines.send(line.context("read the stream")?).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn post(&self, body: &Value) -> Result<ureq::http::Response<ureq::Body>> {
        let mut request = self.agent.post(format!("{}/v1/chat/completions", self.url));
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        request.send_json(body).with_context(|| format!("reach {}", self.url))
    }
}

fn read_chunk(data: &str, reply: &mut Reply, on_text: &mut dyn FnMut(&str)) -> Result<()> {
    let chunk: Value = serde_json::from_str(data).context("read a chunk of the stream")?;
    if let Some(message) = chunk["error"]["message"].as_str() {
        bail!("get an answer: {message}");
    }
    if let Some(stamp) = chunk["system_fingerprint"].as_str() {
        reply.fingerprint = stamp.to_string();
    }
    if let Some(text) = chunk["choices"][0]["delta"]["content"].as_str() {
        reply.text.push_str(text);
        on_text(text);
    }
    Ok(())
}

fn read_json(response: &mut ureq::http::Response<ureq::Body>) -> Result<Value> {
    let status = response.status();
    let text = response.body_mut().read_to_string().context("read the answer")?;
    let value: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    if status.is_success() {
        return Ok(value);
    }
    let message = value["error"]["message"].as_str().unwrap_or(&text);
    bail!("get an answer: the server says {status}: {message}")
}
