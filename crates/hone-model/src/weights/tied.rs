//! The head that some files of a tied model carry beside the embedding: equal to it, number by number, or refused.

use super::{forget, map, parse};
use anyhow::{Context, Result};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use std::path::Path;

pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(super) const HEAD: &str = "lm_head.weight";

/// Bytes compared at once.
const COMPARE_CHUNK: usize = 1 << 20;

/// Whether a head is the embedding of the same file; `None` where that holds none.
pub(super) fn is_embedding(tensors: &SafeTensors<'_>, head: &TensorView<'_>) -> Option<bool> {
    let embedding = tensors.tensor(EMBEDDING).ok()?;
    Some(embedding.data() == head.data())
}

/// Whether the head of one file of a folder is the embedding of another: a piece at a time, so that neither is in memory
/// as a whole.
///
/// # Errors
/// A file that is absent, is not safetensors, or lacks the tensor.
pub(super) fn is_embedding_of_other_file(dir: &Path, head_file: &str, embedding_file: &str) -> Result<bool> {
    let open = |file: &str| {
        let path = dir.join(file);
        map(&path).with_context(|| format!("open {}", path.display()))
    };
    let (head_map, embedding_map) = (open(head_file)?, open(embedding_file)?);
    let (head, embedding) = (parse(head_file, &head_map)?, parse(embedding_file, &embedding_map)?);
    let head = head.tensor(HEAD).with_context(|| format!("read {HEAD} of {head_file}"))?;
    let embedding = embedding.tensor(EMBEDDING).with_context(|| format!("read {EMBEDDING} of {embedding_file}"))?;
    let mut pieces = head.data().chunks(COMPARE_CHUNK).zip(embedding.data().chunks(COMPARE_CHUNK));
    Ok(head.data().len() == embedding.data().len()
        && pieces.all(|(head, embedding)| {
            let is_equal = head == embedding;
            forget(&head_map, head);
            forget(&embedding_map, embedding);
            is_equal
        }))
}
