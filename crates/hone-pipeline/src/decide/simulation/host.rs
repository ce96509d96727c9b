//! The simulated host: what lies on disk, the one child, the target.

use crate::event::{Effect, Event, StagedCheckpoint, WatchOutcome, WorkerExit};
use crate::finding::{Level, Report, SchemaOrigin, Verdict};
use crate::ids::*;
use crate::state::*;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};

const ROWS_PER_STEP: u64 = 8;
const STEPS_PER_SLICE: u64 = 3;
const MAX_FILES: u64 = 7;

/// A file that somebody put into the inbox.
#[derive(Clone, Debug)]
pub(super) struct File {
    /// Which of all files it is.
    pub serial: u64,
    /// Equal for files with equal bytes.
    pub content: u64,
    pub rows: u64,
    pub bad: bool,
    /// Passes the check before queueing and not the deep one.
    pub deep_bad: bool,
}

/// What a checkpoint was trained on, row by row.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    pub rows: Vec<(JobId, DatasetId, u64)>,
}

impl Contents {
    /// How many rows of a data set are in it by a job.
    pub fn of(&self, job: JobId, dataset: DatasetId) -> u64 {
        self.rows.iter().filter(|(by, of, _)| (*by, *of) == (job, dataset)).count() as u64
    }
}

/// Rows of a job, which are those of its data sets one after the other.
pub(super) fn rows_of(job: &Job, state: &State, range: std::ops::Range<u64>) -> Vec<(JobId, DatasetId, u64)> {
    let of = |id: &DatasetId| (0..state.datasets[id].rows).map(|row| (job.id, *id, row)).collect::<Vec<_>>();
    let all = job.datasets.iter().flat_map(of);
    all.skip(range.start as usize).take((range.end - range.start) as usize).collect()
}

/// The child with the device.
#[derive(Clone, Debug)]
pub(super) struct Child {
    token: LeaseToken,
    work: Work,
    steps: u64,
    asked_to_yield: bool,
    /// It has said what it has to say; only its exit is left.
    finished: bool,
    silent: bool,
    suites: u64,
}

#[derive(Default)]
pub(super) struct Host {
    pub inbox: BTreeMap<String, File>,
    pub folders: BTreeMap<DatasetId, File>,
    pub rejected: BTreeMap<DatasetId, File>,
    pub dropped: BTreeMap<DatasetId, File>,
    staging: BTreeMap<String, Contents>,
    pub published: BTreeMap<CheckpointId, Contents>,
    pub ever_published: BTreeSet<CheckpointId>,
    pub removed: BTreeSet<CheckpointId>,
    pub served: Option<CheckpointId>,
    pub child: Option<Child>,
    deposited: Vec<File>,
    suites: u64,
}

impl Host {
    pub fn new() -> Host {
        Host {
            published: BTreeMap::from([(CheckpointId(0), Contents::default())]),
            ever_published: BTreeSet::from([CheckpointId(0)]),
            ..Host::default()
        }
    }

    /// Somebody puts a file into the inbox; sometimes one with the bytes of an earlier one.
    pub fn deposit(&mut self, rng: &mut ChaCha8Rng) {
        let serial = self.deposited.len() as u64 + 1;
        let path = format!("{}.jsonl", rng.random_range(0..4));
        if serial > MAX_FILES || self.inbox.contains_key(&path) {
            return;
        }
        let (rows, bad) = (rng.random_range(1..80), rng.random_range(0..6) == 0);
        let mut file = File { serial, content: serial, rows, bad, deep_bad: rng.random_range(0..8) == 0 };
        if !self.deposited.is_empty() && rng.random_range(0..4) == 0 {
            let earlier = self.deposited[rng.random_range(0..self.deposited.len())].clone();
            file = File { serial, ..earlier };
        }
        self.deposited.push(file.clone());
        self.inbox.insert(path, file);
    }

    /// The base model of a new lineage lies there already.
    pub fn notices(&mut self, change: &Change) {
        if let Change::PutCheckpoint(record) = change
            && record.parent.is_none()
            && self.ever_published.insert(record.id)
        {
            self.published.insert(record.id, Contents::default());
        }
    }

    pub fn change_suites(&mut self) {
        self.suites += 1;
    }

    pub fn good_contents(&self) -> Vec<u64> {
        let mut contents: Vec<u64> = self.deposited.iter().filter(|f| !f.bad).map(|f| f.content).collect();
        contents.sort_unstable();
        contents.dedup();
        contents
    }

    /// For each file, in how many places it is.
    pub fn places(&self) -> BTreeMap<u64, usize> {
        let mut places: BTreeMap<u64, usize> = self.deposited.iter().map(|file| (file.serial, 0)).collect();
        let all = self.inbox.values().chain(self.folders.values());
        for file in all.chain(self.rejected.values()).chain(self.dropped.values()) {
            *places.entry(file.serial).or_default() += 1;
        }
        places
    }

