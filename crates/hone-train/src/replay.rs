//! Which rows of earlier data sets are trained again beside new ones, so that old skills are not forgotten.
//!
//! The choice is a pure function of the job, its seed and the rows themselves: every row of the sources gets the key
//! BLAKE3(`hone replay 1`, seed, job, name of the data set, line, row id), and the rows with the smallest keys are
//! taken. A resumed slice therefore chooses the same rows, and another job others. A replayed row is known as
//! `replay/dataset-3:17`, so that a list of trained rows tells it from the first time that it was trained.

use anyhow::{Context, Result};
use hone_pipeline::ids::JobId;
use hone_pipeline::wire::{Replay, TrainFile};
use std::collections::{BTreeSet, BinaryHeap};

#[cfg(test)]
mod tests;

/// Before the name of a data set, in the names of replayed rows.
pub const PREFIX: &str = "replay/";

/// How many rows are replayed beside `num_new` new ones: `share` of them, rounded.
#[must_use]
pub fn num_rows(share: f64, num_new: u64) -> usize {
    (share.clamp(0.0, 1.0) * num_new as f64).round() as usize
}

/// The sources as files of the job: the same files, under names that tell replayed rows apart.
#[must_use]
pub fn files(replay: &Replay) -> Vec<TrainFile> {
    let renamed = |file: &TrainFile| TrainFile { name: format!("{PREFIX}{}", file.name), ..file.clone() };
    replay.files.iter().map(renamed).collect()
}

/// The chosen lines, one set per source. `on_rows` is called now and then, as a sign of life.
///
/// # Errors
/// A source cannot be read.
pub fn choose(
    replay: &Replay,
    num_rows: usize,
    (seed, job): (u64, JobId),
    on_rows: &mut dyn FnMut(),
) -> Result<Vec<BTreeSet<u64>>> {
    let mut lines = vec![BTreeSet::new(); replay.files.len()];
    // The largest of the smallest keys is on top.
    let mut chosen: BinaryHeap<([u8; 32], usize, u64)> = BinaryHeap::new();
    let sources = replay.files.iter().enumerate().filter(|_| num_rows > 0);
    for (index, file) in sources {
        for (number, row) in hone_data::rows(&file.path, &file.schema_id)?.enumerate() {
            let row = row.with_context(|| format!("replay {}", file.name))?;
            if number.is_multiple_of(1024) {
                on_rows();
            }
            let entry = (key(seed, job, &file.name, row.line, row.id.0), index, row.line);
            if chosen.len() < num_rows {
                chosen.push(entry);
            } else if chosen.peek().is_some_and(|largest| entry < *largest) {
                chosen.pop();
                chosen.push(entry);
            }
        }
    }
    for (_, index, line) in chosen {
        lines[index].insert(line);
    }
    Ok(lines)
}

fn key(seed: u64, job: JobId, name: &str, line: u64, row_id: u64) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"hone replay 1");
    for number in [seed, job.0, line, row_id] {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(name.as_bytes());
    *hasher.finalize().as_bytes()
}
