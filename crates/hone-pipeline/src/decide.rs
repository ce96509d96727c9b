//! `decide` and `recover`: the only places where the state of a workspace is changed on purpose. Pure.
//!
//! Every event is handled by the module of its concern; then [`settle`] looks at the whole: which checks may
//! start, which checkpoints can be judged, which deployments are due, and who gets the device. Handlers thus
//! never start follow-up work themselves, and the order of unrelated events does not matter.
//!
//! An event that does not fit the state (a repeated answer, a token that is not in force) changes nothing.

mod checkpoints;
mod commands;
mod curriculum;
mod deep;
mod deployment;
mod device;
mod disk;
mod draft;
mod evaluation;
mod inbox;
mod lineage;
mod replay;
mod rewind;

#[cfg(test)]
mod simulation;
#[cfg(test)]
pub(crate) mod tests;

use crate::config::Settings;
use crate::event::{Command, Decision, Event};
use crate::ids::CheckpointId;
use crate::state::{State, TimeMs};
use draft::Draft;
use std::collections::BTreeMap;

pub use replay::evaluated_back;
pub use rewind::touched_by;

/// Live figures of a running slice are committed at most this often.
pub const PROGRESS_EVERY_MS: u64 = 1_000;
/// The longest wait between two tries of anything.
pub const MAX_BACKOFF_MS: u64 = 5 * 60_000;
/// How many reasons of a rejected dataset are kept in the state; its report has all.
pub const MAX_REASONS: usize = 20;

/// What follows from an event: the changes to commit in one transaction, then the effects to start.
#[must_use]
pub fn decide(state: &State, settings: &Settings, event: &Event, now: TimeMs) -> Decision {
    let mut draft = Draft::new(state, settings, now);
    match event {
        Event::FileArrived { inbox_path, priority, schema_flag } => {
            inbox::file_arrived(&mut draft, inbox_path, *priority, schema_flag.as_deref());
        }
        Event::FileTaken { dataset, found } => inbox::file_taken(&mut draft, *dataset, *found),
        Event::Filed { dataset } => inbox::filed(&mut draft, *dataset),
        Event::Checked { dataset, report, provenance } => {
            inbox::checked(&mut draft, *dataset, report, provenance.as_ref());
        }
        Event::CheckFailed { dataset, reason, transient, tries } => {
            inbox::check_failed(&mut draft, *dataset, reason, (*transient, *tries));
        }
        Event::WorkerProgress { token, progress } => device::progress(&mut draft, *token, progress.as_ref()),
        Event::CheckpointStaged { token, staged } => checkpoints::staged(&mut draft, *token, staged),
        Event::CheckpointPublished { checkpoint } => checkpoints::published(&mut draft, *checkpoint),
        Event::PublishFailed { checkpoint, reason } => checkpoints::publish_failed(&mut draft, *checkpoint, reason),
        Event::WorkerExited { token, exit } => device::exited(&mut draft, *token, exit),
        Event::Evaluated { token, evaluation } => evaluation::evaluated(&mut draft, *token, evaluation),
        Event::ExamsAnswered { checkpoint, token } => curriculum::answered(&mut draft, *checkpoint, *token),
        Event::ExamsJudged { checkpoint, token } => curriculum::judged(&mut draft, *checkpoint, *token),
        Event::SkillScored { skill, total_levels, manifest_hash, evaluation } => {
            curriculum::scored(&mut draft, skill, *total_levels, manifest_hash, evaluation);
        }
        Event::Deployed { deployment, steps } => deployment::deployed(&mut draft, *deployment, steps),
        Event::DeployFailed { deployment, reason, transient } => {
            deployment::failed(&mut draft, *deployment, reason, *transient);
        }
        Event::Measured { sizes } => disk::measured(&mut draft, sizes),
        Event::DiskSpace { free_bytes } => disk::space(&mut draft, *free_bytes),
        Event::Watched { deployment, outcome } => deployment::watched(&mut draft, *deployment, outcome),
        Event::Command(command) => commands::command(&mut draft, command),
        Event::Tick => device::check_limits(&mut draft),
        Event::TimeJumped { by_ms } => device::time_jumped(&mut draft, *by_ms),
    }
    settle(&mut draft);
    draft.finish()
}

/// What a daemon does when it starts on a state that an earlier one left at any instant.
///
/// The caller holds the owner lock and has made sure that no child of the earlier daemon lives any more (the
/// lease in `state` names the one that had the device). The lease is cleared, without counting a try against
/// its job; the job goes on first. `Stopping` becomes `Running`: whoever starts a daemon wants it to run.
/// `Paused` stays, also one from before a stop. Every effect that was not answered is started again, and every configured target that
/// neither serves the champion nor is about to gets a deployment.
#[must_use]
pub fn recover(state: &State, settings: &Settings, now: TimeMs) -> Decision {
    let mut draft = Draft::new(state, settings, now);
    commands::recover(&mut draft);
    device::recover(&mut draft);
    inbox::recover(&mut draft);
    checkpoints::recover(&mut draft);
    curriculum::recover(&mut draft);
    deployment::recover(&mut draft);
    disk::recover(&mut draft);
    settle(&mut draft);
    draft.finish()
}

/// A command without a daemon: the changes that it makes, and its reply. No effect is started and the device
/// is given to nobody; the next daemon derives what is to be done by [`recover`]. The caller holds the owner lock.
#[must_use]
pub fn command_offline(state: &State, settings: &Settings, command: &Command, now: TimeMs) -> Decision {
    if let Command::Stop { .. } = command {
        return Decision { reply: Some(Err("no daemon runs here".to_string())), ..Decision::default() };
    }
    let mut draft = Draft::new(state, settings, now);
    // The daemon that was told to stop has stopped: a pause is for the next one.
    if let Command::Pause { .. } | Command::Resume { .. } = command {
        commands::recover(&mut draft);
    }
    commands::command(&mut draft, command);
    Decision { effects: Vec::new(), ..draft.finish() }
}

/// Retention without a daemon: what `Event::Measured` changes. No effect is started. The caller holds the owner lock
/// and removes what the state then calls pruned.
#[must_use]
pub fn measured_offline(
    state: &State,
    settings: &Settings,
    sizes: &BTreeMap<CheckpointId, u64>,
    now: TimeMs,
) -> Decision {
    let mut draft = Draft::new(state, settings, now);
    disk::measured(&mut draft, sizes);
    Decision { effects: Vec::new(), ..draft.finish() }
}

/// Starts whatever the state now allows.
fn settle(draft: &mut Draft) {
    inbox::start_checks(draft);
    deep::start_check(draft);
    inbox::note_room(draft);
    evaluation::judge_all(draft);
    deployment::start(draft);
    device::assign(draft);
}

/// Whether a wait until `at_ms` is over. One that seems longer than any wait is was begun before the clock was set back: it
/// is over too.
fn is_due(at_ms: TimeMs, now: TimeMs) -> bool {
    at_ms <= now || at_ms - now > MAX_BACKOFF_MS
}
