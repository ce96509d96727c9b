//! Messages between processes: requests and reports of children, the control socket, stored JSON.
//!
//! A child is `hone child KIND --request FILE`. It gets its request as one JSON file, reports JSON lines on
//! stdout (one [`WorkerLine`] each; the daemon also appends them to `events.jsonl` beside the request) and
//! logs on stderr. On stdin it may receive [`WorkerOrder`] lines; *end of input means that the parent is
//! gone, and the child exits at once without publishing anything*. While it lives it holds an exclusive
//! lock on `<run_dir>/lock`, so that a restarted daemon can wait for it. Exit codes: 0 done, 1 failed (the
//! last line says why). Any program that keeps this contract can take the place of `train-job`.

use crate::config::{KeepBack, Overlong, ProfileSettings, TrainSettings};
use crate::content::{CompareFile, ContentSettings};
use crate::event::{Command, StagedCheckpoint};
use crate::finding::{Level, Report, SchemaOrigin};
use crate::ids::{CheckpointId, JobId, LeaseToken};
use crate::state::{EvaluationSpeed, Position, Progress, SuiteResult};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Version of every request and stored JSON here.
pub const WIRE_FORMAT_VERSION: u32 = 1;

/// Request of `check-job`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckRequest {
    /// [`WIRE_FORMAT_VERSION`].
    pub format_version: u32,
    /// The file to check (absolute).
    pub file: PathBuf,
    /// The schema to hold it against.
    pub schema_id: String,
    /// Where that id came from.
    pub schema_origin: SchemaOrigin,
    /// How deep.
    pub level: Level,
    /// Model folder for token statistics; none at `quick`.
    pub model_dir: Option<PathBuf>,
    /// Limits and the profile.
    pub max_length: usize,
    /// What the verdict about overlong rows is.
    pub overlong: Overlong,
    /// The data profile.
    pub profile: ProfileSettings,
    /// Extra variables of the chat template.
    pub chat_template_kwargs: serde_json::Map<String, serde_json::Value>,
    /// Longest accepted line in bytes.
    pub max_line_bytes: u64,
    /// Largest accepted file in bytes.
    pub max_file_bytes: u64,
    /// Most bytes that a packed file may unpack to.
    #[serde(default = "default_max_unpacked_bytes")]
    pub max_unpacked_bytes: u64,
    /// Thresholds of the content gate.
    #[serde(default)]
    pub content: ContentSettings,
    /// Validation files and earlier accepted ones that rows are compared with.
    #[serde(default)]
    pub compare: Vec<CompareFile>,
    /// Give way to everything else on this host.
    #[serde(default)]
    pub background: bool,
}

/// For requests written before packed files were read.
fn default_max_unpacked_bytes() -> u64 {
    10 << 30
}

/// Request of `train-job`: one slice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainRequest {
    /// [`WIRE_FORMAT_VERSION`].
    pub format_version: u32,
    /// The job.
    pub job: JobId,
    /// The lease that every message carries.
    pub token: LeaseToken,
    /// Root of the workspace (absolute); relative paths below start here.
    pub root: PathBuf,
    /// Folder for `lock`, `events.jsonl` and metrics (absolute).
    pub run_dir: PathBuf,
    /// Weights to start from: a Hugging Face folder (absolute).
    pub model_dir: PathBuf,
    /// Checkpoint that `model_dir` is.
    pub parent: CheckpointId,
    /// Optimizer state, f32 masters and step counter of `parent`; absent at the first step of a lineage.
    pub resume_dir: Option<PathBuf>,
    /// What to train on, in order.
    pub files: Vec<TrainFile>,
    /// Rows of earlier data sets that are trained again beside them. A reader that does not know the field trains
    /// without them; where the job was begun with them it is refused by its position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<Replay>,
    /// Files with rows that are not trained, wherever else they stand too. A reader that does not know the field trains
    /// them; where the job was begun without them it is refused by its position.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept_back: Vec<KeptBack>,
    /// The highest number that a checkpoint of the workspace has; absent: the parent's. The next checkpoint's number
    /// is this plus the steps taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number_from: Option<CheckpointId>,
    /// Where in the job to begin.
    pub position: Position,
    /// Row digest at that position; empty at the start.
    pub rows_digest: String,
    /// Frozen hyperparameters.
    pub settings: TrainSettings,
    /// Files whose first rows are answered as previews.
    pub preview_files: Vec<TrainFile>,
    /// Where the checkpoint is staged, relative to `root`.
    pub staging: String,
    /// Where the resume state is staged, relative to `root`.
    pub resume_staging: String,
    /// Written into `lineage.json` as it is.
    pub lineage: serde_json::Value,
}

/// Rows of earlier data sets that are trained again. Which ones is a pure function of the job, the seed and the rows
/// (`hone_train::replay`); each is known as `replay/dataset-N:LINE`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Replay {
    /// Replayed rows per new row.
    pub share: f64,
    /// Where from.
    pub files: Vec<TrainFile>,
}

/// One file of examples.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainFile {
    /// Name under which its rows are known: `dataset-N`, or the suite's name.
    pub name: String,
    /// The file (absolute).
    pub path: PathBuf,
    /// Its schema.
    pub schema_id: String,
}

/// A file of which some rows are never trained and evaluated instead. Which ones is a pure function of the rows
/// (`hone_train::kept_back`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeptBack {
    /// The file.
    pub file: TrainFile,
    /// How many.
    pub keep: KeepBack,
}

