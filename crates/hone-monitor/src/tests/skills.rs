//! What the monitor tells of skills.

use super::*;
use hone_pipeline::curriculum::{Move, SkillEvaluation, SkillProgress};
use hone_pipeline::state::AnswerOutcome::{Errored, Right, Wrong};

/// A skill that went from level 1 to 2, with the base model and the champion asked the same sealed questions of level 1.
fn with_skill(store: &mut Store) {
    let examined = |checkpoint, level, solved, errored| SkillEvaluation {
        checkpoint: CheckpointId(checkpoint),
        level,
        questions: 300,
        solved,
        errored,
        at_ms: checkpoint,
        ..SkillEvaluation::default()
    };
    let reason = "the last 3 evaluations average 85.0 %, at least 80 %".to_string();
    let progress = SkillProgress {
        level: 2,
        total_levels: 7,
        history: vec![examined(0, 1, 0, 0), examined(10, 1, 255, 0), examined(20, 2, 30, 200)],
        moves: vec![Move { from: 1, to: 2, checkpoint: Some(CheckpointId(10)), reason, at_ms: 11 }],
        ..SkillProgress::new("binary")
    };
    let sealed = |outcomes: [_; 4]| SuiteResult {
        suite: "binary/1".to_string(),
        rows: 4,
        answers: Some(outcomes.to_vec()),
        ..SuiteResult::default()
    };
    let evaluated = |checkpoint, outcomes| {
        let Change::PutEvaluation(mut evaluation) = evaluation(checkpoint, 1.0) else { unreachable!() };
        evaluation.suites.push(sealed(outcomes));
        Change::PutEvaluation(evaluation)
    };
    let changes = [
        Change::SetCurriculum { skills: [("binary".to_string(), progress)].into() },
        evaluated(0, [Wrong; 4]),
        evaluated(10, [Right, Right, Wrong, Errored]),
    ];
    store.commit(&changes).unwrap();
}

#[test]
fn a_skill_is_told_with_its_levels_its_moves_and_what_training_brought() {
    let root = tempfile::tempdir().unwrap();
    with_skill(&mut busy_workspace(root.path()));
    let monitor = Monitor::start(options(root.path()));
    let standing = monitor.source("curriculum")["data"]["skills"][0].clone();
    assert_eq!(
        (&standing["skill"], &standing["level"], &standing["total_levels"]),
        (&json!("binary"), &json!(2), &json!(7))
    );
    assert_eq!(standing["reason"], "the last 3 evaluations average 85.0 %, at least 80 %");
    assert_eq!(standing["moves"][0]["checkpoint"], "checkpoint-10");

    let levels = monitor.source("skill_metrics")["data"]["skills"][0]["levels"].clone();
    let first = &levels[0];
    assert_eq!((&first["level"], &first["latest"], &first["num_questions"]), (&json!(1), &json!(0.85), &json!(300)));
    // Of four sealed answers one could not be judged.
    assert_eq!((&first["base"], first["trained"].as_f64()), (&json!(0.0), Some(2.0 / 3.0)));
    assert_eq!(first["trained_checkpoint"], "checkpoint-10");
    let points: Vec<_> =
        first["history"].as_array().unwrap().iter().map(|p| (&p["checkpoint"], &p["accuracy"])).collect();
    assert_eq!(points, [(&json!(0), &json!(0.0)), (&json!(10), &json!(0.85))]);
    // Level 2 was asked once, most of it without a verdict, and nobody was asked its sealed questions.
    assert_eq!(
        (&levels[1]["latest"], &levels[1]["num_questions"], &levels[1]["base"]),
        (&json!(0.3), &json!(100), &Value::Null)
    );

    let metrics = monitor.text("/metrics").1;
    for line in ["hone_skill_level{skill=\"binary\"} 2", "hone_skill_accuracy{skill=\"binary\",level=\"1\"} 0.85"] {
        assert!(metrics.lines().any(|found| found == line), "{line} is missing in\n{metrics}");
    }
}

#[test]
fn a_suite_of_questions_has_right_answers_and_no_losses() {
    let root = tempfile::tempdir().unwrap();
    with_skill(&mut busy_workspace(root.path()));
    let monitor = Monitor::start(options(root.path()));
    let suites = monitor.json("/api/history/evaluations")["suites"].clone();
    let by_name = |name: &str| suites.as_array().unwrap().iter().find(|suite| suite["suite"] == name).unwrap().clone();
    let (sealed, rows) = (by_name("binary/1"), by_name("held-out.jsonl"));
    assert_eq!((&sealed["share_right"], &sealed["mean_nll"]), (&json!([0.0, 2.0 / 3.0]), &json!([null, null])));
    assert_eq!((&rows["share_right"], &rows["mean_nll"]), (&json!([null, null]), &json!([1.0, 1.0])));
    let items = monitor.source("checkpoints")["data"]["items"].clone();
    let of_champion = &items[0]["evaluation"]["suites"][1];
    assert_eq!((of_champion["share_right"].as_f64(), &of_champion["mean_nll"]), (Some(2.0 / 3.0), &Value::Null));
    // Wilson's interval for 2 of 3, from a table.
    let bound = |at: usize| of_champion["interval"][at].as_f64().unwrap();
    assert!((bound(0) - 0.2077).abs() < 1e-4 && (bound(1) - 0.9385).abs() < 1e-4, "{of_champion}");
    assert_eq!(of_champion["shares"]["cut"], 0.0);
}
