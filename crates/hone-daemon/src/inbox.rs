//! Which files of `inbox/` are complete, and how `hone submit` and the data manager place one.

use anyhow::{Result, bail};
use hone_pipeline::state::Priority;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The sidecar `<file>.meta.json`.
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
}

/// Puts a copy of `source` into the inbox of the workspace `root`, complete at once: a dot-file is written,
/// the sidecar placed, then the dot-file renamed. A sidecar that lies beside `source` is merged under
/// `sidecar`. A name that is taken gets a number. Returns the path relative to `inbox/`.
///
/// # Errors
/// `source` cannot be read or the inbox cannot be written.
pub fn place(_root: &Path, _source: &Path, _priority: Priority, _sidecar: &Sidecar) -> Result<String> {
    bail!("not built yet")
}

/// As [`place`], for bytes made here.
///
/// # Errors
/// The inbox cannot be written.
pub fn place_bytes(
    _root: &Path,
    _name: &str,
    _bytes: &[u8],
    _priority: Priority,
    _sidecar: &Sidecar,
) -> Result<String> {
    bail!("not built yet")
}
