//! What the daemon says of itself: over the control socket to who asks (`hone status`), and for scripts as the view
//! `status/training_status.json`, written atomically and never read back.
//!
//! It is as old as `updated_ms` says; a daemon that lives writes it at least every ten seconds, so an older one
//! shows a daemon that is gone. Readers ignore keys that they do not know.

#[cfg(test)]
mod tests;

use hone_pipeline::config::{Settings, TrainSettings};
use hone_pipeline::curriculum::{CurriculumSettings, SkillProgress};
use hone_pipeline::ids::{CheckpointId, JobId};
use hone_pipeline::state::{Control, DatasetState, DeploymentState, JobState, Priority, Progress, State, TimeMs, Work};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// Version of the view's format.
pub const FORMAT_VERSION: u32 = 1;
/// Previews and warnings that the view shows.
const MAX_SHOWN: usize = 8;

/// The view.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingStatus {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// What the daemon does.
    pub activity: Activity,
    /// Why it is paused or stopping, in the words of whoever asked.
    pub reason: Option<String>,
    /// Process id of the daemon.
    pub pid: u32,
    /// Version of hone.
    pub version: String,
    /// When the daemon started.
    pub started_ms: TimeMs,
    /// When this was written.
    pub updated_ms: TimeMs,
    /// The running job.
    pub job: Option<JobStatus>,
    /// The checkpoint that is being evaluated.
    pub evaluating: Option<CheckpointId>,
    /// What the child with the device does, e.g. `loading`.
    pub phase: Option<String>,
    /// What waits.
    pub queue: QueueStatus,
    /// The newest published checkpoint.
    pub latest_checkpoint: Option<CheckpointId>,
    /// The checkpoint that should be served.
    pub champion: Option<CheckpointId>,
    /// What each target serves.
    pub targets: Vec<TargetStatus>,
    /// The last previews of the running job, oldest first.
    pub previews: Vec<PreviewStatus>,
    /// The last warnings of children, oldest first.
    pub warnings: Vec<String>,
    /// Why `config.json` could not be read; the values of before apply.
    pub config_error: Option<String>,
    /// Values that changed since the running job took its own, e.g. `learning_rate: 0.01 (the job: 0.001)`; they wait
    /// for the next job.
    #[serde(default)]
    pub config_changes: Vec<String>,
    /// How long the child with the device has not renewed its lease, once that is more than half of it.
    #[serde(default)]
    pub silent_ms: Option<u64>,
    /// Free bytes on the workspace's disk.
    #[serde(default)]
    pub free_bytes: Option<u64>,
    /// True while nothing new is begun for lack of room.
    #[serde(default)]
    pub disk_low: bool,
    /// What this host could not do and tries again.
    #[serde(default)]
    pub troubles: Vec<Trouble>,
}

/// Something that this host could not do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// E.g. `publish checkpoint-5`.
    pub what: String,
    /// Why, at the last try.
    pub error: String,
    /// Tries so far.
    pub tries: u32,
    /// When it began.
    pub since_ms: TimeMs,
}

/// What the daemon does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// A slice of a job runs.
    Training,
    /// A checkpoint is evaluated.
    Evaluating,
    /// Nothing to do.
    Idle,
    /// Waits for `hone resume` (also while the last slice writes its checkpoint).
    Paused,
    /// Writes its last checkpoint.
    Stopping,
    /// It ended.
    Stopped,
}

/// The running job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Its number.
    pub id: JobId,
    /// Names of its files.
    pub files: Vec<String>,
    /// Its priority.
    pub priority: Priority,
    /// Figures of the last step.
    pub progress: Option<Progress>,
    /// Milliseconds to its end at the pace of the running slice.
    pub eta_ms: Option<u64>,
}

/// What waits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// Files in the inbox that may still be written.
    pub in_inbox: usize,
    /// Files being taken or checked.
    pub checking: usize,
    /// Jobs that wait for the device.
    pub queued: usize,
    /// True while files wait in the inbox because the queue is full.
    pub full: bool,
}

/// One deployment target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetStatus {
    /// Its name.
    pub target: String,
    /// What it serves.
    pub live: Option<CheckpointId>,
    /// What it is about to serve.
    pub pending: Option<CheckpointId>,
    /// Why the last attempt failed for good.
    pub problem: Option<String>,
}

