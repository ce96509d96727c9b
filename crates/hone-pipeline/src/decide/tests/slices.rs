//! The device: slices, their checkpoints, their failures, and whose turn it is.

use super::*;
use expect_test::expect;

#[test]
fn a_job_is_trained_in_slices_with_an_evaluation_after_each() {
    let script = "step 1; staged 1 4 0 4 32; published 4; exit done; evaluated 4 loss 2; exit done
        staged 1 10 4 10 80 ends; exit done; published 10";
    check(
        training(),
        "",
        script,
        expect![[r#"
        > step 1
          job-1 running shows step 1
        > staged 1 4 0 4 32
          checkpoint-4 staged from checkpoint-0
          lease-2 for job-1 until 2001 delivered
          ! publish checkpoint-4
        > published 4
          checkpoint-4 published from checkpoint-0
          log Info checkpoint_published checkpoint-4: published with training loss 2.0000
          job-1 running at step 4 shows step 1
        > exit done
          lease none
          job-1 running at step 4
          lease-3 for evaluation of checkpoint-4 until 2001
          ! evaluate checkpoint-4 under lease-3
        > evaluated 4 loss 2
          evaluation of checkpoint-4: 1 suites
          lease-3 for evaluation of checkpoint-4 until 2001 delivered
          log Info checkpoint_evaluated checkpoint-4: val: loss 2.0000, token accuracy 50.0 %
          judgement of checkpoint-4: Promote
          champion checkpoint-4
          log Info promoted checkpoint-4: checkpoint-4 against checkpoint-0: val loss 2.0000 against 3.0000 on 10 rows (-1.0000, 95 % between -1.0000 and -1.0000); better on val and not worse on any; look 1, 2.50 % of the error budget left
          deployment-2 checkpoint-4 on local pending
          deployment-2 checkpoint-4 on local pending in flight
          ! deploy deployment-2
        > exit done
          lease none
          lease-4 for job-1 until 2001
          job-1 running at step 4
          ! train job-1 under lease-4
        > staged 1 10 4 10 80 ends
          checkpoint-10 staged from checkpoint-4
          lease-4 for job-1 until 2001 delivered
          ! publish checkpoint-10
        > exit done
          lease none
        > published 10
          checkpoint-10 published from checkpoint-4
          log Info checkpoint_published checkpoint-10: published with training loss 2.0000
          job-1 completed at step 10
          log Info job_completed job-1: completed: 80 rows in 10 steps
          lease-5 for evaluation of checkpoint-10 until 2001
          ! evaluate checkpoint-10 under lease-5
    "#]],
    );
}

#[test]
fn settings_are_frozen_at_the_first_slice() {
    let mut world = training();
    world.settings.train.learning_rate = 0.5;
    world.run("staged 1 4 0 4 32; published 4; exit done; evaluated 4 loss 2; exit done");
    let frozen = world.state.jobs[&JobId(1)].settings.clone().unwrap();
    assert_eq!(frozen.learning_rate, 2e-5);
    world.run("staged 1 10 4 10 80 ends; published 10; exit done; evaluated 10 loss 1; exit done; arrive b; taken 2; checked 2 bb");
    assert_eq!(world.state.jobs[&JobId(2)].settings.clone().unwrap().learning_rate, 0.5);
}

#[test]
fn progress_renews_the_lease_and_is_shown_once_a_second() {
    check(
        training(),
        "",
        "step 1; step 2; wait 400; step 3; wait 700; step 4; alive; wait 900; wait 101",
        expect![[r#"
        > step 1
          job-1 running shows step 1
        > step 2
        > wait 400
        > step 3
          lease-2 for job-1 until 2401
        > wait 700
        > step 4
          lease-2 for job-1 until 3101
          job-1 running shows step 4
        > alive
        > wait 900
        > wait 101
          log Warning worker_lost lease-2: no progress for 1 s; it is ended
          lease-2 for job-1 until 4102
          ! kill lease-2: no progress for 1 s
    "#]],
    );
}

#[test]
fn a_clock_that_is_set_back_lets_nothing_wait_longer() {
    let day_ms = 86_400_000;
    let mut world = training();
    world.now += day_ms;
    world.run("alive; wait 1");
    world.now -= day_ms;
    let lease = |world: &World| world.state.lease.clone().unwrap();
    // The lease begins anew: a worker that says nothing from now on is lost after one more.
    assert!(!world.run("wait 1").contains("worker_lost"));
    assert_eq!(lease(&world).until_ms, world.now + world.settings.lease_ms);
    let lost = world.run(&format!("wait {}", world.settings.lease_ms + 1));
    assert!(lost.contains("worker_lost"), "{lost}");
    // A job that waits for its next try does not wait for a day.
    world.now += day_ms;
    world.run("exit crashed");
    assert!(world.state.lease.is_none() && world.state.jobs[&JobId(1)].not_before_ms > world.now);
    world.now -= day_ms;
    world.run("wait 1");
    assert_eq!(lease(&world).work, Work::Train { job: JobId(1) });
}

#[test]
fn a_silent_worker_is_ended_and_its_job_goes_on_later() {
    check(
        training(),
        "",
        "wait 1001; wait 500; wait 501; exit crashed; wait 99; wait 1",
        expect![[r#"
        > wait 1001
          log Warning worker_lost lease-2: no progress for 1 s; it is ended
          lease-2 for job-1 until 3002
          ! kill lease-2: no progress for 1 s
        > wait 500
        > wait 501
          log Warning worker_lost lease-2: no progress for 1 s; it is ended
          lease-2 for job-1 until 4003
          ! kill lease-2: no progress for 1 s
        > exit crashed
          lease none
          job-1 queued tries 1 not before 3103
          log Warning job_try_failed job-1: the worker crashed: signal 9; try 1 of 3, the next one in 100 ms
        > wait 99
        > wait 1
          lease-3 for job-1 until 4103
          job-1 running tries 1 not before 3103
          ! train job-1 under lease-3
    "#]],
    );
}

#[test]
fn three_crashes_without_a_checkpoint_fail_a_job() {
    check(
        training(),
        "exit crashed; wait 100",
        "exit crashed; wait 200; exit crashed",
        expect![[r#"
        > exit crashed
          lease none
          job-1 queued tries 2 not before 1301
          log Warning job_try_failed job-1: the worker crashed: signal 9; try 2 of 3, the next one in 200 ms
        > wait 200
          lease-4 for job-1 until 2301
          job-1 running tries 2 not before 1301
          ! train job-1 under lease-4
        > exit crashed
          lease none
          job-1 failed (the worker crashed: signal 9 (given up after 3 tries)) tries 2 not before 1301
          log Error job_failed job-1: the worker crashed: signal 9 (given up after 3 tries)
    "#]],
    );
}

#[test]
fn a_checkpoint_forgives_crashes() {
    let before = "exit crashed; wait 100; exit crashed; wait 200; staged 1 4 0 4 32";
    check(
        training(),
        before,
        "published 4; exit done; evaluated 4 loss 2; exit done; exit crashed",
        expect![[r#"
        > published 4
          checkpoint-4 published from checkpoint-0
          log Info checkpoint_published checkpoint-4: published with training loss 2.0000
          job-1 running at step 4
        > exit done
          lease none
          lease-5 for evaluation of checkpoint-4 until 2301
          ! evaluate checkpoint-4 under lease-5
        > evaluated 4 loss 2
          evaluation of checkpoint-4: 1 suites
          lease-5 for evaluation of checkpoint-4 until 2301 delivered
          log Info checkpoint_evaluated checkpoint-4: val: loss 2.0000, token accuracy 50.0 %
          judgement of checkpoint-4: Promote
          champion checkpoint-4
          log Info promoted checkpoint-4: checkpoint-4 against checkpoint-0: val loss 2.0000 against 3.0000 on 10 rows (-1.0000, 95 % between -1.0000 and -1.0000); better on val and not worse on any; look 1, 2.50 % of the error budget left
          deployment-2 checkpoint-4 on local pending
          deployment-2 checkpoint-4 on local pending in flight
          ! deploy deployment-2
        > exit done
          lease none
          lease-6 for job-1 until 2301
          job-1 running at step 4
          ! train job-1 under lease-6
        > exit crashed
          lease none
          job-1 queued at step 4 tries 1 not before 1401
          log Warning job_try_failed job-1: the worker crashed: signal 9; try 1 of 3, the next one in 100 ms
    "#]],
    );
}

#[test]
fn a_failure_that_would_repeat_fails_the_job_at_once() {
    check(
        training(),
        "",
        "exit failed",
        expect![[r#"
        > exit failed
          lease none
          job-1 failed (no row is left)
          log Error job_failed job-1: no row is left
    "#]],
    );
}

#[test]
fn a_worker_that_ends_without_a_checkpoint_has_crashed() {
    check(
        training(),
        "",
        "exit done",
        expect![[r#"
        > exit done
          lease none
          job-1 queued tries 1 not before 1101
          log Warning job_try_failed job-1: the worker ended without a result; try 1 of 3, the next one in 100 ms
    "#]],
    );
}

#[test]
fn how_a_worker_ends_after_its_checkpoint_does_not_matter() {
    check(
        training(),
        "staged 1 4 0 4 32",
        "exit crashed; published 4",
        expect![[r#"
        > exit crashed
          lease none
          log Warning worker_ended_badly job-1: after its work was over: the worker crashed: signal 9
        > published 4
          checkpoint-4 published from checkpoint-0
          log Info checkpoint_published checkpoint-4: published with training loss 2.0000
          job-1 running at step 4
          lease-3 for evaluation of checkpoint-4 until 2001
          ! evaluate checkpoint-4 under lease-3
    "#]],
    );
}

#[test]
fn the_device_waits_for_publishing() {
    check(
        training(),
        "staged 1 4 0 4 32",
        "exit done; wait 1; published 4",
        expect![[r#"
        > exit done
          lease none
        > wait 1
        > published 4
          checkpoint-4 published from checkpoint-0
          log Info checkpoint_published checkpoint-4: published with training loss 2.0000
          job-1 running at step 4
          lease-3 for evaluation of checkpoint-4 until 2002
          ! evaluate checkpoint-4 under lease-3
    "#]],
    );
}

#[test]
fn a_checkpoint_that_cannot_be_published_is_trained_again() {
    check(
        training(),
        "staged 1 4 0 4 32; exit done",
        "publish-failed 4; wait 100; staged 1 4 0 4 32; published 4",
        expect![[r#"
            > publish-failed 4
              checkpoint-4 refused from checkpoint-0
              log Error checkpoint_refused checkpoint-4: bits
              job-1 queued tries 1 not before 1101
              log Warning job_try_failed job-1: checkpoint-4 could not be published: bits; try 1 of 3, the next one in 100 ms
            > wait 100
              lease-3 for job-1 until 2101
              job-1 running tries 1 not before 1101
              ! train job-1 under lease-3
            > staged 1 4 0 4 32
              checkpoint-4 staged from checkpoint-0
              lease-3 for job-1 until 2101 delivered
              ! publish checkpoint-4
            > published 4
              checkpoint-4 published from checkpoint-0
              log Info checkpoint_published checkpoint-4: published with training loss 2.0000
              job-1 running at step 4
        "#]],
    );
}

#[test]
fn a_late_worker_is_refused() {
    check(
        training(),
        "exit crashed",
        "staged 1 4 0 4 32 2; late-exit 2; step 5",
        expect![[r#"
        > staged 1 4 0 4 32 2
          log Warning stale_worker lease-2: checkpoint-4 refused: the lease is not in force
        > late-exit 2
          log Warning stale_worker lease-2: a worker that lost its lease ended
        > step 5
    "#]],
    );
}

#[test]
fn a_checkpoint_that_does_not_go_on_from_the_ledger_is_refused() {
    let script = "staged 1 4 1 4 32; staged 2 4 0 4 32; staged 1 5 0 4 32; staged 1 0 0 0 0";
    check(
        training(),
        "",
        script,
        expect![[r#"
        > staged 1 4 1 4 32
          log Error checkpoint_refused job-1: checkpoint-4 refused: its parent is checkpoint-1, the newest is checkpoint-0
          ! kill lease-2: checkpoint-4 refused: its parent is checkpoint-1, the newest is checkpoint-0
        > staged 2 4 0 4 32
          log Error checkpoint_refused job-2: checkpoint-4 refused: the lease is not for job-2
          ! kill lease-2: checkpoint-4 refused: the lease is not for job-2
        > staged 1 5 0 4 32
          log Error checkpoint_refused job-1: checkpoint-5 refused: 4 steps after checkpoint-0 make another number
          ! kill lease-2: checkpoint-5 refused: 4 steps after checkpoint-0 make another number
        > staged 1 0 0 0 0
          log Error checkpoint_refused job-1: checkpoint-0 refused: it goes from step 0 to 0 of its job
          ! kill lease-2: checkpoint-0 refused: it goes from step 0 to 0 of its job
    "#]],
    );
    let before = "staged 1 4 0 4 32; published 4; exit done; evaluated 4 loss 2; exit done";
    check(
        training(),
        before,
        "staged 1 4 4 4 32; staged 1 8 4 8 31; staged 1 8 4 8 64; staged 1 9 4 9 72",
        expect![[r#"
            > staged 1 4 4 4 32
              log Error checkpoint_refused job-1: checkpoint-4 refused: it goes from step 4 to 4 of its job
              ! kill lease-4: checkpoint-4 refused: it goes from step 4 to 4 of its job
            > staged 1 8 4 8 31
              log Error checkpoint_refused job-1: checkpoint-8 refused: it goes back from row 32 to 31
              ! kill lease-4: checkpoint-8 refused: it goes back from row 32 to 31
            > staged 1 8 4 8 64
              checkpoint-8 staged from checkpoint-4
              lease-4 for job-1 until 2001 delivered
              ! publish checkpoint-8
            > staged 1 9 4 9 72
              log Error checkpoint_refused job-1: checkpoint-9 refused: the slice has staged a checkpoint already
              ! kill lease-4: checkpoint-9 refused: the slice has staged a checkpoint already
        "#]],
    );
}

#[test]
fn high_before_normal_before_low_and_arrival_within() {
    let before = "pause; arrive low/a; arrive b; arrive c; arrive high/d; taken 1; taken 2; taken 3; taken 4
        checked 1 a; checked 2 b; checked 3 c; checked 4 d";
    let script = "resume; exit failed; exit failed; exit failed; exit failed";
    let mut world = ready();
    world.run(before);
    let trace = world.run(script);
    let order: Vec<&str> = trace.lines().filter_map(|line| line.strip_prefix("  ! ")).collect();
    assert_eq!(
        order,
        [
            "train job-4 under lease-2",
            "train job-2 under lease-3",
            "train job-3 under lease-4",
            "train job-1 under lease-5"
        ]
    );
}

#[test]
fn a_running_job_keeps_the_device_until_its_checkpoint_then_the_higher_one_has_it() {
    let before = "arrive b; taken 2; checked 2 bb; arrive high/c; taken 3; checked 3 cc; staged 1 4 0 4 32; published 4; exit done; evaluated 4 loss 2";
    check(
        training(),
        before,
        "exit done; exit failed",
        expect![[r#"
        > exit done
          lease none
          job-1 queued at step 4
          lease-4 for job-3 until 2001
          job-3 running high
          ! train job-3 under lease-4
        > exit failed
          lease none
          job-3 failed (no row is left) high
          log Error job_failed job-3: no row is left
          lease-5 for job-1 until 2001
          job-1 running at step 4
          ! train job-1 under lease-5
    "#]],
    );
}

#[test]
fn a_moved_job_overtakes() {
    let before = "arrive b; taken 2; checked 2 bb; arrive c; taken 3; checked 3 cc";
    check(
        training(),
        before,
        "move 3 high; move 1 high; move 9 high; exit failed",
        expect![[r#"
        > move 3 high
          job-3 queued high
          reply ok: job-3 moved
        > move 1 high
          reply no: job-1 is not waiting in the queue
        > move 9 high
          reply no: there is no job-9
        > exit failed
          lease none
          job-1 failed (no row is left)
          log Error job_failed job-1: no row is left
          lease-3 for job-3 until 2001
          job-3 running high
          ! train job-3 under lease-3
    "#]],
    );
}

#[test]
fn jobs_are_cancelled_in_the_queue_only() {
    check(
        training(),
        "arrive b; taken 2; checked 2 bb",
        "cancel 1; cancel 2; cancel 2",
        expect![[r#"
        > cancel 1
          reply no: job-1 is running (hint: `hone skip` ends it)
        > cancel 2
          job-2 cancelled
          log Info job_cancelled job-2: taken out of the queue by hand
          reply ok: job-2 cancelled
        > cancel 2
          reply no: job-2 has ended already
    "#]],
    );
}

#[test]
fn a_retried_job_goes_on_from_its_last_checkpoint() {
    let before = "staged 1 4 0 4 32; published 4; exit done; evaluated 4 loss 2; exit done; exit failed";
    check(
        training(),
        before,
        "retry 1; retry 1",
        expect![[r#"
        > retry 1
          job-1 queued at step 4
          log Info job_retried job-1: queued again by hand
          lease-5 for job-1 until 2001
          job-1 running at step 4
          ! train job-1 under lease-5
          reply ok: job-1 queued again
        > retry 1
          reply no: job-1 is in the queue already
    "#]],
    );
}

#[test]
fn after_a_restart_the_running_job_goes_on_first_without_blame() {
    check(
        training(),
        "arrive high/b; taken 2; checked 2 bb; step 1",
        "start",
        expect![[r#"
        > start
          lease none
          job-1 running
          job-1 queued
          lease-3 for job-2 until 2001
          job-2 running high
          ! train job-2 under lease-3
    "#]],
    );
    check(
        training(),
        "arrive b; taken 2; checked 2 bb; staged 1 4 0 4 32",
        "start; published 4",
        expect![[r#"
        > start
          lease none
          ! publish checkpoint-4
        > published 4
          checkpoint-4 published from checkpoint-0
          log Info checkpoint_published checkpoint-4: published with training loss 2.0000
          job-1 running at step 4
          lease-3 for evaluation of checkpoint-4 until 2001
          ! evaluate checkpoint-4 under lease-3
    "#]],
    );
}

#[test]
fn nobody_is_late_when_the_machine_slept() {
    check(
        training(),
        "step 1",
        "jumped 60000; wait 60000; step 2",
        expect![[r#"
            > jumped 60000
              log Info time_jumped lease-2: the clock went on by 60 s at once
              lease-2 for job-1 until 62001
            > wait 60000
            > step 2
              job-1 running shows step 2
        "#]],
    );
}
