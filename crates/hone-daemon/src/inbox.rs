//! Which files of `inbox/` are complete ([`Scanner`]), and how a complete file is put there ([`place`]).
//!
//! A file that was renamed in is complete at once: its sidecar `<file>.meta.json` says `"submitted": true`, or a file
//! event told ([`watch`]). One that was seen closed by its writer is complete when its end shows it: the last line of a
//! `.jsonl` file parses, a Parquet or zstd file has its footer. Any other file is complete when nothing about it has
//! changed for `settle`; a `.jsonl` file whose last line is cut short, or a Parquet or zstd file without its end, waits
//! for `torn` and then goes to the gates as it is, which reject it. (A gzip file shows its end only when it is
//! unpacked: the gates do that.) Whoever appends to a file in several goes writes it under a name that waits.
//! Hidden files, `*.tmp`, `*.part`, sidecars and links are never data. Nothing here moves a file that waits.

mod place;
mod scan;
#[cfg(test)]
mod tests;
mod watch;

pub use place::{place, place_bytes};
pub(crate) use scan::MAX_READY;
pub use scan::{Fingerprint, ReadyFile, Scan, Scanner};
pub(crate) use watch::watch;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The sidecar `<file>.meta.json`. Keys that are not listed are left for others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sidecar {
    /// The schema of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_id: Option<String>,
    /// The schema named on a command line; it wins over `schema_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_flag: Option<String>,
    /// Where generated data came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<serde_json::Value>,
    /// True when the file was renamed in: it is complete at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub submitted: bool,
    /// Everything else that it holds.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

/// Keys of a sidecar that people write.
const SIDECAR_KEYS: [&str; 2] = ["schema_id", "provenance"];
/// Another key that is so few letters off is taken for a slip.
const MOST_SLIPS: usize = 2;
/// Folders below the inbox are followed this deep.
const MAX_DEPTH: usize = 16;
/// Longest name of a file or folder: hone puts up to 50 bytes around it, and file systems take 255.
const MAX_NAME_BYTES: usize = 200;
/// Largest sidecar that is read.
const MAX_SIDECAR_BYTES: u64 = 1 << 20;

impl Sidecar {
    /// Reads a sidecar; the default when there is none.
    ///
    /// # Errors
    /// It cannot be read, is larger than 1 MiB, is not a JSON object with these keys, or has a key that nearly is one of them.
    pub fn read(path: &Path) -> Result<Sidecar> {
        let Ok(info) = path.metadata() else { return Ok(Sidecar::default()) };
        anyhow::ensure!(info.len() <= MAX_SIDECAR_BYTES, "the sidecar is larger than {MAX_SIDECAR_BYTES} bytes");
        let bytes = std::fs::read(path).context("read the sidecar")?;
        let sidecar: Sidecar = serde_json::from_slice(&bytes)
            .context("parse the sidecar as a JSON object, such as {\"schema_id\": \"chat_sft_v1\"}")?;
        let near = |known: &&str, key: &str| strsim::damerau_levenshtein(known, key) <= MOST_SLIPS;
        let slip = |key: &String| SIDECAR_KEYS.iter().find(|known| near(known, key)).map(|known| (key.clone(), *known));
        if let Some((key, known)) = sidecar.other.keys().find_map(slip) {
            anyhow::bail!("read the sidecar: it has the key `{key}`; `{known}` is meant, or rename it");
        }
        Ok(sidecar)
    }
}

/// True for names that never are data.
fn is_ignored(name: &str) -> bool {
    name.starts_with('.') || name.ends_with(".tmp") || name.ends_with(".part") || name.ends_with(".meta.json")
}
