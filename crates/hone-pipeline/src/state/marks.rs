//! What was decided about checkpoints, data sets and jobs after they were made. Absent in what older versions wrote.

use crate::ids::DatasetId;
use serde::{Deserialize, Serialize};

/// What people decided about a checkpoint after it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// Why its files are to stay whatever retention says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<String>,
    /// Why training does not go on from it or from what was trained from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abandoned: Option<String>,
    /// Data sets that it was trained on and that were forgotten since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub saw_forgotten: Vec<DatasetId>,
}

impl Marks {
    /// True when nothing was decided.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Marks::default()
    }
}

/// Why the rows of a data set are not here any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gone {
    /// Its time was over (`retention.datasets_days`).
    Aged,
    /// `hone forget`: also its previews, and what its report quoted, go.
    Forgotten,
}

/// Rows of earlier data sets that a job trains again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobReplay {
    /// Replayed rows per new row.
    pub share: f64,
    /// Where from.
    pub datasets: Vec<DatasetId>,
}
