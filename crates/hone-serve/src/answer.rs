//! From a prepared request to the response: admission, and the events of the engine as one body or as a stream.
//! Dropping what this module returns drops the receiver, which is how a request is cancelled.

use crate::app::App;
use crate::clock::{now_ms, random_u64};
use crate::engine_thread::{Admission, ChoiceEvent, EngineOrder, GenerateOrder, Serving};
use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::openai::calls::CallScanner;
use crate::openai::chunk::{self, Delta};
use crate::openai::logprobs::num_chars;
use crate::openai::request::Endpoint;
use crate::openai::response::{Choice, Head, Part, TotalUsage, whole};
use crate::prepare::{PrepareOrder, Prepared};
use crate::served::Served;
use axum::Json;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use hone_generate::{FinishReason, GenEventKind, TokenLogprobs};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Sleep;
use tokio_stream::Stream;

/// A request that the engine admitted, with all that its answer needs.
struct Answer {
    head: Head,
    served: Arc<Served>,
    choices: Vec<Choice>,
    usage: TotalUsage,
    events: mpsc::Receiver<ChoiceEvent>,
    metrics: Arc<Metrics>,
    started: Instant,
    saw_token: bool,
    /// When each choice got its last token.
    last_token: Vec<Option<Instant>>,
    /// Whether a fault or the time ended it.
    failed: bool,
    /// Ends the answer when it comes before its end.
    deadline: Option<Pin<Box<Sleep>>>,
}

/// Answers a body. `permit` is the place that was taken when the request came.
pub async fn answer(
    app: &App,
    endpoint: Endpoint,
    body: Bytes,
    permit: OwnedSemaphorePermit,
    started: Instant,
) -> Result<Response, ApiError> {
    let deadline = app.request_timeout.map(|most| started + most);
    let (serving, prepared, events) = admit(app, endpoint, body, permit, deadline).await?;
    app.metrics.add_prompt_tokens(prepared.prompt_tokens);
    let prefix = match endpoint {
        Endpoint::Chat => "chatcmpl",
        Endpoint::Completions => "cmpl",
    };
    let id = random_u64();
    let answer = Answer {
        head: Head {
            endpoint,
            id: format!("{prefix}-{id:016x}"),
            created_s: now_ms() / 1000,
            model: app.model_name.clone(),
            system_fingerprint: serving.served.stamp(),
            logprobs: prepared.logprobs,
            include_usage: prepared.include_usage,
        },
        served: serving.served,
        choices: (0..prepared.num_choices)
            .map(|index| Choice {
                scanner: prepared.calls.map(CallScanner::new),
                one_call: prepared.one_call,
                call_prefix: format!("call_{id:016x}_{index}"),
                ..Choice::default()
            })
            .collect(),
        usage: TotalUsage { prompt_tokens: prepared.prompt_tokens, completion_tokens: 0 },
        events,
        metrics: app.metrics.clone(),
        started,
        saw_token: false,
        last_token: vec![None; prepared.num_choices],
        failed: false,
        deadline: deadline.map(|at| Box::pin(tokio::time::sleep_until(at.into()))),
    };
    if prepared.stream { Ok(answer.into_stream()) } else { answer.into_whole().await }
}

/// Headers that name the checkpoint.
pub fn stamp_headers(headers: &mut HeaderMap, served: &Served) {
    let value = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("invalid"));
    headers.insert("x-hone-checkpoint", value(&served.checkpoint.to_string()));
    headers.insert("x-hone-manifest", value(&served.manifest_hash));
}

type Admitted = (Serving, Prepared, mpsc::Receiver<ChoiceEvent>);

/// Prepares for the serving model and hands over; again when another model was switched to in between. The engine holds the
/// places of what it admitted.
async fn admit(
    app: &App,
    endpoint: Endpoint,
    body: Bytes,
    mut permit: OwnedSemaphorePermit,
    deadline: Option<Instant>,
) -> Result<Admitted, ApiError> {
    loop {
        let serving = app.serving()?;
        let (reply, prepared) = oneshot::channel();
        let order = PrepareOrder { endpoint, body: body.clone(), served: serving.served.clone(), reply };
        app.prepare.send(order).await.map_err(|_| ApiError::internal())?;
        let mut prepared = prepared.await.map_err(|_| ApiError::internal())??;
        let places_wanted = prepared.num_choices.saturating_sub(permit.num_permits());
        let places = app.places.clone().try_acquire_many_owned(u32::try_from(places_wanted).unwrap_or(u32::MAX));
        permit.merge(places.map_err(|_| ApiError::queue_full())?);

        let held = Arc::new(permit);
        let (admitted, admission) = oneshot::channel();
        let order = GenerateOrder {
            served: serving.served.clone(),
            requests: std::mem::take(&mut prepared.requests),
            places: Arc::downgrade(&held),
            deadline,
            admitted,
        };
        app.engine.send(EngineOrder::Generate(order)).await.map_err(|_| ApiError::internal())?;
        match admission.await.map_err(|_| ApiError::internal())? {
            Admission::Admitted(events) => return Ok((serving, prepared, events)),
            Admission::Stale => permit = Arc::into_inner(held).expect("only what is admitted is held by the engine"),
            Admission::Refused(error) => return Err(error),
        }
    }
}

