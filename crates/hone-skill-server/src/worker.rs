//! The one thread that reads bodies, makes and judges samples, behind a bounded queue. No HTTP here.

use crate::body::{self, VerifySample};
use crate::error::ApiError;
use hone_skills::{Skill, VerifyResult};
use serde::Serialize;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// What the thread is asked to do: the body of a request, as it came.
pub(crate) enum Work {
    Generate(Vec<u8>),
    Verify(Vec<u8>),
}

/// The thread and the way to end it.
pub(crate) struct Worker {
    door: Door,
    thread: JoinHandle<()>,
}

/// Where work is handed in; the thread ends when all doors are gone.
#[derive(Clone)]
pub(crate) struct Door(SyncSender<Job>);

struct Job {
    work: Work,
    reply: oneshot::Sender<Result<Vec<u8>, ApiError>>,
}

impl Worker {
    pub(crate) fn start(skill: &'static dyn Skill) -> std::io::Result<Worker> {
        let (sender, receiver) = sync_channel(crate::MAX_QUEUED);
        let thread =
            std::thread::Builder::new().name("skill-work".to_string()).spawn(move || work(skill, &receiver))?;
        Ok(Worker { door: Door(sender), thread })
    }

    pub(crate) fn door(&self) -> Door {
        self.door.clone()
    }

    /// Waits for the thread; the doors that were given out must be gone.
    pub(crate) fn join(self) {
        drop(self.door);
        if self.thread.join().is_err() {
            tracing::error!("the worker thread panicked");
        }
    }
}

impl Door {
    /// The body of the answer, as JSON.
    pub(crate) async fn ask(&self, work: Work) -> Result<Vec<u8>, ApiError> {
        let (reply, answer) = oneshot::channel();
        self.0.try_send(Job { work, reply }).map_err(|error| match error {
            TrySendError::Full(_) => ApiError::Busy,
            TrySendError::Disconnected(_) => ApiError::Stopping,
        })?;
        answer.await.unwrap_or(Err(ApiError::Stopping))
    }
}

fn work(skill: &dyn Skill, jobs: &Receiver<Job>) {
    while let Ok(Job { work, reply }) = jobs.recv() {
        // A client that hung up needs no answer.
        if !reply.is_closed() {
            let _ = reply.send(answer(skill, work));
        }
    }
}

fn answer(skill: &dyn Skill, work: Work) -> Result<Vec<u8>, ApiError> {
    match work {
        Work::Generate(body) => {
            let request = body::generate(&body)?;
            skill.generate(&request).map(|batch| to_json(&batch)).map_err(ApiError::Skill)
        }
        Work::Verify(body) => {
            let samples = body::verify(&body)?;
            let results = samples.into_iter().map(|sample| verify(skill, sample)).collect::<Result<_, _>>()?;
            Ok(to_json(&Results { results }))
        }
    }
}

#[derive(Serialize)]
struct Results {
    results: Vec<SampleResult>,
}

#[derive(Serialize)]
struct SampleResult {
    id: String,
    #[serde(flatten)]
    result: VerifyResult,
}

fn verify(skill: &dyn Skill, sample: VerifySample) -> Result<SampleResult, ApiError> {
    let VerifySample { id, level, metadata, response } = sample;
    match skill.verify(level, &metadata, &response) {
        Ok(result) => Ok(SampleResult { id, result }),
        Err(error) => Err(ApiError::Sample { id, error }),
    }
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("these types have string keys only")
}
