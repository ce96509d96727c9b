//! Tables (CSV, TSV, Parquet) as JSON rows, so that everything behind the reader sees one kind of row.
//!
//! A cell of a text column is its text. A cell of any other column that the schema knows may hold JSON (`[…]` or
//! `{…}`), which is read as such: that is how a list of messages fits into a table. An empty cell of an optional
//! column is no value; of a required column it is an empty text. A CSV record has the number of the physical line
//! on which it begins, a Parquet row its own number from 1.

use super::lines::{BadRow, Block};
use super::unpack::{Hashed, ReadError, Unpacked};
use hone_pipeline::spec::{Holds, Spec};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use serde::de::IgnoredAny;
use serde_json::Value;
use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Records of a CSV file.
pub(super) struct CsvReader {
    csv: csv::Reader<Guarded>,
    budget: Arc<AtomicU64>,
    spec: &'static Spec,
    header: Vec<String>,
    max_line_bytes: u64,
    record: csv::ByteRecord,
}

/// How far the reader of CSV may read ahead of a record, in bytes.
const READ_AHEAD_BYTES: u64 = 64 << 10;

impl CsvReader {
    pub fn new(source: Unpacked, delimiter: u8, spec: &'static Spec, max_line_bytes: u64) -> Self {
        let budget = Arc::new(AtomicU64::new(0));
        let csv = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .flexible(true)
            .has_headers(false)
            // With CRLF as a terminator the line feed would be counted with the next record.
            .terminator(csv::Terminator::Any(b'\n'))
            .from_reader(Guarded { source, budget: Arc::clone(&budget), last: b'\n' });
        CsvReader { csv, budget, spec, header: Vec::new(), max_line_bytes, record: csv::ByteRecord::new() }
    }

    pub fn raw(&self) -> &Hashed<File> {
        self.csv.get_ref().source.raw()
    }

    pub fn next_block(&mut self, min_bytes: usize) -> Result<Option<Block>, ReadError> {
        let mut block = Block::default();
        if self.header.is_empty() {
            if self.next_record()?.is_none() {
                return Ok(None);
            }
            self.header = cells(&self.record).map(|name| String::from_utf8_lossy(name).trim().to_string()).collect();
        }
        while block.len() < min_bytes.max(1) {
            let Some(line) = self.next_record()? else {
                return Ok((block.num_rows() > 0 || !block.bad().is_empty()).then_some(block));
            };
            if self.record.len() != self.header.len() {
                block.push_bad(line, BadRow::Cells { expected: self.header.len(), found: self.record.len() });
                continue;
            }
            let Self { header, record, spec, max_line_bytes, .. } = self;
            block.write_row(line, *max_line_bytes, |out| write_record(spec, header, record, out));
        }
        Ok(Some(block))
    }

    /// Reads the next record; gives the line on which it begins.
    fn next_record(&mut self) -> Result<Option<u64>, ReadError> {
        let limit = self.max_line_bytes;
        loop {
            self.budget.store(limit.saturating_add(READ_AHEAD_BYTES), Ordering::Relaxed);
            match self.csv.read_byte_record(&mut self.record) {
                Ok(false) => return Ok(None),
                // A line with nothing but a carriage return is blank.
                Ok(true) if self.record.len() == 1 && matches!(&self.record[0], b"" | b"\r") => {}
                Ok(true) => {
                    // Blank lines before a record belong to no record: count back from its end.
                    let inside = memchr::memchr_iter(b'\n', self.record.as_slice()).count() as u64;
                    return Ok(Some(self.csv.position().line() - 1 - inside));
                }
                Err(e) => return Err(self.read_error(e)),
            }
        }
    }

    fn read_error(&self, error: csv::Error) -> ReadError {
        let (line, limit) = (self.csv.position().line(), self.max_line_bytes);
        match error.into_kind() {
            csv::ErrorKind::Io(e) => match ReadError::from_io(e) {
                ReadError::RecordTooLong { .. } => ReadError::RecordTooLong { line, limit },
                other => other,
            },
            other => ReadError::Damaged { format: "CSV", reason: format!("{other:?}") },
        }
    }
}

/// A source that refuses to feed one record for ever.
struct Guarded {
    source: Unpacked,
    budget: Arc<AtomicU64>,
    /// The last byte that was read.
    last: u8,
}

/// Ends with a line feed, whether the file does or not.
impl Read for Guarded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.budget.load(Ordering::Relaxed);
        if left == 0 {
            return Err(io::Error::other(ReadError::RecordTooLong { line: 0, limit: 0 }));
        }
        let mut num_read = self.source.read(buffer)?;
        if num_read == 0 && self.last != b'\n' && !buffer.is_empty() {
            (buffer[0], num_read) = (b'\n', 1);
        }
        self.last = buffer[..num_read].last().copied().unwrap_or(self.last);
        self.budget.store(left.saturating_sub(num_read as u64), Ordering::Relaxed);
        Ok(num_read)
    }
}

