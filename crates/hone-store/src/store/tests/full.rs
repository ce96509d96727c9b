//! Commits on a disk that fills up, by a process of its own: the system refuses it every write beyond a limit, so that
//! another write of SQLite fails (or, without a handler, ends the process) with every limit.

use super::*;
use std::io::Write;
use std::process::{Command, Stdio};

/// Set for the process that commits: its workspace.
const ROOT: &str = "HONE_TEST_COMMIT_ROOT";
const COMMITS: u64 = 40;

/// The commits of the other process: a job and a line of the log each, told once they are durable.
#[test]
fn commits_until_it_is_refused() {
    let Ok(root) = std::env::var(ROOT) else { return };
    let mut store = Store::open(Path::new(&root)).unwrap();
    for number in 1..=COMMITS {
        let large = Job { skip_reason: Some("x".repeat(3_000)), ..job(number) };
        match store.commit(&[Change::PutJob(large), log(&number.to_string())]) {
            Ok(()) => say(&format!("durable {number}\n")),
            Err(_) => return,
        }
    }
    say("all\n");
}

fn say(text: &str) {
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}

/// What a process with room for files of so many blocks of 512 bytes said.
fn commit_with_room(root: &Path, blocks: u64, on_signal: &str) -> String {
    let program = std::env::current_exe().unwrap();
    let name = "store::tests::full::commits_until_it_is_refused";
    let script = format!("{on_signal} ulimit -f {blocks}; exec \"$0\" --exact {name} --nocapture");
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &script]).arg(program).env(ROOT, root).stdin(Stdio::null());
    String::from_utf8(command.output().unwrap().stderr).unwrap()
}

#[test]
fn a_commit_is_durable_or_not_there_whichever_write_a_full_disk_refuses() {
    // budget: 60 s
    let step = if std::env::var("HONE_SLOW").is_ok_and(|slow| slow == "1") { 8 } else { 200 };
    let mut refused = 0;
    // The database alone has 64 blocks before the first commit; the log of all commits fits into 1,600.
    for blocks in (64..1_600).step_by(step) {
        // An error, or an end of the process.
        for on_signal in ["trap '' XFSZ;", ""] {
            let dir = tempfile::tempdir().unwrap();
            drop(Store::create(dir.path()).unwrap());
            let said = commit_with_room(dir.path(), blocks, on_signal);
            let durable = said.lines().filter(|line| line.starts_with("durable ")).count();
            refused += usize::from(!said.contains("all\n"));
            let mut store = Store::open(dir.path()).unwrap_or_else(|error| panic!("{blocks} blocks: {error}: {said}"));
            let jobs: Vec<u64> = store.load().unwrap().jobs.keys().map(|id| id.0).collect();
            assert!(jobs.len() == durable || jobs.len() == durable + 1, "{durable} told, {} there", jobs.len());
            assert_eq!(jobs, (1..=jobs.len() as u64).collect::<Vec<_>>());
            assert_eq!(store.events(None, 1_000).unwrap().len(), jobs.len(), "half of a transaction");
            store.commit(&[Change::PutJob(job(99))]).expect("it goes on once there is room");
        }
    }
    assert!(refused > 10, "{refused}");
}