    /// Does one effect and returns its answer. `fails` is bad luck; `transient` says of which kind.
    pub fn work(&mut self, state: &State, effect: &Effect, fails: bool, transient: bool) -> Option<Event> {
        match effect {
            // It has changed since the scan: it stays, and is seen anew.
            Effect::TakeFile { dataset, .. } if fails && !self.folders.contains_key(dataset) => {
                Some(Event::FileTaken { dataset: *dataset, found: false })
            }
            Effect::TakeFile { dataset, inbox_path } => {
                if !self.folders.contains_key(dataset)
                    && let Some(file) = self.inbox.remove(inbox_path)
                {
                    self.folders.insert(*dataset, file);
                }
                Some(Event::FileTaken { dataset: *dataset, found: self.folders.contains_key(dataset) })
            }
            Effect::Check { dataset } if fails => {
                let (reason, tries) = ("died".to_string(), state.datasets[dataset].check_tries);
                Some(Event::CheckFailed { dataset: *dataset, reason, transient, tries })
            }
            Effect::Check { dataset } => {
                let is_deep = state.datasets[dataset].state == DatasetState::Accepted;
                let report = report(&self.folders[dataset], is_deep);
                Some(Event::Checked { dataset: *dataset, report, provenance: None })
            }
            Effect::MoveRejected { dataset } => {
                if let Some(file) = self.folders.remove(dataset) {
                    self.rejected.insert(*dataset, file);
                }
                Some(Event::Filed { dataset: *dataset })
            }
            Effect::DropDuplicate { dataset } => {
                if let Some(file) = self.folders.remove(dataset) {
                    self.dropped.insert(*dataset, file);
                }
                Some(Event::Filed { dataset: *dataset })
            }
            Effect::Publish { checkpoint } => Some(self.publish(state, *checkpoint, fails)),
            Effect::Deploy { deployment } if fails => {
                let reason = "bad luck".to_string();
                Some(Event::DeployFailed { deployment: *deployment, reason, transient })
            }
            Effect::Deploy { deployment } => {
                self.served = Some(state.deployments[deployment].checkpoint);
                Some(Event::Deployed { deployment: *deployment, steps: Vec::new() })
            }
            // The window outlives a restart, so a lost answer comes again.
            Effect::Watch { deployment } => {
                let outcome = match (fails, transient) {
                    (true, true) => WatchOutcome::Misbehaves { reason: "errors".to_string() },
                    (true, false) => WatchOutcome::Unknown { reason: "silence".to_string() },
                    _ => WatchOutcome::Well { note: String::new() },
                };
                Some(Event::Watched { deployment: *deployment, outcome })
            }
            Effect::StartSlice { job, token } => self.start(*token, Work::Train { job: *job }),
            Effect::StartEval { checkpoint, token } => self.start(*token, Work::Evaluate { checkpoint: *checkpoint }),
            Effect::AskToYield { token } => {
                if let Some(child) = self.child.as_mut().filter(|child| child.token == *token) {
                    child.asked_to_yield = true;
                }
                None
            }
            Effect::RemovePruned => {
                let pruned = |id: &CheckpointId| state.checkpoints[id].state == CheckpointState::Pruned;
                let gone: Vec<_> = self.ever_published.iter().filter(|id| pruned(id)).copied().collect();
                self.published.retain(|id, _| !gone.contains(id));
                self.removed.extend(gone);
                None
            }
            Effect::KillWorker { .. } | Effect::JudgeExams { .. } | Effect::Exit => {
                unreachable!("done by the simulation")
            }
        }
    }

    /// The child does its next thing, by its mood (0 to 99; 50 is honest work).
    pub fn child_acts(&mut self, state: &State, mood: u32, rng: &mut ChaCha8Rng) -> Vec<Event> {
        let Some(child) = self.child.clone().filter(|child| !child.silent) else { return Vec::new() };
        let token = child.token;
        let exit = |exit| vec![Event::WorkerExited { token, exit }];
        match mood {
            0..3 => {
                self.child = None;
                exit(WorkerExit::Crashed { reason: "bad luck".to_string() })
            }
            3 => {
                self.child = None;
                exit(WorkerExit::Failed { reason: "cannot".to_string() })
            }
            4 | 5 => {
                self.child.as_mut().unwrap().silent = true;
                Vec::new()
            }
            _ if child.finished => {
                self.child = None;
                exit(WorkerExit::Done)
            }
            _ => match child.work {
                Work::Evaluate { checkpoint } => self.evaluate(&child, checkpoint, state, rng),
                Work::Train { job } => self.train(&child, &state.jobs[&job], state, mood),
            },
        }
    }

    /// Ends the child of a lease; false when it has ended by itself.
    pub fn end_child(&mut self, token: LeaseToken) -> bool {
        self.child.take_if(|child| child.token == token).is_some()
    }

    pub fn end_all_children(&mut self) {
        self.child = None;
    }

