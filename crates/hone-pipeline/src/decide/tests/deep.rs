//! The deep check in the background.

use super::*;
use expect_test::expect;

/// A ready workspace whose accepted files are checked again.
fn with_deep_checks() -> World {
    let mut world = ready();
    world.settings.deep_in_background = true;
    world
}

#[test]
fn an_accepted_file_is_checked_again_while_it_is_trained() {
    check(
        with_deep_checks(),
        "arrive a.jsonl; taken 1",
        "checked 1 aa; deep 1; deep 1",
        expect![[r#"
        > checked 1 aa
          dataset-1 accepted deep check due
          job-1 queued
          log Info file_accepted dataset-1: a.jsonl accepted: 80 rows of chat_sft_v1, job-1 queued
          dataset-1 accepted check started deep check due
          lease-2 for job-1 until 2001
          job-1 running
          ! check dataset-1
          ! train job-1 under lease-2
        > deep 1
          dataset-1 accepted deep check done
          log Info deep_checked dataset-1: a.jsonl passed the deep check
        > deep 1
    "#]],
    );
}

#[test]
fn one_file_at_a_time_and_new_files_do_not_wait_for_it() {
    check(
        with_deep_checks(),
        "arrive a.jsonl; taken 1; checked 1 aa; arrive b.jsonl",
        "taken 2; checked 2 bb; deep 1",
        expect![[r#"
        > taken 2
          log Info file_taken dataset-2: b.jsonl taken from the inbox
          dataset-2 checking
          dataset-2 checking check started
          ! check dataset-2
        > checked 2 bb
          dataset-2 accepted deep check due
          job-2 queued
          log Info file_accepted dataset-2: b.jsonl accepted: 80 rows of chat_sft_v1, job-2 queued
        > deep 1
          dataset-1 accepted deep check done
          log Info deep_checked dataset-1: a.jsonl passed the deep check
          dataset-2 accepted check started deep check due
          ! check dataset-2
    "#]],
    );
}

#[test]
fn a_file_that_it_refuses_is_not_trained() {
    check(
        with_deep_checks(),
        "pause; arrive a.jsonl; taken 1; checked 1 aa",
        "deep 1 2",
        expect![[r#"
        > deep 1 2
          dataset-1 accepted deep check done
          dataset-1 accepted deep check done set aside (deep check: line 1: not JSON)
          job-1 failed (the deep check refuses its file)
          log Error deep_refused dataset-1: the deep check refuses a.jsonl: line 1: not JSON; it is not trained (job-1)
    "#]],
    );
}

#[test]
fn a_job_goes_on_without_the_file_that_it_refuses() {
    let mut world = with_deep_checks();
    world.settings.min_rows = 200;
    world.run("pause; arrive a.jsonl; taken 1; checked 1 aa; arrive b.jsonl; taken 2; checked 2 bb");
    world.run("deep 1 1");
    let jobs: Vec<_> = world.state.jobs.values().map(|job| (job.datasets.clone(), job.state.clone())).collect();
    assert_eq!(jobs, [(vec![DatasetId(2)], JobState::Queued)]);
}

#[test]
fn of_a_file_that_is_trained_already_people_are_told() {
    check(
        with_deep_checks(),
        "arrive a.jsonl; taken 1; checked 1 aa",
        "deep 1 1",
        expect![[r#"
        > deep 1 1
          dataset-1 accepted deep check done
          dataset-1 accepted deep check done set aside (deep check: line 1: not JSON)
          log Error deep_refused dataset-1: the deep check refuses a.jsonl: line 1: not JSON; rows of it may be trained already (`hone undo dataset-1` takes them out)
    "#]],
    );
}

#[test]
fn a_check_that_died_says_so_and_one_that_was_lost_is_done_again() {
    check(
        with_deep_checks(),
        "pause; arrive a.jsonl; taken 1; checked 1 aa",
        "start; check-died 1",
        expect![[r#"
        > start
          dataset-1 accepted deep check due
          dataset-1 accepted check started deep check due
          ! check dataset-1
        > check-died 1
          dataset-1 accepted deep check done
          log Warning deep_failed dataset-1: the deep check of a.jsonl did not end, so nothing is known: out of memory
    "#]],
    );
}
