//! Durable files: everything that the project writes to disk goes through here.
//!
//! A file becomes visible by the rename of a complete, synced temporary file beside it; folders are synced
//! after every rename; a folder of files is complete when its manifest is there ([`manifest`]). No database,
//! no knowledge of what the files mean. Temporary names begin with a dot and end in `.tmp`, so readers of a
//! folder leave them out.

#![expect(clippy::disallowed_methods, reason = "this is the one crate that writes files")]

pub mod blobs;
#[cfg(any(test, feature = "faults"))]
pub mod faults;
mod files;
mod lock;
pub mod manifest;
mod tree;

pub use files::{
    StreamedFile, append_line, create_dir, create_file, create_streamed, hash_bytes, hash_file, write_atomic,
    write_json, write_private_json,
};
pub use lock::FileLock;
pub use tree::{copy_dir, link_or_copy, remove_file, remove_tree, rename, sync_tree};

/// Without fault injection every durable operation is allowed.
#[cfg(not(any(test, feature = "faults")))]
mod faults {
    /// Allows the operation.
    #[inline]
    pub(crate) fn step(_operation: &'static str) -> std::io::Result<()> {
        Ok(())
    }

    /// Writes the bytes.
    #[inline]
    pub(crate) fn write_all(
        file: &mut dyn std::io::Write,
        bytes: &[u8],
        _operation: &'static str,
    ) -> std::io::Result<()> {
        file.write_all(bytes)
    }
}

#[cfg(test)]
mod tests;
