//! The bytes of a file, unpacked, with the hash of the file as it lies there. A limit on what comes out holds while
//! reading: a bomb is an error with a name, never a full memory.

use super::format::Packing;
use std::fs::File;
use std::io::{self, BufReader, Read};

const READ_BYTES: usize = 128 << 10;

/// Why a file cannot be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk says no.
    #[error("the file cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The packed data stop in the middle.
    #[error("the {0} data stop in the middle: the file was cut short")]
    Torn(&'static str),
    /// The packed data are no such data.
    #[error("the {format} data are damaged: {reason}")]
    Damaged {
        /// Name of the format.
        format: &'static str,
        /// What its reader says.
        reason: String,
    },
    /// More comes out than is allowed.
    #[error("the file unpacks to more than {0} bytes")]
    UnpackedTooLarge(u64),
    /// A record of a table has no end within the limit.
    #[error("the record that begins on line {line} has more than {limit} bytes")]
    RecordTooLong {
        /// Where it begins.
        line: u64,
        /// Longest record in bytes.
        limit: u64,
    },
}

impl ReadError {
    /// Stable name, used as the code of a finding.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            ReadError::Io(_) => "file_unreadable",
            ReadError::Torn(_) => "file_torn",
            ReadError::Damaged { .. } => "file_damaged",
            ReadError::UnpackedTooLarge(_) => "unpacked_too_large",
            ReadError::RecordTooLong { .. } => "line_too_long",
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            ReadError::Io(_) => "look at its permissions and its disk",
            ReadError::Torn(_) => "copy the file again, under a name that ends in .part until it is whole",
            ReadError::Damaged { .. } => "write the file again",
            ReadError::UnpackedTooLarge(_) => "split it, or raise validation.max_unpacked_bytes",
            ReadError::RecordTooLong { .. } => {
                "look for a quote that is not closed; or split the record, or raise validation.max_line_bytes"
            }
        }
    }

    /// Back out of an `io::Error` that carried it through a reader.
    pub(super) fn from_io(error: io::Error) -> ReadError {
        match error.downcast::<ReadError>() {
            Ok(own) => own,
            Err(other) => ReadError::Io(other),
        }
    }
}

/// A file that is hashed as it is read.
#[derive(Debug)]
pub struct Hashed<R> {
    inner: R,
    hasher: blake3::Hasher,
    size_bytes: u64,
}

impl<R: Read> Hashed<R> {
    /// Hashes what is read from here on.
    pub fn new(inner: R) -> Self {
        Hashed { inner, hasher: blake3::Hasher::new(), size_bytes: 0 }
    }

    /// Bytes read so far.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// BLAKE3 of the bytes read so far, hex.
    pub fn blake3(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let num_read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..num_read]);
        self.size_bytes += num_read as u64;
        Ok(num_read)
    }
}

/// The unpacked bytes of a file.
pub struct Unpacked {
    decoder: Decoder,
    num_unpacked: u64,
    max_unpacked_bytes: u64,
}

enum Decoder {
    Plain(Box<Hashed<File>>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<BufReader<Hashed<File>>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<Hashed<File>>>>),
}

impl Unpacked {
    /// Reads `file` from its beginning.
    ///
    /// # Errors
    /// The decoder has no memory.
    pub fn new(file: File, packing: Packing, max_unpacked_bytes: u64) -> io::Result<Unpacked> {
        let raw = Hashed::new(file);
        let buffered = |raw| BufReader::with_capacity(READ_BYTES, raw);
        let decoder = match packing {
            Packing::Plain => Decoder::Plain(Box::new(raw)),
            Packing::Gzip => Decoder::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(buffered(raw)))),
            Packing::Zstd => Decoder::Zstd(Box::new(zstd::stream::read::Decoder::with_buffer(buffered(raw))?)),
        };
        Ok(Unpacked { decoder, num_unpacked: 0, max_unpacked_bytes })
    }

    /// The file as it lies there: size and hash of what was read of it.
    pub fn raw(&self) -> &Hashed<File> {
        match &self.decoder {
            Decoder::Plain(raw) => raw,
            Decoder::Gzip(decoder) => decoder.get_ref().get_ref(),
            Decoder::Zstd(decoder) => decoder.get_ref().get_ref(),
        }
    }
}

impl Read for Unpacked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (read, format) = match &mut self.decoder {
            Decoder::Plain(raw) => return raw.read(buffer),
            Decoder::Gzip(decoder) => (decoder.read(buffer), "gzip"),
            Decoder::Zstd(decoder) => (decoder.read(buffer), "zstd"),
        };
        let num_read = read.map_err(|e| match e.kind() {
            io::ErrorKind::Interrupted => e,
            io::ErrorKind::UnexpectedEof => io::Error::other(ReadError::Torn(format)),
            _ => io::Error::other(ReadError::Damaged { format, reason: e.to_string() }),
        })?;
        self.num_unpacked += num_read as u64;
        if self.num_unpacked > self.max_unpacked_bytes {
            return Err(io::Error::other(ReadError::UnpackedTooLarge(self.max_unpacked_bytes)));
        }
        Ok(num_read)
    }
}

impl std::fmt::Debug for Unpacked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacked").field("num_unpacked", &self.num_unpacked).finish_non_exhaustive()
    }
}