/// What an event means for the client: more of a choice, possibly nothing.
#[derive(Default)]
struct Step {
    choice: usize,
    parts: Vec<Part>,
    /// Of the event's token, where they are wanted.
    logprobs: Vec<TokenLogprobs>,
    /// Characters of the tokens reported before.
    offset: usize,
    /// The choice is complete, with what was held back.
    ends: bool,
}

impl Answer {
    /// Takes one event into the books. `None`: the engine gave the request up.
    fn record(&mut self, event: Option<ChoiceEvent>) -> Result<Step, ApiError> {
        let Some(ChoiceEvent { choice, kind }) = event else {
            self.failed = true;
            return Err(ApiError::internal());
        };
        if self.choices[choice].reason.is_some() {
            // It ended with its call; the engine goes on until all choices have ended.
            return Ok(Step::default());
        }
        match kind {
            GenEventKind::Token { text, token, logprobs } => Ok(self.record_token(choice, text, token, logprobs)),
            GenEventKind::Finished { reason, usage } => {
                let parts = self.choices[choice].take(String::new(), true);
                self.end(choice, reason, usage.completion_tokens);
                Ok(Step { choice, parts, ends: true, ..Step::default() })
            }
            GenEventKind::Failed { .. } => {
                self.failed = true;
                Err(ApiError::internal())
            }
        }
    }

    fn record_token(&mut self, choice: usize, text: String, token: u32, logprobs: Option<TokenLogprobs>) -> Step {
        if !self.saw_token {
            self.saw_token = true;
            self.metrics.observe_first_token(self.started.elapsed());
        }
        if let Some(before) = self.last_token[choice].replace(Instant::now()) {
            self.metrics.observe_between_tokens(before.elapsed());
        }
        // The end token is no part of the answer.
        let ends_text = self.served.context.tokenizer.eos_ids().contains(&token);
        let logprobs: Vec<TokenLogprobs> = logprobs.into_iter().filter(|_| !ends_text).collect();
        let answer = &mut self.choices[choice];
        answer.num_tokens += 1;
        let offset = answer.reported_chars;
        answer.reported_chars += logprobs.iter().map(num_chars).sum::<usize>();
        let parts = answer.take(text, false);
        let ends = answer.has_its_call();
        if ends {
            let num_tokens = answer.num_tokens;
            self.end(choice, FinishReason::Stop, num_tokens);
        }
        Step { choice, parts, logprobs, offset, ends }
    }

    /// A choice has ended: with all that it says taken.
    fn end(&mut self, choice: usize, reason: FinishReason, completion_tokens: usize) {
        self.usage.completion_tokens += completion_tokens;
        self.choices[choice].reason = Some(reason);
        self.metrics.add_finished(self.choices[choice].reason_name().unwrap_or_default());
        if self.is_complete() {
            // Where a call was the end, the engine goes on until it sees this.
            self.events.close();
            self.metrics.add_answer(&self.served.checkpoint.to_string(), true);
            self.metrics.observe_whole(self.started.elapsed());
        }
    }

