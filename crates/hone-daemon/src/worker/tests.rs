//! Shell scripts that keep the contract, or break it.

use super::*;
use hone_disk::FileLock;
use std::os::unix::fs::PermissionsExt;

struct Bench {
    dir: tempfile::TempDir,
    spec: ChildSpec,
}

fn bench(script: &str) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("program");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let request = write_request(dir.path(), &serde_json::json!({})).unwrap();
    let spec = ChildSpec {
        program,
        instead: Vec::new(),
        kind: "train-job",
        run_dir: dir.path().to_path_buf(),
        request,
        token: LeaseToken(7),
        max_memory_bytes: 0,
        time_limit: None,
    };
    Bench { dir, spec }
}

impl Bench {
    fn run(&self, handle: &ChildHandle) -> (WorkerExit, Vec<WorkerMessage>) {
        let mut messages = Vec::new();
        let end = run_child(&self.spec, handle, &mut |message| messages.push(message)).unwrap();
        (end.into_exit(), messages)
    }
}

fn crash(exit: WorkerExit) -> String {
    match exit {
        WorkerExit::Crashed { reason } => reason,
        other => panic!("not a crash: {other:?}"),
    }
}

const ALIVE: &str = r#"echo '{"token":7,"type":"alive","phase":"loading"}'"#;

#[test]
fn messages_come_in_order_before_the_exit_and_are_kept() {
    let bench =
        bench(&format!("{ALIVE}\necho '{{\"token\":7,\"type\":\"warning\",\"code\":\"c\",\"message\":\"m\"}}'"));
    let (exit, messages) = bench.run(&ChildHandle::default());
    assert_eq!(exit, WorkerExit::Done);
    assert_eq!(
        messages,
        [
            WorkerMessage::Alive { phase: "loading".to_string() },
            WorkerMessage::Warning { code: "c".to_string(), message: "m".to_string() },
        ]
    );
    let kept = std::fs::read_to_string(bench.dir.path().join("events.jsonl")).unwrap();
    assert_eq!(kept.lines().count(), 2);
}

#[test]
fn a_crash_is_explained_by_the_last_lines_of_stderr() {
    let bench = bench("echo first >&2\necho second >&2\nexit 101");
    let reason = crash(bench.run(&ChildHandle::default()).0);
    assert_eq!(reason, "exit code 101; it said last: first | second");
    assert!(std::fs::read_to_string(bench.dir.path().join("stderr.log")).unwrap().contains("first"));
}

#[test]
fn a_panic_is_not_hidden_by_its_backtrace() {
    let frames = "echo 'frame' >&2\n".repeat(20);
    let bench = bench(&format!("echo \"thread 'main' panicked at x.rs:1\" >&2\necho boom >&2\n{frames}exit 101"));
    let reason = crash(bench.run(&ChildHandle::default()).0);
    assert_eq!(reason, "exit code 101; it said last: thread 'main' panicked at x.rs:1 | boom");
}

#[test]
fn a_child_that_says_why_it_cannot_go_on_has_failed() {
    let bench = bench(r#"echo '{"token":7,"type":"failed","reason":"no row fits"}'; exit 1"#);
    assert_eq!(bench.run(&ChildHandle::default()).0, WorkerExit::Failed { reason: "no row fits".to_string() });
}

#[test]
fn garbage_and_a_foreign_token_end_the_child() {
    // `sleep` would outlast the test: the child is ended because of its line.
    for (line, expected) in [
        ("hello", "not of the contract"),
        (r#"{"token":6,"type":"alive","phase":"x"}"#, "it spoke for lease-6, its own is lease-7"),
    ] {
        let bench = bench(&format!("{ALIVE}\necho '{line}'\nsleep 600"));
        let (exit, messages) = bench.run(&ChildHandle::default());
        let reason = crash(exit);
        assert!(reason.contains(expected), "{reason}");
        assert_eq!(messages.len(), 1, "what came before counts");
    }
}

#[test]
fn killing_ends_the_whole_group_also_before_the_start() {
    let bench = bench(&format!("sleep 600 &\necho $! > \"$(dirname \"$4\")/grandchild\"\n{ALIVE}\nwait"));
    let handle = ChildHandle::default();
    let mut messages = 0;
    let end = run_child(&bench.spec, &handle, &mut |_| {
        messages += 1;
        handle.kill("silent for too long");
    });
    assert_eq!(crash(end.unwrap().into_exit()), "silent for too long");
    assert_eq!(messages, 1);
    let pid: i32 = std::fs::read_to_string(bench.dir.path().join("grandchild")).unwrap().trim().parse().unwrap();
    let start = Instant::now();
    // Its new parent reaps it at some time; until then it may be listed as a zombie.
    while is_running(pid) {
        assert!(start.elapsed() < Duration::from_secs(20), "the grandchild lives on");
        std::thread::sleep(Duration::from_millis(2));
    }

    let handle = ChildHandle::default();
    handle.kill("too late");
    assert_eq!(crash(bench.run(&handle).0), "too late");
}

fn is_running(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !matches!(stat.rsplit(") ").next().and_then(|rest| rest.chars().next()), None | Some('Z' | 'X'))
}

#[test]
fn an_order_to_yield_reaches_the_child() {
    let bench = bench(&format!("{ALIVE}\nread order\ntest \"$order\" = '{{\"order\":\"yield\"}}'"));
    let handle = ChildHandle::default();
    let end = run_child(&bench.spec, &handle, &mut |_| handle.ask_to_yield()).unwrap();
    assert_eq!(end.into_exit(), WorkerExit::Done);
}

#[test]
fn a_time_limit_ends_the_child() {
    let mut bench = bench("sleep 600");
    bench.spec.time_limit = Some(Duration::from_millis(50));
    assert!(crash(bench.run(&ChildHandle::default()).0).contains("it took more than"));
}

#[test]
fn a_child_of_an_earlier_daemon_is_waited_for_and_then_killed() {
    let runs = tempfile::tempdir().unwrap();
    let run = runs.path().join("job-1/lease-1");
    std::fs::create_dir_all(&run).unwrap();
    std::fs::create_dir_all(runs.path().join("job-1/lease-2")).unwrap();
    std::fs::write(runs.path().join("job-1/lease-2/lock"), "pid 1 on host elsewhere\n").unwrap();
    // `flock` (util-linux) stands for the child: it leads its group and holds the lock.
    let lock = run.join("lock");
    let mut child = Command::new("flock")
        .args(["--exclusive", "--no-fork"])
        .arg(&lock)
        .args(["sleep", "600"])
        .process_group(0)
        .spawn()
        .unwrap();
    let start = Instant::now();
    while std::fs::File::open(&lock).is_err() || FileLock::try_exclusive(&lock).unwrap().is_some() {
        assert!(start.elapsed() < Duration::from_secs(20), "flock does not take the lock");
        std::thread::sleep(Duration::from_millis(2));
    }
    std::fs::write(&lock, format!("pid {} on host here\n", child.id())).unwrap();
    let reaper = std::thread::spawn(move || child.wait().unwrap());
    wait_for_earlier_children(runs.path(), Duration::from_millis(50), &mut || ()).unwrap();
    assert_eq!(reaper.join().unwrap().signal(), Some(9));
    assert!(!lock.exists() && !runs.path().join("job-1/lease-2/lock").exists());
}
