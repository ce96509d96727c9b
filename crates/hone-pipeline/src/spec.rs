//! The schema gate: a registry of row formats, deny by default. Pure.

use serde_json::Value;

/// A row format. An entry of the registry is data.
#[derive(Debug)]
pub struct Spec {
    /// Its id, as files name it.
    pub id: &'static str,
}

/// One problem of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowProblem {
    /// Stable name.
    pub code: &'static str,
    /// A plain sentence.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// The format with this id.
#[must_use]
pub fn find(id: &str) -> Option<&'static Spec> {
    let _ = id;
    None
}

/// All ids, in the order of the documentation.
#[must_use]
pub fn known_ids() -> Vec<&'static str> {
    Vec::new()
}

/// Another format whose shape fits a row.
#[must_use]
pub fn suggest(row: &Value) -> Option<&'static str> {
    let _ = row;
    None
}

impl Spec {
    /// Holds a row against the format.
    ///
    /// # Errors
    /// All its problems.
    pub fn check_row(&self, row: &Value) -> Result<(), Vec<RowProblem>> {
        let _ = row;
        Ok(())
    }
}
