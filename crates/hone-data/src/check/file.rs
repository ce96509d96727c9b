//! What can be said about a file by its name, size and first bytes.

use hone_pipeline::spec::RowProblem;
use hone_pipeline::wire::CheckRequest;

/// Extensions of formats that are not read, each with what turns it into one that is.
const NOT_READ: [(&str, &str); 9] = [
    ("gz", "decompress it: gzip -d FILE"),
    ("zst", "decompress it: zstd -d FILE"),
    ("bz2", "decompress it: bzip2 -d FILE"),
    ("xz", "decompress it: xz -d FILE"),
    ("zip", "unpack it and submit the JSONL file inside"),
    (
        "parquet",
        "convert it: python -c \"import pandas; pandas.read_parquet('FILE').to_json('FILE.jsonl', orient='records', lines=True)\"",
    ),
    (
        "csv",
        "convert it: python -c \"import pandas; pandas.read_csv('FILE').to_json('FILE.jsonl', orient='records', lines=True)\"",
    ),
    ("tsv", "convert it to JSONL: one JSON object per line"),
    ("arrow", "convert it to JSONL: one JSON object per line"),
];

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
    let extension = request.file.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    if let Some((_, hint)) = NOT_READ.iter().find(|(known, _)| *known == extension) {
        let message = format!(
            ".{extension} files are not read in this version; plain JSONL (one JSON object per line, UTF-8) is"
        );
        return Some(RowProblem::error("format_not_read", message, *hint));
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
    RowProblem::error("file_too_large", message, "split it, or raise limits.max_file_bytes")
}

/// What the first line tells about the file as a whole.
pub(super) fn problem_of_first_line(line: &[u8]) -> Option<RowProblem> {
    let (_, format) = MAGIC.iter().find(|(magic, _)| line.starts_with(magic))?;
    let message = format!("the file begins as {format} does; plain JSONL in UTF-8 is read");
    Some(RowProblem::error("file_not_text", message, "convert it to JSONL in UTF-8"))
}
