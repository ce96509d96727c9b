//! Changes of the state: what a transaction is made of, and the event log.

use super::{
    Checkpoint, Control, Counters, Dataset, Deployment, Evaluation, Job, Judgement, Lease, Lineage, State, TimeMs,
};
use crate::curriculum::SkillProgress;
use crate::finding::Severity;
use crate::ids::{CheckpointId, LeaseToken};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A single change of the state. A transaction is a list of these; the same list is applied in memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "a decision has few changes; plain values read better than boxes")]
pub enum Change {
    /// Replace what people asked for.
    SetControl(Control),
    /// Replace the lineage that is trained.
    SetLineage(Lineage),
    /// Replace those that stand still.
    SetOtherLineages {
        /// By number.
        lineages: BTreeMap<u64, Lineage>,
    },
    /// Insert or replace.
    PutDataset(Dataset),
    /// Insert or replace.
    PutJob(Job),
    /// Insert or replace.
    PutCheckpoint(Checkpoint),
    /// Insert or replace.
    PutEvaluation(Evaluation),
    /// Insert or replace.
    PutJudgement(Judgement),
    /// Name the champion.
    SetChampion {
        /// The checkpoint, or none.
        checkpoint: Option<CheckpointId>,
    },
    /// Insert or replace.
    PutDeployment(Deployment),
    /// Give, renew or free the device.
    SetLease {
        /// The lease, or none.
        lease: Option<Lease>,
    },
    /// Advance the counters.
    SetCounters(Counters),
    /// Note whether arriving files wait because the queue is full.
    SetQueueFull {
        /// Whether they do.
        full: bool,
    },
    /// Note whether nothing new is begun because the disk is nearly full.
    SetDiskLow {
        /// Whether it is so.
        low: bool,
    },
    /// Replace level and history of all skills.
    SetCurriculum {
        /// By configured name.
        skills: BTreeMap<String, SkillProgress>,
    },
    /// Replace which answers wait for their verdict.
    SetOpenExams {
        /// By checkpoint, with the lease of the evaluation in whose folder they lie.
        exams: BTreeMap<CheckpointId, LeaseToken>,
    },
    /// Append to the event log that people and the monitor read; not part of [`State`].
    Log(LogEntry),
}

/// One line of the event log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// When.
    pub at_ms: TimeMs,
    /// How grave.
    pub severity: LogSeverity,
    /// Stable name, e.g. `file_rejected`, `checkpoint_published`, `not_promoted`.
    pub kind: String,
    /// What it is about, e.g. `job-3`.
    pub subject: String,
    /// A plain sentence.
    pub message: String,
}

/// How grave a log entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogSeverity {
    /// State changed.
    Info,
    /// Odd, and we went on.
    Warning,
    /// A person must act.
    Error,
}

impl From<Severity> for LogSeverity {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Warning => LogSeverity::Warning,
            Severity::Error => LogSeverity::Error,
        }
    }
}

impl State {
    /// Applies one change.
    pub fn apply(&mut self, change: &Change) {
        match change.clone() {
            Change::SetControl(control) => self.control = control,
            Change::SetLineage(lineage) => self.lineage = Some(lineage),
            Change::SetOtherLineages { lineages } => self.other_lineages = lineages,
            Change::PutDataset(dataset) => self.datasets.insert(dataset.id, dataset),
            Change::PutJob(job) => self.jobs.insert(job.id, job),
            Change::PutCheckpoint(checkpoint) => self.checkpoints.insert(checkpoint.id, checkpoint),
            Change::PutEvaluation(evaluation) => self.evaluations.insert(evaluation.checkpoint, evaluation),
            Change::PutJudgement(judgement) => self.judgements.insert(judgement.challenger, judgement),
            Change::SetChampion { checkpoint } => self.champion = checkpoint,
            Change::PutDeployment(deployment) => self.deployments.insert(deployment.id, deployment),
            Change::SetLease { lease } => self.lease = lease,
            Change::SetCounters(counters) => self.counters = counters,
            Change::SetQueueFull { full } => self.queue_full = full,
            Change::SetDiskLow { low } => self.disk_low = low,
            Change::SetCurriculum { skills } => self.curriculum = skills,
            Change::SetOpenExams { exams } => self.open_exams = exams,
            Change::Log(_) => {}
        }
    }
}
