//! Whole answers to many requests, for callers who have the engine to themselves.

use super::Engine;
use crate::request::{FinishReason, GenEventKind, GenRequest, Output, RequestId};
use anyhow::{Context, Result, bail, ensure};
use std::collections::HashMap;

/// Is given answers that ended, by the index of their request.
pub type AfterStep<'a> = dyn FnMut(Vec<(usize, Output)>) -> Result<()> + 'a;

impl Engine {
    /// Answers all requests, batched, in their order. More requests than fit the queue are fed as room appears.
    ///
    /// # Errors
    /// The engine has requests of its own running; a request is refused, or the model's numbers fail on it (both by index);
    /// a fault of the device. The engine is idle afterwards, and no answer is given for any.
    pub fn generate(&mut self, requests: &[GenRequest]) -> Result<Vec<Output>> {
        self.alone(|engine| engine.generate_all(requests))
    }

    /// The same, one answer after the other: `after_step` is given those that ended in a step, by index, in any order; none
    /// in most steps. Its error ends the work.
    ///
    /// # Errors
    /// As there, and those of `after_step`.
    pub fn generate_each(&mut self, requests: &[GenRequest], after_step: &mut AfterStep<'_>) -> Result<()> {
        self.alone(|engine| engine.answer_each(requests, after_step))
    }

    /// Work that wants the engine for itself and leaves nothing behind.
    fn alone<T>(&mut self, work: impl FnOnce(&mut Engine) -> Result<T>) -> Result<T> {
        ensure!(self.idle(), "the engine is busy with other requests");
        let result = work(self);
        self.waiting.clear();
        for slot in 0..self.running.len() {
            if let Some(running) = self.running[slot].take() {
                self.release(slot, &running);
            }
        }
        result
    }

    fn generate_all(&mut self, requests: &[GenRequest]) -> Result<Vec<Output>> {
        let mut outputs: HashMap<usize, Output> = HashMap::new();
        self.answer_each(requests, &mut |ended| {
            outputs.extend(ended);
            Ok(())
        })?;
        Ok((0..requests.len()).map(|i| outputs.remove(&i).expect("every request ends with an answer")).collect())
    }

    fn answer_each(&mut self, requests: &[GenRequest], after_step: &mut AfterStep<'_>) -> Result<()> {
        let mut outputs: HashMap<usize, Output> = HashMap::new();
        let mut next = 0;
        while next < requests.len() || !self.idle() {
            while next < requests.len() && self.waiting.len() < self.max_waiting {
                self.submit(RequestId(next as u64), requests[next].clone())
                    .with_context(|| format!("request {next}"))?;
                next += 1;
            }
            let mut ended = Vec::new();
            for event in self.step()? {
                let index = event.id.0 as usize;
                let output = outputs.entry(index).or_insert_with(Output::empty);
                match event.kind {
                    GenEventKind::Token { text, token, logprobs } => {
                        output.text += &text;
                        output.num_tokens += 1;
                        output.ids.push(token);
                        output.logprobs.extend(logprobs);
                    }
                    GenEventKind::Finished { reason, .. } => {
                        output.reason = reason;
                        ended.extend(outputs.remove_entry(&index));
                    }
                    GenEventKind::Failed { message } => bail!("request {index}: {message}"),
                }
            }
            after_step(ended)?;
        }
        Ok(())
    }
}

impl Output {
    fn empty() -> Output {
        let reason = FinishReason::Length;
        Output { text: String::new(), reason, num_tokens: 0, ids: Vec::new(), logprobs: Vec::new() }
    }
}
