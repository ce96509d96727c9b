//! Reading data files: lines of a file with their physical numbers, and the rows of an accepted file.
//!
//! What is read is plain JSONL in UTF-8: one JSON object per line; lines end with LF or CRLF; a byte-order
//! mark at the beginning is skipped; blank lines are allowed and counted as lines. Other formats are refused
//! by the gates.

mod lines;

pub use lines::{Block, LineReader};

use crate::example::{Example, Row, RowId};
use anyhow::{Context, Result, anyhow, bail};
use hone_pipeline::finding::Severity;
use hone_pipeline::spec::json::Json;
use hone_pipeline::spec::{self, Spec};
use std::collections::VecDeque;
use std::fs::File;
use std::path::Path;

/// Longest line that [`rows`] reads, in bytes; the gates' own limit is lower.
const MAX_LINE_BYTES: u64 = 1 << 30;
/// How much is read at a time, in bytes.
const BLOCK_BYTES: usize = 256 << 10;

/// The rows of a file in order. Memory is bounded by the longest line.
///
/// # Errors
/// Unknown schema, unreadable file; and, as items, every line that is not a row of the schema, by number.
pub fn rows(path: &Path, schema_id: &str) -> Result<Rows> {
    let spec = spec::find(schema_id).ok_or_else(|| anyhow!("{}", spec::unknown(schema_id).message))?;
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let reader = LineReader::new(file, MAX_LINE_BYTES);
    Ok(Rows { reader, spec, name: path.display().to_string(), pending: VecDeque::new() })
}

/// Iterator over the rows of a file; made by [`rows`].
#[derive(Debug)]
pub struct Rows {
    reader: LineReader<File>,
    spec: &'static Spec,
    name: String,
    pending: VecDeque<Result<Row>>,
}

impl Iterator for Rows {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Result<Row>> {
        while self.pending.is_empty() {
            match self.reader.next_block(BLOCK_BYTES) {
                Ok(Some(block)) => {
                    let too_long =
                        block.too_long().iter().map(|(line, _)| (*line, Err(anyhow!("the line is too long"))));
                    let rows = block.rows().map(|(line, bytes)| (line, parse_row(self.spec, line, bytes)));
                    let mut all: Vec<_> = rows.chain(too_long).collect();
                    all.sort_by_key(|(line, _)| *line);
                    let name = &self.name;
                    let named =
                        all.into_iter().map(|(line, row)| row.with_context(|| format!("read {name} line {line}")));
                    self.pending.extend(named);
                }
                Ok(None) => return None,
                Err(e) => return Some(Err(e).with_context(|| format!("read {}", self.name))),
            }
        }
        self.pending.pop_front()
    }
}

/// One line as a row of the format.
fn parse_row(spec: &Spec, line: u64, bytes: &[u8]) -> Result<Row> {
    let text = std::str::from_utf8(bytes).context("decode UTF-8")?;
    let json = Json::parse(text).context("parse JSON")?;
    if let Some(problem) = spec.problems(&json).into_iter().find(|problem| problem.severity == Severity::Error) {
        bail!("{}", problem.message);
    }
    let example = Example::from_json(spec, &json).ok_or_else(|| anyhow!("the row has not the shape of {}", spec.id))?;
    Ok(Row { line, id: row_id(line, bytes), example })
}

/// The name of a row: from its line number and its bytes, whatever its file is called.
pub(crate) fn row_id(line: u64, bytes: &[u8]) -> RowId {
    let hash = blake3::Hasher::new().update(&line.to_le_bytes()).update(bytes.trim_ascii()).finalize();
    let first = hash.as_bytes().first_chunk().expect("a hash has 32 bytes");
    RowId(u64::from_le_bytes(*first))
}

#[cfg(test)]
mod tests;
