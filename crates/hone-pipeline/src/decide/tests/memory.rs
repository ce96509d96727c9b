//! A worker that runs out of memory.

use super::*;
use expect_test::expect;

#[test]
fn out_of_memory_halves_the_micro_batch_once_and_then_counts_as_a_failed_try() {
    check(
        training(),
        "",
        "exit out-of-memory; exit out-of-memory",
        expect![[r#"
        > exit out-of-memory
          lease none
          job-1 queued
          log Warning out_of_memory job-1: out of memory (exit code 76): it is started again with micro-batches of 4 rows in place of 8; a step keeps its 8 rows
          lease-3 for job-1 until 2001
          job-1 running
          ! train job-1 under lease-3
        > exit out-of-memory
          lease none
          job-1 queued tries 1 not before 1101
          log Warning job_try_failed job-1: the worker ran out of memory: exit code 76; try 1 of 3, the next one in 100 ms
    "#]],
    );
}

#[test]
fn a_single_row_cannot_be_halved() {
    let mut world = training();
    world.settings.train.batch_size = 1;
    let mut job = world.state.jobs.values().next().cloned().expect("one job is there");
    job.settings = Some(world.settings.train.clone());
    world.state.jobs.insert(job.id, job);
    check(
        world,
        "",
        "exit out-of-memory",
        expect![[r#"
        > exit out-of-memory
          lease none
          job-1 queued tries 1 not before 1101
          log Warning job_try_failed job-1: the worker ran out of memory: exit code 76; try 1 of 3, the next one in 100 ms
    "#]],
    );
}
