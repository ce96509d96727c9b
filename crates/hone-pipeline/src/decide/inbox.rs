//! From a file in the inbox to a job in the queue.
//!
//! A file is a dataset from the instant it is seen: `Arriving` is committed before it is renamed, so a restart
//! repeats the rename. Checks run `max_checks` at a time in the order of arrival. A file whose bytes are an
//! accepted dataset already is a duplicate of it; of two equal files on the way, the one checked first wins.

use super::MAX_REASONS;
use super::draft::Draft;
use super::{deep, replay};
use crate::event::Effect;
use crate::finding::{Level, Report};
use crate::ids::{DatasetId, JobId};
use crate::state::{Change, Dataset, DatasetState, DeepCheck, Gone, Job, Priority, State};

pub(super) fn file_arrived(draft: &mut Draft, inbox_path: &str, priority: Priority, schema_flag: Option<&str>) {
    let on_its_way = |d: &Dataset| d.state == DatasetState::Arriving && d.inbox_path == inbox_path;
    if draft.state().disk_low || draft.state().datasets.moving().any(on_its_way) {
        return;
    }
    if num_waiting(draft.state()) >= draft.settings.max_queued_jobs {
        if !draft.state().queue_full {
            draft.put(Change::SetQueueFull { full: true });
            let message = format!("the queue is full ({} files); files wait in the inbox", num_waiting(draft.state()));
            draft.warning("queue_full", "queue", message);
        }
        return;
    }
    let dataset = Dataset {
        id: DatasetId(draft.next(|counters| &mut counters.dataset)),
        file_name: inbox_path.rsplit('/').next().unwrap_or(inbox_path).to_string(),
        inbox_path: inbox_path.to_string(),
        priority,
        schema_flag: schema_flag.map(str::to_string),
        state: DatasetState::Arriving,
        arrived_ms: draft.now,
        schema_id: None,
        blake3: None,
        rows: 0,
        provenance: None,
        keep_back: None,
        check_started: false,
        check_tries: 0,
        deep_check: DeepCheck::None,
        filed: false,
        gone: None,
        set_aside: None,
    };
    draft.effect(Effect::TakeFile { dataset: dataset.id, inbox_path: dataset.inbox_path.clone() });
    draft.put(Change::PutDataset(dataset));
}

pub(super) fn file_taken(draft: &mut Draft, id: DatasetId, found: bool) {
    let Some(mut dataset) = in_state(draft, id, &DatasetState::Arriving) else { return };
    if found {
        dataset.state = DatasetState::Checking;
        draft.info("file_taken", id, format!("{} taken from the inbox", dataset.inbox_path));
    } else {
        dataset.state = DatasetState::Vanished;
        draft.info(
            "file_vanished",
            id,
            format!("{} left the inbox, or changed, before it was taken", dataset.inbox_path),
        );
    }
    draft.put(Change::PutDataset(dataset));
}

pub(super) fn checked(draft: &mut Draft, id: DatasetId, report: &Report, provenance: Option<&serde_json::Value>) {
    if report.level == Level::Deep && deep::is_under_way(draft, id) {
        return deep::checked(draft, id, report);
    }
    let Some(mut dataset) = in_state(draft, id, &DatasetState::Checking) else { return };
    dataset.check_started = false;
    dataset.schema_id = Some(report.schema_id.clone());
    dataset.blake3 = Some(report.blake3.clone()).filter(|hash| !hash.is_empty());
    dataset.rows = report.rows;
    dataset.provenance = provenance.cloned();
    if !report.is_accepted() {
        let reasons = report.error_lines().take(MAX_REASONS).collect();
        return reject(draft, dataset, reasons);
    }
    if let Some(of) = accepted_twin(draft.state(), &dataset) {
        dataset.state = DatasetState::Duplicate { of };
        let message = format!("{} has the same bytes as {of}; it is not trained again", dataset.inbox_path);
        draft.put(Change::PutDataset(dataset));
        draft.effect(Effect::DropDuplicate { dataset: id });
        return draft.warning("file_duplicate", id, message);
    }
    dataset.state = DatasetState::Accepted;
    dataset.keep_back = replay::keep_back(&dataset, draft.settings);
    if draft.settings.deep_in_background && report.level != Level::Deep {
        dataset.deep_check = DeepCheck::Due;
    }
    if let Some(mut job) = replay::job_with_room(draft, &dataset, dataset.priority) {
        let what = format!("{} accepted: {} rows of {}", dataset.inbox_path, report.rows, report.schema_id);
        job.datasets.push(id);
        let message = format!("{what}, trained with {} in {}", files(job.datasets.len() - 1), job.id);
        draft.put(Change::PutDataset(dataset));
        draft.put_job(job);
        return draft.info("file_accepted", id, message);
    }
    let number = JobId(draft.next(|counters| &mut counters.job));
    let job = Job::new(number, vec![id], dataset.priority, draft.now);
    let message =
        format!("{} accepted: {} rows of {}, {} queued", dataset.inbox_path, report.rows, report.schema_id, job.id);
    draft.put(Change::PutDataset(dataset));
    draft.put_job(job);
    draft.info("file_accepted", id, message);
}

