//! Which earlier data sets a job trains again, which rows it must not train, and which files share a job. Chosen once, at the job's first slice, and
//! frozen in it, so that a resumed slice sees the same rows.

use super::draft::Draft;
use crate::config::{KeepBack, Settings};
use crate::ids::{DatasetId, JobId};
use crate::state::{Dataset, DatasetState, Job, JobReplay, JobState, Priority, State};
use std::collections::BTreeSet;

/// The earlier data sets of a job that begins now; `None` where nothing is replayed.
pub(super) fn choose(draft: &Draft, job: &Job) -> Option<JobReplay> {
    let settings = draft.settings;
    let earlier = |d: &&Dataset| {
        d.state == DatasetState::Accepted && d.gone.is_none() && d.set_aside.is_none() && !job.datasets.contains(&d.id)
    };
    let begun = draft.state().jobs.values().filter(|other| other.position.rows_trained > 0);
    let trained: BTreeSet<DatasetId> = begun.flat_map(|other| other.datasets.iter().copied()).collect();
    let mut datasets: Vec<DatasetId> =
        draft.state().datasets.values().filter(earlier).map(|d| d.id).filter(|id| trained.contains(id)).collect();
    if settings.replay_share <= 0.0 || datasets.is_empty() {
        return None;
    }
    // With more data sets than a job may read, each job draws others.
    datasets.sort_by_key(|id| mix(job.id, *id));
    datasets.truncate(settings.replay_max_datasets.max(1));
    datasets.sort();
    Some(JobReplay { share: settings.replay_share, datasets })
}

/// Which rows of a file that is accepted now are kept back. Data that a skill made have none: the skill's own `eval`
/// split is evaluated.
pub(super) fn keep_back(dataset: &Dataset, settings: &Settings) -> Option<KeepBack> {
    let is_generated = dataset.provenance.as_ref().is_some_and(|from| from.get("skill").is_some());
    Some(settings.keep_back).filter(|keep| keep.share > 0.0 && keep.max_rows > 0 && !is_generated)
}

/// The data sets whose kept-back rows are evaluated now: the newest ones whose rows are here.
#[must_use]
pub fn evaluated_back(state: &State, settings: &Settings) -> Vec<DatasetId> {
    let here = |d: &&Dataset| {
        d.state == DatasetState::Accepted && d.keep_back.is_some() && d.gone.is_none() && d.set_aside.is_none()
    };
    let mut newest: Vec<DatasetId> =
        state.datasets.values().rev().filter(here).take(settings.keep_back_files).map(|d| d.id).collect();
    newest.sort();
    newest
}

/// The data sets whose kept-back rows a job that begins now does not train: its own, those it replays, and those that are
/// evaluated.
pub(super) fn kept_back(draft: &Draft, job: &Job) -> Vec<DatasetId> {
    let replayed = job.replay.iter().flat_map(|replay| &replay.datasets);
    let own = job.datasets.iter().chain(replayed).copied();
    let all: BTreeSet<DatasetId> = own.chain(evaluated_back(draft.state(), draft.settings)).collect();
    let keeps = |id: &DatasetId| draft.state().datasets.get(id).is_some_and(|d| d.keep_back.is_some());
    all.into_iter().filter(keeps).collect()
}

/// The job in which a small file is trained together with others: queued, not begun, of the same priority, and with
/// fewer than `min_rows` rows so far.
pub(super) fn job_with_room(draft: &Draft, dataset: &Dataset, priority: Priority) -> Option<Job> {
    let (state, min_rows) = (draft.state(), draft.settings.min_rows);
    let rows_of = |job: &Job| -> u64 {
        job.datasets.iter().filter_map(|id| state.datasets.get(id)).map(|dataset| dataset.rows).sum()
    };
    let has_room = |job: &&Job| {
        job.state == JobState::Queued
            && job.started_ms.is_none()
            && job.tries == 0
            && job.priority == priority
            && rows_of(job) < min_rows
    };
    if dataset.rows >= min_rows {
        return None;
    }
    state.jobs.active().rev().find(has_room).cloned()
}

/// A number that is spread evenly and the same everywhere (the finaliser of SplitMix64).
fn mix(job: JobId, dataset: DatasetId) -> u64 {
    let mut x = job.0.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(dataset.0);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
