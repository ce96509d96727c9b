//! Evaluations, judgements, champions.

use super::*;
use crate::config::OnRegression;
use expect_test::expect;

#[test]
fn the_base_model_is_evaluated_first_and_becomes_the_first_champion() {
    check(
        fresh(),
        "",
        "start; evaluated 0 loss 3; exit done; deployed 1",
        expect![[r#"
        > start
          lease-1 for evaluation of checkpoint-0 until 2000
          ! evaluate checkpoint-0 under lease-1
        > evaluated 0 loss 3
          evaluation of checkpoint-0: 1 suites
          lease-1 for evaluation of checkpoint-0 until 2000 delivered
          log Info checkpoint_evaluated checkpoint-0: val: loss 3.0000, token accuracy 50.0 %
          judgement of checkpoint-0: Promote
          champion checkpoint-0
          log Info promoted checkpoint-0: checkpoint-0 is the first champion
          deployment-1 checkpoint-0 on local pending
          deployment-1 checkpoint-0 on local pending in flight
          ! deploy deployment-1
        > exit done
          lease none
        > deployed 1
          deployment-1 checkpoint-0 on local live
          log Info deployed deployment-1: checkpoint-0 is served on local
    "#]],
    );
}

#[test]
fn the_base_model_is_served_even_where_it_cannot_be_evaluated() {
    check(
        fresh(),
        "start",
        "exit failed",
        expect![[r#"
        > exit failed
          lease none
          evaluation of checkpoint-0: 0 suites (no row is left; final)
          log Warning evaluation_failed checkpoint-0: no row is left; given up
          judgement of checkpoint-0: Promote
          champion checkpoint-0
          log Info promoted checkpoint-0: checkpoint-0 is the first champion
          deployment-1 checkpoint-0 on local pending
          deployment-1 checkpoint-0 on local pending in flight
          ! deploy deployment-1
    "#]],
    );
    check(
        fresh(),
        "start",
        "evaluated 0; exit done",
        expect![[r#"
        > evaluated 0
          evaluation of checkpoint-0: 0 suites
          lease-1 for evaluation of checkpoint-0 until 2000 delivered
          log Info checkpoint_evaluated checkpoint-0: there is no evaluation suite
          judgement of checkpoint-0: Promote
          champion checkpoint-0
          log Info promoted checkpoint-0: checkpoint-0 is the first champion
          deployment-1 checkpoint-0 on local pending
          deployment-1 checkpoint-0 on local pending in flight
          ! deploy deployment-1
        > exit done
          lease none
    "#]],
    );
}

#[test]
fn a_crashed_evaluation_is_tried_again_and_given_up_after_three() {
    check(
        fresh(),
        "start",
        "exit crashed; wait 100; exit crashed; wait 200; exit crashed; wait 9999",
        expect![[r#"
        > exit crashed
          lease none
          evaluation of checkpoint-0: 0 suites (the evaluation crashed: signal 9; again at 1100)
          log Warning evaluation_failed checkpoint-0: the evaluation crashed: signal 9; it is tried again
        > wait 100
          lease-2 for evaluation of checkpoint-0 until 2100
          ! evaluate checkpoint-0 under lease-2
        > exit crashed
          lease none
          evaluation of checkpoint-0: 0 suites (the evaluation crashed: signal 9; again at 1300)
          log Warning evaluation_failed checkpoint-0: the evaluation crashed: signal 9; it is tried again
        > wait 200
          lease-3 for evaluation of checkpoint-0 until 2300
          ! evaluate checkpoint-0 under lease-3
        > exit crashed
          lease none
          evaluation of checkpoint-0: 0 suites (the evaluation crashed: signal 9; final)
          log Warning evaluation_failed checkpoint-0: the evaluation crashed: signal 9; given up
          judgement of checkpoint-0: Promote
          champion checkpoint-0
          log Info promoted checkpoint-0: checkpoint-0 is the first champion
          deployment-1 checkpoint-0 on local pending
          deployment-1 checkpoint-0 on local pending in flight
          ! deploy deployment-1
        > wait 9999
    "#]],
    );
}

#[test]
fn training_goes_on_while_an_evaluation_waits_for_its_next_try() {
    check(
        training(),
        "staged 1 4 0 4 32; published 4; exit done",
        "exit crashed",
        expect![[r#"
        > exit crashed
          lease none
          evaluation of checkpoint-4: 0 suites (the evaluation crashed: signal 9; again at 1101)
          log Warning evaluation_failed checkpoint-4: the evaluation crashed: signal 9; it is tried again
          lease-4 for job-1 until 2001
          job-1 running at step 4
          ! train job-1 under lease-4
    "#]],
    );
}

#[test]
fn a_better_checkpoint_is_promoted_and_deployed() {
    check(
        training(),
        "staged 1 4 0 4 32; published 4; exit done",
        "evaluated 4 loss 2; exit done",
        expect![[r#"
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
    "#]],
    );
}

#[test]
fn a_worse_checkpoint_is_not() {
    check(
        training(),
        "staged 1 4 0 4 32; published 4; exit done",
        "evaluated 4 loss 3.5",
        expect![[r#"
        > evaluated 4 loss 3.5
          evaluation of checkpoint-4: 1 suites
          lease-3 for evaluation of checkpoint-4 until 2001 delivered
          log Info checkpoint_evaluated checkpoint-4: val: loss 3.5000, token accuracy 50.0 %
          judgement of checkpoint-4: Worse
          log Info not_promoted checkpoint-4: checkpoint-4 against checkpoint-0: val loss 3.5000 against 3.0000 on 10 rows (+0.5000, 95 % between +0.5000 and +0.5000); worse on val
          log Error held checkpoint-4: training is held: checkpoint-4 is worse than checkpoint-0: val loss 3.5000 against 3.0000 on 10 rows (+0.5000, 95 % between +0.5000 and +0.5000) (`hone explain 4` shows why, `hone resume` trains on from it)
          control {"mode":"paused","reason":"held: checkpoint-4 is worse than checkpoint-0: val loss 3.5000 against 3.0000 on 10 rows (+0.5000, 95 % between +0.5000 and +0.5000)"}
    "#]],
    );
}

#[test]
fn without_suites_nothing_is_promoted_and_the_reason_says_what_to_do() {
    check(
        training(),
        "staged 1 4 0 4 32; published 4; exit done",
        "evaluated 4",
        expect![[r#"
        > evaluated 4
          evaluation of checkpoint-4: 0 suites
          lease-3 for evaluation of checkpoint-4 until 2001 delivered
          log Info checkpoint_evaluated checkpoint-4: there is no evaluation suite
          judgement of checkpoint-4: CannotTell
          log Info not_promoted checkpoint-4: checkpoint-4 against checkpoint-0: no evaluation suites; put files in validation/ or run `hone deploy 4`
    "#]],
    );
}

#[test]
fn training_goes_on_after_a_regression_where_that_is_configured() {
    let mut world = training();
    world.settings.on_regression = crate::config::OnRegression::Continue;
    world.run("staged 1 4 0 4 32; published 4; exit done; evaluated 4 loss 3.5; exit done");
    assert_eq!(world.state.control, Control::Running);
    assert_eq!(world.state.lease.map(|lease| lease.work), Some(Work::Train { job: JobId(1) }));
}

#[test]
fn where_only_people_promote_the_base_model_is_still_the_first_champion() {
    let mut world = fresh();
    world.settings.promotion_policy = crate::config::PromotionPolicy::Manual;
    let before = "start; evaluated 0 loss 3; exit done; deployed 1; arrive a; taken 1; checked 1 aa; staged 1 4 0 4 32; published 4; exit done";
    check(
        world,
        before,
        "evaluated 4 loss 2",
        expect![[r#"
        > evaluated 4 loss 2
          evaluation of checkpoint-4: 1 suites
          lease-3 for evaluation of checkpoint-4 until 2000 delivered
          log Info checkpoint_evaluated checkpoint-4: val: loss 2.0000, token accuracy 50.0 %
          judgement of checkpoint-4: Manual
          log Info not_promoted checkpoint-4: checkpoint-4 against checkpoint-0: val loss 2.0000 against 3.0000 on 10 rows (-1.0000, 95 % between -1.0000 and -1.0000); only people promote here
    "#]],
    );
}

#[test]
fn a_changed_suite_evaluates_the_champion_again_before_judging() {
    let before = "staged 1 4 0 4 32; published 4; exit done";
    check(
        training(),
        before,
        "wait 1; evaluated 4 loss 2 suite new; exit done; wait 1; evaluated 0 loss 3 suite new; exit done",
        expect![[r#"
            > wait 1
            > evaluated 4 loss 2 suite new
              evaluation of checkpoint-4: 1 suites
              lease-3 for evaluation of checkpoint-4 until 2002 delivered
              log Info checkpoint_evaluated checkpoint-4: new: loss 2.0000, token accuracy 50.0 %
            > exit done
              lease none
              lease-4 for evaluation of checkpoint-0 until 2002
              ! evaluate checkpoint-0 under lease-4
            > wait 1
            > evaluated 0 loss 3 suite new
              evaluation of checkpoint-0: 1 suites
              lease-4 for evaluation of checkpoint-0 until 2003 delivered
              log Info checkpoint_evaluated checkpoint-0: new: loss 3.0000, token accuracy 50.0 %
              judgement of checkpoint-4: Promote
              champion checkpoint-4
              log Info promoted checkpoint-4: checkpoint-4 against checkpoint-0: new loss 2.0000 against 3.0000 on 10 rows (-1.0000, 95 % between -1.0000 and -1.0000); better on new and not worse on any; look 1, 2.50 % of the error budget left
              deployment-2 checkpoint-4 on local pending
              deployment-2 checkpoint-4 on local pending in flight
              ! deploy deployment-2
            > exit done
              lease none
              lease-5 for job-1 until 2003
              job-1 running at step 4
              ! train job-1 under lease-5
        "#]],
    );
    // The suites changed once more in between: judged with what there is, and no endless round.
    let before = "staged 1 4 0 4 32; published 4; exit done; wait 1; evaluated 4 loss 2 suite new; exit done";
    check(
        training(),
        before,
        "wait 1; evaluated 0 loss 3 suite newer; exit done",
        expect![[r#"
        > wait 1
        > evaluated 0 loss 3 suite newer
          evaluation of checkpoint-0: 1 suites
          lease-4 for evaluation of checkpoint-0 until 2003 delivered
          log Info checkpoint_evaluated checkpoint-0: newer: loss 3.0000, token accuracy 50.0 %
          judgement of checkpoint-4: CannotTell
          log Info not_promoted checkpoint-4: checkpoint-4 against checkpoint-0: checkpoint-0 was not evaluated on the same new
        > exit done
          lease none
          lease-5 for job-1 until 2003
          job-1 running at step 4
          ! train job-1 under lease-5
    "#]],
    );
}

#[test]
fn results_of_other_files_are_refused() {
    // The evaluation in force is of checkpoint 4.
    check(
        training(),
        "staged 1 4 0 4 32; published 4; exit done",
        "evaluated 0 loss 1; exit done",
        expect![[r#"
        > evaluated 0 loss 1
          log Error evaluation_refused checkpoint-0: the results are of other files than the checkpoint's
        > exit done
          lease none
          evaluation of checkpoint-4: 0 suites (the evaluation ended without results; again at 1101)
          log Warning evaluation_failed checkpoint-4: the evaluation ended without results; it is tried again
          lease-4 for job-1 until 2001
          job-1 running at step 4
          ! train job-1 under lease-4
    "#]],
    );
}

#[test]
fn an_evaluation_beyond_its_time_is_ended() {
    let mut world = fresh();
    let mut trace = world.run("start");
    for _ in 0..7 {
        trace = world.run("wait 900; alive");
    }
    assert!(trace.contains("! kill lease-1: the evaluation took more than 5 s"), "{trace}");
}

#[test]
fn an_old_checkpoint_does_not_challenge_a_newer_champion() {
    let before =
        "staged 1 4 0 4 32; published 4; exit done; exit failed; staged 1 8 4 8 64; published 8; exit done; deploy 8";
    check(
        training(),
        before,
        "evaluated 8 loss 2; exit done",
        expect![[r#"
        > evaluated 8 loss 2
          evaluation of checkpoint-8: 1 suites
          lease-5 for evaluation of checkpoint-8 until 2001 delivered
          log Info checkpoint_evaluated checkpoint-8: val: loss 2.0000, token accuracy 50.0 %
        > exit done
          lease none
          lease-6 for job-1 until 2001
          job-1 running at step 8
          ! train job-1 under lease-6
    "#]],
    );
}

#[test]
fn people_are_told_when_one_checkpoint_after_the_other_is_not_promoted() {
    let mut world = ready();
    world.settings.alert_after = 2;
    world.settings.on_regression = OnRegression::Continue;
    let (mut told, mut parent) = (Vec::new(), 0);
    for number in 1..=5 {
        let checkpoint = number * 10;
        world.run(&format!("arrive {number}.jsonl; taken {number}; checked {number} h{number}; filed {number}"));
        world.run(&format!("staged {number} {checkpoint} {parent} 10 80 ends; published {checkpoint}; exit done"));
        // The base has 3; only the third one is better.
        let loss = if number == 3 { 2.0 } else { 3.5 };
        if world.run(&format!("evaluated {checkpoint} loss {loss}; exit done")).contains("no_promotion") {
            told.push(checkpoint);
        }
        world.run(&format!("deployed {}", number - 1));
        parent = checkpoint;
    }
    assert_eq!(world.state.champion, Some(CheckpointId(30)));
    assert_eq!(told, [20, 50], "after two in a row, and after two more since the promotion");
}

#[test]
fn a_clock_that_was_a_day_ahead_changes_no_order_of_evaluations() {
    let mut world = training();
    let ahead = Evaluation { at_ms: 86_400_000, ..world.state.evaluations[&CheckpointId(0)].clone() };
    world.state.apply(&Change::PutEvaluation(ahead));
    let before = "staged 1 4 0 4 32; published 4; exit done; evaluated 4 loss 2 suite new";
    world.run(before);
    let trace = world.run("exit done");
    assert!(trace.contains("! evaluate checkpoint-0 under lease-4"), "{trace}");
    let trace = world.run("evaluated 0 loss 3 suite new");
    assert!(trace.contains("judgement of checkpoint-4: Promote"), "{trace}");
}
