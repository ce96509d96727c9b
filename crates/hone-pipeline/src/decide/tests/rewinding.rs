//! Back to an earlier checkpoint, with and without a data set.

use super::{World, training};
use crate::config::OnRegression;
use crate::event::{Command, Effect, Event};
use crate::ids::{CheckpointId, DatasetId, JobId};
use crate::state::{Change, Control, Deployment, DeploymentState, Gone, JobState};

/// Job 1 (data set 1) makes checkpoint 10, job 2 makes 20 and job 3 makes 30; each is better than the one before.
pub(super) fn three_jobs() -> World {
    let mut world = first_of_three();
    for (number, loss) in [(2, 2.0), (3, 1.5)] {
        one_more(&mut world, number, loss);
        world.run(&format!("deployed {}", number + 1));
    }
    world
}

fn first_of_three() -> World {
    let mut world = training();
    world.run("staged 1 10 0 10 80 ends; published 10; exit done; evaluated 10 loss 2.5; exit done; deployed 2");
    world
}

/// Data set N becomes job N, which makes checkpoint 10·N with this loss. Returns what happened at its evaluation.
fn one_more(world: &mut World, number: u64, loss: f64) -> String {
    let (from, to) = ((number - 1) * 10, number * 10);
    world.run(&format!("arrive {number}.jsonl; taken {number}; checked {number} h{number}; filed {number}"));
    world.run(&format!("staged {number} {to} {from} 10 80 ends; published {to}; exit done"));
    world.run(&format!("evaluated {to} loss {loss}; exit done"))
}

pub(super) fn latest(world: &World) -> u64 {
    world.state.latest_checkpoint().unwrap().id.0
}

pub(super) fn abandoned(world: &World) -> Vec<u64> {
    let all = world.state.checkpoints.values();
    all.filter(|c| c.marks.abandoned.is_some()).map(|c| c.id.0).collect()
}

pub(super) fn state_of(world: &World, job: u64) -> &'static str {
    match world.state.jobs[&JobId(job)].state {
        JobState::Queued => "queued",
        JobState::Running => "running",
        JobState::Completed => "completed",
        JobState::Rewound { .. } => "rewound",
        _ => "other",
    }
}

#[test]
fn after_a_rewind_training_goes_on_from_there_and_numbers_count_on() {
    let mut world = three_jobs();
    assert_eq!(world.state.champion, Some(CheckpointId(30)));
    let reply = world.run("rewind 10");
    assert!(
        reply.contains("reply ok: training goes on from checkpoint-10; `hone queue retry` trains job-2, job-3 again"),
        "{reply}"
    );
    assert_eq!((latest(&world), abandoned(&world)), (10, vec![20, 30]));
    assert_eq!([1, 2, 3].map(|job| state_of(&world, job)), ["completed", "rewound", "rewound"]);
    // What is served follows: the newest of the chain that was promoted.
    assert_eq!(world.state.champion, Some(CheckpointId(10)));
    assert!(world.state.deployments.values().next_back().is_some_and(|d| d.checkpoint == CheckpointId(10)));
    let refused = world.run("retry 2; staged 2 20 10 10 80 ends");
    assert!(refused.contains("10 steps after checkpoint-30 make another number"), "{refused}");
    world.run("exit crashed; wait 1000; staged 2 40 10 10 80 ends; published 40; exit done");
    assert_eq!((latest(&world), abandoned(&world)), (40, vec![20, 30]));
    assert_eq!(state_of(&world, 2), "completed");
}

#[test]
fn forward_again_to_what_was_abandoned() {
    let mut world = three_jobs();
    world.run("rewind 10; rewind 30");
    assert_eq!((latest(&world), abandoned(&world)), (30, vec![]));
    assert_eq!([1, 2, 3].map(|job| state_of(&world, job)), ["completed", "completed", "completed"]);
    let replies = world.run("rewind 30; rewind 7");
    assert!(
        replies.contains("checkpoint-30 is the latest already")
            && replies.contains("checkpoint-7 is not in the ledger"),
        "{replies}"
    );
}

#[test]
fn a_slice_that_runs_is_ended_without_blame_and_what_it_says_is_refused() {
    let mut world = three_jobs();
    world.run("arrive 4.jsonl; taken 4; checked 4 h4; filed 4");
    let reply = world.run("rewind 20");
    assert!(reply.contains("! kill lease-"), "{reply}");
    let late = world.run("step 31; staged 4 31 30 1 8");
    assert!(late.contains("checkpoint_refused"), "{late}");
    assert!(!world.state.checkpoints.contains_key(&CheckpointId(31)));
    world.run("exit crashed");
    assert_eq!(world.state.jobs[&JobId(4)].tries, 0);
    assert_eq!(state_of(&world, 4), "running", "it begins anew from checkpoint-20");
    assert_eq!(latest(&world), 20);
}

