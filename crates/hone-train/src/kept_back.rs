//! Rows that are never trained and make up the suite `kept-back`.
//!
//! The choice is a pure function of a file's rows: each has the key BLAKE3(`hone kept back 1`, what it says), and the rows
//! with the smallest keys are taken, as many as [`hone_pipeline::config::KeepBack`] says; rows that say the same are one. A row is left out of
//! training by its key, so also where it stands in another file.

use anyhow::{Context, Result};
use hone_data::{Example, Row};
use hone_pipeline::wire::KeptBack;
use std::collections::{BTreeMap, HashSet};

#[cfg(test)]
mod tests;

/// Name of the suite.
pub const SUITE: &str = "kept-back";
/// Rows between two signs of life.
const ROWS_PER_SIGN: usize = 1024;

/// What names a row by what it says.
pub type Key = [u8; 32];

/// The key of a row: who says what, and the tools; not where it stands.
#[must_use]
pub fn key(row: &Row) -> Key {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"hone kept back 1");
    let mut add = |part: &str| {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    };
    match &row.example {
        Example::Completion { prompt, completion } => {
            add("completion");
            add(prompt.as_deref().unwrap_or_default());
            add(completion);
        }
        Example::Chat { messages, tools } => {
            add("chat");
            for message in messages {
                add(&message.role);
                add(&message.content);
                for (name, value) in &message.extra {
                    add(name);
                    add(&value.to_string());
                }
            }
            add(&tools.as_ref().map(ToString::to_string).unwrap_or_default());
        }
    }
    *hasher.finalize().as_bytes()
}

/// The chosen rows of one file: key to line (the first with that key). `on_rows` is called now and then, as a sign of life.
///
/// # Errors
/// The file cannot be read.
pub fn choose(from: &KeptBack, on_rows: &mut dyn FnMut()) -> Result<BTreeMap<Key, u64>> {
    let KeptBack { file, keep } = from;
    let (mut chosen, mut num_rows) = (BTreeMap::new(), 0usize);
    for row in hone_data::rows(&file.path, &file.schema_id)? {
        let row = row.with_context(|| format!("choose the rows of {} to keep back", file.name))?;
        if num_rows.is_multiple_of(ROWS_PER_SIGN) {
            on_rows();
        }
        num_rows += 1;
        chosen.entry(key(&row)).or_insert(row.line);
        if chosen.len() > keep.max_rows {
            chosen.pop_last();
        }
    }
    while chosen.len() > keep.num_rows(num_rows) {
        chosen.pop_last();
    }
    Ok(chosen)
}

/// The keys of all chosen rows.
///
/// # Errors
/// As [`choose`].
pub fn keys(files: &[KeptBack], on_rows: &mut dyn FnMut()) -> Result<HashSet<Key>> {
    let mut keys = HashSet::new();
    for file in files {
        keys.extend(choose(file, on_rows)?.into_keys());
    }
    Ok(keys)
}
