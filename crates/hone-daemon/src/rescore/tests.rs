//! Tests of `rescore`, against a stand-in skill whose checker is mended in between.

use super::*;
use crate::exam::tests::yes_is_right;
use crate::skill::Sample;
use crate::testing::HttpServer;
use hone_pipeline::state::{AnswerOutcome, Change, Checkpoint, CheckpointState, Marks, Position};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const ID: CheckpointId = CheckpointId(20);

/// A skill that is asked for verdicts alone. Until it is mended it can read no answer.
fn skill(mended: &Arc<AtomicBool>) -> HttpServer {
    let mended = Arc::clone(mended);
    HttpServer::start(move |request| {
        assert_eq!(request.line, "POST /verify", "nothing else is asked");
        let (status, body) = yes_is_right(&request.body);
        let body = if mended.load(Ordering::SeqCst) { body } else { body.replace("true", "false") };
        (status, body)
    })
}

fn world(url: &str) -> (tempfile::TempDir, Layout, LoopConfig, State) {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::new(folder.path());
    layout.create_folders().unwrap();
    let mut config = LoopConfig::default();
    config.data_manager.skills = vec![SkillEndpoint::new("mine", url)];
    let mut state = State::default();
    state.apply(&Change::PutCheckpoint(Checkpoint {
        id: ID,
        parent: Some(CheckpointId(0)),
        job: None,
        state: CheckpointState::Published,
        manifest_hash: "m20".to_string(),
        position: Position::default(),
        rows_digest: String::new(),
        train_loss: None,
        created_ms: 0,
        ends_job: true,
        yielded: false,
        marks: Marks::default(),
    }));
    (folder, layout, config, state)
}

fn sample(id: &str) -> Sample {
    let messages = json!([{"role": "user", "content": format!("{id}?")}, {"role": "assistant", "content": "yes"}]);
    serde_json::from_value(json!({"id": id, "messages": messages, "metadata": {}})).unwrap()
}

/// A set of three questions as `sealed` draws it.
fn draw(layout: &Layout) {
    let folder = layout.validation().join("skills");
    let lines: Vec<String> =
        ["a", "b", "c"].iter().map(|id| serde_json::to_string(&sample(id)).unwrap() + "\n").collect();
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("mine-1.jsonl"), lines.concat()).unwrap();
    std::fs::write(folder.join("mine-1.jsonl.meta.json"), r#"{"provenance": {"version": "1"}}"#).unwrap();
}

fn answer(id: &str, text: &str) -> Answer {
    Answer { id: id.to_string(), text: text.to_string(), finish_reason: "stop".to_string(), num_tokens: 1 }
}

#[test]
fn kept_answers_are_judged_by_the_checker_of_now() {
    let mended = Arc::new(AtomicBool::new(false));
    let server = skill(&mended);
    let (_folder, layout, config, state) = world(&server.url);
    draw(&layout);
    let sets = sets(&layout, &state, &config, ID).unwrap();
    let asked: Vec<&str> = sets.request.questions.iter().map(|question| question.id.as_str()).collect();
    assert_eq!(asked, ["sealed/mine/1/a", "sealed/mine/1/b", "sealed/mine/1/c"]);
    assert_eq!(sets.request.manifest_hash, "m20");
    // The third was never answered.
    let answers = [answer("sealed/mine/1/a", "yes"), answer("sealed/mine/1/b", "?")];
    use AnswerOutcome::{Errored, Right, Unparsable};
    let outcomes = || {
        let Rescored { result, num_kept } = sets.score(&answers, &config).remove(0);
        assert_eq!((num_kept, result.rows), (2, 3));
        result.answers.unwrap()
    };
    assert_eq!(outcomes(), [Unparsable, Unparsable, Errored]);
    mended.store(true, Ordering::SeqCst);
    assert_eq!(outcomes(), [Right, Unparsable, Errored]);
}

#[test]
fn kept_exams_are_judged_again_and_only_those_of_the_checkpoint() {
    let mended = Arc::new(AtomicBool::new(true));
    let server = skill(&mended);
    let (_folder, layout, config, state) = world(&server.url);
    assert_eq!(exams(&layout, &state, &config, ID).unwrap(), []);
    let keep = |checkpoint: u64, lease: u64, text: &str| {
        let exam = Exam {
            skill: "mine".to_string(),
            url: server.url.clone(),
            level: 2,
            total_levels: 3,
            version: "1".to_string(),
            seed: lease,
            pass_threshold: None,
            samples: vec![sample("a"), sample("b")],
            answers: Vec::new(),
        };
        let run = layout.eval_run(CheckpointId(checkpoint), LeaseToken(lease));
        std::fs::create_dir_all(&run).unwrap();
        exam::keep(&mut [exam], &[answer("mine/a", text), answer("mine/b", "no")], &run).unwrap();
    };
    keep(20, 9, "yes");
    keep(20, 4, "no");
    keep(200, 5, "yes");
    std::fs::create_dir_all(layout.eval_run(ID, LeaseToken(7))).unwrap();
    let scored = exams(&layout, &state, &config, ID).unwrap();
    let told: Vec<_> = scored.iter().map(|(skill, e)| (skill.as_str(), e.seed, e.questions, e.solved)).collect();
    assert_eq!(told, [("mine", 4, 2, 0), ("mine", 9, 2, 1)]);
    drop(server);
    assert!(exams(&layout, &state, &config, ID).is_err(), "no verdict is not a verdict of 0");
}