/// Request of `eval-job`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalRequest {
    /// [`WIRE_FORMAT_VERSION`].
    pub format_version: u32,
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// Its manifest hash, written into the results.
    pub manifest_hash: String,
    /// The lease that every message carries.
    pub token: LeaseToken,
    /// Folder for `lock` and `events.jsonl` (absolute).
    pub run_dir: PathBuf,
    /// The checkpoint's folder (absolute).
    pub model_dir: PathBuf,
    /// The suites.
    pub suites: Vec<TrainFile>,
    /// Files whose kept-back rows are one more suite, `kept-back`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept_back: Vec<KeptBack>,
    /// Template, profile, length, threads and device.
    pub settings: TrainSettings,
    /// Sealed questions to answer (greedy); scored afterwards by the skill's `/verify`.
    pub questions: Vec<Question>,
    /// Most tokens of an answer.
    pub max_answer_tokens: usize,
    /// When to stop.
    pub max_ms: u64,
    /// Where scores and answers are kept as they come, so that another try goes on from there (absolute).
    #[serde(default)]
    pub keep_dir: Option<PathBuf>,
}

/// A question whose answer a skill verifies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// Id of the sample.
    pub id: String,
    /// The conversation without its answer.
    pub messages: serde_json::Value,
}

/// One line of a child's stdout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerLine {
    /// The lease it works under; 0 for a check.
    pub token: LeaseToken,
    /// What it says.
    #[serde(flatten)]
    pub message: WorkerMessage,
}

/// What a child says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum WorkerMessage {
    /// It works (also sent while nothing else is to say): renews the lease.
    Alive {
        /// What it is doing, e.g. `tokenizing`, `loading`.
        phase: String,
    },
    /// An optimizer step ended.
    Step(Progress),
    /// A greedy answer to a validation prompt.
    Preview {
        /// Global step.
        step: u64,
        /// Where the prompt comes from: `file:line`.
        source: String,
        /// The last user message.
        prompt: String,
        /// What the model said.
        answer: String,
        /// What the file says.
        expected: String,
    },
    /// A row or step was refused (non-finite), or rows were skipped (overlong).
    Warning {
        /// Stable name.
        code: String,
        /// A plain sentence.
        message: String,
    },
    /// `check-job`: the report.
    Checked(Report),
    /// `train-job`: a complete checkpoint in staging.
    Staged(StagedCheckpoint),
    /// `eval-job`: the results.
    Evaluated {
        /// The checkpoint's manifest hash, as in the request.
        manifest_hash: String,
        /// BLAKE3 of the chat template's text, hex.
        template_hash: String,
        /// How numbers were computed, e.g. `f32`.
        #[serde(default)]
        dtype: String,
        /// What computed them, e.g. `0.1.0 cpu`.
        #[serde(default)]
        engine: String,
        /// One per suite.
        suites: Vec<SuiteResult>,
        /// One per question.
        answers: Vec<Answer>,
        /// What it took.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        speed: Option<EvaluationSpeed>,
    },
    /// It cannot go on, and trying again gives the same.
    Failed {
        /// Why, and what to do.
        reason: String,
    },
}

/// An answer to a [`Question`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Id of the sample.
    pub id: String,
    /// The whole generated text, special tokens left out.
    pub text: String,
    /// `stop` or `length`.
    pub finish_reason: String,
    /// Generated tokens.
    pub num_tokens: u64,
}

/// One line on a child's stdin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum WorkerOrder {
    /// Write a checkpoint at the next optimizer step and end.
    Yield,
}

/// One request line on `run/control.sock`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum ControlRequest {
    /// Do this.
    Command {
        /// What.
        command: Command,
    },
    /// Scan the inbox now (a hint; the periodic scan stays the truth).
    Scan,
    /// Look at retention now.
    Housekeep,
    /// Are you there?
    Ping,
    /// The same, and what do you do?
    Status,
}

/// One reply line on `run/control.sock`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum ControlReply {
    /// Done or under way.
    Ok {
        /// A plain sentence.
        message: String,
    },
    /// Refused.
    Error {
        /// Why, and what to do.
        message: String,
    },
    /// The answer to `Ping` and to `Status`.
    Pong {
        /// Process id of the daemon.
        pid: u32,
        /// Version of hone.
        version: String,
        /// To `Status`: what `status/training_status.json` says, as of now and without previews.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        status: Option<serde_json::Value>,
    },
}

/// Body of `POST /admin/deployments`: what to stage, verify, load and try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployRequest {
    /// [`WIRE_FORMAT_VERSION`].
    pub format_version: u32,
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// BLAKE3 of `manifest.json`, hex; stamped on every response.
    pub manifest_hash: String,
    /// The name that clients ask for.
    pub model_name: String,
    /// The files that serving needs, each by hash; all blobs must be on the server already.
    pub files: Vec<DeployFile>,
    /// Extra variables of the chat template.
    pub chat_template_kwargs: serde_json::Map<String, serde_json::Value>,
    /// The data profile (its stop strings and logit rules).
    pub profile: String,
}

/// One file of a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployFile {
    /// Name within the model folder.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// BLAKE3, hex: the name of the blob.
    pub blake3: String,
}

/// One deployment as the server tells it (`GET /admin/deployments`, and the answer to a `POST`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerDeployment {
    /// The server's own number, from 1.
    pub id: u64,
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// Its manifest hash.
    pub manifest_hash: String,
    /// `loaded`, `staged` (verified; the switch loads it), `serving`, `previous` or `failed`.
    pub state: String,
    /// Why it failed, else empty.
    pub error: String,
    /// When it came, in ms since the epoch.
    pub created_ms: u64,
}

/// Why a server does not start as it was asked to; asking again does not help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StartRefused(pub String);

/// Whether `host` or `host:port`, as requests have it in `Host`, names this machine: what a server without keys answers to, so
/// that no page of another site reaches it through a name that resolves to this machine.
#[must_use]
pub fn is_loopback_name(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
