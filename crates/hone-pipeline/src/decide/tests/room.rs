//! Room on the disk: pruning, and waiting for room.

use super::{World, check, ready, training};
use expect_test::expect;

/// Training, with 1,000 bytes that must be free.
fn limited(world: World) -> World {
    World { settings: crate::config::Settings { min_free_bytes: 1_000, ..world.settings }, ..world }
}

#[test]
fn without_room_nothing_new_begins_and_failures_are_not_held_against_the_data() {
    check(
        limited(training()),
        "arrive b.jsonl; taken 2",
        "free 999; check-died 2 ; exit failed; arrive c.jsonl; wait 60000; free 1099; free 1100",
        expect![[r#"
            > free 999
              disk low: true
              log Error disk_low disk: 0 MB are free, limits.min_free_gb asks for more: nothing new is begun
            > check-died 2
              dataset-2 checking
            > exit failed
              lease none
              job-1 running
              log Warning job_waits_for_room job-1: no row is left; it goes on when the disk has room
            > arrive c.jsonl
            > wait 60000
            > free 1099
            > free 1100
              disk low: false
              log Info disk_has_room disk: 0 MB are free again
              dataset-2 checking check started
              lease-3 for job-1 until 62001
              job-1 running
              ! check dataset-2
              ! train job-1 under lease-3
        "#]],
    );
}

#[test]
fn a_file_that_comes_while_the_disk_is_low_stays_in_the_inbox() {
    check(
        limited(ready()),
        "free 0",
        "arrive a.jsonl; free 5000; arrive a.jsonl",
        expect![[r#"
        > arrive a.jsonl
        > free 5000
          disk low: false
          log Info disk_has_room disk: 0 MB are free again
        > arrive a.jsonl
          dataset-1 arriving
          ! take a.jsonl as dataset-1
    "#]],
    );
}

/// Checkpoint 4 is worse than checkpoint 2, and that is no matter here.
fn trains_on(world: World) -> World {
    let on_regression = crate::config::OnRegression::Continue;
    World { settings: crate::config::Settings { on_regression, ..world.settings }, ..world }
}

/// Checkpoint 2 is champion and served, 4 and 6 are worse.
const THREE: &str = "staged 1 2 0 2 16; published 2; exit done; evaluated 2 loss 2; exit done; deployed 2
    staged 1 4 2 4 32; published 4; exit done; evaluated 4 loss 4; exit done
    staged 1 6 4 6 48; published 6; exit done; evaluated 6 loss 4; exit done";

#[test]
fn pruning_is_in_the_state_before_files_go_and_spares_what_is_needed() {
    check(
        trains_on(training()),
        THREE,
        "wait 200000000
         measured 2 10 4 10 6 10
         start",
        expect![[r#"
            > wait 200000000
              log Warning worker_lost lease-8: no progress for 1 s; it is ended
              lease-8 for job-1 until 200002001
              ! kill lease-8: no progress for 1 s
            > measured 2 10 4 10 6 10
              checkpoint-4 pruned from checkpoint-2
              log Info checkpoint_pruned checkpoint-4: older than 36 h
              ! remove what is pruned
            > start
              lease none
              lease-9 for job-1 until 200002001
              job-1 running at step 6
              ! remove what is pruned
              ! train job-1 under lease-9
        "#]],
    );
}

#[test]
fn a_pinned_checkpoint_stays_until_it_is_unpinned() {
    check(
        trains_on(training()),
        THREE,
        "pin 4; wait 200000000; measured 4 10; unpin 4; measured 4 10; pin 4; pin 99",
        expect![[r#"
            > pin 4
              checkpoint-4 published from checkpoint-2
              reply ok: checkpoint-4 stays whatever retention says
            > wait 200000000
              log Warning worker_lost lease-8: no progress for 1 s; it is ended
              lease-8 for job-1 until 200002001
              ! kill lease-8: no progress for 1 s
            > measured 4 10
            > unpin 4
              checkpoint-4 published from checkpoint-2
              reply ok: checkpoint-4 is left to retention again
            > measured 4 10
              checkpoint-4 pruned from checkpoint-2
              log Info checkpoint_pruned checkpoint-4: older than 36 h
              ! remove what is pruned
            > pin 4
              reply no: checkpoint-4 has no files here
            > pin 99
              reply no: checkpoint-99 is not in the ledger
        "#]],
    );
}
