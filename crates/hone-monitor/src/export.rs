//! What other tools read: CSV, and TensorBoard event files.
//!
//! An event file is a sequence of records: length (u64, little endian), masked CRC-32C of those eight bytes, an `Event`
//! of TensorFlow's `event.proto`, and its masked CRC-32C. The few fields that scalars need are encoded here.

#[cfg(test)]
mod tests;

use crate::history::all_steps;
use hone_pipeline::ids::JobId;
use hone_pipeline::state::{Progress, State};
use hone_store::Layout;
use std::fmt::Write;

/// CRC-32C (Castagnoli), as TensorFlow's records use it.
const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);

/// Every step of a job, in order, each as it ran last.
#[must_use]
pub fn steps(layout: &Layout, job: JobId) -> Vec<Progress> {
    all_steps(layout, job)
}

/// A header line and a line per step: `step,job_step,at_ms,loss,learning_rate,grad_norm,tokens_per_s,memory_bytes`. A figure
/// that is not finite is left empty.
#[must_use]
pub fn csv(steps: &[Progress]) -> String {
    let mut text = "step,job_step,at_ms,loss,learning_rate,grad_norm,tokens_per_s,memory_bytes\n".to_string();
    let number = |value: f64| if value.is_finite() { value.to_string() } else { String::new() };
    for progress in steps {
        let Progress { step, job_step, at_ms, memory_bytes, .. } = progress;
        let figures = [progress.loss, progress.learning_rate, progress.grad_norm, progress.tokens_per_s].map(number);
        let _ = writeln!(text, "{step},{job_step},{at_ms},{},{memory_bytes}", figures.join(","));
    }
    text
}

/// The event file of a job: `train/loss`, `train/learning_rate`, `train/grad_norm`, `train/tokens_per_s` by global step.
/// NaN and infinities are written as such: TensorBoard marks them.
#[must_use]
pub fn tensorboard_steps(steps: &[Progress]) -> Vec<u8> {
    let mut file = header(steps.first().map_or(0, |progress| progress.at_ms));
    for progress in steps {
        let scalars = [
            ("train/loss", progress.loss),
            ("train/learning_rate", progress.learning_rate),
            ("train/grad_norm", progress.grad_norm),
            ("train/tokens_per_s", progress.tokens_per_s),
        ];
        record(&mut file, &scalars_event(progress.at_ms, progress.step, &scalars));
    }
    file
}

/// The event file of all evaluations by checkpoint number: `eval/SUITE/mean_nll` and `eval/SUITE/token_accuracy`, or
/// `eval/SUITE/share_right` of a suite of questions.
#[must_use]
pub fn tensorboard_evaluations(state: &State) -> Vec<u8> {
    let mut file = header(state.evaluations.values().next().map_or(0, |evaluation| evaluation.at_ms));
    for evaluation in state.evaluations.values() {
        let tags = evaluation.suites.iter().flat_map(|suite| {
            let losses = [("mean_nll", suite.mean_nll), ("token_accuracy", suite.token_accuracy)];
            let losses = losses.into_iter().filter(|_| suite.answers.is_none());
            let figures = losses.chain(suite.share_right().map(|share| ("share_right", share)));
            figures.map(|(name, value)| (format!("eval/{}/{name}", suite.suite), value))
        });
        let scalars: Vec<(String, f64)> = tags.collect();
        if !scalars.is_empty() {
            record(&mut file, &scalars_event(evaluation.at_ms, evaluation.checkpoint.0, &scalars));
        }
    }
    file
}

fn header(at_ms: u64) -> Vec<u8> {
    let mut event = Vec::new();
    double(&mut event, 1, at_ms as f64 / 1000.0);
    bytes(&mut event, 3, b"brain.Event:2");
    let mut file = Vec::new();
    record(&mut file, &event);
    file
}

/// `Event { wall_time = 1, step = 2, summary = 5 }`, `Summary { value = 1 }`, `Value { tag = 1, simple_value = 2 }`.
fn scalars_event<T: AsRef<str>>(at_ms: u64, step: u64, scalars: &[(T, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in scalars {
        let mut entry = Vec::new();
        bytes(&mut entry, 1, tag.as_ref().as_bytes());
        entry.push(2 << 3 | 5);
        entry.extend((*value as f32).to_le_bytes());
        bytes(&mut summary, 1, &entry);
    }
    let mut event = Vec::new();
    double(&mut event, 1, at_ms as f64 / 1000.0);
    event.push(2 << 3);
    varint(&mut event, step);
    bytes(&mut event, 5, &summary);
    event
}

fn double(message: &mut Vec<u8>, field: u8, value: f64) {
    message.push(field << 3 | 1);
    message.extend(value.to_le_bytes());
}

fn bytes(message: &mut Vec<u8>, field: u8, value: &[u8]) {
    message.push(field << 3 | 2);
    varint(message, value.len() as u64);
    message.extend(value);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

fn record(file: &mut Vec<u8>, event: &[u8]) {
    let length = (event.len() as u64).to_le_bytes();
    file.extend(length);
    file.extend(masked_crc(&length).to_le_bytes());
    file.extend(event);
    file.extend(masked_crc(event).to_le_bytes());
}

/// Rotated and shifted, so that a CRC of data that holds CRCs is no trouble (TensorFlow's `crc32c.h`).
fn masked_crc(data: &[u8]) -> u32 {
    CRC.checksum(data).rotate_right(15).wrapping_add(0xa282_ead8)
}
