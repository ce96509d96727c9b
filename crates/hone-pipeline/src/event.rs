//! What happens to the daemon ([`Event`]) and what it starts ([`Effect`]). Both types are closed.

use crate::curriculum::SkillEvaluation;
use crate::finding::Report;
use crate::ids::{CheckpointId, DatasetId, DeploymentId, JobId, LeaseToken};
use crate::state::{Change, Evaluation, ModelIdentity, Position, Priority, Progress};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Something that happened. Events of workers carry the token of their lease.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The scan saw a complete file.
    FileArrived {
        /// Relative to `inbox/`.
        inbox_path: String,
        /// By its folder.
        priority: Priority,
        /// From the marker that `hone submit` leaves.
        schema_flag: Option<String>,
    },
    /// [`Effect::TakeFile`] ended.
    FileTaken {
        /// The dataset.
        dataset: DatasetId,
        /// False when the file is neither in the inbox nor in the dataset's folder.
        found: bool,
    },
    /// [`Effect::MoveRejected`] or [`Effect::DropDuplicate`] ended: the dataset's folder is gone.
    Filed {
        /// The dataset.
        dataset: DatasetId,
    },
    /// [`Effect::Check`] ended with a report (also stored in the dataset's folder). About an accepted dataset, that of
    /// its deep check.
    Checked {
        /// The dataset.
        dataset: DatasetId,
        /// What both gates say.
        report: Report,
        /// The sidecar's `provenance`, if any.
        provenance: Option<serde_json::Value>,
    },
    /// The check child died without a report (panic, memory, time limit, a signal).
    CheckFailed {
        /// The dataset.
        dataset: DatasetId,
        /// Why.
        reason: String,
        /// Whether somebody else ended it, so that another try may go better.
        transient: bool,
        /// [`crate::state::Dataset::check_tries`] when it was started: an answer that comes twice is known by it.
        tries: u32,
    },
    /// A worker made progress: its lease is renewed.
    WorkerProgress {
        /// Its lease.
        token: LeaseToken,
        /// Figures of a training slice; none for an evaluation.
        progress: Option<Progress>,
    },
    /// A slice wrote a complete checkpoint into staging folders. The slice then ends.
    CheckpointStaged {
        /// Its lease.
        token: LeaseToken,
        /// What it wrote.
        staged: StagedCheckpoint,
    },
    /// [`Effect::Publish`] ended well.
    CheckpointPublished {
        /// The checkpoint.
        checkpoint: CheckpointId,
    },
    /// What was staged is not complete or not what the worker said.
    PublishFailed {
        /// The checkpoint.
        checkpoint: CheckpointId,
        /// Why.
        reason: String,
    },
    /// A child with the device ended (exit observed, process group reaped).
    WorkerExited {
        /// Its lease.
        token: LeaseToken,
        /// How.
        exit: WorkerExit,
    },
    /// An evaluation ended with results.
    Evaluated {
        /// Its lease.
        token: LeaseToken,
        /// The results.
        evaluation: Evaluation,
    },
    /// An evaluation's answers to fresh questions of skills lie on disk. Sent before its [`Event::Evaluated`].
    ExamsAnswered {
        /// The checkpoint.
        checkpoint: CheckpointId,
        /// The evaluation's lease, which names the folder.
        token: LeaseToken,
    },
    /// [`Effect::JudgeExams`] ended: every skill that is still configured has judged.
    ExamsJudged {
        /// The checkpoint.
        checkpoint: CheckpointId,
        /// The evaluation's lease.
        token: LeaseToken,
    },
    /// A checkpoint's answers to a skill's fresh questions were judged. Sent by [`Effect::JudgeExams`], once for each
    /// skill; one that comes again changes nothing.
    SkillScored {
        /// The skill's configured name.
        skill: String,
        /// Its levels.
        total_levels: u32,
        /// Manifest of the checkpoint that answered.
        manifest_hash: String,
        /// The counts.
        evaluation: SkillEvaluation,
    },
    /// [`Effect::Deploy`] ended well: the target answers with the checkpoint.
    Deployed {
        /// The deployment.
        deployment: DeploymentId,
        /// Steps with the time each ended.
        steps: Vec<(String, u64)>,
    },
    /// [`Effect::Deploy`] ended badly; the target serves what it served before.
    DeployFailed {
        /// The deployment.
        deployment: DeploymentId,
        /// Why.
        reason: String,
        /// False when trying again cannot help.
        transient: bool,
    },
    /// The checkpoint folders were measured.
    Measured {
        /// Bytes of each published checkpoint that has a folder.
        sizes: BTreeMap<CheckpointId, u64>,
    },
    /// The free room of the workspace's disk has crossed the limit of `min_free_bytes`.
    DiskSpace {
        /// Free bytes.
        free_bytes: u64,
    },
    /// [`Effect::Watch`] ended: the watch window is over, or something was seen.
    Watched {
        /// The deployment.
        deployment: DeploymentId,
        /// What was seen.
        outcome: WatchOutcome,
    },
    /// A person asked for something.
    Command(Command),
    /// Time passed (about once a second): leases, back-off.
    Tick,
    /// The wall clock went on by so much while nothing could run: the machine slept, or the clock was set forward.
    TimeJumped {
        /// In milliseconds.
        by_ms: u64,
    },
}

