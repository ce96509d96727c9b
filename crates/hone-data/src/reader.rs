//! Reading data files: blocks of rows with their numbers, and the rows of an accepted file.
//!
//! Every format comes out as JSON rows in UTF-8, so that all behind the reader see one kind of row:
//! - **JSONL**: one JSON object per line; lines end with LF or CRLF; a byte-order mark at the beginning is skipped;
//!   blank lines are allowed and counted as lines. The number of a row is its physical line.
//! - **gzip, zstd** (`.gz`, `.zst`): the same, packed, with a limit on what comes out.
//! - **CSV, TSV**: the first record names the columns; the number of a row is the physical line on which it begins.
//! - **Parquet**: the number of a row is counted from 1.
//!
//! Memory is bounded by the longest row, one row group of Parquet, and the window of zstd.

mod format;
mod lines;
mod tables;
mod unpack;

pub use format::{Format, Packing, is_whole};
pub use lines::{BadRow, Block, LineReader};
pub use unpack::ReadError;

use crate::example::{Example, Row, RowId};
use anyhow::{Context, Result, anyhow, bail};
use hone_pipeline::finding::Severity;
use hone_pipeline::spec::json::Json;
use hone_pipeline::spec::{self, Spec};
use std::collections::VecDeque;
use std::fs::File;
use std::path::Path;
use tables::{CsvReader, ParquetReader};
use unpack::Unpacked;

/// Limits of [`rows`]; the gates' own are lower.
const ROW_LIMITS: ReadLimits = ReadLimits { max_line_bytes: 1 << 30, max_unpacked_bytes: 1 << 40 };
/// How much is read at a time, in bytes.
const BLOCK_BYTES: usize = 256 << 10;

/// Limits that hold while a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimits {
    /// Longest row in bytes.
    pub max_line_bytes: u64,
    /// Most bytes that a packed file may unpack to.
    pub max_unpacked_bytes: u64,
}

/// The rows of a file in blocks, as JSON text.
pub struct Blocks(Source);

enum Source {
    Lines(Box<LineReader<Unpacked>>),
    Csv(Box<CsvReader>),
    Parquet(Box<ParquetReader>),
}

impl Blocks {
    /// Opens a file whose rows will be held against `spec` (it tells which cells of a table hold JSON).
    ///
    /// # Errors
    /// An unreadable file; a Parquet file that is damaged or unpacks to too much.
    pub fn open(path: &Path, format: Format, spec: &'static Spec, limits: ReadLimits) -> Result<Blocks, ReadError> {
        let ReadLimits { max_line_bytes, max_unpacked_bytes } = limits;
        let file = File::open(path)?;
        Ok(Blocks(match format {
            Format::Lines(packing) => {
                let source = Unpacked::new(file, packing, max_unpacked_bytes)?;
                Source::Lines(Box::new(LineReader::new(source, max_line_bytes)))
            }
            Format::Csv { packing, delimiter } => {
                let source = Unpacked::new(file, packing, max_unpacked_bytes)?;
                Source::Csv(Box::new(CsvReader::new(source, delimiter, spec, max_line_bytes)))
            }
            Format::Parquet => {
                Source::Parquet(Box::new(ParquetReader::new(file, spec, max_line_bytes, max_unpacked_bytes)?))
            }
        }))
    }

    /// The next rows: at least `min_bytes` of them where there are as many. `None` after the last.
    ///
    /// # Errors
    /// The file cannot be read on, by name.
    pub fn next_block(&mut self, min_bytes: usize) -> Result<Option<Block>, ReadError> {
        match &mut self.0 {
            Source::Lines(lines) => lines.next_block(min_bytes).map_err(ReadError::from_io),
            Source::Csv(table) => table.next_block(min_bytes),
            Source::Parquet(table) => table.next_block(min_bytes),
        }
    }

    /// Takes back a block that is not needed any more, so that a later one uses its memory.
    pub fn recycle(&mut self, block: Block) {
        if let Source::Lines(lines) = &mut self.0 {
            lines.recycle(block);
        }
    }

    /// Bytes of the file, as it lies there, that were read so far (0 for Parquet).
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        match &self.0 {
            Source::Lines(lines) => lines.source().raw().size_bytes(),
            Source::Csv(table) => table.raw().size_bytes(),
            Source::Parquet(_) => 0,
        }
    }

    /// Size of the file in bytes and BLAKE3 of its bytes as they lie there, hex; after the last block.
    ///
    /// # Errors
    /// A Parquet file, which is read again for it, cannot be read.
    pub fn size_and_hash(&mut self) -> Result<(u64, String), ReadError> {
        let raw = match &mut self.0 {
            Source::Lines(lines) => lines.source().raw(),
            Source::Csv(table) => table.raw(),
            Source::Parquet(table) => return table.size_and_hash(),
        };
        Ok((raw.size_bytes(), raw.blake3()))
    }
}

impl std::fmt::Debug for Blocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blocks").field("size_bytes", &self.size_bytes()).finish_non_exhaustive()
    }
}

/// The rows of a file in order. Memory is bounded by the longest line.
///
/// # Errors
/// Unknown schema, unreadable file; and, as items, every line that is not a row of the schema, by number.
pub fn rows(path: &Path, schema_id: &str) -> Result<Rows> {
    let (reader, spec) = open(path, schema_id)?;
    Ok(Rows { reader, spec, name: path.display().to_string(), pending: VecDeque::new() })
}

/// The row of a file that findings name by this number; `None` where no row has it. Reads the file up to there; what
/// is wrong with other rows does not matter.
///
/// # Errors
/// Unknown schema, unreadable file, or a row that is none of the schema.
pub fn row_at(path: &Path, schema_id: &str, line: u64) -> Result<Option<Row>> {
    let (mut reader, spec) = open(path, schema_id)?;
    let read = || format!("read {} line {line}", path.display());
    while let Some(block) = reader.next_block(BLOCK_BYTES).with_context(read)? {
        if let Some((_, bytes)) = block.rows().find(|(number, _)| *number == line) {
            return parse_row(spec, line, bytes).with_context(read).map(Some);
        }
        if block.bad().iter().any(|(number, _)| *number == line) {
            return Err(anyhow!("the row cannot be read")).with_context(read);
        }
        if block.rows().any(|(number, _)| number > line) {
            return Ok(None);
        }
    }
    Ok(None)
}

fn open(path: &Path, schema_id: &str) -> Result<(Blocks, &'static Spec)> {
    let spec = spec::find(schema_id).ok_or_else(|| anyhow!("{}", spec::unknown(schema_id).message))?;
    let format = Format::of(path).map_err(|(extension, hint)| anyhow!(".{extension} files are not read: {hint}"))?;
    let reader = Blocks::open(path, format, spec, ROW_LIMITS).with_context(|| format!("open {}", path.display()))?;
    Ok((reader, spec))
}

/// Iterator over the rows of a file; made by [`rows`].
#[derive(Debug)]
pub struct Rows {
    reader: Blocks,
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
                    let bad = block.bad().iter().map(|(line, _)| (*line, Err(anyhow!("the row cannot be read"))));
                    let rows = block.rows().map(|(line, bytes)| (line, parse_row(self.spec, line, bytes)));
                    let mut all: Vec<_> = rows.chain(bad).collect();
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
