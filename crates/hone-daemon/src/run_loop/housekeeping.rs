//! What the loop does beside its work: room on the disk, retention, daily snapshots, and effects that this host
//! could not do and that are tried again.

use super::Daemon;
use crate::background::BackgroundWorker;
use crate::clock::{day_of, minute_of_day, now_ms};
use crate::effects::Message;
use crate::options::Housekeeping;
use crate::status::Trouble;
use anyhow::{Context, Result};
use hone_pipeline::config::Settings;
use hone_pipeline::decide::measured_offline;
use hone_pipeline::event::{Decision, Effect, Event};
use hone_pipeline::ids::CheckpointId;
use hone_pipeline::state::{Change, LogEntry, LogSeverity, State};
use hone_store::retention::{self, Deadline};
use hone_store::{Layout, Store};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Wait before an effect that this host could not do is started again; doubled for each further try.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// The longest such wait.
const MAX_AGAIN_AFTER: Duration = Duration::from_secs(300);
/// The first housekeeping comes so long after the start.
const FIRST_AFTER: Duration = Duration::from_secs(3);

/// How long retention may take without a daemon.
const OFFLINE_LIMIT: Duration = Duration::from_secs(3600);

/// What housekeeping came to.
pub(crate) struct HouseReport {
    sizes: Option<BTreeMap<CheckpointId, u64>>,
    done: Vec<(&'static str, String)>,
    problems: Vec<String>,
}

/// The loop's memory of it.
pub(super) struct House {
    pub worker: BackgroundWorker,
    next: Instant,
    delayed: Vec<(Instant, Effect)>,
}

impl House {
    pub fn new(worker: BackgroundWorker) -> House {
        House { worker, next: Instant::now() + FIRST_AFTER, delayed: Vec::new() }
    }
}

impl Daemon {
    /// Once a second.
    pub(super) fn keep_house(&mut self) -> Result<()> {
        self.look_at_disk()?;
        if let Some(problem) = self.house.worker.newly_hanging(Instant::now()) {
            self.note(LogSeverity::Error, "housekeeping_hangs", "housekeeping", problem)?;
        }
        if Instant::now() >= self.house.next {
            self.start_housekeeping();
        }
        Ok(())
    }

    /// Housekeeping at the next second.
    pub(super) fn housekeeping_now(&mut self) {
        self.house.next = Instant::now();
    }

    fn start_housekeeping(&mut self) {
        let house = self.given.config.housekeeping.clone();
        self.house.next = Instant::now() + Duration::from_millis(house.every_ms);
        let (layout, state) = (self.store.layout().clone(), Arc::clone(&self.given.state));
        let (sender, now) = (self.runner.messages(), now_ms());
        let limit = Duration::from_millis(house.max_ms);
        self.house.worker.run("housekeeping", limit, move |deadline| {
            let report = do_housekeeping(&layout, &state, &house, now, deadline);
            // Fails only when the loop has ended.
            let _ = sender.send(Message::Housekept(report));
        });
    }

    pub(super) fn housekept(&mut self, report: HouseReport) -> Result<()> {
        self.house.worker.ended();
        for (kind, message) in report.done {
            self.note(LogSeverity::Info, kind, "housekeeping", message)?;
        }
        let problem = report.problems.join("; ");
        match problem.as_str() {
            "" => drop(self.live.troubles.remove("housekeeping")),
            _ => drop(self.trouble("housekeeping", &problem)),
        }
        match report.sizes {
            Some(sizes) => self.event(&Event::Measured { sizes }).map(drop),
            None => Ok(()),
        }
    }

    pub(super) fn note_room_at_start(&mut self) -> Result<()> {
        let free_bytes = free_bytes(self.store.layout().root());
        let low = free_bytes.is_some_and(|free| free < self.given.config.settings.min_free_bytes);
        self.live.free_bytes = free_bytes;
        if low == self.given.state.disk_low {
            return Ok(());
        }
        self.carry_out(Decision { changes: vec![Change::SetDiskLow { low }], ..Decision::default() })?;
        let message = "there is too little room (limits.min_free_gb): nothing new is begun".to_string();
        if low { self.note(LogSeverity::Error, "disk_low", "disk", message) } else { Ok(()) }
    }

    /// Tells `decide` when the free room crosses the limit.
    pub(super) fn look_at_disk(&mut self) -> Result<()> {
        let Some(free_bytes) = free_bytes(self.store.layout().root()) else { return Ok(()) };
        self.disk_has(free_bytes)
    }

    pub(super) fn disk_has(&mut self, free_bytes: u64) -> Result<()> {
        self.live.free_bytes = Some(free_bytes);
        let was_low = self.given.state.disk_low;
        if was_low || free_bytes < self.given.config.settings.min_free_bytes {
            self.event(&Event::DiskSpace { free_bytes })?;
        }
        if was_low && !self.given.state.disk_low {
            // There is room again: nobody waits for a back-off.
            self.house.delayed.iter_mut().for_each(|(at, _)| *at = Instant::now());
            self.timers.scan_now();
        }
        Ok(())
    }

