//! The state of a workspace: what the database holds and `decide` reads. It changes only by
//! [`State::apply`], the same function in memory and when the store loads it back.

use crate::config::{KeepBack, TrainSettings};
use crate::curriculum::SkillProgress;
use crate::ids::{CheckpointId, DatasetId, DeploymentId, JobId, LeaseToken};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

mod change;
mod deployment;
mod entities;
mod evaluation;
mod lineage;
mod marks;
mod table;
mod waiting;

pub use change::{Change, LogEntry, LogSeverity};
pub use deployment::{Deployment, DeploymentState};
pub use evaluation::{
    AnswerOutcome, Budget, Evaluation, EvaluationSpeed, Evidence, EvidenceFinding, Fingerprint, Judgement, Measure,
    Outcome, SuiteResult,
};
pub use lineage::{LeftAt, Lineage, ModelIdentity};
pub use marks::{Gone, JobReplay, Marks};
pub use table::{Activity, Entity, Id, Table};
pub use waiting::waits_for;

/// Milliseconds since the Unix epoch. Passed in, never read here.
pub type TimeMs = u64;

/// Everything the workspace knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// What people asked the daemon to do.
    pub control: Control,
    /// The base model that is trained on and everything trained on it; `None` before `hone init`.
    pub lineage: Option<Lineage>,
    /// The other lineages, by number: training stood still in them.
    #[serde(default)]
    pub other_lineages: BTreeMap<u64, Lineage>,
    /// All files ever taken from the inbox.
    pub datasets: Table<DatasetId, Dataset>,
    /// The queue and its past.
    pub jobs: Table<JobId, Job>,
    /// The ledger.
    pub checkpoints: Table<CheckpointId, Checkpoint>,
    /// One evaluation per checkpoint, of the suites in force.
    pub evaluations: Table<CheckpointId, Evaluation>,
    /// Every verdict about promotion, newest last.
    pub judgements: Table<CheckpointId, Judgement>,
    /// The checkpoint that should be served.
    pub champion: Option<CheckpointId>,
    /// Every attempt to serve something.
    pub deployments: Table<DeploymentId, Deployment>,
    /// Who holds the device, if anyone.
    pub lease: Option<Lease>,
    /// Numbers that never repeat.
    pub counters: Counters,
    /// True while arriving files wait in the inbox because the queue is full.
    #[serde(default)]
    pub queue_full: bool,
    /// True while nothing new is begun because the disk is nearly full.
    #[serde(default)]
    pub disk_low: bool,
    /// Level and history of each skill, by its configured name.
    #[serde(default)]
    pub curriculum: BTreeMap<String, SkillProgress>,
    /// Answers to questions of skills that lie in the folder of that evaluation and wait for their verdict.
    #[serde(default)]
    pub open_exams: BTreeMap<CheckpointId, LeaseToken>,
}

/// Numbers that only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Last used dataset number.
    pub dataset: u64,
    /// Last used job number.
    pub job: u64,
    /// Last used deployment number.
    pub deployment: u64,
    /// Last used lease number.
    pub lease: u64,
}

/// What people asked for; survives a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum Control {
    /// Train when there is work.
    #[default]
    Running,
    /// Checkpoint at the next step, free the device, wait.
    Paused {
        /// Why, in the words of whoever paused.
        reason: String,
    },
    /// Checkpoint at the next step and end the daemon. Cleared when a daemon starts again by hand.
    Stopping {
        /// Why.
        reason: String,
        /// Why it was paused before, and will be again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        paused: Option<String>,
    },
}

/// Order of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Before all others.
    High,
    /// The usual.
    Normal,
    /// When nothing else waits.
    Low,
}

/// One file that was dropped into the inbox. Its folder `datasets/dataset-N/` holds the file under its
/// own name, `report.json` and, where one was given, `meta.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dataset {
    /// Its number.
    pub id: DatasetId,
    /// The file's own name (last component).
    pub file_name: String,
    /// Where it lay, relative to `inbox/`.
    pub inbox_path: String,
    /// Priority of its job.
    pub priority: Priority,
    /// Schema named by `hone submit --schema`; a sidecar and the configuration come after it.
    #[serde(default)]
    pub schema_flag: Option<String>,
    /// How far it is.
    pub state: DatasetState,
    /// When it was seen.
    pub arrived_ms: TimeMs,
    /// Its schema, once checked.
    #[serde(default)]
    pub schema_id: Option<String>,
    /// BLAKE3 of its bytes, once checked.
    #[serde(default)]
    pub blake3: Option<String>,
    /// Its rows, once checked.
    #[serde(default)]
    pub rows: u64,
    /// Where generated data came from (skill, level, seed, split): the sidecar's `provenance`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<serde_json::Value>,
    /// Which of its rows are never trained, fixed when it was accepted; none for data sets of an older hone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_back: Option<KeepBack>,
    /// True while a check of it was started and has not come back; cleared by `recover`.
    #[serde(default)]
    pub check_started: bool,
    /// Checks that ended without a verdict; none in what older versions wrote.
    #[serde(default)]
    pub check_tries: u32,
    /// How far the check in the background is. An older hone ignores it and does not check.
    #[serde(default)]
    pub deep_check: DeepCheck,
    /// For a rejected or duplicate dataset: true once its folder is gone (`Event::Filed`).
    #[serde(default)]
    pub filed: bool,
    /// Why its rows are not here any more (its report stays); written before the file goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone: Option<Gone>,
    /// Why it is not trained again by itself: set by `undo` and `forget`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_aside: Option<String>,
}

