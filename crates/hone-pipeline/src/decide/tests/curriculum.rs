//! Levels of skills, from events to the state. The rules themselves are tested beside [`crate::curriculum`].

use super::*;
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
