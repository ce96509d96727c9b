//! What must hold after every event, and at the end.

use super::Simulation;
use super::host::Contents;
use crate::event::Effect;
use crate::ids::*;
use crate::state::*;
use std::collections::{BTreeMap, BTreeSet};

impl Simulation {
    pub(super) fn check_always(&self) {
        self.check_curriculum();
        let state = &self.state;
        self.must(state.jobs.values().filter(|j| j.state == JobState::Running).count() <= 1, "two jobs run");
        let is_deep = |id: &DatasetId| state.datasets[id].state == DatasetState::Accepted;
        let num_checks = |deep: bool| {
            let is_check = |e: &&Effect| matches!(e, Effect::Check { dataset } if is_deep(dataset) == deep);
            self.pending.iter().filter(is_check).count()
        };
        self.must(num_checks(false) <= self.settings.max_checks, "too many checks");
        self.must(num_checks(true) <= 1, "two checks in the background");
        let num_deploys = self.pending.iter().filter(|e| matches!(e, Effect::Deploy { .. })).count();
        self.must(num_deploys <= 1, "two orders for one target");
        let num_live = state.deployments.values().filter(|d| d.state == DeploymentState::Live).count();
        self.must(num_live <= 1, "two deployments are live");
        for (serial, num_places) in self.host.places() {
            self.must(num_places == 1, &format!("file {serial} is in {num_places} places"));
        }
        for id in self.host.dropped.keys() {
            self.must(
                matches!(state.datasets[id].state, DatasetState::Duplicate { .. }),
                "a file was dropped for nothing",
            );
        }
        if let Some(served) = self.host.served {
            self.must(self.host.ever_published.contains(&served), "what is served was never published");
        }
        for id in &self.host.removed {
            let record = &state.checkpoints[id];
            self.must(!state.is_left_at(*id), "another lineage goes on from it, and its files went");
            self.must(record.state == CheckpointState::Pruned, "files went before the state said so");
            let live = state.deployments.values().any(|d| d.checkpoint == *id && d.state == DeploymentState::Live);
            let pinned = record.marks.pinned.is_some();
            self.must(!live && !pinned && state.champion != Some(*id), &format!("{id} is needed and its files went"));
        }
        self.check_head();
        self.check_replay();
        if let Some(latest) = state.latest_checkpoint() {
            self.must(self.host.published.contains_key(&latest.id), "a checkpoint in the ledger is not there");
            self.check_chain(latest.id);
        }
    }

    /// What is not abandoned is the latest checkpoint and its ancestors, nothing else.
    fn check_head(&self) {
        let all = &self.state.checkpoints;
        let mut chain = BTreeSet::new();
        let mut at = self.state.latest_checkpoint().map(|c| c.id);
        while let Some(id) = at {
            chain.insert(id);
            at = all[&id].parent;
        }
        let visible = |c: &&Checkpoint| matches!(c.state, CheckpointState::Published | CheckpointState::Pruned);
        let goes_on: BTreeSet<_> =
            all.values().filter(visible).filter(|c| c.marks.abandoned.is_none()).map(|c| c.id).collect();
        self.must(chain == goes_on, &format!("the chain is {chain:?}, not abandoned are {goes_on:?}"));
        let Some(champion) = self.state.champion else { return };
        self.must(all[&champion].state == CheckpointState::Published, "the champion has no files");
    }

    /// The chain of the latest checkpoint holds what the jobs say, each row once. Looked at when either changes.
    fn check_chain(&self, latest: CheckpointId) {
        let positions: Vec<u64> = self.state.jobs.values().map(|job| job.position.rows_trained).collect();
        if self.checked.replace(Some((latest, positions.clone()))) == Some((latest, positions)) {
            return;
        }
        let contents = &self.host.published[&latest];
        let distinct: BTreeSet<_> = contents.rows.iter().map(|(_, dataset, row)| (dataset, row)).collect();
        self.must(distinct.len() == contents.rows.len(), "rows were trained twice");
        for job in self.state.jobs.values() {
            self.check_rows(job, contents, job.position.rows_trained);
        }
    }

