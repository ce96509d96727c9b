//! Attempts to serve a checkpoint.

use super::TimeMs;
use crate::ids::{CheckpointId, DeploymentId};
use serde::{Deserialize, Serialize};

/// One attempt to serve one checkpoint on one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    /// Its number.
    pub id: DeploymentId,
    /// What.
    pub checkpoint: CheckpointId,
    /// Where, by target name.
    pub target: String,
    /// How far it is.
    pub state: DeploymentState,
    /// Failed tries.
    pub tries: u32,
    /// Not before this time (back-off).
    pub not_before_ms: TimeMs,
    /// Why it was asked for, e.g. the judgement's sentence or a person's command.
    pub reason: String,
    /// When it was asked for.
    pub created_ms: TimeMs,
    /// Finished steps and when: stage, verify, load, smoke, switch, confirm.
    pub steps: Vec<(String, TimeMs)>,
    /// True while `Effect::Deploy` is under way; cleared by `recover`. A superseded one may be so, too:
    /// the next one on its target waits for its outcome.
    #[serde(default)]
    pub in_flight: bool,
    /// When its target began to serve it; `None` when it never did.
    #[serde(default)]
    pub live_since_ms: Option<TimeMs>,
    /// The end of its watch window; `None` when the window is over or there is none.
    #[serde(default)]
    pub watch_until_ms: Option<TimeMs>,
}

/// How far a deployment is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum DeploymentState {
    /// To be done, or being done.
    Pending,
    /// Serving on its target.
    Live,
    /// Another one took its place on the target.
    Superseded,
    /// Given up; what was served before still is.
    Failed {
        /// Why.
        reason: String,
    },
}