/// How far the deep check of an accepted dataset is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeepCheck {
    /// Not wanted, or part of the check before queueing.
    #[default]
    None,
    /// To be done, or under way (`check_started`).
    Due,
    /// It ended; its report lies beside the first one.
    Done,
}

/// How far a dataset is. The file is moved by effects *after* the state says so, so a restart repeats the move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum DatasetState {
    /// Seen in the inbox; to be renamed into its folder.
    Arriving,
    /// In its folder; to be checked.
    Checking,
    /// Both gates passed.
    Accepted,
    /// A gate refused it; it goes (or went) to `rejected/`.
    Rejected {
        /// The first findings in one line each.
        reasons: Vec<String>,
    },
    /// The same bytes are already a dataset.
    Duplicate {
        /// That dataset.
        of: DatasetId,
    },
    /// It vanished from the inbox before it was taken.
    Vanished,
}

/// One entry of the queue: a list of datasets to train on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its number; also the order of arrival.
    pub id: JobId,
    /// What it trains on, in order.
    pub datasets: Vec<DatasetId>,
    /// Order of service.
    pub priority: Priority,
    /// How far it is.
    pub state: JobState,
    /// Failed tries so far.
    pub tries: u32,
    /// Not before this time (back-off).
    pub not_before_ms: TimeMs,
    /// Hyperparameters, frozen at the first step.
    pub settings: Option<TrainSettings>,
    /// Where the next slice begins: optimizer steps of this job that are in a published checkpoint.
    pub position: Position,
    /// Earlier data sets whose rows are mixed in, frozen with the settings; none for a job of an older hone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<JobReplay>,
    /// Data sets whose kept-back rows it does not train, whatever file they stand in; frozen with the settings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept_back: Vec<DatasetId>,
    /// Set by `skip`: the job ends as skipped at its next checkpoint.
    #[serde(default)]
    pub skip_reason: Option<String>,
    /// Live figures of the running slice, lost with it.
    pub progress: Option<Progress>,
    /// When it was queued.
    pub created_ms: TimeMs,
    /// When its first slice started.
    pub started_ms: Option<TimeMs>,
    /// When it ended.
    pub ended_ms: Option<TimeMs>,
}

/// A position inside a job that resuming starts from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Optimizer steps of this job already taken.
    pub job_step: u64,
    /// Rows trained so far (over epochs).
    pub rows_trained: u64,
    /// Optimizer steps that the whole job takes; 0 before it is known.
    pub total_steps: u64,
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum JobState {
    /// Waits for the device.
    Queued,
    /// A slice of it runs, or it has the device next (while its checkpoint is evaluated, while paused).
    Running,
    /// All its rows were trained.
    Completed,
    /// Ended by `skip` at a row; never counted as completed.
    Skipped {
        /// Rows trained before it ended.
        at_row: u64,
    },
    /// It cannot be trained.
    Failed {
        /// Why.
        reason: String,
    },
    /// Taken out by a person.
    Cancelled,
    /// It was trained, but the checkpoints with its rows were abandoned; `retry` trains it again.
    Rewound {
        /// Why.
        reason: String,
    },
}

impl Job {
    /// A job that waits for its first slice.
    #[must_use]
    pub fn new(id: JobId, datasets: Vec<DatasetId>, priority: Priority, now: TimeMs) -> Job {
        Job {
            id,
            datasets,
            priority,
            state: JobState::Queued,
            tries: 0,
            not_before_ms: 0,
            settings: None,
            position: Position::default(),
            replay: None,
            kept_back: Vec::new(),
            skip_reason: None,
            progress: None,
            created_ms: now,
            started_ms: None,
            ended_ms: None,
        }
    }
}

impl JobState {
    /// True for `Queued` and `Running`.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self, JobState::Queued | JobState::Running)
    }
}

/// Live figures of a running slice.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Global optimizer step.
    pub step: u64,
    /// Step within the job.
    pub job_step: u64,
    /// Steps of the whole job.
    pub total_steps: u64,
    /// Mean loss per trained token of the last step.
    pub loss: f64,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Gradient norm before clipping.
    pub grad_norm: f64,
    /// Tokens per second, smoothed.
    pub tokens_per_s: f64,
    /// Tokens that carry loss per second, smoothed.
    #[serde(default)]
    pub trained_tokens_per_s: f64,
    /// Resident memory of the worker in bytes.
    pub memory_bytes: u64,
    /// When this was reported.
    pub at_ms: TimeMs,
}