    /// The next event, or the error that the time is over. Events that wait to be read are too late then as well: without
    /// that, a client that reads now and then would keep an answer for as long as it likes.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<ChoiceEvent>, ApiError>> {
        if !self.is_late() {
            match self.events.poll_recv(cx) {
                // The engine gave it up, for its time.
                Poll::Ready(None) if self.is_late() => {}
                // `None`: for a fault.
                Poll::Ready(event) => return Poll::Ready(Ok(event)),
                Poll::Pending => {
                    let is_due = self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready());
                    if !is_due {
                        return Poll::Pending;
                    }
                }
            }
        }
        self.failed = true;
        Poll::Ready(Err(ApiError::timeout()))
    }

    fn is_late(&self) -> bool {
        self.deadline.as_ref().is_some_and(|deadline| deadline.deadline() <= tokio::time::Instant::now())
    }

    fn is_complete(&self) -> bool {
        self.choices.iter().all(|choice| choice.reason.is_some())
    }

    async fn into_whole(mut self) -> Result<Response, ApiError> {
        while !self.is_complete() {
            let event = std::future::poll_fn(|cx| self.poll_event(cx)).await?;
            let Step { choice, parts, logprobs, .. } = self.record(event)?;
            self.choices[choice].logprobs.extend(logprobs);
            for part in parts {
                if let Part::Text(text) = part {
                    self.choices[choice].text.push_str(&text);
                }
            }
        }
        let mut response = Json(whole(&self.head, &self.choices, self.usage)).into_response();
        stamp_headers(response.headers_mut(), &self.served);
        Ok(response)
    }

    fn into_stream(self) -> Response {
        let served = self.served.clone();
        let first = match self.head.endpoint {
            Endpoint::Chat => {
                (0..self.choices.len()).map(|index| chunk::event(&self.head, index, &Delta::Role)).collect()
            }
            Endpoint::Completions => VecDeque::new(),
        };
        let mut response = Body::from_stream(AnswerStream { answer: self, ready: first, ended: false }).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        stamp_headers(headers, &served);
        response
    }
}

impl Drop for Answer {
    /// What did not come to its end was given up: by the client, by the time, or by a fault.
    fn drop(&mut self) {
        if self.failed {
            self.metrics.add_answer(&self.served.checkpoint.to_string(), false);
        }
        for _ in self.choices.iter().filter(|choice| choice.reason.is_none()) {
            self.metrics.add_finished("abort");
        }
    }
}

/// The body of a streamed answer. The client going away drops it, and with it the receiver.
struct AnswerStream {
    answer: Answer,
    ready: VecDeque<String>,
    ended: bool,
}

impl Stream for AnswerStream {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let stream = self.get_mut();
        loop {
            if let Some(event) = stream.ready.pop_front() {
                return Poll::Ready(Some(Ok(Bytes::from(event))));
            }
            if stream.ended {
                return Poll::Ready(None);
            }
            match stream.answer.poll_event(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(event) => stream.take(event),
            }
        }
    }
}

impl AnswerStream {
    fn take(&mut self, event: Result<Option<ChoiceEvent>, ApiError>) {
        let step = match event.and_then(|event| self.answer.record(event)) {
            Ok(step) => step,
            Err(error) => {
                self.ready.push_back(chunk::error_event(&error));
                self.ended = true;
                return;
            }
        };
        let Step { choice, parts, logprobs, offset, ends } = step;
        if parts.is_empty() && !logprobs.is_empty() {
            let reported = Delta::Text { text: "", logprobs: &logprobs, offset };
            self.ready.push_back(chunk::event(&self.answer.head, choice, &reported));
        }
        self.push_parts(choice, &parts, &logprobs, offset);
        if ends {
            let reason = self.answer.choices[choice].reason_name().unwrap_or("stop");
            self.ready.push_back(chunk::event(&self.answer.head, choice, &Delta::Finish(reason)));
        }
        let head = &self.answer.head;
        if self.answer.is_complete() {
            if head.include_usage {
                self.ready.push_back(chunk::usage_event(head, self.answer.usage));
            }
            self.ready.push_back(chunk::DONE.to_string());
            self.ended = true;
        }
    }

    /// Log-probabilities go with the first part.
    fn push_parts(&mut self, choice: usize, parts: &[Part], logprobs: &[TokenLogprobs], offset: usize) {
        let Answer { head, choices, .. } = &self.answer;
        for (position, part) in parts.iter().enumerate() {
            let logprobs = if position == 0 { logprobs } else { &[] };
            match part {
                Part::Text(text) => {
                    self.ready.push_back(chunk::event(head, choice, &Delta::Text { text, logprobs, offset }));
                }
                Part::Call(index) => {
                    let (id, call) = &choices[choice].calls[*index];
                    let arguments = Delta::Arguments { index: *index, arguments: &call.arguments };
                    let begin = Delta::Call { index: *index, id, call };
                    if !logprobs.is_empty() {
                        let reported = Delta::Text { text: "", logprobs, offset };
                        self.ready.push_back(chunk::event(head, choice, &reported));
                    }
                    self.ready.push_back(chunk::event(head, choice, &begin));
                    self.ready.push_back(chunk::event(head, choice, &arguments));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
