//! A backup holds the state of one instant, also while it is written to; a restore gives it back or changes nothing.

use super::{backup, restore};
use crate::fixtures::dataset;
use crate::{Layout, Store};
use hone_pipeline::ids::DatasetId;
use hone_pipeline::state::{Change, Counters, DatasetState, State};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

/// Each commit puts one data set and counts it: a state is consistent when both say the same.
fn commit(store: &mut Store, number: u64) {
    let counters = Counters { dataset: number, ..Counters::default() };
    let dataset = dataset(number, "a.jsonl", DatasetState::Accepted);
    store.commit(&[Change::PutDataset(dataset), Change::SetCounters(counters)]).unwrap();
}

fn is_consistent(state: &State) -> bool {
    state.datasets.len() as u64 == state.counters.dataset
}

#[test]
fn a_backup_while_the_daemon_writes_is_of_one_instant_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("a");
    let mut store = Store::create(&root).unwrap();
    commit(&mut store, 1);
    fs::write(root.join("config.json"), "{\"epochs\": 7}").unwrap();
    let stop = AtomicBool::new(false);
    let file = dir.path().join("backup.hone");
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut number = 1;
            while !stop.load(Ordering::SeqCst) {
                number += 1;
                commit(&mut store, number);
            }
            number
        });
        // As a command does it: another connection, read-only.
        let reader = Store::open_read_only(&root).unwrap();
        for number in 0..10 {
            backup(&reader, &dir.path().join(format!("{number}.hone")), 5).unwrap();
        }
        backup(&reader, &file, 77).unwrap();
        stop.store(true, Ordering::SeqCst);
        assert!(writer.join().unwrap() > 1);
    });
    assert!(backup(&store, &file, 1).is_err(), "nothing is overwritten");
    for source in (0..10).map(|number| dir.path().join(format!("{number}.hone"))).chain([file.clone()]) {
        let fresh = tempfile::tempdir().unwrap();
        restore(fresh.path(), &source).unwrap();
        let state = Store::open(fresh.path()).unwrap().load().unwrap();
        assert!(is_consistent(&state) && !state.datasets.is_empty());
    }
    // Over a workspace that went on: its state is kept aside.
    let newer = store.load().unwrap().datasets.len();
    drop(store);
    fs::write(root.join("config.json"), "{\"epochs\": 8}").unwrap();
    assert_eq!(restore(&root, &file).unwrap(), 77);
    let state = Store::open(&root).unwrap().load().unwrap();
    assert!(is_consistent(&state));
    assert_eq!(fs::read_to_string(root.join("config.json")).unwrap(), "{\"epochs\": 7}");
    assert_eq!(fs::read_to_string(root.join("config.json.before-restore")).unwrap(), "{\"epochs\": 8}");
    let before = rusqlite::Connection::open(root.join("hone.db.before-restore")).unwrap();
    let count: i64 = before.query_row("SELECT count(*) FROM datasets", [], |row| row.get(0)).unwrap();
    assert_eq!(count, i64::try_from(newer).unwrap());
}

#[test]
fn what_is_no_backup_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::create(dir.path()).unwrap();
    commit(&mut store, 1);
    drop(store);
    let before = fs::read(Layout::new(dir.path()).db()).unwrap();
    let damaged = dir.path().join("damaged");
    fs::write(&damaged, "not a database, but long enough to look like something").unwrap();
    let newer = dir.path().join("newer");
    backup(&Store::open(dir.path()).unwrap(), &newer, 1).unwrap();
    let db = rusqlite::Connection::open(&newer).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    drop(db);
    for (file, why) in
        [(damaged, "not a database"), (newer, "format 99"), (dir.path().join("hone.db"), "no such table")]
    {
        let error = format!("{:#}", restore(dir.path(), &file).unwrap_err());
        assert!(error.contains(why), "{error}");
    }
    assert_eq!(fs::read(Layout::new(dir.path()).db()).unwrap(), before);
    assert!(Store::open(dir.path()).unwrap().load().unwrap().datasets.contains_key(&DatasetId(1)));
}

#[test]
fn a_restore_that_dies_at_any_operation_leaves_the_old_state_or_the_new_one() {
    use hone_disk::faults::{Fault, fail_at, operations, stop};
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::create(&dir.path().join("source")).unwrap();
    (1..=3).for_each(|number| commit(&mut store, number));
    let file = dir.path().join("file");
    backup(&store, &file, 1).unwrap();
    let old = || {
        let root = tempfile::tempdir().unwrap();
        let mut store = Store::create(root.path()).unwrap();
        commit(&mut store, 1);
        root
    };
    let root = old();
    stop();
    restore(root.path(), &file).unwrap();
    let num_operations = operations().len();
    for (index, fault) in (0..num_operations).flat_map(|index| Fault::ALL.map(|fault| (index, fault))) {
        let root = old();
        fail_at(fault, index);
        let _ = restore(root.path(), &file);
        stop();
        let state = Store::open(root.path()).unwrap().load().unwrap();
        assert!(is_consistent(&state) && [1, 3].contains(&state.datasets.len()), "{fault:?} at operation {index}");
        restore(root.path(), &file).unwrap();
        assert_eq!(Store::open(root.path()).unwrap().load().unwrap().datasets.len(), 3);
    }
}
