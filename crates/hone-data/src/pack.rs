//! Packing: rows side by side in one batch, each a segment of its own. Pure.

use crate::example::RowId;
use crate::tokenize::TokenRow;

/// A micro-batch of packed rows. Attention stays inside a segment and positions restart in each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenBatch {
    /// Token ids of all rows, one after another: `[T]`.
    pub ids: Vec<u32>,
    /// `targets[t]` is the id to predict at position `t`, already shifted; -1 carries no loss: `[T]`.
    pub targets: Vec<i32>,
    /// Length of each segment; their sum is `T`.
    pub segments: Vec<usize>,
    /// The row of each segment.
    pub rows: Vec<RowId>,
    /// How many targets are not -1.
    pub trained_tokens: u64,
}

/// Lays rows side by side. The first token of a segment is never a target, and the last position of a
/// segment predicts nothing, so no loss crosses a border between rows.
#[must_use]
pub fn pack(rows: &[&TokenRow]) -> TokenBatch {
    let mut batch = TokenBatch::default();
    for row in rows {
        let len = row.ids.len();
        batch.ids.extend_from_slice(&row.ids);
        for t in 0..len {
            let trained = t + 1 < len && row.mask[t + 1];
            let target = if trained { i32::try_from(row.ids[t + 1]).expect("ids fit in 31 bits") } else { -1 };
            batch.targets.push(target);
            batch.trained_tokens += u64::from(trained);
        }
        batch.segments.push(len);
        batch.rows.push(row.row);
    }
    batch
}

#[cfg(test)]
mod tests;