#[test]
fn a_checkpoint_that_is_published_meanwhile_is_abandoned_at_once() {
    let mut world = three_jobs();
    world.run("arrive 4.jsonl; taken 4; checked 4 h4; filed 4; staged 4 31 30 1 8; rewind 20; published 31; exit done");
    assert_eq!((latest(&world), abandoned(&world)), (20, vec![30, 31]));
    assert_eq!(world.state.jobs[&JobId(4)].position.job_step, 0);
}

#[test]
fn undo_goes_before_the_data_set_and_queues_the_later_good_ones_again() {
    let mut world = three_jobs();
    let reply = world.run("undo 2");
    assert!(
        reply.contains(
            "reply ok: dataset-2 touched checkpoint-20; training goes on from checkpoint-10; queued again: job-3"
        ),
        "{reply}"
    );
    assert_eq!((latest(&world), abandoned(&world)), (10, vec![20, 30]));
    assert_eq!([1, 2, 3].map(|job| state_of(&world, job)), ["completed", "rewound", "running"]);
    assert!(world.state.datasets[&DatasetId(2)].set_aside.is_some());
    let nothing = world.run("undo 2");
    assert!(nothing.contains("reply ok: dataset-2 is in no checkpoint that is trained on"), "{nothing}");
}

#[test]
fn a_checkpoint_that_is_worse_is_taken_back_by_itself_where_that_is_configured() {
    let mut world = first_of_three();
    world.settings.on_regression = OnRegression::Rewind;
    one_more(&mut world, 2, 2.5);
    assert_eq!(world.state.champion, Some(CheckpointId(10)), "20 is as good, so nobody can tell");
    let log = one_more(&mut world, 3, 3.5);
    let message = "training restarts from checkpoint-10; set aside: dataset-3; queued again: job-2";
    assert!(log.contains("log Error rewound checkpoint-30: checkpoint-30 is worse than checkpoint-20"), "{log}");
    assert!(log.contains(message), "{log}");
    assert_eq!((latest(&world), abandoned(&world)), (10, vec![20, 30]));
    assert_eq!([1, 2, 3].map(|job| state_of(&world, job)), ["completed", "running", "rewound"]);
    assert_eq!(world.state.control, Control::Running);
    let aside = world.state.datasets.values().filter(|d| d.set_aside.is_some()).map(|d| d.id.0);
    assert_eq!(aside.collect::<Vec<_>>(), [3]);
}

#[test]
fn all_files_of_the_guilty_job_are_set_aside_and_no_job_is_made_of_them() {
    let mut world = training();
    world.settings.on_regression = OnRegression::Rewind;
    world.settings.min_rows = 200;
    for number in 2..=3 {
        world.run(&format!("arrive {number}.jsonl; taken {number}; checked {number} h{number}; filed {number}"));
    }
    world.run("staged 1 10 0 10 80 ends; published 10; exit done; evaluated 10 loss 2; exit done; deployed 2");
    world.run("staged 2 30 10 20 160 ends; published 30; exit done; evaluated 30 loss 3.5; exit done");
    let aside = world.state.datasets.values().filter(|d| d.set_aside.is_some()).map(|d| d.id.0);
    assert_eq!(aside.collect::<Vec<_>>(), [2, 3]);
    assert_eq!((latest(&world), world.state.jobs.len(), state_of(&world, 2)), (10, 2, "rewound"));
}

#[test]
fn a_champion_that_is_worse_than_its_parent_is_held() {
    let mut world = first_of_three();
    world.settings.on_regression = OnRegression::Rewind;
    // People went back to serving 10; what comes after 20 is better than that, and worse than 20.
    one_more(&mut world, 2, 1.0);
    world.run("deploy 10; deployed 4");
    let log = one_more(&mut world, 3, 2.0);
    assert_eq!((latest(&world), world.state.champion), (30, Some(CheckpointId(30))), "{log}");
    assert!(matches!(world.state.control, Control::Paused { .. }), "{log}");
}

