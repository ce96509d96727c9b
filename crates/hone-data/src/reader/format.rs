//! Which format a file has, by the end of its name, and whether a file that carries its own end is whole.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// How the bytes of a file are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// gzip, one member or several.
    Gzip,
    /// zstd, one frame or several.
    Zstd,
}

/// The format of a data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Lines(Packing),
    /// A table as text, its first record the names of the columns.
    Csv {
        /// How its bytes are packed.
        packing: Packing,
        /// Between two cells.
        delimiter: u8,
    },
    /// A table in Apache Parquet.
    Parquet,
}

/// Extensions of formats that are not read, each with what turns it into one that is.
const NOT_READ: [(&str, &str); 8] = [
    ("bz2", "unpack it: bzip2 -d FILE"),
    ("xz", "unpack it: xz -d FILE"),
    ("lz4", "unpack it: lz4 -d FILE"),
    ("zip", "unpack it and submit the file inside"),
    ("tar", "unpack it and submit the files inside"),
    ("tgz", "unpack it and submit the files inside"),
    ("arrow", "convert it to Parquet or JSONL"),
    ("xlsx", "save it as CSV"),
];

impl Format {
    /// The format that a file's name tells; JSONL where it tells none.
    ///
    /// # Errors
    /// A format that is not read: its extension, and what to do.
    pub fn of(path: &Path) -> Result<Format, (String, &'static str)> {
        let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
        let split = |name: &str| match name.rsplit_once('.') {
            Some((stem, extension)) => (stem.to_string(), extension.to_string()),
            None => (name.to_string(), String::new()),
        };
        let (stem, extension) = split(&name);
        let (packing, extension) = match extension.as_str() {
            "gz" | "gzip" => (Packing::Gzip, split(&stem).1),
            "zst" | "zstd" => (Packing::Zstd, split(&stem).1),
            _ => (Packing::Plain, extension),
        };
        if let Some((_, hint)) = NOT_READ.iter().find(|(known, _)| *known == extension) {
            return Err((extension, hint));
        }
        Ok(match (extension.as_str(), packing) {
            ("parquet" | "pq", Packing::Plain) => Format::Parquet,
            ("parquet" | "pq", _) => return Err((extension, "Parquet packs its own columns: unpack the file")),
            ("csv", packing) => Format::Csv { packing, delimiter: b',' },
            ("tsv", packing) => Format::Csv { packing, delimiter: b'\t' },
            (_, packing) => Format::Lines(packing),
        })
    }

    /// True where a row's number is that of a physical line; for Parquet it is the number of the row.
    #[must_use]
    pub fn has_lines(self) -> bool {
        self != Format::Parquet
    }
}

/// Whether a file is whole, for formats that carry their own end: the footer of Parquet, the frames of zstd.
/// `None` for all others (gzip shows its end only to the one who unpacks it). Reads a few bytes; unpacks nothing.
///
/// # Errors
/// The file cannot be read.
pub fn is_whole(path: &Path) -> io::Result<Option<bool>> {
    match Format::of(path) {
        Ok(Format::Parquet) => whole_parquet(&mut File::open(path)?).map(Some),
        Ok(Format::Lines(Packing::Zstd) | Format::Csv { packing: Packing::Zstd, .. }) => {
            whole_zstd(&mut io::BufReader::with_capacity(64, File::open(path)?))
        }
        _ => Ok(None),
    }
}

/// `PAR1`, the columns, the footer, its length in four bytes, `PAR1`.
fn whole_parquet(file: &mut File) -> io::Result<bool> {
    let size = file.metadata()?.len();
    if size < 12 {
        return Ok(false);
    }
    let (mut head, mut tail) = ([0; 4], [0; 8]);
    file.read_exact(&mut head)?;
    file.seek(SeekFrom::End(-8))?;
    file.read_exact(&mut tail)?;
    let [a, b, c, d, magic @ ..] = tail;
    let footer = u64::from(u32::from_le_bytes([a, b, c, d]));
    Ok(head == *b"PAR1" && magic == *b"PAR1" && footer + 12 <= size)
}

/// Steps from block to block of a zstd file. `None` for a file of more blocks than are worth the steps.
fn whole_zstd(file: &mut io::BufReader<File>) -> io::Result<Option<bool>> {
    const MAX_STEPS: usize = 1 << 18;
    let size = file.get_ref().metadata()?.len();
    let mut frames = ZstdFrames { file, size, at: 0, steps: MAX_STEPS };
    while frames.at < size {
        match frames.skip_frame() {
            Ok(()) if frames.steps == 0 => return Ok(None),
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(Some(false)),
            Err(e) => return Err(e),
        }
    }
    Ok(Some(size > 0 && frames.at == size))
}

struct ZstdFrames<'a> {
    file: &'a mut io::BufReader<File>,
    size: u64,
    at: u64,
    steps: usize,
}

impl ZstdFrames<'_> {
    fn skip_frame(&mut self) -> io::Result<()> {
        let magic = u32::from_le_bytes(self.take()?);
        if magic & 0xffff_fff0 == 0x184d_2a50 {
            let len = u32::from_le_bytes(self.take()?);
            return self.skip(u64::from(len));
        }
        if magic != 0xfd2f_b528 {
            // Not zstd at all: whole or not, waiting does not mend it.
            self.at = self.size;
            return Ok(());
        }
        let [descriptor] = self.take()?;
        let single_segment = descriptor & 0x20 != 0;
        let content_size = match descriptor >> 6 {
            0 => u64::from(single_segment),
            flag => 1 << flag,
        };
        let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
        self.skip(u64::from(!single_segment) + dictionary + content_size)?;
        loop {
            let [a, b, c] = self.take()?;
            let header = u32::from_le_bytes([a, b, c, 0]);
            let len = if (header >> 1) & 3 == 1 { 1 } else { header >> 3 };
            self.skip(u64::from(len))?;
            self.steps = self.steps.saturating_sub(1);
            if header & 1 == 1 || self.steps == 0 {
                break;
            }
        }
        self.skip(if descriptor & 4 != 0 { 4 } else { 0 })
    }

    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn skip(&mut self, len: u64) -> io::Result<()> {
        self.at += len;
        if self.at > self.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.file.seek_relative(i64::try_from(len).map_err(io::Error::other)?)
    }
}

#[cfg(test)]
mod tests;
