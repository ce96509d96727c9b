//! The protocol of a child, held by running this test binary again as one.

use super::*;
use crate::testing::{PAIRS, Workspace, settings};
use hone_model::Dtype;
use hone_pipeline::wire::WorkerLine;
use std::io::{BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

/// The environment variable that turns this test binary into a child.
const AS_CHILD: &str = "HONE_TRAIN_TEST_CHILD";

/// Not a test of its own: the child's main, when a test below runs this binary again.
#[test]
fn child_main() {
    if let Ok(spec) = std::env::var(AS_CHILD) {
        let (kind, request) = spec.split_once('=').unwrap();
        std::process::exit(i32::from(exit_code(kind, Path::new(request))));
    }
}

fn spawn(kind: &str, request: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child::tests::child_main", "--nocapture"])
        .env(AS_CHILD, format!("{kind}={}", request.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The child's lines; the test harness prints others around them.
fn worker_lines(child: &mut Child) -> impl Iterator<Item = WorkerLine> + use<> {
    let stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.lines().filter_map(|line| serde_json::from_str(&line.unwrap()).ok())
}

fn train_request(workspace: &Workspace, change: impl FnOnce(&mut TrainRequest)) -> std::path::PathBuf {
    let mut request = workspace.request(&[workspace.chat_file("dataset-1", &PAIRS)], settings());
    request.token = LeaseToken(12);
    change(&mut request);
    let path = workspace.root().join("request.json");
    std::fs::write(&path, serde_json::to_vec(&request).unwrap()).unwrap();
    path
}

#[test]
fn a_train_child_reports_lines_and_ends_with_its_checkpoint() {
    let workspace = Workspace::new(Dtype::F32);
    let mut child = spawn("train-job", &train_request(&workspace, |_| {}));
    let lines: Vec<WorkerLine> = worker_lines(&mut child).collect();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(lines.iter().all(|line| line.token == LeaseToken(12)));
    assert!(matches!(lines[0].message, WorkerMessage::Alive { .. }));
    assert!(lines.iter().any(|line| matches!(line.message, WorkerMessage::Step(_))));
    assert!(matches!(&lines.last().unwrap().message, WorkerMessage::Staged(staged) if staged.ends_job));
}

#[test]
fn a_yield_order_ends_a_long_slice_with_a_checkpoint() {
    let workspace = Workspace::new(Dtype::F32);
    let mut child = spawn("train-job", &train_request(&workspace, |request| request.settings.epochs = 5_000));
    let mut stdin = child.stdin.take().unwrap();
    let mut last = None;
    for line in worker_lines(&mut child) {
        if last.is_none() {
            writeln!(stdin, "{}", serde_json::to_string(&WorkerOrder::Yield).unwrap()).unwrap();
        }
        last = Some(line.message);
    }
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(matches!(last, Some(WorkerMessage::Staged(staged)) if staged.yielded && !staged.ends_job));
}

#[test]
fn a_child_without_a_parent_ends_at_once_and_publishes_nothing() {
    let workspace = Workspace::new(Dtype::F32);
    let mut child = spawn("train-job", &train_request(&workspace, |request| request.settings.epochs = 5_000));
    let mut lines = worker_lines(&mut child);
    lines.find(|line| matches!(line.message, WorkerMessage::Step(_))).expect("it trains");
    drop(child.stdin.take());
    assert!(!lines.any(|line| matches!(line.message, WorkerMessage::Staged(_))));
    assert_eq!(child.wait().unwrap().code(), Some(i32::from(EXIT_ORPHAN)));
    assert!(!workspace.root().join("staging").exists());
}

#[test]
fn a_failure_that_would_come_again_is_the_last_line_and_exit_code_1() {
    let workspace = Workspace::new(Dtype::F32);
    let request = train_request(&workspace, |request| request.settings.min_trained_share = 0.99);
    let mut child = spawn("train-job", &request);
    let last = worker_lines(&mut child).last().unwrap().message;
    assert!(matches!(&last, WorkerMessage::Failed { reason } if reason.contains("self-check")), "{last:?}");
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn a_failure_that_may_pass_is_not_called_failed() {
    let workspace = Workspace::new(Dtype::F32);
    let request = train_request(&workspace, |request| request.files[0].path.push("absent"));
    let mut child = spawn("train-job", &request);
    assert!(!worker_lines(&mut child).any(|line| matches!(line.message, WorkerMessage::Failed { .. })));
    assert_eq!(child.wait().unwrap().code(), Some(i32::from(EXIT_TRANSIENT)));
}

#[test]
fn a_running_child_holds_the_lock_of_its_run_folder() {
    let workspace = Workspace::new(Dtype::F32);
    let request = train_request(&workspace, |request| request.settings.epochs = 5_000);
    let mut child = spawn("train-job", &request);
    // Listened to until the end: a child that nobody hears ends, and the second one would train.
    let mut lines = worker_lines(&mut child);
    lines.next().expect("it says that it lives");
    assert!(FileLock::try_exclusive(&workspace.root().join("run/lock")).unwrap().is_none());
    let mut second = spawn("train-job", &request);
    // `wait` closes a child's standard input, which the child may take for the death of its parent before it has tried the lock.
    let parent_lives = second.stdin.take();
    assert_eq!(second.wait().unwrap().code(), Some(i32::from(EXIT_TRANSIENT)));
    drop((parent_lives, lines));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(FileLock::try_exclusive(&workspace.root().join("run/lock")).unwrap().is_some());
}

#[test]
fn orders_are_followed_and_other_lines_ignored() {
    let flag = YieldFlag::default();
    obey(&mut &b"nonsense\n{\"order\":\"dance\"}\n\n"[..], &flag);
    assert!(!flag.is_set());
    obey(&mut &b"nonsense\n{\"order\":\"yield\"}\n"[..], &flag);
    assert!(flag.is_set());
}

#[test]
fn an_unknown_kind_is_wrong_usage() {
    let mut child = spawn("dance-job", Path::new("/absent"));
    child.stdout.take().unwrap().read_to_string(&mut String::new()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(2));
}