    /// This host could not do an effect: it is tried again after a growing wait. The view shows it; the log tells it at
    /// each doubling of the wait, not at every try.
    pub(super) fn again(&mut self, effect: Effect, error: &str) {
        let key = key_of(&effect);
        let tries = self.trouble(&key, error);
        let wait = AGAIN_AFTER.saturating_mul(1 << (tries - 1).min(16)).min(MAX_AGAIN_AFTER);
        if wait < MAX_AGAIN_AFTER || tries.is_power_of_two() {
            tracing::warn!(effect = key, tries, "failed to {error}; tried again in {} s", wait.as_secs());
        }
        self.house.delayed.push((Instant::now() + wait, effect));
    }

    pub(super) fn start_delayed(&mut self) -> Result<()> {
        let now = Instant::now();
        let due: Vec<_> = self.house.delayed.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, effect) in due {
            self.runner.start(effect, &self.given)?;
        }
        Ok(())
    }

    /// An answer came: what it is about is no trouble any more.
    pub(super) fn settled(&mut self, event: &Event) {
        let key = match event {
            Event::FileTaken { dataset, .. } => format!("take {dataset}"),
            Event::Filed { dataset } => format!("file {dataset}"),
            Event::Checked { dataset, .. } | Event::CheckFailed { dataset, .. } => format!("check {dataset}"),
            Event::CheckpointPublished { checkpoint } | Event::PublishFailed { checkpoint, .. } => {
                format!("publish {checkpoint}")
            }
            Event::ExamsJudged { checkpoint, .. } => format!("judge the answers of {checkpoint}"),
            _ => return,
        };
        if self.live.troubles.remove(&key).is_some() {
            self.timers.state_changed();
        }
    }

    /// Notes trouble for the view; returns how often it has come.
    fn trouble(&mut self, what: &str, error: &str) -> u32 {
        let now = now_ms();
        let new = || Trouble { what: what.to_string(), error: String::new(), tries: 0, since_ms: now };
        let trouble = self.live.troubles.entry(what.to_string()).or_insert_with(new);
        trouble.tries = trouble.tries.saturating_add(1);
        trouble.error = error.to_string();
        self.timers.state_changed();
        trouble.tries
    }

    /// A line of the event log that no decision wrote.
    pub(super) fn note(&mut self, severity: LogSeverity, kind: &str, subject: &str, message: String) -> Result<()> {
        let (kind, subject) = (kind.to_string(), subject.to_string());
        let entry = LogEntry { at_ms: now_ms(), severity, kind, subject, message };
        self.carry_out(Decision { changes: vec![Change::Log(entry)], ..Decision::default() })
    }
}

/// Retention without a running daemon: takes the owner lock, decides, commits, removes.
///
/// # Errors
/// A daemon is running, or the workspace cannot be read or written.
pub fn prune_offline(root: &Path, settings: &Settings) -> Result<()> {
    let _lock = super::take_workspace(root)?;
    let mut store = Store::open(root).context("open the workspace")?;
    let deadline = Deadline::new(OFFLINE_LIMIT);
    let sizes = retention::checkpoint_sizes(store.layout(), &store.load()?, deadline)?;
    let decision = measured_offline(&store.load()?, settings, &sizes, now_ms());
    store.commit(&decision.changes)?;
    retention::remove_pruned(store.layout(), &store.load()?, deadline).map(drop)
}

/// Free bytes for this user on the file system of `path`; `None` when it cannot be told.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    let info = rustix::fs::statvfs(path).ok()?;
    Some(info.f_bavail.saturating_mul(info.f_frsize))
}

fn key_of(effect: &Effect) -> String {
    match effect {
        Effect::TakeFile { dataset, .. } => format!("take {dataset}"),
        Effect::MoveRejected { dataset } | Effect::DropDuplicate { dataset } => format!("file {dataset}"),
        Effect::Check { dataset } => format!("check {dataset}"),
        Effect::Publish { checkpoint } => format!("publish {checkpoint}"),
        Effect::JudgeExams { checkpoint, .. } => format!("judge the answers of {checkpoint}"),
        other => format!("{other:?}"),
    }
}

fn do_housekeeping(layout: &Layout, state: &State, house: &Housekeeping, now: u64, deadline: Deadline) -> HouseReport {
    let mut report = HouseReport { sizes: None, done: Vec::new(), problems: Vec::new() };
    let day = day_of(now);
    let latest = state.latest_checkpoint().filter(|c| c.parent.is_some());
    if let Some(latest) = latest.filter(|_| house.snapshot_at_min.is_some_and(|at| minute_of_day(now) >= at)) {
        match retention::take_snapshot(layout, latest.id, &day) {
            Ok(true) => report.done.push(("snapshot_taken", format!("snapshots/{day} holds {}", latest.id))),
            Ok(false) => {}
            Err(error) => report.problems.push(format!("take the snapshot: {error:#}")),
        }
    }
    match retention::sweep_rest(layout, state, &house.rest, now, deadline) {
        Ok(gone) if gone.is_empty() => {}
        Ok(gone) => report.done.push(("swept", format!("{} old files and folders are gone", gone.len()))),
        Err(error) => report.problems.push(format!("sweep: {error:#}")),
    }
    match retention::checkpoint_sizes(layout, state, deadline) {
        Ok(sizes) => report.sizes = Some(sizes),
        Err(error) => report.problems.push(format!("measure the checkpoints: {error:#}")),
    }
    report
}