/// The right to use the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Every message of the holder must carry it.
    pub token: LeaseToken,
    /// What the holder does.
    pub work: Work,
    /// Renewed by progress; the holder is lost after it.
    pub until_ms: TimeMs,
    /// Set once the holder was told to stop early (pause, skip, stop).
    pub asked_to_yield: bool,
    /// When it was given.
    #[serde(default)]
    pub since_ms: TimeMs,
    /// True once the holder delivered what it was started for (a staged checkpoint, results): only its
    /// exit is still to come, and how it exits no longer matters.
    #[serde(default)]
    pub delivered: bool,
}

/// What a child with the device does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Work {
    /// A slice of a job.
    Train {
        /// The job.
        job: JobId,
    },
    /// The evaluation of a checkpoint.
    Evaluate {
        /// The checkpoint.
        checkpoint: CheckpointId,
    },
}

/// An entry of the ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Its number: optimizer steps of the workspace.
    pub id: CheckpointId,
    /// The checkpoint it was trained from; `None` for `checkpoint-0`.
    pub parent: Option<CheckpointId>,
    /// The job that made it; `None` for `checkpoint-0`.
    pub job: Option<JobId>,
    /// How far it is.
    pub state: CheckpointState,
    /// BLAKE3 of its `manifest.json`, hex.
    pub manifest_hash: String,
    /// The position of the job that it holds.
    pub position: Position,
    /// BLAKE3 over the ordered ids of all rows trained by its job so far, hex.
    pub rows_digest: String,
    /// Mean training loss of its last step.
    pub train_loss: Option<f64>,
    /// When it was written.
    pub created_ms: TimeMs,
    /// True when its job had no step left after it.
    pub ends_job: bool,
    /// True when the slice ended early because it was asked to.
    pub yielded: bool,
    /// What people decided about it. Written by no hone before it existed: absent means none.
    #[serde(default, skip_serializing_if = "Marks::is_none")]
    pub marks: Marks,
}

/// How far a checkpoint is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum CheckpointState {
    /// Complete in a staging folder; to be published by rename.
    Staged {
        /// Folder of the weights, relative to the workspace.
        staging: String,
        /// Folder of the resume state, relative to the workspace.
        resume_staging: String,
    },
    /// Visible in `checkpoints/`.
    Published,
    /// Its files are gone by retention.
    Pruned,
    /// Staged files were not what the worker said; never visible.
    Refused {
        /// Why.
        reason: String,
    },
}

impl State {
    /// Where the model stands in a skill; level 1 where nothing is known.
    #[must_use]
    pub fn skill(&self, name: &str) -> SkillProgress {
        self.curriculum.get(name).cloned().unwrap_or_else(|| SkillProgress::new(name))
    }

    /// The newest published checkpoint that is not abandoned: where the next slice starts from.
    #[must_use]
    pub fn latest_checkpoint(&self) -> Option<&Checkpoint> {
        let goes_on = |c: &&Checkpoint| c.state == CheckpointState::Published && c.marks.abandoned.is_none();
        self.checkpoints.values().rev().find(goes_on)
    }

    /// The highest number that any checkpoint has that was or will be visible; the next one counts on from here.
    #[must_use]
    pub fn highest_number(&self) -> Option<CheckpointId> {
        let counts = |c: &&Checkpoint| !matches!(c.state, CheckpointState::Refused { .. });
        self.checkpoints.values().rev().find(counts).map(|c| c.id)
    }

    /// BLAKE3 over the ordered ids of all rows that a job has in the published chain; empty before its first
    /// checkpoint. What [`crate::wire::TrainRequest::rows_digest`] wants.
    #[must_use]
    pub fn rows_digest(&self, job: JobId) -> &str {
        let of_job = |c: &&Checkpoint| c.job == Some(job) && c.marks.abandoned.is_none();
        let visible = |c: &&Checkpoint| matches!(c.state, CheckpointState::Published | CheckpointState::Pruned);
        self.checkpoints.values().rev().filter(of_job).find(visible).map_or("", |c| &c.rows_digest)
    }

    /// The last other checkpoint that a target has served and whose files are still here: what a rollback goes to.
    #[must_use]
    pub fn served_before(&self, target: &str) -> Option<CheckpointId> {
        let live = self.live_on(target).map(|live| live.checkpoint);
        let is_here =
            |id: CheckpointId| self.checkpoints.get(&id).is_some_and(|c| c.state == CheckpointState::Published);
        // What was rolled back by itself is never gone back to.
        let failed = |d: &Deployment| matches!(d.state, DeploymentState::Failed { .. });
        let was_live = |d: &&Deployment| d.target == target && d.live_since_ms.is_some() && !failed(d);
        let others =
            self.deployments.values().filter(was_live).filter(|d| live != Some(d.checkpoint) && is_here(d.checkpoint));
        // By number: a clock that was wrong for a while changes no order.
        others.max_by_key(|d| d.id).map(|d| d.checkpoint)
    }

    /// What is live on a target.
    #[must_use]
    pub fn live_on(&self, target: &str) -> Option<&Deployment> {
        self.deployments.active().rev().find(|d| d.target == target && d.state == DeploymentState::Live)
    }
}