/// The cells of a record without the carriage return of its line end.
fn cells(record: &csv::ByteRecord) -> impl Iterator<Item = &[u8]> {
    let last = record.len().saturating_sub(1);
    let cells = record.iter().enumerate();
    cells.map(move |(i, cell)| if i == last { cell.strip_suffix(b"\r").unwrap_or(cell) } else { cell })
}

fn write_record(spec: &Spec, header: &[String], record: &csv::ByteRecord, out: &mut Vec<u8>) {
    out.push(b'{');
    let mut is_first = true;
    for (name, cell) in header.iter().zip(cells(record)) {
        let column = spec.columns.iter().find(|column| column.name == name);
        if cell.is_empty() && !column.is_some_and(|column| column.required) {
            continue;
        }
        if !std::mem::take(&mut is_first) {
            out.push(b',');
        }
        write_string(name.as_bytes(), out);
        out.push(b':');
        let is_text = column.is_none_or(|column| column.holds == Holds::Text);
        if !is_text && is_json(cell) {
            // A line break inside pretty-printed JSON stands between tokens only.
            out.extend(cell.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
        } else {
            write_string(cell, out);
        }
    }
    out.push(b'}');
}

/// True for a cell that is a JSON list or object.
fn is_json(cell: &[u8]) -> bool {
    matches!(cell.trim_ascii_start().first(), Some(b'[' | b'{')) && serde_json::from_slice::<IgnoredAny>(cell).is_ok()
}

/// Bytes as a JSON string; what is not UTF-8 goes through as it is, for the check of the row to find.
fn write_string(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in bytes {
        match byte {
            b'"' => out.extend(b"\\\""),
            b'\\' => out.extend(b"\\\\"),
            b'\n' => out.extend(b"\\n"),
            b'\r' => out.extend(b"\\r"),
            b'\t' => out.extend(b"\\t"),
            0..0x20 => out.extend(format!("\\u{byte:04x}").bytes()),
            _ => out.push(*byte),
        }
    }
    out.push(b'"');
}

/// Rows of a Parquet file.
pub(super) struct ParquetReader {
    rows: RowIter<'static>,
    spec: &'static Spec,
    number: u64,
    max_line_bytes: u64,
    whole: File,
}

impl ParquetReader {
    pub fn new(
        file: File,
        spec: &'static Spec,
        max_line_bytes: u64,
        max_unpacked_bytes: u64,
    ) -> Result<Self, ReadError> {
        let whole = file.try_clone()?;
        let reader = guard(|| SerializedFileReader::new(file))?;
        let groups = reader.metadata().row_groups();
        let columns = groups.iter().flat_map(|group| group.columns());
        let unpacked: u64 = columns.map(|column| u64::try_from(column.uncompressed_size()).unwrap_or(0)).sum();
        if unpacked > max_unpacked_bytes {
            return Err(ReadError::UnpackedTooLarge(max_unpacked_bytes));
        }
        let rows = RowIter::from_file_into(Box::new(reader));
        Ok(ParquetReader { rows, spec, number: 0, max_line_bytes, whole })
    }

    /// Size and hash of the whole file.
    pub fn size_and_hash(&mut self) -> Result<(u64, String), ReadError> {
        self.whole.rewind()?;
        let mut raw = Hashed::new(&self.whole);
        io::copy(&mut raw, &mut io::sink())?;
        Ok((raw.size_bytes(), raw.blake3()))
    }

    pub fn next_block(&mut self, min_bytes: usize) -> Result<Option<Block>, ReadError> {
        let mut block = Block::default();
        while block.len() < min_bytes.max(1) {
            let rows = &mut self.rows;
            let Some(row) = guard(|| rows.next().transpose())? else {
                return Ok((block.num_rows() > 0 || !block.bad().is_empty()).then_some(block));
            };
            self.number += 1;
            let value = guard(|| Ok(row.to_json_value()))?;
            let value = unfold(self.spec, value);
            block.write_row(self.number, self.max_line_bytes, |out| {
                serde_json::to_writer(out, &value).expect("a JSON value can be written to memory");
            });
        }
        Ok(Some(block))
    }
}

/// Texts of columns that hold JSON become that JSON; a null is no value.
fn unfold(spec: &Spec, mut row: Value) -> Value {
    let Value::Object(fields) = &mut row else { return row };
    fields.retain(|_, value| !value.is_null());
    for column in spec.columns.iter().filter(|column| column.holds != Holds::Text) {
        if let Some(value) = fields.get_mut(column.name)
            && let Some(text) = value.as_str()
            && is_json(text.as_bytes())
        {
            *value = serde_json::from_str(text).expect("it was read a moment ago");
        }
    }
    row
}

/// The reader of Parquet panics on some damaged files: that is an error of the file like any other.
fn guard<T>(read: impl FnOnce() -> Result<T, parquet::errors::ParquetError>) -> Result<T, ReadError> {
    let damaged = |reason: String| ReadError::Damaged { format: "Parquet", reason };
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(damaged(e.to_string())),
        Err(_) => Err(damaged("its reader gave up".to_string())),
    }
}