/// What a slice wrote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StagedCheckpoint {
    /// Its number: the global step.
    pub checkpoint: CheckpointId,
    /// Trained from.
    pub parent: CheckpointId,
    /// The job.
    pub job: JobId,
    /// Folder of the weights, relative to the workspace.
    pub staging: String,
    /// Folder of the resume state, relative to the workspace.
    pub resume_staging: String,
    /// BLAKE3 of the staged `manifest.json`, hex.
    pub manifest_hash: String,
    /// The job's position that it holds.
    pub position: Position,
    /// BLAKE3 over the ordered ids of all rows trained by the job so far, hex.
    pub rows_digest: String,
    /// Mean loss of the last step.
    pub train_loss: f64,
    /// True when the job has no step left.
    pub ends_job: bool,
    /// True when the slice ended early because it was asked to.
    pub yielded: bool,
}

/// How a child with the device ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "exit", rename_all = "snake_case")]
pub enum WorkerExit {
    /// Exit code 0.
    Done,
    /// It said why it cannot go on; trying again gives the same.
    Failed {
        /// Why.
        reason: String,
    },
    /// It was killed, crashed or timed out: worth another try.
    Crashed {
        /// Signal or exit code, in words.
        reason: String,
    },
    /// It got no memory, or the system ended it for want of memory: a slice is tried once with smaller micro-batches.
    OutOfMemory {
        /// How that is known, in words.
        reason: String,
    },
}

/// What was seen of a target in the watch window after a switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum WatchOutcome {
    /// Nothing wrong.
    Well {
        /// What was looked at.
        note: String,
    },
    /// It serves, and badly: the target goes back to what it served before.
    Misbehaves {
        /// Errors, slowness, wrong canary answers.
        reason: String,
    },
    /// It could not be looked at: nothing is changed, and people are told.
    Unknown {
        /// Why.
        reason: String,
    },
}

/// What people can ask the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Checkpoint at the next step, free the device, wait.
    Pause {
        /// Why.
        reason: String,
    },
    /// Go on.
    Resume {
        /// Why; callers from before name none.
        #[serde(default)]
        reason: String,
    },
    /// End the running job here.
    Skip {
        /// Why.
        reason: String,
    },
    /// Checkpoint at the next step and end the daemon.
    Stop {
        /// Why.
        reason: String,
    },
    /// Change a queued job's priority.
    MoveJob {
        /// The job.
        job: JobId,
        /// Its new priority.
        priority: Priority,
    },
    /// Take a queued job out.
    CancelJob {
        /// The job.
        job: JobId,
    },
    /// Queue a failed, skipped or cancelled job again.
    RetryJob {
        /// The job.
        job: JobId,
    },
    /// Serve a checkpoint on every target, by a person's decision.
    Deploy {
        /// Which; the champion when absent.
        checkpoint: Option<CheckpointId>,
        /// Why.
        reason: String,
    },
    /// Train on from an earlier checkpoint; what came after it is abandoned.
    Rewind {
        /// From which.
        checkpoint: CheckpointId,
        /// Why.
        reason: String,
    },
    /// Train another base model from now on.
    NewLineage {
        /// The label that clients ask for.
        model_name: String,
        /// The base model's folder: absolute, or relative to the workspace.
        base_model: String,
        /// What may not change.
        identity: ModelIdentity,
        /// BLAKE3 of the manifest that the folder would have, hex.
        manifest_hash: String,
        /// Why.
        reason: String,
    },
    /// Go on with a lineage that stands still.
    SwitchLineage {
        /// Its number.
        number: u64,
        /// Why.
        reason: String,
    },
    /// Take a data set out of the model: back to before it, and queue the later good jobs again.
    Undo {
        /// Which.
        dataset: DatasetId,
        /// Why.
        reason: String,
    },
    /// As undo; its rows, previews and quotations are removed as well.
    Forget {
        /// Which.
        dataset: DatasetId,
        /// Why.
        reason: String,
    },
    /// Keep the files of a checkpoint whatever retention says.
    Pin {
        /// Which.
        checkpoint: CheckpointId,
        /// Why.
        reason: String,
    },
    /// Leave a checkpoint to retention again.
    Unpin {
        /// Which.
        checkpoint: CheckpointId,
    },
    /// Train a skill at this level from now on.
    SetLevel {
        /// The skill's configured name.
        skill: String,
        /// The level.
        level: u32,
    },
    /// Forget level and history of a skill.
    ResetSkill {
        /// The skill's configured name.
        skill: String,
    },
    /// Serve what was live before on every target.
    Rollback {
        /// Why.
        reason: String,
    },
}