/// A greedy answer to a validation prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviewStatus {
    /// Global step.
    pub step: u64,
    /// `file:line` of the prompt.
    pub source: String,
    /// The last user message.
    pub prompt: String,
    /// What the model said.
    pub answer: String,
    /// What the file says.
    pub expected: String,
}

/// What the loop knows beside the state: figures of the moment, lost with the daemon.
#[derive(Clone, Debug, Default)]
pub(crate) struct Live {
    pub started_ms: TimeMs,
    pub stopped: bool,
    pub phase: Option<String>,
    /// First and last figures of the running slice.
    pub progress: Option<(Progress, Progress)>,
    pub previews: VecDeque<PreviewStatus>,
    pub warnings: VecDeque<String>,
    pub in_inbox: usize,
    pub config_error: Option<String>,
    pub free_bytes: Option<u64>,
    pub troubles: BTreeMap<String, Trouble>,
}

/// News from a child that only the view shows.
#[derive(Clone, Debug)]
pub(crate) enum LiveUpdate {
    Started,
    Phase(String),
    Progress(Progress),
    Preview(PreviewStatus),
    Warning(String),
}

impl Live {
    pub fn update(&mut self, update: LiveUpdate) {
        match update {
            LiveUpdate::Started => (self.phase, self.progress) = (None, None),
            LiveUpdate::Phase(phase) => self.phase = Some(phase),
            LiveUpdate::Progress(now) => {
                self.phase = None;
                let first = self.progress.take().map_or_else(|| now.clone(), |(first, _)| first);
                self.progress = Some((first, now));
            }
            LiveUpdate::Preview(preview) => push_bounded(&mut self.previews, preview),
            LiveUpdate::Warning(warning) => push_bounded(&mut self.warnings, warning),
        }
    }

    /// Time to the end of the job at the pace between the first and the last figures.
    fn eta_ms(&self) -> Option<u64> {
        let (first, last) = self.progress.as_ref()?;
        let (num_steps, elapsed_ms) =
            (last.job_step.checked_sub(first.job_step)?, last.at_ms.checked_sub(first.at_ms)?);
        let left = last.total_steps.checked_sub(last.job_step)?;
        (num_steps > 0).then(|| left.saturating_mul(elapsed_ms) / num_steps)
    }
}

/// The view of a state. Pure.
pub(crate) fn view(state: &State, live: &Live, settings: &Settings, now: TimeMs) -> TrainingStatus {
    let work = state.lease.as_ref().map(|lease| &lease.work);
    let (activity, reason) = match (&state.control, work) {
        _ if live.stopped => (Activity::Stopped, None),
        (Control::Paused { reason }, _) => (Activity::Paused, Some(reason.clone())),
        (Control::Stopping { reason, .. }, _) => (Activity::Stopping, Some(reason.clone())),
        (Control::Running, Some(Work::Train { .. })) => (Activity::Training, None),
        (Control::Running, Some(Work::Evaluate { .. })) => (Activity::Evaluating, None),
        (Control::Running, None) => (Activity::Idle, None),
    };
    let on_the_way = |state: &DatasetState| matches!(state, DatasetState::Arriving | DatasetState::Checking);
    TrainingStatus {
        format_version: FORMAT_VERSION,
        activity,
        reason,
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_string(),
        started_ms: live.started_ms,
        updated_ms: now,
        job: job_status(state, live),
        evaluating: match work {
            Some(Work::Evaluate { checkpoint }) => Some(*checkpoint),
            _ => None,
        },
        phase: live.phase.clone().filter(|_| work.is_some()),
        queue: QueueStatus {
            in_inbox: live.in_inbox,
            checking: state.datasets.moving().filter(|dataset| on_the_way(&dataset.state)).count(),
            queued: state.jobs.num_active() - state.jobs.moving().count(),
            full: state.queue_full,
        },
        latest_checkpoint: state.latest_checkpoint().map(|checkpoint| checkpoint.id),
        champion: state.champion,
        targets: settings.targets.iter().map(|target| target_status(state, &target.name)).collect(),
        previews: live.previews.iter().cloned().collect(),
        warnings: live.warnings.iter().cloned().collect(),
        config_error: live.config_error.clone(),
        config_changes: config_changes(state, &settings.train),
        silent_ms: silent_ms(state, settings.lease_ms, now),
        free_bytes: live.free_bytes,
        disk_low: state.disk_low,
        troubles: live.troubles.values().cloned().collect(),
    }
}

