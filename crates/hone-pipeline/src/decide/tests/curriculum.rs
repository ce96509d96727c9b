//! Levels of skills, from events to the state. The rules themselves are tested beside [`crate::curriculum`].

use super::*;
use crate::decide::curriculum::MAX_OPEN_EXAMS;
use expect_test::expect;

/// A workspace with the published checkpoints 0 to 4.
fn with_checkpoints() -> World {
    let mut world = fresh();
    let base = world.state.checkpoints[&CheckpointId(0)].clone();
    for id in 1..=4 {
        let (id, manifest_hash) = (CheckpointId(id), format!("m{id}"));
        world.state.apply(&Change::PutCheckpoint(Checkpoint { id, manifest_hash, ..base.clone() }));
    }
    world.settings.curriculum.skills = vec!["s".to_string()];
    // Paused, so that no evaluation starts.
    world.run("pause");
    world
}

#[test]
fn a_level_is_passed_by_three_checkpoints() {
    check(
        with_checkpoints(),
        "scored 1 1 85",
        "scored 2 1 85; scored 2 1 85; scored 3 1 85",
        expect![[r#"
        > scored 2 1 85
          curriculum: s at level 1 after 2
          log Info skill_scored checkpoint-2: s level 1: 85.0 % of 300 questions
        > scored 2 1 85
        > scored 3 1 85
          curriculum: s at level 2 after 3
          log Info skill_scored checkpoint-3: s level 1: 85.0 % of 300 questions
          log Info level_up s: s goes up to level 2: the last 3 evaluations average 85.0 %, at least 80 %
    "#]],
    );
}

#[test]
fn answers_of_other_files_than_the_checkpoints_count_for_nothing() {
    let mut world = with_checkpoints();
    world.state.apply(&Change::PutCheckpoint(Checkpoint {
        manifest_hash: "other".to_string(),
        ..world.state.checkpoints[&CheckpointId(4)].clone()
    }));
    check(
        world,
        "",
        "scored 4 1 85; scored 9 1 85",
        expect![[r#"
        > scored 4 1 85
          log Error skill_refused checkpoint-4: answers to s are of other files than the checkpoint's
        > scored 9 1 85
          log Error skill_refused checkpoint-9: answers to s are of other files than the checkpoint's
    "#]],
    );
}

#[test]
fn people_set_and_reset_levels() {
    check(
        with_checkpoints(),
        "",
        "level 2; scored 1 2 90; level 4; level 0; reset s; reset t",
        expect![[r#"
        > level 2
          curriculum: s at level 2 after 0
          log Info level_set s: s set to level 2 by hand
          reply ok: s is at level 2
        > scored 1 2 90
          curriculum: s at level 2 after 1
          log Info skill_scored checkpoint-1: s level 2: 90.0 % of 300 questions
        > level 4
          reply no: s has no level 4 (levels 1 to 3)
        > level 0
          reply no: s has no level 0 (levels 1 to 3)
        > reset s
          curriculum: s at level 1 after 0
          log Info skill_reset s: level and history of s were forgotten by hand
          reply ok: s begins again at level 1
        > reset t
          reply no: there is no skill t (configured: s)
    "#]],
    );
}

#[test]
fn a_verdict_on_kept_answers_is_owed_until_it_comes_also_by_the_next_daemon() {
    check(
        fresh(),
        "start",
        "answered 0; start; judged 0 1; start",
        expect![[r#"
            > answered 0
              open exams: checkpoint-0 of lease-1
              ! judge the answers of checkpoint-0 under lease-1
            > start
              lease none
              lease-2 for evaluation of checkpoint-0 until 2000
              ! judge the answers of checkpoint-0 under lease-1
              ! evaluate checkpoint-0 under lease-2
            > judged 0 1
              open exams: 
            > start
              lease none
              lease-3 for evaluation of checkpoint-0 until 2000
              ! evaluate checkpoint-0 under lease-3
        "#]],
    );
}

#[test]
fn answers_under_another_lease_are_refused_and_a_late_verdict_changes_nothing() {
    check(
        fresh(),
        "start",
        "answered 4; answered 0; judged 0 7",
        expect![[r#"
            > answered 4
              log Warning stale_worker lease-1: answers of checkpoint-4 refused: the lease is not in force
            > answered 0
              open exams: checkpoint-0 of lease-1
              ! judge the answers of checkpoint-0 under lease-1
            > judged 0 7
        "#]],
    );
}

#[test]
fn answers_that_nobody_judges_are_given_up_in_the_end() {
    let mut world = fresh();
    world.run("start");
    let exams = (1..=MAX_OPEN_EXAMS as u64).map(|id| (CheckpointId(id), LeaseToken(id + 10))).collect();
    world.state.apply(&Change::SetOpenExams { exams });
    world.run("answered 0");
    assert_eq!(world.state.open_exams.len(), MAX_OPEN_EXAMS);
}
