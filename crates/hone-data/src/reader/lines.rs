//! Lines of a stream in blocks, with physical numbers, a limit that holds while reading, and the hash of
//! all bytes. It knows nothing of JSON.

use std::io::{self, Read};
use std::ops::Range;

const READ_BYTES: usize = 256 << 10;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Cuts a stream into blocks of whole lines.
#[derive(Debug)]
pub struct LineReader<R> {
    source: R,
    max_line_bytes: u64,
    hasher: blake3::Hasher,
    size_bytes: u64,
    scratch: Vec<u8>,
    /// The beginning of a line whose end was not read yet.
    pub(super) partial: Vec<u8>,
    /// Bytes of the current line that were thrown away because it is too long.
    skipped: Option<u64>,
    /// Number of the current line, from 1.
    line: u64,
    ended: bool,
}

/// Whole lines of a file, one after another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    bytes: Vec<u8>,
    lines: Vec<(u64, Range<usize>)>,
    too_long: Vec<(u64, u64)>,
}

impl Block {
    /// The lines that are not blank, with their numbers; without line end and byte-order mark.
    pub fn rows(&self) -> impl Iterator<Item = (u64, &[u8])> + '_ {
        self.lines.iter().map(|(number, range)| (*number, &self.bytes[range.clone()]))
    }

    /// Number of lines that are not blank, those that are too long left out.
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

    /// Lines over the limit: number and size in bytes.
    #[must_use]
    pub fn too_long(&self) -> &[(u64, u64)] {
        &self.too_long
    }

    fn push(&mut self, number: u64, mut range: Range<usize>) {
        if number == 1 && self.bytes[range.clone()].starts_with(BYTE_ORDER_MARK) {
            range.start += BYTE_ORDER_MARK.len();
        }
        if self.bytes[range.clone()].last() == Some(&b'\r') {
            range.end -= 1;
        }
        if !self.bytes[range.clone()].trim_ascii().is_empty() {
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
            hasher: blake3::Hasher::new(),
            size_bytes: 0,
            scratch: vec![0; READ_BYTES],
            partial: Vec::new(),
            skipped: None,
            line: 1,
            ended: false,
        }
    }

    /// The next lines: at least `min_bytes` of them where there are as many. `None` after the last.
    ///
    /// # Errors
    /// The stream's own.
    pub fn next_block(&mut self, min_bytes: usize) -> io::Result<Option<Block>> {
        if self.ended {
            return Ok(None);
        }
        let mut block = Block { bytes: std::mem::take(&mut self.partial), ..Block::default() };
        let mut line_start = 0;
        loop {
            let num_read = match self.source.read(&mut self.scratch) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            if num_read == 0 {
                self.ended = true;
                self.end_of_stream(&mut block, line_start);
                return Ok(Some(block));
            }
            self.hasher.update(&self.scratch[..num_read]);
            self.size_bytes += num_read as u64;
            line_start = self.take(num_read, &mut block, line_start);
            if line_start >= min_bytes.max(1) || !block.too_long.is_empty() {
                self.partial = block.bytes.split_off(line_start);
                return Ok(Some(block));
            }
        }
    }

    /// Bytes read so far.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// BLAKE3 of the bytes read so far, hex.
    #[must_use]
    pub fn blake3(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }

    /// Puts what was read into the block; returns where its unfinished last line begins.
    fn take(&mut self, num_read: usize, block: &mut Block, mut line_start: usize) -> usize {
        let mut rest = &self.scratch[..num_read];
        if let Some(skipped) = self.skipped {
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                self.skipped = Some(skipped + num_read as u64);
                return line_start;
            };
            block.too_long.push((self.line, skipped + end as u64));
            self.line += 1;
            self.skipped = None;
            rest = &rest[end + 1..];
        }
        let mut from = block.bytes.len();
        block.bytes.extend_from_slice(rest);
        while let Some(len) = block.bytes[from..].iter().position(|byte| *byte == b'\n') {
            let end = from + len;
            self.finish_line(block, line_start..end);
            line_start = end + 1;
            from = line_start;
        }
        let unfinished = (block.bytes.len() - line_start) as u64;
        if unfinished > self.max_line_bytes {
            self.skipped = Some(unfinished);
            block.bytes.truncate(line_start);
        }
        line_start
    }

    fn end_of_stream(&mut self, block: &mut Block, line_start: usize) {
        match self.skipped {
            Some(skipped) => block.too_long.push((self.line, skipped)),
            None => self.finish_line(block, line_start..block.bytes.len()),
        }
    }

    fn finish_line(&mut self, block: &mut Block, range: Range<usize>) {
        if range.len() as u64 > self.max_line_bytes {
            block.too_long.push((self.line, range.len() as u64));
        } else {
            block.push(self.line, range);
        }
        self.line += 1;
    }
}
