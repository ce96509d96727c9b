//! Roles played by shell scripts.

use super::*;
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;

struct Bench {
    dir: tempfile::TempDir,
    options: SupervisorOptions,
    stop: Arc<AtomicBool>,
}

/// A program that runs `script` with the role's arguments as `$1` …
fn bench(script: &str) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("program");
    std::fs::write(&program, format!("#!/bin/sh\ncd {}\n{script}\n", dir.path().display())).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let options = SupervisorOptions {
        first_backoff: Duration::from_millis(1),
        max_backoff: Duration::from_millis(4),
        grace: Duration::from_secs(20),
        ..SupervisorOptions::new(program, dir.path().join("logs"))
    };
    Bench { dir, options, stop: Arc::new(AtomicBool::new(false)) }
}

fn role(name: &str) -> Role {
    Role { name: name.to_string(), args: vec![name.to_string()] }
}

impl Bench {
    /// Runs to the end; `stop_when` sees all events so far and says when to stop.
    fn run(
        &self,
        roles: &[Role],
        stop_when: impl Fn(&[SupervisorEvent]) -> bool + Sync,
    ) -> (Result<()>, Vec<SupervisorEvent>) {
        let events = Mutex::new(Vec::new());
        let result = run(&self.options, roles, &self.stop, &|event| {
            let mut events = events.lock().unwrap();
            events.push(event);
            if stop_when(&events) {
                self.stop.store(true, Ordering::SeqCst);
            }
        });
        (result, events.into_inner().unwrap())
    }
}

fn num_starts(events: &[SupervisorEvent], name: &str) -> usize {
    events.iter().filter(|e| matches!(e, SupervisorEvent::Started { role, .. } if role == name)).count()
}

fn exits(events: &[SupervisorEvent]) -> Vec<(&str, &str)> {
    let mut exits = Vec::new();
    for event in events {
        if let SupervisorEvent::Exited { role, how, .. } = event {
            exits.push((role.as_str(), how.as_str()));
        }
    }
    exits
}

#[test]
fn only_what_failed_starts_again() {
    let bench = bench(
        "case $1 in
           steady) exec sleep 600;;
           shaky) echo \"restarted=$HONE_RESTARTED supervised=$HONE_SUPERVISED\"; exit 1;;
         esac",
    );
    let roles = [role("steady"), role("shaky")];
    let (result, events) = bench.run(&roles, |events| num_starts(events, "shaky") == 4);
    result.unwrap();
    assert_eq!(num_starts(&events, "steady"), 1);
    let waits: Vec<_> = events
        .iter()
        .filter_map(|e| match e {
            SupervisorEvent::Exited { role, restart_in: Some(wait), .. } if role == "shaky" => Some(wait.as_millis()),
            _ => None,
        })
        .take(3)
        .collect();
    assert_eq!(waits, [1, 2, 4], "the wait doubles");
    let log = std::fs::read_to_string(bench.dir.path().join("logs/shaky.log")).unwrap();
    assert!(log.starts_with("restarted= supervised=1\nrestarted=1 supervised=1\n"), "{log}");
}

#[test]
fn what_is_done_or_wrongly_configured_is_left_alone() {
    let bench = bench("case $1 in done) exit 0;; wrong) exit 2;; esac");
    let (result, events) = bench.run(&[role("done"), role("wrong")], |_| false);
    result.unwrap();
    assert_eq!((num_starts(&events, "done"), num_starts(&events, "wrong")), (1, 1));
    let bench = self::bench("exit 2");
    let (result, _) = bench.run(&[role("wrong")], |_| false);
    assert!(result.unwrap_err().to_string().contains("every role ended badly"));
}

#[test]
fn stopping_ends_the_roles_one_after_the_other_in_their_order() {
    let bench = bench(
        "trap 'echo \"$1\" >> order; exit 0' TERM
         echo ready
         while :; do sleep 0.01; done",
    );
    let roles = [role("daemon"), role("serve"), role("monitor")];
    let ready = |events: &[SupervisorEvent]| {
        let lines = events.iter().filter(|e| matches!(e, SupervisorEvent::Line { line, .. } if line == "ready"));
        lines.count() == 3
    };
    let (result, events) = bench.run(&roles, ready);
    result.unwrap();
    assert_eq!(std::fs::read_to_string(bench.dir.path().join("order")).unwrap(), "daemon\nserve\nmonitor\n");
    assert_eq!(exits(&events), [("daemon", "exit code 0"), ("serve", "exit code 0"), ("monitor", "exit code 0")]);
}

#[test]
fn a_role_that_does_not_end_is_killed_after_the_grace_time() {
    let mut bench = bench("trap '' TERM; echo ready; while :; do sleep 0.01; done");
    bench.options.grace = Duration::from_millis(50);
    let ready = |events: &[SupervisorEvent]| events.iter().any(|e| matches!(e, SupervisorEvent::Line { .. }));
    let (result, events) = bench.run(&[role("deaf")], ready);
    result.unwrap();
    assert_eq!(exits(&events), [("deaf", "signal 9")]);
}

#[test]
fn a_log_that_has_grown_too_large_is_put_aside_in_the_place_of_an_older_one() {
    let dir = tempfile::tempdir().unwrap();
    let (log, aside) = (dir.path().join("daemon.log"), dir.path().join("daemon.log.1"));
    std::fs::write(&log, "12345").unwrap();
    put_aside(&log, 5).unwrap();
    assert!(!aside.exists());
    std::fs::write(&log, "123456").unwrap();
    std::fs::write(&aside, "older").unwrap();
    put_aside(&log, 5).unwrap();
    assert_eq!(std::fs::read_to_string(&aside).unwrap(), "123456");
    put_aside(&log, 5).unwrap();
}
