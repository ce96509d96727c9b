//! The time of an answer is over at its deadline, whatever waits to be read.

use super::*;
use crate::engine_thread::tests::model::{CONTEXT, MODEL_NAME, Model};
use hone_generate::{Usage, WeightFormat};
use std::time::Duration;

/// An answer of one token that is generated and not read yet, and the end of the engine.
fn generated(deadline: Instant) -> (Answer, mpsc::Sender<ChoiceEvent>) {
    let model = Model::random(1, 1);
    let served = Served::load(1, &model.request, model.dir.path(), CONTEXT, WeightFormat::F32).unwrap();
    let (sender, events) = mpsc::channel(8);
    let token = GenEventKind::Token { text: "a".to_string(), token: 5, logprobs: None };
    let usage = Usage { prompt_tokens: 3, completion_tokens: 1 };
    for kind in [token, GenEventKind::Finished { reason: FinishReason::Length, usage }] {
        sender.try_send(ChoiceEvent { choice: 0, kind }).unwrap();
    }
    let answer = Answer {
        head: Head {
            endpoint: Endpoint::Completions,
            id: "cmpl-1".to_string(),
            created_s: 0,
            model: MODEL_NAME.to_string(),
            system_fingerprint: served.stamp(),
            logprobs: false,
            include_usage: false,
        },
        served: Arc::new(served),
        choices: vec![Choice::default()],
        usage: TotalUsage { prompt_tokens: 3, completion_tokens: 0 },
        events,
        metrics: Arc::new(Metrics::default()),
        started: Instant::now(),
        saw_token: false,
        last_token: vec![None],
        failed: false,
        deadline: Some(Box::pin(tokio::time::sleep_until(deadline.into()))),
    };
    (answer, sender)
}

/// All that a client reads of it as a stream.
async fn read(answer: Answer) -> String {
    let mut stream = AnswerStream { answer, ready: VecDeque::new(), ended: false };
    let mut text = String::new();
    while let Some(Ok(bytes)) = std::future::poll_fn(|cx| Pin::new(&mut stream).poll_next(cx)).await {
        text.push_str(std::str::from_utf8(&bytes).unwrap());
    }
    text
}

fn within_a_runtime(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn what_is_generated_is_read_before_the_deadline() {
    within_a_runtime(async {
        let (answer, _engine) = generated(Instant::now() + Duration::from_secs(600));
        let text = read(answer).await;
        assert!(text.contains("\"a\"") && text.ends_with(chunk::DONE), "{text}");
    });
}

#[test]
fn what_is_generated_and_not_read_by_the_deadline_is_dropped() {
    within_a_runtime(async {
        let (answer, engine) = generated(Instant::now());
        let text = read(answer).await;
        assert!(text.contains("request_timeout") && !text.contains("\"a\""), "{text}");
        assert!(engine.is_closed(), "its events are gone");

        let (answer, _engine) = generated(Instant::now());
        assert_eq!(answer.into_whole().await.unwrap_err().code, Some("request_timeout"));
    });
}

#[test]
fn an_engine_that_goes_before_the_deadline_is_a_fault() {
    within_a_runtime(async {
        let (mut answer, engine) = generated(Instant::now() + Duration::from_secs(600));
        drop(engine);
        while std::future::poll_fn(|cx| answer.poll_event(cx)).await.unwrap().is_some() {}
        assert_eq!(answer.record(None).err(), Some(ApiError::internal()));
    });
}