/// Work at the rim. Idempotent, and re-derivable from the state by `recover`. An effect that cannot be done
/// for a reason of this host (no room, no permission) sends no event: it is logged, and tried again by the
/// daemon or at the next start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "effect", rename_all = "snake_case")]
pub enum Effect {
    /// Rename the file from the inbox into the dataset's folder. When it is in that folder already there is
    /// nothing to do, *whatever lies in the inbox by now*. Comes back as [`Event::FileTaken`].
    TakeFile {
        /// The dataset.
        dataset: DatasetId,
        /// Relative to `inbox/`.
        inbox_path: String,
    },
    /// Run both gates in a `check-job` child: at the configured level, for an accepted dataset at `deep` and with low
    /// priority. Comes back as [`Event::Checked`] (the report is stored in the
    /// dataset's folder before) or [`Event::CheckFailed`].
    Check {
        /// The dataset.
        dataset: DatasetId,
    },
    /// Move a refused file to `rejected/` with its report, and drop its folder. Comes back as [`Event::Filed`].
    MoveRejected {
        /// The dataset.
        dataset: DatasetId,
    },
    /// Drop the folder of a file whose bytes are already a dataset. Comes back as [`Event::Filed`].
    DropDuplicate {
        /// The dataset.
        dataset: DatasetId,
    },
    /// Start a `train-job` child for one slice: from the newest published checkpoint, at the job's position,
    /// with the settings frozen in the job. Comes back as [`Event::WorkerProgress`], at most one
    /// [`Event::CheckpointStaged`], and always [`Event::WorkerExited`] (also when it could not be started).
    StartSlice {
        /// The job.
        job: JobId,
        /// The lease that it works under.
        token: LeaseToken,
    },
    /// Start an `eval-job` child on the suites that lie in `validation/` now. Comes back as
    /// [`Event::WorkerProgress`], at most one [`Event::ExamsAnswered`] and [`Event::Evaluated`], and always [`Event::WorkerExited`]. Where
    /// there is no suite the daemon may leave the child out and send `Evaluated` with none, then `WorkerExited`.
    StartEval {
        /// The checkpoint.
        checkpoint: CheckpointId,
        /// The lease that it works under.
        token: LeaseToken,
    },
    /// Let the skills judge the answers that an evaluation kept. Comes back as [`Event::SkillScored`] for each skill, then
    /// [`Event::ExamsJudged`].
    JudgeExams {
        /// The checkpoint.
        checkpoint: CheckpointId,
        /// The evaluation's lease, which names the folder.
        token: LeaseToken,
    },
    /// Ask the child to write a checkpoint at the next step and end. A child without a finished step since its
    /// start may end (exit 0) without a checkpoint.
    AskToYield {
        /// Its lease.
        token: LeaseToken,
    },
    /// End the child's process group and reap it; comes back as `WorkerExited { Crashed }`. Nothing to do when
    /// it has ended: its exit is on the way.
    KillWorker {
        /// Its lease.
        token: LeaseToken,
        /// Why.
        reason: String,
    },
    /// Verify the staged folders, sync, rename them into place (nothing to do if they are there already).
    /// Comes back as [`Event::CheckpointPublished`] or [`Event::PublishFailed`].
    Publish {
        /// The checkpoint.
        checkpoint: CheckpointId,
    },
    /// Stage, verify, load, smoke, switch, confirm on the deployment's target. Comes back as
    /// [`Event::Deployed`] or [`Event::DeployFailed`]. Never two at once for one target.
    Deploy {
        /// The deployment.
        deployment: DeploymentId,
    },
    /// Remove what lies on disk of checkpoints that the state calls pruned. Sends no event; done again at every
    /// start, so that a crash in between leaves nothing behind.
    RemovePruned,
    /// Look at a target until its deployment's watch window ends or something is wrong. Comes back as
    /// [`Event::Watched`]; not when the daemon ends first.
    Watch {
        /// The deployment.
        deployment: DeploymentId,
    },
    /// End the daemon: no child holds the device and no checkpoint waits to be published. Checks and
    /// deployments under way are ended; the next start does them again.
    Exit,
}

/// What to write and then what to start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// Committed in one transaction before any effect starts.
    pub changes: Vec<Change>,
    /// Started after the commit, in order.
    pub effects: Vec<Effect>,
    /// The answer to a [`Command`]; `None` for other events.
    pub reply: Option<Result<String, String>>,
}