    /// Of each data set of a job the chain holds those that are among the job's first `num_rows` rows.
    fn check_rows(&self, job: &Job, contents: &Contents, num_rows: u64) {
        let mut left = num_rows;
        for dataset in &job.datasets {
            let trained = contents.of(job.id, *dataset);
            let expected = left.min(self.state.datasets[dataset].rows);
            left -= expected;
            if trained != expected {
                self.fail(&format!("{} has {trained} rows of {dataset}, not {expected}: {:?}", job.id, job.state));
            }
        }
    }

    /// What a job trains again was trained before, is none of its own, and is there.
    fn check_replay(&self) {
        let open = self.state.jobs.values().filter(|job| job.state == JobState::Running);
        for (job, replay) in open.filter_map(|job| Some((job, job.replay.as_ref()?))) {
            for id in &replay.datasets {
                let dataset = &self.state.datasets[id];
                let holds = dataset.state == DatasetState::Accepted && !job.datasets.contains(id);
                self.must(holds, &format!("{} trains {id} again", job.id));
            }
        }
    }

    pub(super) fn check_end(&self) {
        let state = &self.state;
        let latest = &self.host.published[&state.latest_checkpoint().unwrap().id];
        self.must(
            !state.checkpoints.values().any(|c| matches!(c.state, CheckpointState::Staged { .. })),
            "still staged",
        );
        for dataset in state.datasets.values() {
            let settled = match &dataset.state {
                DatasetState::Arriving | DatasetState::Checking => false,
                DatasetState::Rejected { .. } => dataset.filed && self.host.rejected.contains_key(&dataset.id),
                DatasetState::Duplicate { .. } => dataset.filed && self.host.dropped.contains_key(&dataset.id),
                DatasetState::Accepted => {
                    let is_wanted = dataset.gone.is_none() && dataset.set_aside.is_none();
                    self.host.folders.contains_key(&dataset.id)
                        && !dataset.check_started
                        && (dataset.deep_check == DeepCheck::Done || !is_wanted)
                }
                DatasetState::Vanished => true,
            };
            self.must(settled, &format!("{} is left as {:?}", dataset.id, dataset.state));
        }
        self.check_files();
        self.must(state.open_exams.is_empty(), "answers were never judged");
        for job in state.jobs.values() {
            let expected = match job.state {
                JobState::Completed => job.datasets.iter().map(|id| state.datasets[id].rows).sum(),
                JobState::Skipped { at_row } => at_row,
                _ => job.position.rows_trained,
            };
            self.check_rows(job, latest, expected);
        }
        let champion = state.champion.expect("the base model at least is champion");
        self.must(state.evaluations.contains_key(&champion), "the champion was never evaluated");
        let newest = state.deployments.values().next_back().unwrap();
        let live = state.live_on("local").map(|d| d.checkpoint);
        let given_up = matches!(newest.state, DeploymentState::Failed { .. });
        self.must(live == Some(champion) || given_up, "the champion is not served");
        self.must(live == self.host.served || given_up, "the target serves something else");
    }

    /// Every good content became exactly one accepted data set; no bad one did.
    fn check_files(&self) {
        let mut accepted: BTreeMap<u64, u64> = BTreeMap::new();
        for (id, file) in &self.host.folders {
            self.must(self.state.datasets[id].state == DatasetState::Accepted, "a folder is left over");
            self.must(!file.bad, "a bad file was accepted");
            *accepted.entry(file.content).or_default() += 1;
        }
        for content in self.host.good_contents() {
            // A check that died may have rejected the only copy; then it is in rejected/.
            let died = self.host.rejected.values().any(|file| file.content == content);
            let count = accepted.get(&content).copied().unwrap_or(0);
            self.must(count == 1 || (died && count == 0), &format!("content {content} is accepted {count} times"));
        }
    }
}
