//! Pause, resume, skip, stop.

use super::super::command_offline;
use super::*;
use expect_test::expect;

#[test]
fn a_pause_lets_the_slice_write_a_checkpoint_and_starts_nothing() {
    check(
        training(),
        "",
        "pause; pause; staged 1 1 0 1 8 yielded; exit done; published 1; wait 1; resume",
        expect![[r#"
            > pause
              control {"mode":"paused","reason":"test"}
              log Info paused control: paused: test
              lease-2 for job-1 until 2001 asked to yield
              ! ask lease-2 to yield
              reply ok: pausing at the next step
            > pause
              control {"mode":"paused","reason":"test"}
              log Info paused control: paused: test
              reply ok: pausing at the next step
            > staged 1 1 0 1 8 yielded
              checkpoint-1 staged from checkpoint-0
              lease-2 for job-1 until 2001 asked to yield delivered
              ! publish checkpoint-1
            > exit done
              lease none
            > published 1
              checkpoint-1 published from checkpoint-0
              log Info checkpoint_published checkpoint-1: published with training loss 2.0000
              job-1 running at step 1
            > wait 1
            > resume
              control {"mode":"running"}
              log Info resumed control: resumed
              lease-3 for evaluation of checkpoint-1 until 2002
              ! evaluate checkpoint-1 under lease-3
              reply ok: resumed
        "#]],
    );
}

#[test]
fn a_slice_that_yields_before_its_first_step_is_not_blamed() {
    check(
        training(),
        "pause",
        "exit done; resume",
        expect![[r#"
        > exit done
          lease none
        > resume
          control {"mode":"running"}
          log Info resumed control: resumed
          lease-3 for job-1 until 2001
          job-1 running
          ! train job-1 under lease-3
          reply ok: resumed
    "#]],
    );
}

#[test]
fn a_pause_ends_an_evaluation_which_is_done_again_later() {
    check(
        fresh(),
        "start",
        "pause; exit crashed; resume",
        expect![[r#"
        > pause
          control {"mode":"paused","reason":"test"}
          log Info paused control: paused: test
          lease-1 for evaluation of checkpoint-0 until 2000 asked to yield
          ! kill lease-1: paused
          reply ok: pausing at the next step
        > exit crashed
          lease none
        > resume
          control {"mode":"running"}
          log Info resumed control: resumed
          lease-2 for evaluation of checkpoint-0 until 2000
          ! evaluate checkpoint-0 under lease-2
          reply ok: resumed
    "#]],
    );
}

#[test]
fn a_pause_survives_a_restart_and_files_are_still_checked() {
    check(
        training(),
        "pause; exit done",
        "start; arrive b; taken 2; checked 2 bb",
        expect![[r#"
        > start
        > arrive b
          dataset-2 arriving
          ! take b as dataset-2
        > taken 2
          log Info file_taken dataset-2: b taken from the inbox
          dataset-2 checking
          dataset-2 checking check started
          ! check dataset-2
        > checked 2 bb
          dataset-2 accepted
          job-2 queued
          log Info file_accepted dataset-2: b accepted: 80 rows of chat_sft_v1, job-2 queued
    "#]],
    );
}

#[test]
fn a_stop_ends_the_daemon_when_nothing_is_under_way() {
    check(
        ready(),
        "",
        "stop",
        expect![[r#"
        > stop
          control {"mode":"stopping","reason":"test"}
          log Info stopping control: stopping: test
          ! exit
          reply ok: stopping
    "#]],
    );
    check(
        training(),
        "",
        "stop; staged 1 1 0 1 8 yielded; exit done; published 1",
        expect![[r#"
        > stop
          control {"mode":"stopping","reason":"test"}
          log Info stopping control: stopping: test
          lease-2 for job-1 until 2001 asked to yield
          ! ask lease-2 to yield
          reply ok: stopping
        > staged 1 1 0 1 8 yielded
          checkpoint-1 staged from checkpoint-0
          lease-2 for job-1 until 2001 asked to yield delivered
          ! publish checkpoint-1
        > exit done
          lease none
        > published 1
          checkpoint-1 published from checkpoint-0
          log Info checkpoint_published checkpoint-1: published with training loss 2.0000
          job-1 running at step 1
          ! exit
    "#]],
    );
}

#[test]
fn stop_wins_over_pause_which_is_in_force_at_the_next_start() {
    check(
        training(),
        "pause; exit done",
        "stop; pause; resume; start; resume",
        expect![[r#"
        > stop
          control {"mode":"stopping","reason":"test","paused":"test"}
          log Info stopping control: stopping: test
          ! exit
          reply ok: stopping
        > pause
          ! exit
          reply no: the daemon is stopping
        > resume
          ! exit
          reply no: the daemon is stopping; start it again
        > start
          control {"mode":"paused","reason":"test"}
        > resume
          control {"mode":"running"}
          log Info resumed control: resumed
          lease-3 for job-1 until 2001
          job-1 running
          ! train job-1 under lease-3
          reply ok: resumed
    "#]],
    );
}

#[test]
fn a_skip_ends_the_job_at_its_next_checkpoint() {
    check(
        training(),
        "",
        "skip; staged 1 2 0 2 16 yielded; published 2; exit done",
        expect![[r#"
        > skip
          job-1 running to be skipped
          lease-2 for job-1 until 2001 asked to yield
          ! ask lease-2 to yield
          reply ok: job-1 ends at its next step
        > staged 1 2 0 2 16 yielded
          checkpoint-2 staged from checkpoint-0
          lease-2 for job-1 until 2001 asked to yield delivered
          ! publish checkpoint-2
        > published 2
          checkpoint-2 published from checkpoint-0
          log Info checkpoint_published checkpoint-2: published with training loss 2.0000
          job-1 running at step 2 to be skipped
          job-1 skipped at row 16 at step 2 to be skipped
          log Info job_skipped job-1: skipped after 16 rows: test
        > exit done
          lease none
          lease-3 for evaluation of checkpoint-2 until 2001
          ! evaluate checkpoint-2 under lease-3
    "#]],
    );
}

#[test]
fn a_skip_in_the_last_slice_does_not_undo_completion() {
    check(
        training(),
        "skip; staged 1 10 0 10 80 ends",
        "published 10",
        expect![[r#"
        > published 10
          checkpoint-10 published from checkpoint-0
          log Info checkpoint_published checkpoint-10: published with training loss 2.0000
          job-1 completed at step 10 to be skipped
          log Info job_completed job-1: completed: 80 rows in 10 steps
    "#]],
    );
}

#[test]
fn a_skipped_job_ends_however_its_worker_does() {
    check(
        training(),
        "skip",
        "exit crashed",
        expect![[r#"
        > exit crashed
          lease none
          job-1 skipped at row 0 to be skipped
          log Info job_skipped job-1: skipped after 0 rows: test
    "#]],
    );
    check(
        training(),
        "skip",
        "exit done",
        expect![[r#"
        > exit done
          lease none
          job-1 skipped at row 0 to be skipped
          log Info job_skipped job-1: skipped after 0 rows: test
    "#]],
    );
    check(
        training(),
        "skip",
        "start",
        expect![[r#"
        > start
          lease none
          job-1 skipped at row 0 to be skipped
          log Info job_skipped job-1: skipped after 0 rows: test
    "#]],
    );
}

#[test]
fn a_skip_between_slices_takes_effect_at_once() {
    check(
        ready(),
        "",
        "skip",
        expect![[r#"
        > skip
          reply no: no job runs
    "#]],
    );
    check(
        training(),
        "staged 1 4 0 4 32; published 4; exit done",
        "skip",
        expect![[r#"
        > skip
          job-1 running at step 4 to be skipped
          job-1 skipped at row 32 at step 4 to be skipped
          log Info job_skipped job-1: skipped after 32 rows: test
          reply ok: job-1 skipped
    "#]],
    );
    check(
        training(),
        "staged 1 4 0 4 32; published 4",
        "skip; exit done",
        expect![[r#"
        > skip
          job-1 running at step 4 to be skipped
          job-1 skipped at row 32 at step 4 to be skipped
          log Info job_skipped job-1: skipped after 32 rows: test
          reply ok: job-1 skipped
        > exit done
          lease none
          lease-3 for evaluation of checkpoint-4 until 2001
          ! evaluate checkpoint-4 under lease-3
    "#]],
    );
    check(
        training(),
        "staged 1 4 0 4 32; exit done",
        "skip; published 4",
        expect![[r#"
        > skip
          job-1 running to be skipped
          reply ok: job-1 ends with the checkpoint that is being published
        > published 4
          checkpoint-4 published from checkpoint-0
          log Info checkpoint_published checkpoint-4: published with training loss 2.0000
          job-1 running at step 4 to be skipped
          job-1 skipped at row 32 at step 4 to be skipped
          log Info job_skipped job-1: skipped after 32 rows: test
          lease-3 for evaluation of checkpoint-4 until 2001
          ! evaluate checkpoint-4 under lease-3
    "#]],
    );
}

#[test]
fn a_skipped_job_can_be_taken_up_again_where_it_ended() {
    check(
        training(),
        "skip; staged 1 2 0 2 16 yielded; published 2; exit done; evaluated 2 loss 2; exit done",
        "retry 1",
        expect![[r#"
            > retry 1
              job-1 queued at step 2
              log Info job_retried job-1: queued again by hand
              lease-4 for job-1 until 2001
              job-1 running at step 2
              ! train job-1 under lease-4
              reply ok: job-1 queued again
        "#]],
    );
}

#[test]
fn a_pause_outlives_a_stop() {
    let mut world = ready();
    world.run("pause; stop; start");
    assert_eq!(world.state.control, Control::Paused { reason: "test".to_string() });
    // A second stop forgets nothing, and neither does a daemon that is started by hand.
    world.run("stop; stop; start");
    assert_eq!(world.state.control, Control::Paused { reason: "test".to_string() });
    world.run("resume; stop; start");
    assert_eq!(world.state.control, Control::Running);
}

#[test]
fn between_two_daemons_a_pause_is_for_the_next_one() {
    let mut world = ready();
    world.run("stop; exit done");
    let command = |world: &World, command| command_offline(&world.state, &world.settings, &command, world.now);
    let pause = command(&world, Command::Pause { reason: "night".to_string() });
    assert_eq!(pause.reply, Some(Ok("paused".to_string())));
    world.commit(&pause);
    assert_eq!(world.state.control, Control::Paused { reason: "night".to_string() });
    world.run("stop; exit done");
    let resume = command(&world, Command::Resume { reason: String::new() });
    world.commit(&resume);
    assert_eq!((resume.reply, &world.state.control), (Some(Ok("resumed".to_string())), &Control::Running));
    // Other commands leave the stop to the person who starts the daemon.
    world.run("stop; exit done");
    let pin = command(&world, Command::Rollback { reason: String::new() });
    world.commit(&pin);
    assert!(matches!(world.state.control, Control::Stopping { .. }));
}

#[test]
fn without_a_daemon_commands_change_the_state_and_start_nothing() {
    let mut world = ready();
    world.run("pause; arrive a; taken 1; checked 1 aa");
    let mut offline = |name: &str, command| {
        let decision = command_offline(&world.state, &world.settings, &command, world.now);
        format!("> {name}\n{}", world.commit(&decision))
    };
    let resume = Command::Resume { reason: "lunch is over".to_string() };
    let trace = offline("resume", resume) + &offline("stop", Command::Stop { reason: String::new() });
    expect![[r#"
        > resume
          control {"mode":"running"}
          log Info resumed control: resumed: lunch is over
          reply ok: resumed
        > stop
          reply no: no daemon runs here
    "#]]
    .assert_eq(&trace);
    assert_eq!(world.state.lease, None);
}
