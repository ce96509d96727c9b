//! Another base model, and back.

use super::rewinding::{abandoned, latest, state_of, three_jobs};
use crate::config::{Retention, TrainSettings};
use crate::ids::{CheckpointId, JobId};
use crate::retention::plan;
use crate::state::CheckpointState;

#[test]
fn a_new_lineage_trains_another_base_model_and_going_back_finds_everything_as_it_was() {
    let mut world = three_jobs();
    let before = world.state.clone();
    let reply = world.run("lineage models/other");
    assert!(reply.contains("reply ok: lineage 2 begins with checkpoint-31"), "{reply}");
    assert_eq!((latest(&world), abandoned(&world)), (31, vec![0, 10, 20, 30]));
    assert_eq!([1, 2, 3].map(|job| state_of(&world, job)), ["rewound"; 3], "nothing is trained in this model");
    assert_eq!(world.state.champion, Some(CheckpointId(31)));
    assert_eq!(world.state.lineage.as_ref().map(|l| (l.number, l.base)), Some((2, CheckpointId(31))));

    // The new base model is evaluated first; numbers count on.
    world
        .run("evaluated 31 loss 5; exit done; deployed 5; retry 1; staged 1 41 31 10 80 ends; published 41; exit done");
    world.run("evaluated 41 loss 4; exit done; deployed 6");
    assert_eq!((latest(&world), world.state.champion), (41, Some(CheckpointId(41))));
    assert_eq!([1, 2].map(|job| state_of(&world, job)), ["completed", "rewound"]);

    let reply = world.run("switch 1");
    assert!(reply.contains("reply ok: training goes on in lineage 1 from checkpoint-30"), "{reply}");
    assert_eq!((latest(&world), abandoned(&world)), (30, vec![31, 41]));
    assert_eq!(world.state.lineage, before.lineage);
    assert_eq!(world.state.champion, before.champion);
    for (id, job) in before.jobs.iter() {
        let now = &world.state.jobs[id];
        assert_eq!((&now.state, &now.position, &now.settings), (&job.state, &job.position, &job.settings));
    }
    // And the second one again.
    world.run("switch 2");
    assert_eq!((latest(&world), world.state.champion), (41, Some(CheckpointId(41))));
    assert_eq!([1, 2].map(|job| state_of(&world, job)), ["completed", "rewound"]);
}

#[test]
fn a_job_that_begins_anew_in_another_lineage_takes_the_values_of_now() {
    let mut world = three_jobs();
    let old = world.state.jobs[&JobId(1)].settings.clone().unwrap();
    world.settings.train = TrainSettings { learning_rate: old.learning_rate * 2.0, ..old.clone() };
    world.run("lineage models/other; evaluated 31 loss 5; exit done; retry 1");
    assert_eq!(world.state.jobs[&JobId(1)].settings.as_ref(), Some(&world.settings.train));
}

#[test]
fn what_is_known_trained_or_nowhere_is_refused() {
    let mut world = three_jobs();
    let refused = world.run("lineage models/base; switch 1; switch 7");
    assert!(refused.contains("reply no: lineage 1 has this base model (hint: `hone lineage switch 1`)"), "{refused}");
    assert!(refused.contains("reply no: lineage 1 is trained already"), "{refused}");
    assert!(refused.contains("reply no: there is no lineage 7 (hint: `hone lineage` lists them)"), "{refused}");
}

#[test]
fn a_running_slice_ends_and_what_it_staged_is_refused() {
    let mut world = super::training();
    let trace = world.run("lineage models/other");
    assert!(trace.contains("! kill lease-"), "{trace}");
    let refused = world.run("staged 1 10 0 10 80 ends; exit crashed");
    assert!(refused.contains("refused"), "{refused}");
    assert_eq!(latest(&world), 1);
    assert_eq!(state_of(&world, 1), "running", "it has the device next, in the new lineage");
}

#[test]
fn retention_spares_what_another_lineage_goes_on_from() {
    let mut world = three_jobs();
    world.run("lineage models/other; evaluated 31 loss 5; exit done; deployed 5");
    let retention = Retention { keep_ms: 0, min_age_ms: 0, ..Retention::default() };
    let now = world.now + 1_000_000_000;
    let plan = plan(&world.state, &retention, &[], &Default::default(), now);
    let gone: Vec<u64> = plan.prune.iter().map(|(id, _)| id.0).collect();
    assert_eq!(gone, [10, 20], "30 is where lineage 1 stands, 0 and 31 are base models");
    assert_eq!(world.state.checkpoints[&CheckpointId(30)].state, CheckpointState::Published);
}
