//! What a person reads of one checkpoint.

use super::*;
use crate::commands::deploy::in_words;
use hone_pipeline::ids::DeploymentId;
use hone_pipeline::state::{
    AnswerOutcome, Change, CheckpointState, Deployment, DeploymentState, Evaluation, Position, SuiteResult,
};

const HOUR_MS: u64 = 3_600_000;

fn deployment(number: u64, state: DeploymentState) -> Deployment {
    Deployment {
        id: DeploymentId(number),
        checkpoint: CheckpointId(0),
        target: "here".to_string(),
        state,
        tries: 0,
        not_before_ms: 0,
        reason: "the first champion".to_string(),
        created_ms: HOUR_MS,
        steps: vec![("stage".to_string(), HOUR_MS + 40), ("switch".to_string(), HOUR_MS + 100)],
        in_flight: false,
        live_since_ms: Some(HOUR_MS + 100),
        watch_until_ms: None,
    }
}

#[test]
fn a_deployment_says_since_when_it_serves_and_that_it_served() {
    let now_ms = 3 * HOUR_MS + 100;
    assert_eq!(
        in_words(&deployment(7, DeploymentState::Live), now_ms),
        "checkpoint-0 on here by deployment-7: live for 2 h 0 min (stage 40 ms, switch 60 ms); why: the first champion"
    );
    assert_eq!(
        in_words(&deployment(7, DeploymentState::Superseded), now_ms),
        "checkpoint-0 on here by deployment-7: superseded, went live 2 h 0 min ago (stage 40 ms, switch 60 ms); why: the \
         first champion"
    );
}

#[test]
fn a_checkpoint_is_explained_with_its_scores_and_what_failed() {
    let checkpoint = Checkpoint {
        id: CheckpointId(0),
        parent: None,
        job: None,
        state: CheckpointState::Published,
        manifest_hash: String::new(),
        position: Position::default(),
        rows_digest: String::new(),
        train_loss: None,
        created_ms: 0,
        ends_job: true,
        yielded: false,
        marks: Default::default(),
    };
    let answers = [(AnswerOutcome::Right, 5), (AnswerOutcome::Wrong, 4), (AnswerOutcome::Cut, 1)];
    let suite = SuiteResult {
        suite: "binary/1".to_string(),
        rows: 10,
        answers: Some(answers.into_iter().flat_map(|(outcome, count)| vec![outcome; count]).collect()),
        ..SuiteResult::default()
    };
    let evaluation = Evaluation {
        checkpoint: CheckpointId(0),
        manifest_hash: String::new(),
        template_hash: String::new(),
        dtype: "f32".to_string(),
        engine: String::new(),
        suites: vec![suite],
        speed: None,
        at_ms: 0,
        lease: 1,
        error: Some("no room".to_string()),
        tries: 3,
        retry_at_ms: None,
    };
    let mut state = State::default();
    for change in [
        Change::PutCheckpoint(checkpoint.clone()),
        Change::PutEvaluation(evaluation),
        Change::PutDeployment(deployment(7, DeploymentState::Live)),
        Change::SetChampion { checkpoint: Some(CheckpointId(0)) },
    ] {
        state.apply(&change);
    }
    // Wilson's interval of 5 of 10: (0.5 ± 1.96 √(0.025 + 0.0096)) with the middle at 0.5.
    let expected = [
        "checkpoint-0 the base model",
        "├─ binary/1: 50.0 % (23.7 to 76.3) of 10 answers right; cut 10.0 %, empty 0.0 %, unparsable 0.0 %, errored 0.0 % (10 rows)",
        "├─ its evaluation failed: no room",
        "├─ checkpoint-0 on here by deployment-7: live for 1 h 0 min (stage 40 ms, switch 60 ms); why: the first champion",
        "└─ served on here",
    ];
    assert_eq!(story(&state, &checkpoint, 2 * HOUR_MS + 100), expected);
}
