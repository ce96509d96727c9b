//! Newtype identifiers. They sort as numbers and print as people write them.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

macro_rules! numeric_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "-{}"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            /// Reads `12` as well as the printed form.
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let digits = text.strip_prefix(concat!($prefix, "-")).unwrap_or(text);
                match digits.parse() {
                    Ok(number) if digits.bytes().all(|b| b.is_ascii_digit()) => Ok($name(number)),
                    _ => Err(InvalidId { text: text.to_string(), expected: concat!($prefix, "-N or N") }),
                }
            }
        }
    };
}

/// A text that is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an id (expected {expected})")]
pub struct InvalidId {
    /// What was given.
    pub text: String,
    /// The accepted forms.
    pub expected: &'static str,
}

numeric_id!(
    /// One accepted, rejected or arriving file; its folder is `datasets/dataset-N`.
    DatasetId, "dataset");
numeric_id!(
    /// One entry of the queue.
    JobId, "job");
numeric_id!(
    /// A checkpoint; the number counts the optimizer steps of the workspace and never goes back.
    /// `checkpoint-0` is the base model.
    CheckpointId, "checkpoint");
numeric_id!(
    /// One attempt to serve one checkpoint on one target.
    DeploymentId, "deployment");

/// The right to work on something: every message of a worker carries it, and one that does not match
/// the lease in force is refused. `attempt` never repeats within a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseToken(pub u64);

impl fmt::Display for LeaseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lease-{}", self.0)
    }
}