/// A check that somebody else ended is begun again, up to `max_tries` in all.
pub(super) fn check_failed(draft: &mut Draft, id: DatasetId, reason: &str, (transient, tries): (bool, u32)) {
    if deep::is_under_way(draft, id) {
        return deep::failed(draft, id, reason);
    }
    let Some(mut dataset) = in_state(draft, id, &DatasetState::Checking) else { return };
    if dataset.check_tries != tries {
        return;
    }
    dataset.check_started = false;
    if draft.state().disk_low {
        // The host is to blame, not the file: it is checked again when there is room.
        return draft.put(Change::PutDataset(dataset));
    }
    dataset.check_tries += 1;
    if transient && dataset.check_tries < draft.settings.max_tries {
        let message = format!("{}: the check did not end: {reason}; it is begun again", dataset.inbox_path);
        draft.put(Change::PutDataset(dataset));
        return draft.warning("check_try_failed", id, message);
    }
    reject(draft, dataset, vec![format!("the check did not end: {reason}")]);
}

pub(super) fn filed(draft: &mut Draft, id: DatasetId) {
    let Some(dataset) = draft.state().datasets.get(&id).filter(|d| waits_for_filing(d)) else { return };
    let dataset = Dataset { filed: true, ..dataset.clone() };
    draft.put(Change::PutDataset(dataset));
}

/// Starts checks, oldest dataset first, as long as fewer than `max_checks` are under way.
pub(super) fn start_checks(draft: &mut Draft) {
    if draft.state().disk_low {
        return;
    }
    let checking = |d: &&Dataset| d.state == DatasetState::Checking;
    let num_running = draft.state().datasets.moving().filter(checking).filter(|d| d.check_started).count();
    let num_free = draft.settings.max_checks.max(1).saturating_sub(num_running);
    let due = draft.state().datasets.moving().filter(checking).filter(|d| !d.check_started).take(num_free);
    for dataset in due.cloned().collect::<Vec<_>>() {
        draft.effect(Effect::Check { dataset: dataset.id });
        draft.put(Change::PutDataset(Dataset { check_started: true, ..dataset }));
    }
}

/// Notes once that the queue has room again.
pub(super) fn note_room(draft: &mut Draft) {
    if draft.state().queue_full && num_waiting(draft.state()) < draft.settings.max_queued_jobs {
        draft.put(Change::SetQueueFull { full: false });
        draft.info("queue_has_room", "queue", "the queue has room again");
    }
}

/// Starts again what was not answered. Checks are started by [`start_checks`].
pub(super) fn recover(draft: &mut Draft) {
    for dataset in draft.state().datasets.moving().cloned().collect::<Vec<_>>() {
        let id = dataset.id;
        match dataset.state {
            DatasetState::Arriving => draft.effect(Effect::TakeFile { dataset: id, inbox_path: dataset.inbox_path }),
            DatasetState::Rejected { .. } if !dataset.filed => draft.effect(Effect::MoveRejected { dataset: id }),
            DatasetState::Duplicate { .. } if !dataset.filed => draft.effect(Effect::DropDuplicate { dataset: id }),
            DatasetState::Checking | DatasetState::Accepted if dataset.check_started => {
                draft.put(Change::PutDataset(Dataset { check_started: false, ..dataset }));
            }
            _ => {}
        }
    }
}

fn reject(draft: &mut Draft, mut dataset: Dataset, reasons: Vec<String>) {
    let (id, more) = (dataset.id, reasons.len().saturating_sub(1));
    let mut message = format!("{} rejected", dataset.inbox_path);
    if let Some(first) = reasons.first() {
        message.push_str(&format!(": {first}"));
    }
    if more > 0 {
        message.push_str(&format!(" (and {more} more)"));
    }
    dataset.state = DatasetState::Rejected { reasons };
    draft.put(Change::PutDataset(dataset));
    draft.effect(Effect::MoveRejected { dataset: id });
    draft.warning("file_rejected", id, message);
}

/// Files on the way and jobs that are not done: what `max_queued_jobs` bounds.
fn num_waiting(state: &State) -> usize {
    let on_the_way = |d: &&Dataset| matches!(d.state, DatasetState::Arriving | DatasetState::Checking);
    state.datasets.moving().filter(on_the_way).count() + state.jobs.num_active()
}

fn files(count: usize) -> String {
    if count == 1 { "another file".to_string() } else { format!("{count} other files") }
}

fn accepted_twin(state: &State, dataset: &Dataset) -> Option<DatasetId> {
    let hash = dataset.blake3.as_ref()?;
    // One whose rows went with their time is not there any more: whoever brings it again wants it again. One that was
    // forgotten by order stays so.
    let is_here = |d: &Dataset| d.state == DatasetState::Accepted && d.gone != Some(Gone::Aged);
    let twin = |d: &&Dataset| is_here(d) && d.blake3.as_ref() == Some(hash);
    state.datasets.values().find(twin).map(|d| d.id)
}

fn waits_for_filing(dataset: &Dataset) -> bool {
    !dataset.filed && matches!(dataset.state, DatasetState::Rejected { .. } | DatasetState::Duplicate { .. })
}

fn in_state(draft: &Draft, id: DatasetId, state: &DatasetState) -> Option<Dataset> {
    draft.state().datasets.get(&id).filter(|dataset| dataset.state == *state).cloned()
}
