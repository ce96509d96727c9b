//! Reading again what has changed gives what reading anew gives.

use super::changes;
use crate::fixtures::dataset;
use crate::{Seen, Store};
use hone_pipeline::ids::DatasetId;
use hone_pipeline::state::{Change, DatasetState, State};

#[test]
fn a_reload_gives_what_a_load_gives_after_every_change() {
    let root = tempfile::tempdir().unwrap();
    let mut store = Store::create(root.path()).unwrap();
    let reader = Store::open_read_only(root.path()).unwrap();
    let (mut state, mut seen) = (State::default(), Seen::default());
    let twice = changes().into_iter().chain(changes());
    let vanished = Change::PutDataset(dataset(1, "a.jsonl", DatasetState::Vanished));
    for change in twice.chain([vanished]) {
        store.commit(&[change]).unwrap();
        reader.reload(&mut state, &mut seen).unwrap();
        assert_eq!(state, reader.load().unwrap());
    }
    assert_eq!(state.datasets[&DatasetId(1)].state, DatasetState::Vanished);
}

#[test]
fn a_database_in_anothers_place_leaves_nothing_of_the_other() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut store = Store::create(old.path()).unwrap();
    store.commit(&[Change::PutDataset(dataset(1, "a.jsonl", DatasetState::Accepted))]).unwrap();
    store.commit(&[Change::PutDataset(dataset(2, "a.jsonl", DatasetState::Accepted))]).unwrap();
    let (mut state, mut seen) = (State::default(), Seen::default());
    store.reload(&mut state, &mut seen).unwrap();
    let mut other = Store::create(new.path()).unwrap();
    other.commit(&[Change::PutDataset(dataset(3, "a.jsonl", DatasetState::Accepted))]).unwrap();
    other.reload(&mut state, &mut seen).unwrap();
    assert_eq!(state, other.load().unwrap());
}
