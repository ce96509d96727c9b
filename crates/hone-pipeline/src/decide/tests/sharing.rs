//! Files that share a job, and rows of earlier data sets that a job trains again.

use super::{World, ready, training};
use crate::config::{KeepBack, Settings};
use crate::ids::{DatasetId, JobId};
use crate::state::JobReplay;

fn with(change: impl FnOnce(&mut Settings), mut world: World) -> World {
    change(&mut world.settings);
    world
}

fn arrive(world: &mut World, number: u64) {
    world.run(&format!("arrive {number}.jsonl; taken {number}; checked {number} h{number}; filed {number}"));
}

/// The data sets of every job.
fn jobs(world: &World) -> Vec<(u64, Vec<u64>)> {
    world.state.jobs.values().map(|job| (job.id.0, job.datasets.iter().map(|id| id.0).collect())).collect()
}

#[test]
fn small_files_share_a_job_until_it_has_enough_rows_and_keep_their_identity() {
    // Files of 80 rows; the first one trains, the others wait.
    let mut world = with(|settings| settings.min_rows = 200, training());
    for number in 2..=6 {
        arrive(&mut world, number);
    }
    // 80, 160 and then 240 rows are enough.
    assert_eq!(jobs(&world), [(1, vec![1]), (2, vec![2, 3, 4]), (3, vec![5, 6])]);
    assert_eq!(world.state.datasets.len(), 6);
}

#[test]
fn a_large_file_and_one_of_another_priority_have_jobs_of_their_own() {
    let mut world = with(|settings| settings.min_rows = 80, training());
    arrive(&mut world, 2);
    arrive(&mut world, 3);
    assert_eq!(jobs(&world), [(1, vec![1]), (2, vec![2]), (3, vec![3])]);
    let mut world = with(|settings| settings.min_rows = 200, training());
    arrive(&mut world, 2);
    world.run("move 2 high");
    arrive(&mut world, 3);
    assert_eq!(jobs(&world), [(1, vec![1]), (2, vec![2]), (3, vec![3])]);
}

#[test]
fn a_job_that_was_begun_takes_no_more_files() {
    let mut world = with(|settings| settings.min_rows = 200, training());
    world.run("pause; staged 1 1 0 1 8 yielded; exit done; published 1");
    arrive(&mut world, 2);
    assert_eq!(jobs(&world), [(1, vec![1]), (2, vec![2])]);
}

#[test]
fn replay_is_chosen_at_the_first_slice_and_kept() {
    let mut world = with(|settings| settings.replay_share = 0.1, ready());
    arrive(&mut world, 1);
    assert_eq!(world.state.jobs[&JobId(1)].replay, None, "there is nothing earlier");
    world.run("staged 1 10 0 10 80 ends; published 10; exit done; evaluated 10 loss 2; exit done");
    arrive(&mut world, 2);
    let replay = Some(JobReplay { share: 0.1, datasets: vec![DatasetId(1)] });
    assert_eq!(world.state.jobs[&JobId(2)].replay, replay);
    // A crash and another share later it is the same.
    world.settings.replay_share = 0.5;
    world.run("exit crashed; wait 1000; start");
    assert_eq!(world.state.jobs[&JobId(2)].replay, replay);
}

#[test]
fn rows_are_kept_back_as_the_file_was_accepted_and_a_job_freezes_which() {
    let keep = KeepBack { share: 0.05, max_rows: 200 };
    let set = |settings: &mut Settings| (settings.keep_back, settings.keep_back_files) = (keep, 2);
    let mut world = with(set, ready());
    let kept_back = |world: &World, job: u64| world.state.jobs[&JobId(job)].kept_back.clone();
    for number in 1..=4 {
        arrive(&mut world, number);
        world.settings.keep_back.share = 0.5;
        let (from, to) = ((number - 1) * 10, number * 10);
        world.run(&format!("staged {number} {to} {from} 10 80 ends; published {to}; exit done"));
        world.run(&format!("evaluated {to} loss 2; exit done"));
    }
    // Its own file and the two newest, itself among them.
    let ids = |ids: &[u64]| ids.iter().map(|id| DatasetId(*id)).collect::<Vec<_>>();
    assert_eq!([1, 2, 3, 4].map(|job| kept_back(&world, job)), [ids(&[1]), ids(&[1, 2]), ids(&[2, 3]), ids(&[3, 4])]);
    let shares: Vec<f64> = world.state.datasets.values().filter_map(|d| d.keep_back).map(|k| k.share).collect();
    assert_eq!(shares, [0.05, 0.5, 0.5, 0.5]);
    assert_eq!(crate::decide::evaluated_back(&world.state, &world.settings), ids(&[3, 4]));
}

#[test]
fn only_so_many_data_sets_are_read_and_another_job_draws_others() {
    let mut world = with(|settings| (settings.replay_share, settings.replay_max_datasets) = (0.1, 3), ready());
    let mut drawn = Vec::new();
    for number in 1..=12 {
        arrive(&mut world, number);
        if let Some(replay) = &world.state.jobs[&JobId(number)].replay {
            assert!(replay.datasets.len() <= 3 && replay.datasets.iter().all(|id| id.0 < number));
            drawn.push(replay.datasets.clone());
        }
        let (from, to) = ((number - 1) * 10, number * 10);
        let lines = format!("staged {number} {to} {from} 10 80 ends; published {to}; exit done; evaluated {to} loss 2");
        world.run(&format!("{lines}; exit done"));
    }
    assert_eq!(drawn.len(), 11);
    let distinct: std::collections::BTreeSet<_> = drawn.iter().flatten().collect();
    assert!(distinct.len() >= 8, "{drawn:?}");
}
