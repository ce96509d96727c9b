//! A worker that is stopped by a signal, and one whose heirs talk on after it was taken over.

use super::*;
use hone_disk::FileLock;
use rustix::process::{Pid, Signal, kill_process};

/// The training child that holds the device, once it works.
fn worker(ws: &Workspace) -> Pid {
    let state = ws.wait_for("a slice runs", |state| job(state, 1).is_some_and(|job| job.progress.is_some()));
    let lock = Layout::new(ws.path()).run(JobId(1), state.lease.unwrap().token).join("lock");
    let holder = FileLock::holder(&lock).unwrap();
    Pid::from_raw(holder.split_whitespace().nth(1).unwrap().parse().unwrap()).unwrap()
}

/// `None` once nobody holds the number; a zombie has not been reaped.
fn state_of(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

#[test]
fn a_stopped_worker_and_its_group_are_ended_and_reaped_within_two_leases_and_taken_over() {
    const LEASE_MS: u64 = 4_000;
    let mut ws = Workspace::new(|settings| (settings.lease_ms, settings.train.save_steps) = (LEASE_MS, 1000));
    ws.order("step_ms", "5");
    ws.order("family", "");
    ws.start();
    ws.submit("a.jsonl", &rows("a", 300));
    let worker = worker(&ws);
    let grandchild = std::fs::read_to_string(ws.path().join("behave/grandchild")).unwrap().parse().unwrap();
    assert!(state_of(grandchild).is_some(), "it lives in the worker's group");
    let token = ws.state().lease.unwrap().token;
    kill_process(worker, Signal::STOP).unwrap();
    let stopped = Instant::now();
    ws.order("step_ms", "0");
    ws.wait_for("another lease", |state| state.lease.as_ref().is_some_and(|lease| lease.token != token));
    let elapsed = stopped.elapsed();
    assert!(elapsed < Duration::from_millis(2 * LEASE_MS), "{elapsed:?}");
    assert_eq!(state_of(worker.as_raw_nonzero().get()), None, "it is reaped");
    ws.wait_for("its group is gone", |_| matches!(state_of(grandchild), None | Some('Z')));
    let state = ws.wait_for("the end of the job", |state| is_completed(state, 1));
    assert_eq!(ws.rows(state.latest_checkpoint().unwrap().id), rows("a", 300), "every row once");
    assert!(ws.log_kinds().contains(&"worker_lost".to_string()));
}

#[test]
fn what_an_heir_of_a_lost_worker_says_and_publishes_is_refused() {
    let mut ws = Workspace::new(|settings| settings.lease_ms = 300);
    // In a session of its own it outlives its worker; it speaks when it is told to.
    let script = "trap '' PIPE
        until [ -e behave/speak ]; do sleep 0.05; done
        mkdir -p checkpoints/.staging-lease-2 resume/.staging-lease-2 checkpoints/checkpoint-999
        echo 'a0' > checkpoints/checkpoint-999/model.safetensors
        echo '{\"token\":2,\"type\":\"failed\",\"reason\":\"late\"}' || true
        touch behave/spoken";
    ws.order("heirs", script);
    ws.order("silent", "");
    ws.start();
    ws.submit("a.jsonl", &rows("a", 3));
    let before = ws.wait_for("the end of the job", |state| is_completed(state, 1));
    assert!(ws.log_kinds().contains(&"worker_lost".to_string()));
    let lost = Layout::new(ws.path()).runs().join("job-1/lease-2");
    assert!(lost.is_dir(), "the second lease is the lost one: the first evaluates the base");
    ws.order("speak", "");
    ws.wait_for("it has spoken", |_| ws.path().join("behave/spoken").exists());
    // A file that comes afterwards is trained as if nothing had been said.
    ws.submit("b.jsonl", &rows("b", 2));
    let after = ws.wait_for("the next job", |state| is_completed(state, 2));
    assert_eq!(after.jobs[&JobId(1)], before.jobs[&JobId(1)]);
    assert!(!after.checkpoints.contains_key(&CheckpointId(999)), "a folder is no checkpoint");
    let all: Vec<String> = rows("a", 3).into_iter().chain(rows("b", 2)).collect();
    assert_eq!(ws.rows(after.latest_checkpoint().unwrap().id), all);
    ws.kill();
    ws.start();
    let staging = ws.path().join("checkpoints/.staging-lease-2");
    ws.wait_for("the next start sweeps what it staged", |_| !staging.exists());
}
