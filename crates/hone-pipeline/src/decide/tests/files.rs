//! From the inbox to the queue.

use super::*;
use expect_test::expect;

#[test]
fn a_good_file_becomes_a_job_and_is_trained() {
    check(
        ready(),
        "",
        "arrive a.jsonl; taken 1; checked 1 aa",
        expect![[r#"
        > arrive a.jsonl
          dataset-1 arriving
          ! take a.jsonl as dataset-1
        > taken 1
          log Info file_taken dataset-1: a.jsonl taken from the inbox
          dataset-1 checking
          dataset-1 checking check started
          ! check dataset-1
        > checked 1 aa
          dataset-1 accepted
          job-1 queued
          log Info file_accepted dataset-1: a.jsonl accepted: 80 rows of chat_sft_v1, job-1 queued
          lease-2 for job-1 until 2001
          job-1 running
          ! train job-1 under lease-2
    "#]],
    );
}

#[test]
fn a_file_seen_twice_is_taken_once() {
    check(
        ready(),
        "arrive a.jsonl",
        "arrive a.jsonl",
        expect![[r#"
        > arrive a.jsonl
    "#]],
    );
    // Once it is taken, a file of that name is another one.
    check(
        ready(),
        "arrive a.jsonl; taken 1",
        "arrive a.jsonl",
        expect![[r#"
        > arrive a.jsonl
          dataset-2 arriving
          ! take a.jsonl as dataset-2
    "#]],
    );
}

#[test]
fn a_file_that_vanished_is_forgotten() {
    check(
        ready(),
        "arrive a.jsonl",
        "gone 1; taken 1",
        expect![[r#"
        > gone 1
          log Info file_vanished dataset-1: a.jsonl left the inbox, or changed, before it was taken
          dataset-1 vanished
        > taken 1
    "#]],
    );
}

#[test]
fn a_bad_file_is_rejected_with_its_reasons_until_it_is_filed() {
    check(
        ready(),
        "arrive a.jsonl; taken 1",
        "bad 1 2; start; filed 1; filed 1; start",
        expect![[r#"
        > bad 1 2
          dataset-1 rejected ["line 1: not JSON", "line 2: not JSON"]
          log Warning file_rejected dataset-1: a.jsonl rejected: line 1: not JSON (and 1 more)
          ! move dataset-1 to rejected
        > start
          ! move dataset-1 to rejected
        > filed 1
          dataset-1 rejected ["line 1: not JSON", "line 2: not JSON"] filed
        > filed 1
        > start
    "#]],
    );
}

#[test]
fn at_most_twenty_reasons_are_kept() {
    let mut world = ready();
    world.run("arrive a.jsonl; taken 1; bad 1 30");
    let DatasetState::Rejected { reasons } = &world.state.datasets[&DatasetId(1)].state else { panic!() };
    assert_eq!((reasons.len(), reasons[19].as_str()), (20, "line 20: not JSON"));
}

#[test]
fn a_check_that_died_rejects_its_file() {
    check(
        ready(),
        "arrive a.jsonl; taken 1",
        "check-died 1",
        expect![[r#"
        > check-died 1
          dataset-1 rejected ["the check did not end: out of memory"]
          log Warning file_rejected dataset-1: a.jsonl rejected: the check did not end: out of memory
          ! move dataset-1 to rejected
    "#]],
    );
}

#[test]
fn a_check_that_somebody_else_ended_is_begun_again_three_times_in_all() {
    check(
        ready(),
        "arrive a.jsonl; taken 1",
        "check-died 1 from-outside; check-died 1 from-outside; check-died 1 from-outside",
        expect![[r#"
        > check-died 1 from-outside
          dataset-1 checking
          log Warning check_try_failed dataset-1: a.jsonl: the check did not end: out of memory; it is begun again
          dataset-1 checking check started
          ! check dataset-1
        > check-died 1 from-outside
          dataset-1 checking
          log Warning check_try_failed dataset-1: a.jsonl: the check did not end: out of memory; it is begun again
          dataset-1 checking check started
          ! check dataset-1
        > check-died 1 from-outside
          dataset-1 rejected ["the check did not end: out of memory"]
          log Warning file_rejected dataset-1: a.jsonl rejected: the check did not end: out of memory
          ! move dataset-1 to rejected
    "#]],
    );
}

#[test]
fn of_two_equal_files_the_one_checked_first_is_trained() {
    let before = "arrive a.jsonl; arrive b.jsonl; taken 1; taken 2";
    check(
        ready(),
        before,
        "checked 1 aa; checked 2 aa; start; filed 2",
        expect![[r#"
        > checked 1 aa
          dataset-1 accepted
          job-1 queued
          log Info file_accepted dataset-1: a.jsonl accepted: 80 rows of chat_sft_v1, job-1 queued
          dataset-2 checking check started
          lease-2 for job-1 until 2001
          job-1 running
          ! check dataset-2
          ! train job-1 under lease-2
        > checked 2 aa
          dataset-2 duplicate of dataset-1
          log Warning file_duplicate dataset-2: b.jsonl has the same bytes as dataset-1; it is not trained again
          ! drop dataset-2
        > start
          lease none
          lease-3 for job-1 until 2001
          job-1 running
          ! drop dataset-2
          ! train job-1 under lease-3
        > filed 2
          dataset-2 duplicate of dataset-1 filed
    "#]],
    );
}

#[test]
fn a_file_whose_rows_went_with_their_time_is_taken_when_it_is_brought_again() {
    for (gone, is_taken) in [(Gone::Aged, true), (Gone::Forgotten, false)] {
        let mut world = training();
        let dataset = Dataset { gone: Some(gone), ..world.state.datasets[&DatasetId(1)].clone() };
        world.state.apply(&Change::PutDataset(dataset));
        let trace = world.run("arrive a.jsonl; taken 2; checked 2 aa");
        assert_eq!(trace.contains("dataset-2 accepted"), is_taken, "{trace}");
    }
}

#[test]
fn a_file_equal_to_a_rejected_one_is_judged_by_itself() {
    check(
        ready(),
        "arrive a.jsonl; taken 1; bad 1 1; arrive b.jsonl; taken 2",
        "checked 2 bad",
        expect![[r#"
        > checked 2 bad
          dataset-2 accepted
          job-1 queued
          log Info file_accepted dataset-2: b.jsonl accepted: 80 rows of chat_sft_v1, job-1 queued
          lease-2 for job-1 until 2001
          job-1 running
          ! train job-1 under lease-2
    "#]],
    );
}

#[test]
fn checks_run_in_order_one_at_a_time() {
    let script = "arrive a; arrive b; arrive c; taken 3; taken 1; taken 2; checked 3 cc; checked 1 aa; checked 2 bb";
    check(
        ready(),
        "pause",
        script,
        expect![[r#"
        > arrive a
          dataset-1 arriving
          ! take a as dataset-1
        > arrive b
          dataset-2 arriving
          ! take b as dataset-2
        > arrive c
          dataset-3 arriving
          ! take c as dataset-3
        > taken 3
          log Info file_taken dataset-3: c taken from the inbox
          dataset-3 checking
          dataset-3 checking check started
          ! check dataset-3
        > taken 1
          log Info file_taken dataset-1: a taken from the inbox
          dataset-1 checking
        > taken 2
          log Info file_taken dataset-2: b taken from the inbox
          dataset-2 checking
        > checked 3 cc
          dataset-3 accepted
          job-1 queued
          log Info file_accepted dataset-3: c accepted: 80 rows of chat_sft_v1, job-1 queued
          dataset-1 checking check started
          ! check dataset-1
        > checked 1 aa
          dataset-1 accepted
          job-2 queued
          log Info file_accepted dataset-1: a accepted: 80 rows of chat_sft_v1, job-2 queued
          dataset-2 checking check started
          ! check dataset-2
        > checked 2 bb
          dataset-2 accepted
          job-3 queued
          log Info file_accepted dataset-2: b accepted: 80 rows of chat_sft_v1, job-3 queued
    "#]],
    );
}

#[test]
fn checks_under_way_start_again_after_a_restart() {
    check(
        ready(),
        "pause; arrive a; arrive b; arrive c; taken 1; taken 2",
        "start",
        expect![[r#"
        > start
          dataset-1 checking
          dataset-1 checking check started
          ! take c as dataset-3
          ! check dataset-1
    "#]],
    );
}

#[test]
fn a_full_queue_leaves_files_in_the_inbox_and_says_so_once() {
    let mut world = ready();
    world.settings.max_queued_jobs = 2;
    check(
        world,
        "pause; arrive a; taken 1; checked 1 aa; arrive b",
        "arrive c; arrive c; cancel 1; arrive c",
        expect![[r#"
            > arrive c
              queue full: true
              log Warning queue_full queue: the queue is full (2 files); files wait in the inbox
            > arrive c
            > cancel 1
              job-1 cancelled
              log Info job_cancelled job-1: taken out of the queue by hand
              queue full: false
              log Info queue_has_room queue: the queue has room again
              reply ok: job-1 cancelled
            > arrive c
              dataset-3 arriving
              ! take c as dataset-3
        "#]],
    );
}

#[test]
fn a_repeated_answer_changes_nothing() {
    check(
        ready(),
        "pause; arrive a; taken 1; checked 1 aa",
        "taken 1; checked 1 aa; bad 1 1; check-died 1; filed 1",
        expect![[r#"
            > taken 1
            > checked 1 aa
            > bad 1 1
            > check-died 1
            > filed 1
        "#]],
    );
}