/// What differs between the values that the running job began with and those of now. Pure.
pub(crate) fn config_changes(state: &State, now: &TrainSettings) -> Vec<String> {
    let job = state.jobs.moving().find(|job| job.state == JobState::Running);
    let Some(then) = job.and_then(|job| job.settings.as_ref()) else { return Vec::new() };
    // Not configured: it says what a worker that ran out of memory was left with.
    let now = TrainSettings { micro_batch: then.micro_batch, ..now.clone() };
    let fields = |settings: &TrainSettings| match serde_json::to_value(settings) {
        Ok(serde_json::Value::Object(fields)) => fields,
        other => panic!("settings are an object: {other:?}"),
    };
    let (then, now) = (fields(then), fields(&now));
    let differs = |(key, value): (&String, &serde_json::Value)| {
        let old = then.get(key).unwrap_or(&serde_json::Value::Null);
        (old != value).then(|| format!("{key}: {value} (the job: {old})"))
    };
    now.iter().filter_map(differs).collect()
}

fn silent_ms(state: &State, lease_ms: u64, now: TimeMs) -> Option<u64> {
    let lease = state.lease.as_ref()?;
    let silent_ms = (now + lease_ms).checked_sub(lease.until_ms)?;
    (silent_ms > lease_ms / 2).then_some(silent_ms)
}

fn job_status(state: &State, live: &Live) -> Option<JobStatus> {
    let job = state.jobs.moving().find(|job| job.state == JobState::Running)?;
    let holds_device = matches!(state.lease.as_ref().map(|lease| &lease.work), Some(Work::Train { .. }));
    let last = live.progress.as_ref().map(|(_, last)| last.clone()).filter(|_| holds_device);
    let file = |id| state.datasets.get(id).map(|dataset| dataset.file_name.clone());
    Some(JobStatus {
        id: job.id,
        files: job.datasets.iter().filter_map(file).collect(),
        priority: job.priority,
        eta_ms: last.as_ref().and_then(|_| live.eta_ms()),
        progress: last.or_else(|| job.progress.clone()),
    })
}

fn target_status(state: &State, target: &str) -> TargetStatus {
    let newest = state.deployments.values().rev().find(|deployment| deployment.target == target);
    let (mut pending, mut problem) = (None, None);
    match newest.map(|deployment| (&deployment.state, deployment.checkpoint)) {
        Some((DeploymentState::Pending, checkpoint)) => pending = Some(checkpoint),
        Some((DeploymentState::Failed { reason }, _)) => problem = Some(reason.clone()),
        _ => {}
    }
    let live = state.live_on(target).map(|deployment| deployment.checkpoint);
    TargetStatus { target: target.to_string(), live, pending, problem }
}

fn push_bounded<T>(list: &mut VecDeque<T>, item: T) {
    if list.len() >= MAX_SHOWN {
        list.pop_front();
    }
    list.push_back(item);
}

/// Version of the shape of `status/curriculum_state.json`.
const CURRICULUM_FORMAT_VERSION: u32 = 1;

/// The view `status/curriculum_state.json`: level, evidence, history and moves of every skill that is configured or known.
#[must_use]
pub fn curriculum_view(state: &State, settings: &CurriculumSettings, now: TimeMs) -> serde_json::Value {
    let names: std::collections::BTreeSet<&String> = state.curriculum.keys().chain(&settings.skills).collect();
    let skills: Vec<serde_json::Value> =
        names.into_iter().map(|name| skill_view(&state.skill(name), settings)).collect();
    serde_json::json!({
        "format_version": CURRICULUM_FORMAT_VERSION,
        "updated_ms": now,
        "enabled": settings.enabled,
        "skills": skills,
    })
}

fn skill_view(progress: &SkillProgress, settings: &CurriculumSettings) -> serde_json::Value {
    let history: Vec<serde_json::Value> = progress
        .history
        .iter()
        .map(|evaluation| {
            let mut value = serde_json::to_value(evaluation).expect("plain data");
            value["accuracy"] = evaluation.accuracy().into();
            value["problem"] = evaluation.problem(settings).into();
            value
        })
        .collect();
    serde_json::json!({
        "skill": progress.skill,
        "level": progress.level,
        "total_levels": progress.total_levels,
        "accuracy": progress.latest().and_then(|evaluation| evaluation.accuracy()),
        "evidence": progress.evidence(settings).len(),
        "needed": progress.needed(settings),
        "history": history,
        "moves": progress.moves,
    })
}