#[test]
fn undo_of_one_of_several_files_trains_the_others_again() {
    let mut world = training();
    world.settings.min_rows = 200;
    for number in 2..=3 {
        world.run(&format!("arrive {number}.jsonl; taken {number}; checked {number} h{number}; filed {number}"));
    }
    world.run("staged 1 10 0 10 80 ends; published 10; exit done; evaluated 10 loss 2; exit done; deployed 2");
    world.run("staged 2 30 10 20 160 ends; published 30; exit done");
    world.run("undo 3");
    assert_eq!(state_of(&world, 2), "rewound");
    assert_eq!(world.state.jobs[&JobId(3)].datasets, [DatasetId(2)]);
    assert_eq!(latest(&world), 10);

    // From here on job 3 alone trains data set 2, whatever people ask for.
    let retry = world.run("retry 2");
    assert!(retry.contains("reply no: job-3 has rows of the same files: they would be trained twice"), "{retry}");
    let queued = |world: &World| world.state.jobs.values().filter(|job| job.state.is_open()).count();
    world.run("undo 2");
    assert_eq!((state_of(&world, 3), queued(&world)), ("rewound", 0), "nothing is left of job 2");
}

#[test]
fn the_rest_of_a_job_ends_where_the_whole_job_is_gone_back_to() {
    let mut world = training();
    world.settings.min_rows = 200;
    for number in 2..=3 {
        world.run(&format!("arrive {number}.jsonl; taken {number}; checked {number} h{number}; filed {number}"));
    }
    world.run("staged 1 10 0 10 80 ends; published 10; exit done; evaluated 10 loss 2; exit done; deployed 2");
    world.run("staged 2 30 10 20 160 ends; published 30; exit done; undo 3; rewind 30");
    assert_eq!((state_of(&world, 2), state_of(&world, 3)), ("completed", "rewound"));
    assert_eq!(latest(&world), 30);
}

#[test]
fn forget_removes_the_rows_flags_what_saw_them_and_keeps_the_hash() {
    let mut world = three_jobs();
    let reply = world.run("forget 2");
    assert!(reply.contains("! remove what is pruned"), "{reply}");
    let dataset = world.state.datasets[&DatasetId(2)].clone();
    assert_eq!((dataset.gone, dataset.blake3.is_some()), (Some(Gone::Forgotten), true));
    assert_eq!(world.state.checkpoints[&CheckpointId(20)].marks.saw_forgotten, [DatasetId(2)]);
    assert!(world.state.checkpoints[&CheckpointId(10)].marks.saw_forgotten.is_empty());
    let retry = world.run("retry 2");
    assert!(retry.contains("reply no: the rows of dataset-2 are not here any more"), "{retry}");
    // The same bytes do not come in again.
    let again = world.run("arrive again.jsonl; taken 4; checked 4 h2");
    assert!(again.contains("has the same bytes as dataset-2"), "{again}");
    // And no later job replays them.
    world.settings.replay_share = 1.0;
    world.run("arrive 5.jsonl; taken 5; checked 5 h5");
    let replayed = world.state.jobs.values().filter_map(|job| job.replay.as_ref());
    assert!(replayed.into_iter().all(|replay| !replay.datasets.contains(&DatasetId(2))));
}

#[test]
fn a_pruned_checkpoint_is_no_place_to_go_back_to_and_undo_finds_an_older_one() {
    let mut world = three_jobs();
    world.run("wait 200000000; measured 10 1 20 1 30 1");
    let reply = world.run("rewind 10");
    assert!(reply.contains("reply no: checkpoint-10 has no files here"), "{reply}");
    // 20 is what a rollback goes back to, so it stays; the parent of data set 2's is gone.
    world.run("undo 2");
    assert_eq!(latest(&world), 0);
    assert_eq!([1, 2, 3].map(|job| state_of(&world, job)), ["running", "rewound", "queued"]);
}

#[test]
fn going_back_offline_changes_the_state_alone() {
    let world = three_jobs();
    let command = Command::Rewind { checkpoint: CheckpointId(10), reason: "x".to_string() };
    let decision = super::super::command_offline(&world.state, &world.settings, &command, world.now);
    assert!(decision.effects.is_empty() && decision.reply.unwrap().is_ok());
    let online = super::decide(&world.state, &world.settings, &Event::Command(command), world.now);
    assert!(!online.effects.iter().any(|effect| matches!(effect, Effect::StartSlice { .. })));
}

#[test]
fn a_rewind_serves_nothing_that_was_taken_back_by_itself() {
    let mut world = three_jobs();
    let of_20 = world.state.deployments.values().rev().find(|d| d.checkpoint == CheckpointId(20)).unwrap().clone();
    let state = DeploymentState::Failed { reason: "rolled back: slow".to_string() };
    let taken_back = Deployment { state, live_since_ms: Some(1), ..of_20 };
    world.state.apply(&Change::PutDeployment(taken_back));
    world.run("rewind 20");
    assert_eq!(world.state.champion, Some(CheckpointId(10)));
}