    pub fn sweep_staging(&mut self, state: &State) {
        let named = |path: &String| {
            let staged =
                |c: &Checkpoint| matches!(&c.state, CheckpointState::Staged { staging, .. } if staging == path);
            state.checkpoints.values().any(staged)
        };
        self.staging.retain(|path, _| named(path));
    }

    fn start(&mut self, token: LeaseToken, work: Work) -> Option<Event> {
        let suites = self.suites;
        let (asked_to_yield, finished, silent) = (false, false, false);
        self.child = Some(Child { token, work, steps: 0, asked_to_yield, finished, silent, suites });
        None
    }

    fn publish(&mut self, state: &State, id: CheckpointId, fails: bool) -> Event {
        let CheckpointState::Staged { staging, .. } = &state.checkpoints[&id].state else {
            // The answer of an earlier try is on its way.
            return Event::CheckpointPublished { checkpoint: id };
        };
        match self.staging.remove(staging) {
            Some(_) if fails => {
                return Event::PublishFailed { checkpoint: id, reason: "bits".to_string() };
            }
            Some(contents) => {
                self.published.insert(id, contents);
                self.ever_published.insert(id);
            }
            None if self.published.contains_key(&id) => {}
            None => return Event::PublishFailed { checkpoint: id, reason: "lost".to_string() },
        }
        Event::CheckpointPublished { checkpoint: id }
    }

    fn train(&mut self, child: &Child, job: &Job, state: &State, mood: u32) -> Vec<Event> {
        let num_rows: u64 = job.datasets.iter().map(|id| state.datasets[id].rows).sum();
        let total_steps = num_rows.div_ceil(ROWS_PER_STEP);
        let job_step = job.position.job_step + child.steps;
        let ends_job = job_step == total_steps;
        if child.asked_to_yield && child.steps == 0 {
            self.child.as_mut().unwrap().finished = true;
            return Vec::new();
        }
        if !ends_job && child.steps < STEPS_PER_SLICE && !child.asked_to_yield {
            self.child.as_mut().unwrap().steps += 1;
            return vec![Event::WorkerProgress { token: child.token, progress: Some(Progress::default()) }];
        }
        self.child.as_mut().unwrap().finished = true;
        let latest = state.latest_checkpoint().unwrap();
        // A liar goes on from an older checkpoint, or counts wrongly.
        let parent = latest.parent.filter(|_| mood == 6).unwrap_or(latest.id);
        let rows_trained = (job_step * ROWS_PER_STEP).min(num_rows);
        let mut contents = self.published[&parent].clone();
        contents.rows.extend(rows_of(job, state, job.position.rows_trained..rows_trained));
        let staging = format!("staging-{}", child.token);
        self.staging.insert(staging.clone(), contents);
        let number = state.highest_number().unwrap().0 + child.steps + u64::from(mood == 7);
        let staged = StagedCheckpoint {
            checkpoint: CheckpointId(number),
            parent,
            job: job.id,
            staging,
            resume_staging: String::new(),
            manifest_hash: format!("m{number}"),
            position: Position { job_step, rows_trained, total_steps },
            rows_digest: String::new(),
            train_loss: 1.0,
            ends_job,
            yielded: child.asked_to_yield,
        };
        vec![Event::CheckpointStaged { token: child.token, staged }]
    }

    fn evaluate(&mut self, child: &Child, id: CheckpointId, state: &State, rng: &mut ChaCha8Rng) -> Vec<Event> {
        self.child.as_mut().unwrap().finished = true;
        let loss = rng.random_range(0.0..3.0);
        let suite = SuiteResult {
            suite: "val".to_string(),
            suite_hash: child.suites.to_string(),
            rows: 4,
            rows_skipped: 0,
            trained_tokens: 4,
            mean_nll: loss,
            token_accuracy: 0.0,
            row_nll: vec![(loss, 1); 4],
            answers: None,
        };
        let evaluation = Evaluation {
            checkpoint: id,
            manifest_hash: state.checkpoints[&id].manifest_hash.clone(),
            template_hash: String::new(),
            suites: vec![suite],
            at_ms: 0,
            error: None,
            tries: 0,
            retry_at_ms: None,
            ..Evaluation::default()
        };
        let token = child.token;
        vec![Event::ExamsAnswered { checkpoint: id, token }, Event::Evaluated { token, evaluation }]
    }
}

fn report(file: &File, is_deep: bool) -> Report {
    let bad = if is_deep { file.deep_bad } else { file.bad };
    Report {
        format_version: 1,
        verdict: if bad { Verdict::Rejected } else { Verdict::Accepted },
        schema_id: "chat_sft_v1".to_string(),
        schema_origin: SchemaOrigin::Default,
        level: if is_deep { Level::Deep } else { Level::Quick },
        rows: file.rows,
        size_bytes: 1,
        blake3: format!("hash of {}", file.content),
        findings: Vec::new(),
        stats: None,
        elapsed_ms: 1,
    }
}
