//! Lines of a stream in blocks, with physical numbers and a limit that holds while reading. It knows nothing of
//! JSON.

use std::io::{self, Read};
use std::ops::Range;

const READ_BYTES: usize = 256 << 10;
/// Largest memory of a block that is kept for the next one.
const MOST_KEPT_BYTES: usize = 8 << 20;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Cuts a stream into blocks of whole lines.
#[derive(Debug)]
pub struct LineReader<R> {
    source: R,
    max_line_bytes: u64,
    /// The beginning of a line whose end was not read yet.
    pub(super) partial: Vec<u8>,
    /// An empty block whose memory is used again: new pages cost more than what is read into them.
    spare: Block,
    /// Bytes of the current line that were thrown away because it is too long.
    skipped: Option<u64>,
    /// Number of the current line, from 1.
    line: u64,
    ended: bool,
}

/// Whole rows of a file, one after another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// May go on behind the last row.
    bytes: Vec<u8>,
    lines: Vec<(u64, Range<usize>)>,
    bad: Vec<(u64, BadRow)>,
}

/// A row that cannot be given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadRow {
    /// It is longer than the limit: its size in bytes.
    TooLong(u64),
    /// A record has another number of cells than the header.
    Cells {
        /// Of the header.
        expected: usize,
        /// Of the record.
        found: usize,
    },
}

impl Block {
    /// The lines that are not blank, with their numbers; without line end and byte-order mark.
    pub fn rows(&self) -> impl Iterator<Item = (u64, &[u8])> + '_ {
        self.lines.iter().map(|(number, range)| (*number, &self.bytes[range.clone()]))
    }

    /// Number of lines that are not blank, bad ones left out.
    #[must_use]
    pub fn num_rows(&self) -> usize {
        self.lines.len()
    }

    /// The `i`th line of [`rows`](Self::rows).
    #[must_use]
    pub fn row(&self, i: usize) -> (u64, &[u8]) {
        let (number, range) = &self.lines[i];
        (*number, &self.bytes[range.clone()])
    }

    /// Rows that cannot be given out, by number.
    #[must_use]
    pub fn bad(&self) -> &[(u64, BadRow)] {
        &self.bad
    }

    /// Bytes of the rows.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Adds a row that `write` appends to the bytes; one over the limit becomes a bad one.
    pub(super) fn write_row(&mut self, number: u64, max_bytes: u64, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        write(&mut self.bytes);
        let size = (self.bytes.len() - start) as u64;
        if size > max_bytes {
            self.bytes.truncate(start);
            return self.bad.push((number, BadRow::TooLong(size)));
        }
        self.lines.push((number, start..self.bytes.len()));
    }

    pub(super) fn push_bad(&mut self, number: u64, bad: BadRow) {
        self.bad.push((number, bad));
    }

    fn push(&mut self, number: u64, mut range: Range<usize>) {
        if number == 1 && self.bytes[range.clone()].starts_with(BYTE_ORDER_MARK) {
            range.start += BYTE_ORDER_MARK.len();
        }
        if self.bytes[range.clone()].last() == Some(&b'\r') {
            range.end -= 1;
        }
        if !self.bytes[range.clone()].trim_ascii_start().is_empty() {
            self.lines.push((number, range));
        }
    }
}

impl<R: Read> LineReader<R> {
    /// A reader that gives up lines of more than `max_line_bytes` (line end not counted) without ever
    /// holding more than that and one read of them.
    pub fn new(source: R, max_line_bytes: u64) -> Self {
        LineReader {
            source,
            max_line_bytes,
            partial: Vec::new(),
            spare: Block::default(),
            skipped: None,
            line: 1,
            ended: false,
        }
    }

    /// What the lines are read from.
    pub fn source(&self) -> &R {
        &self.source
    }

    /// The next lines: at least `min_bytes` of them where there are as many. `None` after the last.
    ///
    /// # Errors
    /// The stream's own.
    pub fn next_block(&mut self, min_bytes: usize) -> io::Result<Option<Block>> {
        if self.ended {
            return Ok(None);
        }
        let mut block = std::mem::take(&mut self.spare);
        let mut filled = self.partial.len();
        grow(&mut block.bytes, filled + min_bytes.min(64 << 20) + READ_BYTES);
        block.bytes[..filled].copy_from_slice(&self.partial);
        self.partial.clear();
        let mut line_start = 0;
        loop {
            let from = filled;
            grow(&mut block.bytes, from + READ_BYTES);
            filled += fill(&mut self.source, &mut block.bytes[from..from + READ_BYTES])?;
            if filled == from {
                self.ended = true;
                self.end_of_stream(&mut block, line_start..filled);
                return Ok(Some(block));
            }
            (line_start, filled) = self.cut(from..filled, &mut block, line_start);
            if line_start >= min_bytes.max(1) || !block.bad.is_empty() {
                self.partial.extend_from_slice(&block.bytes[line_start..filled]);
                return Ok(Some(block));
            }
        }
    }

    /// Takes back a block that is not needed any more, for its memory.
    pub fn recycle(&mut self, mut block: Block) {
        if block.bytes.len() <= MOST_KEPT_BYTES {
            block.lines.clear();
            block.bad.clear();
            self.spare = block;
        }
    }

    /// Finds the lines in what was `read`; returns where the unfinished last line begins and ends.
    fn cut(&mut self, read: Range<usize>, block: &mut Block, mut line_start: usize) -> (usize, usize) {
        let Range { start: mut from, end: mut filled } = read;
        if let Some(skipped) = self.skipped {
            let Some(end) = memchr::memchr(b'\n', &block.bytes[from..filled]) else {
                self.skipped = Some(skipped + (filled - from) as u64);
                return (line_start, from);
            };
            block.bad.push((self.line, BadRow::TooLong(skipped + end as u64)));
            self.line += 1;
            self.skipped = None;
            block.bytes.copy_within(from + end + 1..filled, from);
            filled -= end + 1;
        }
        while let Some(len) = memchr::memchr(b'\n', &block.bytes[from..filled]) {
            let end = from + len;
            self.finish_line(block, line_start..end);
            line_start = end + 1;
            from = line_start;
        }
        let unfinished = (filled - line_start) as u64;
        if unfinished > self.max_line_bytes {
            self.skipped = Some(unfinished);
            filled = line_start;
        }
        (line_start, filled)
    }

    fn end_of_stream(&mut self, block: &mut Block, last_line: Range<usize>) {
        match self.skipped {
            Some(skipped) => block.bad.push((self.line, BadRow::TooLong(skipped))),
            None => self.finish_line(block, last_line),
        }
    }

    fn finish_line(&mut self, block: &mut Block, range: Range<usize>) {
        if range.len() as u64 > self.max_line_bytes {
            block.bad.push((self.line, BadRow::TooLong(range.len() as u64)));
        } else {
            block.push(self.line, range);
        }
        self.line += 1;
    }
}

/// Makes room for so many bytes.
fn grow(bytes: &mut Vec<u8>, len: usize) {
    if bytes.len() < len {
        bytes.resize(len, 0);
    }
}

/// Reads until `bytes` are full or the stream ends; returns how many were read.
fn fill(source: &mut impl Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match source.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
