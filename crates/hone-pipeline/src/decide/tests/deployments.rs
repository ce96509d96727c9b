//! What is served where.

use super::*;
use expect_test::expect;

/// A ready workspace where checkpoint 4 was just promoted: deployment 2 is under way, and the device is free.
fn promoted() -> World {
    let mut world = training();
    world.run("staged 1 4 0 4 32 ends; published 4; exit done; evaluated 4 loss 2; exit done");
    world
}

/// The same with a second target, `far`.
fn two_targets() -> World {
    let mut world = fresh();
    let far = Target { name: "far".to_string(), ..world.settings.targets[0].clone() };
    world.settings.targets.push(far);
    world.run("start; evaluated 0 loss 3; exit done");
    world
}

#[test]
fn the_newer_deployment_takes_the_place_of_the_older() {
    check(
        promoted(),
        "",
        "deployed 2; deployed 2",
        expect![[r#"
        > deployed 2
          deployment-1 checkpoint-0 on local superseded
          deployment-2 checkpoint-4 on local live
          log Info deployed deployment-2: checkpoint-4 is served on local
        > deployed 2
    "#]],
    );
}

#[test]
fn a_transient_failure_is_tried_again_with_growing_waits() {
    check(
        promoted(),
        "",
        "deploy-failed 2 transient; wait 99; wait 1; deploy-failed 2 transient; wait 200; deployed 2",
        expect![[r#"
            > deploy-failed 2 transient
              deployment-2 checkpoint-4 on local pending not before 1101
              log Warning deploy_try_failed deployment-2: checkpoint-4 is not yet on local: connection refused; tried again in 100 ms
            > wait 99
            > wait 1
              deployment-2 checkpoint-4 on local pending in flight not before 1101
              ! deploy deployment-2
            > deploy-failed 2 transient
              deployment-2 checkpoint-4 on local pending not before 1301
              log Warning deploy_try_failed deployment-2: checkpoint-4 is not yet on local: connection refused; tried again in 200 ms
            > wait 200
              deployment-2 checkpoint-4 on local pending in flight not before 1301
              ! deploy deployment-2
            > deployed 2
              deployment-1 checkpoint-0 on local superseded
              deployment-2 checkpoint-4 on local live not before 1301
              log Info deployed deployment-2: checkpoint-4 is served on local
        "#]],
    );
}

#[test]
fn waits_stop_growing_at_five_minutes() {
    let mut world = promoted();
    for _ in 0..40 {
        world.run("deploy-failed 2 transient; wait 300000");
    }
    let deployment = &world.state.deployments[&DeploymentId(2)];
    assert_eq!((deployment.tries, deployment.in_flight), (40, true));
}

#[test]
fn another_failure_is_final_and_the_old_one_goes_on_serving() {
    check(
        promoted(),
        "",
        "deploy-failed 2 final; wait 9999; start",
        expect![[r#"
        > deploy-failed 2 final
          deployment-2 checkpoint-4 on local failed not before 1101
          log Error deploy_failed deployment-2: checkpoint-4 cannot be served on local, which goes on as before: connection refused
          champion checkpoint-0
          log Warning champion_chosen checkpoint-0: checkpoint-4 can be served nowhere; checkpoint-0, which serves, is champion again
        > wait 9999
        > start
    "#]],
    );
}

#[test]
fn a_champion_that_one_target_serves_stays_champion() {
    // Checkpoint 4 is wanted on both. One refuses it for good, first or last; or both do.
    for (script, champion) in [
        ("deploy-failed 3 final; deployed 4", 4),
        ("deployed 3; deploy-failed 4 final", 4),
        ("deploy-failed 3 final; deploy-failed 4 final", 0),
    ] {
        let mut world = two_targets();
        world.run("deployed 1; deployed 2; arrive a.jsonl; taken 1; checked 1 aa; filed 1");
        world.run("staged 1 4 0 4 32 ends; published 4; exit done; evaluated 4 loss 2; exit done");
        world.run(script);
        assert_eq!(world.state.champion, Some(CheckpointId(champion)), "{script}");
    }
}

#[test]
fn a_failing_target_does_not_hold_up_another() {
    check(
        two_targets(),
        "",
        "deploy-failed 1 transient; deployed 2; wait 100",
        expect![[r#"
        > deploy-failed 1 transient
          deployment-1 checkpoint-0 on local pending not before 1100
          log Warning deploy_try_failed deployment-1: checkpoint-0 is not yet on local: connection refused; tried again in 100 ms
        > deployed 2
          deployment-2 checkpoint-0 on far live
          log Info deployed deployment-2: checkpoint-0 is served on far
        > wait 100
          deployment-1 checkpoint-0 on local pending in flight not before 1100
          ! deploy deployment-1
    "#]],
    );
}

#[test]
fn a_newer_wish_waits_for_the_order_under_way() {
    check(
        promoted(),
        "",
        "deploy 0; deployed 2; deployed 3",
        expect![[r#"
        > deploy 0
          champion checkpoint-0
          log Info champion_chosen checkpoint-0: by hand: test
          deployment-2 checkpoint-4 on local superseded in flight
          deployment-3 checkpoint-0 on local pending
          reply ok: checkpoint-0 is wanted on every target
        > deployed 2
          deployment-1 checkpoint-0 on local superseded
          deployment-2 checkpoint-4 on local live
          log Info deployed deployment-2: checkpoint-4 is served on local
          deployment-3 checkpoint-0 on local pending in flight
          ! deploy deployment-3
        > deployed 3
          deployment-2 checkpoint-4 on local superseded
          deployment-3 checkpoint-0 on local live
          log Info deployed deployment-3: checkpoint-0 is served on local
    "#]],
    );
    check(
        promoted(),
        "",
        "deploy 0; deploy-failed 2 final; deployed 3",
        expect![[r#"
        > deploy 0
          champion checkpoint-0
          log Info champion_chosen checkpoint-0: by hand: test
          deployment-2 checkpoint-4 on local superseded in flight
          deployment-3 checkpoint-0 on local pending
          reply ok: checkpoint-0 is wanted on every target
        > deploy-failed 2 final
          deployment-2 checkpoint-4 on local superseded
          deployment-3 checkpoint-0 on local pending in flight
          ! deploy deployment-3
        > deployed 3
          deployment-1 checkpoint-0 on local superseded
          deployment-3 checkpoint-0 on local live
          log Info deployed deployment-3: checkpoint-0 is served on local
    "#]],
    );
}

#[test]
fn a_newer_wish_replaces_one_that_waits() {
    check(
        promoted(),
        "deploy-failed 2 transient",
        "deploy 0; wait 100",
        expect![[r#"
        > deploy 0
          champion checkpoint-0
          log Info champion_chosen checkpoint-0: by hand: test
          deployment-2 checkpoint-4 on local superseded not before 1101
          reply ok: checkpoint-0 is wanted on every target
        > wait 100
    "#]],
    );
}

#[test]
fn a_person_does_not_wait_for_the_back_off() {
    check(
        promoted(),
        "deploy-failed 2 transient",
        "deploy",
        expect![[r#"
        > deploy
          deployment-2 checkpoint-4 on local pending
          deployment-2 checkpoint-4 on local pending in flight
          ! deploy deployment-2
          reply ok: checkpoint-4 is wanted on every target
    "#]],
    );
}

#[test]
fn what_cannot_be_deployed_is_refused() {
    check(
        fresh(),
        "",
        "deploy; deploy 7; rollback",
        expect![[r#"
        > deploy
          lease-1 for evaluation of checkpoint-0 until 2000
          ! evaluate checkpoint-0 under lease-1
          reply no: there is no champion yet; name a checkpoint
        > deploy 7
          reply no: checkpoint-7 is not in the ledger
        > rollback
          reply no: no target has served another checkpoint before
    "#]],
    );
    let mut world = promoted();
    world.settings.targets.clear();
    check(
        world,
        "",
        "deploy 0",
        expect![[r#"
        > deploy 0
          reply no: no deployment target is configured
    "#]],
    );
}

#[test]
fn rollback_goes_to_what_was_served_before() {
    check(
        promoted(),
        "wait 1; deployed 2",
        "rollback; deployed 3; wait 1; rollback",
        expect![[r#"
        > rollback
          champion checkpoint-0
          deployment-3 checkpoint-0 on local pending
          log Warning rolled_back checkpoint-0: rolled back to checkpoint-0 by hand: test
          deployment-3 checkpoint-0 on local pending in flight
          ! deploy deployment-3
          reply ok: going back to checkpoint-0
        > deployed 3
          deployment-2 checkpoint-4 on local superseded
          deployment-3 checkpoint-0 on local live
          log Info deployed deployment-3: checkpoint-0 is served on local
        > wait 1
        > rollback
          champion checkpoint-4
          deployment-4 checkpoint-4 on local pending
          log Warning rolled_back checkpoint-4: rolled back to checkpoint-4 by hand: test
          deployment-4 checkpoint-4 on local pending in flight
          ! deploy deployment-4
          reply ok: going back to checkpoint-4
    "#]],
    );
}

#[test]
fn a_restart_deploys_again_what_was_under_way() {
    check(
        promoted(),
        "",
        "start",
        expect![[r#"
        > start
          deployment-2 checkpoint-4 on local pending
          deployment-2 checkpoint-4 on local pending in flight
          ! deploy deployment-2
    "#]],
    );
    check(
        promoted(),
        "deploy 0",
        "start",
        expect![[r#"
        > start
          deployment-2 checkpoint-4 on local superseded
          deployment-3 checkpoint-0 on local pending in flight
          ! deploy deployment-3
    "#]],
    );
}

#[test]
fn a_new_target_gets_the_champion_at_the_next_start() {
    let mut world = ready();
    world.settings.targets[0].name = "renamed".to_string();
    check(
        world,
        "",
        "start",
        expect![[r#"
        > start
          deployment-2 checkpoint-0 on renamed pending
          deployment-2 checkpoint-0 on renamed pending in flight
          ! deploy deployment-2
    "#]],
    );
}

#[test]
fn a_deployment_to_a_target_that_is_gone_ends() {
    let mut world = promoted();
    world.run("deploy-failed 2 transient");
    world.settings.targets.clear();
    check(
        world,
        "",
        "wait 100",
        expect![[r#"
        > wait 100
          deployment-2 checkpoint-4 on local failed not before 1101
          log Warning deploy_failed deployment-2: local is not a configured target any more
    "#]],
    );
}

/// A target that is watched for 500 ms after each switch.
fn watched() -> World {
    let mut world = fresh();
    world.settings.watch_ms = 500;
    world.run("start; evaluated 0 loss 3; exit done; deployed 1; watched 1 well");
    world.run("arrive a.jsonl; taken 1; checked 1 aa; filed 1; staged 1 4 0 4 32 ends; published 4; exit done");
    world.run("evaluated 4 loss 2; exit done");
    world
}

#[test]
fn a_target_that_misbehaves_goes_back_by_itself() {
    check(
        watched(),
        "",
        "deployed 2; watched 2 misbehaves 7 of 9 answers are errors; deployed 3; watched 3 well 5 looks",
        expect![[r#"
            > deployed 2
              deployment-1 checkpoint-0 on local superseded
              deployment-2 checkpoint-4 on local live
              log Info deployed deployment-2: checkpoint-4 is served on local
              ! watch deployment-2
            > watched 2 misbehaves 7 of 9 answers are errors
              deployment-2 checkpoint-4 on local failed
              log Error rolled_back deployment-2: checkpoint-4 misbehaves on local: 7 of 9 answers are errors; going back to checkpoint-0 by itself
              champion checkpoint-0
              deployment-3 checkpoint-0 on local pending
              deployment-3 checkpoint-0 on local pending in flight
              ! deploy deployment-3
            > deployed 3
              deployment-3 checkpoint-0 on local live
              log Info deployed deployment-3: checkpoint-0 is served on local
              ! watch deployment-3
            > watched 3 well 5 looks
              deployment-3 checkpoint-0 on local live
              log Info watched deployment-3: checkpoint-0 serves well on local: 5 looks
        "#]],
    );
}

#[test]
fn a_newer_order_is_not_given_up_for_one_that_misbehaves() {
    let mut world = watched();
    world.run("arrive b.jsonl; taken 2; checked 2 bb; filed 2; staged 2 8 4 4 32 ends; published 8; exit done");
    world.run("deployed 2; deploy 8");
    let trace = world.run("watched 2 misbehaves slow");
    assert!(trace.contains("checkpoint-8 is on its way there already") && !trace.contains("pending"), "{trace}");
    assert_eq!(world.state.champion, Some(CheckpointId(8)));
    // Where it comes to nothing, what served well is gone back to.
    let trace = world.run("deploy-failed 3 final");
    assert!(trace.contains("! deploy deployment-4") && trace.contains("champion checkpoint-0"), "{trace}");
    assert_eq!(world.state.deployments[&DeploymentId(4)].checkpoint, CheckpointId(0));
}

#[test]
fn what_was_rolled_back_is_never_gone_back_to() {
    let mut world = watched();
    world.run("deployed 2; watched 2 misbehaves slow; deployed 3");
    // Checkpoint 0 serves; the only other one that was ever live misbehaved.
    let trace = world.run("rollback");
    assert!(trace.contains("reply no: no target has served another checkpoint before"), "{trace}");
    // The window of the checkpoint that was gone back to ends badly, too: it stays, and people are told.
    let trace = world.run("watched 3 misbehaves slow");
    assert!(trace.contains("log Error misbehaves deployment-3"), "{trace}");
    assert_eq!(world.state.live_on("local").map(|d| d.checkpoint), Some(CheckpointId(0)));
}

#[test]
fn a_target_that_cannot_be_looked_at_is_left_as_it_is() {
    check(
        watched(),
        "deployed 2",
        "watched 2 unknown it does not answer; watched 2 misbehaves late",
        expect![[r#"
            > watched 2 unknown it does not answer
              deployment-2 checkpoint-4 on local live
              log Error watch_unknown deployment-2: checkpoint-4 stays on local, and nobody knows how it serves: it does not answer
            > watched 2 misbehaves late
        "#]],
    );
}

#[test]
fn a_watch_outlives_a_restart_and_ends_with_its_deployment() {
    let mut world = watched();
    world.run("deployed 2");
    assert!(world.run("start").contains("! watch deployment-2"));
    world.run("deploy 0; deployed 3");
    assert!(!world.run("start").contains("! watch deployment-2"), "superseded");
    assert_eq!(world.run("watched 2 misbehaves late"), "> watched 2 misbehaves late\n");
}
