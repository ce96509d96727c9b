//! Rows of a data file, read after both gates accepted it; still strict.

use crate::example::Row;
use anyhow::{Result, anyhow};
use std::path::Path;

/// The rows of a file in order. Memory is bounded by the longest line.
///
/// # Errors
/// Unknown schema, unreadable file; and, as items, every line that is not a row of the schema, by number.
pub fn rows(path: &Path, schema_id: &str) -> Result<impl Iterator<Item = Result<Row>> + use<>> {
    Err::<std::iter::Empty<_>, _>(anyhow!("not built yet: {path:?} {schema_id}"))
}
