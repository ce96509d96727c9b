//! What can be said about a file by its name, size and first bytes.

use crate::reader::{Format, Packing};
use hone_pipeline::spec::RowProblem;
use hone_pipeline::wire::CheckRequest;

/// First bytes of formats that are not text.
const MAGIC: [(&[u8], &str); 6] = [
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"PAR1", "Parquet"),
    (b"PK\x03\x04", "ZIP"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
];

/// Why the rows of a file need not be read.
pub(super) fn problem_before_reading(request: &CheckRequest) -> Option<RowProblem> {
    if let Err((extension, hint)) = Format::of(&request.file) {
        let message = format!(".{extension} files are not read; JSONL (also .gz and .zst), CSV, TSV and Parquet are");
        return Some(RowProblem::error("format_not_read", message, hint));
    }
    let error =
        |message: String| Some(RowProblem::error("file_unreadable", message, "look at its path and its permissions"));
    match std::fs::metadata(&request.file) {
        Err(e) => error(format!("the file cannot be read: {e}")),
        Ok(metadata) if !metadata.is_file() => error("it is not a plain file".to_string()),
        Ok(metadata) if metadata.len() > request.max_file_bytes => {
            Some(too_large(metadata.len(), request.max_file_bytes))
        }
        Ok(_) => None,
    }
}

pub(super) fn too_large(size: u64, limit: u64) -> RowProblem {
    let message = format!("the file has {size} bytes; at most {limit} are allowed");
    RowProblem::error("file_too_large", message, "split it, or raise validation.max_file_bytes")
}

/// What the first row tells about the file as a whole.
pub(super) fn problem_of_first_line(format: Format, line: &[u8]) -> Option<RowProblem> {
    let (_, found) = MAGIC.iter().find(|(magic, _)| line.starts_with(magic))?;
    if format != Format::Lines(Packing::Plain) {
        let message = format!("what the file unpacks to begins as {found} does; JSONL in UTF-8 is expected");
        return Some(RowProblem::error("file_not_text", message, "convert it to JSONL in UTF-8"));
    }
    let hint = match *found {
        "gzip" => "give it a name that ends in .jsonl.gz",
        "zstd" => "give it a name that ends in .jsonl.zst",
        "Parquet" => "give it a name that ends in .parquet",
        _ => "convert it to JSONL in UTF-8",
    };
    let message = format!("the file begins as {found} does, but its name says JSONL");
    Some(RowProblem::error("file_not_text", message, hint))
}
