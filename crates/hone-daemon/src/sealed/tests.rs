//! Tests of `sealed`, against a stand-in skill.

use super::*;
use crate::exam::tests::yes_is_right;
use crate::testing::HttpServer;
use hone_pipeline::curriculum::SkillProgress;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The level of which the stand-in gives no questions.
const NOT_DRAWN: u32 = 3;

/// A skill whose questions are `LEVEL-SEED-NUMBER?` and whose answer is always `yes`. `version` is what it tells at the
/// moment; `drawn` counts calls of `/generate`. Level [`NOT_DRAWN`] is never drawn.
fn skill(version: &Arc<AtomicU64>, drawn: &Arc<AtomicU64>) -> HttpServer {
    let (version, drawn) = (Arc::clone(version), Arc::clone(drawn));
    HttpServer::start(move |request| match request.line.as_str() {
        "GET /info" => {
            let version = version.load(Ordering::SeqCst).to_string();
            let info = json!({"skill": "s", "name": "S", "description": "", "version": version, "api_version": "1", "total_levels": 3});
            (200, info.to_string())
        }
        "POST /generate" => {
            drawn.fetch_add(1, Ordering::SeqCst);
            let asked: Value = serde_json::from_slice(&request.body).unwrap();
            assert_eq!(asked["split"], "eval");
            if asked["level"] == NOT_DRAWN {
                return (500, "{}".to_string());
            }
            let sample = |i: u64| {
                let question = format!("{}-{}-{i}?", asked["level"], asked["seed"]);
                let messages = json!([{"role": "user", "content": question}, {"role": "assistant", "content": "yes"}]);
                json!({"id": i.to_string(), "messages": messages, "metadata": {}})
            };
            let samples: Vec<Value> = (0..asked["count"].as_u64().unwrap()).map(sample).collect();
            (200, json!({"skill": "s", "version": "1", "level": asked["level"], "samples": samples}).to_string())
        }
        "POST /verify" => yes_is_right(&request.body),
        line => panic!("{line}"),
    })
}

/// A workspace, the configuration of one skill with five questions a level, and a state at `level`.
fn world(url: &str, level: u32) -> (tempfile::TempDir, LoopConfig, State) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = LoopConfig { sealed_questions: 5, ..LoopConfig::default() };
    config.data_manager.skills = vec![SkillEndpoint::new("mine", url)];
    let mut state = State::default();
    state.curriculum.insert("mine".to_string(), SkillProgress { level, ..SkillProgress::new("mine") });
    (folder, config, state)
}

fn sets(folder: &tempfile::TempDir, config: &LoopConfig, state: &State) -> Vec<Sealed> {
    prepare(&Layout::new(folder.path()), state, config, &|| {})
}

fn answer(set: &Sealed, id: &str, text: &str, finish_reason: &str) -> Answer {
    let id = format!("sealed/{}/{id}", set.suite);
    Answer { id, text: text.to_string(), finish_reason: finish_reason.to_string(), num_tokens: 1 }
}

#[test]
fn a_set_is_drawn_once_for_each_level_and_stays() {
    let (version, drawn) = (Arc::new(AtomicU64::new(1)), Arc::default());
    let server = skill(&version, &drawn);
    let (folder, config, state) = world(&server.url, 2);
    let first = sets(&folder, &config, &state);
    let suites: Vec<&str> = first.iter().map(|set| set.suite.as_str()).collect();
    assert_eq!(suites, ["mine/1", "mine/2"]);
    assert!(first.iter().all(|set| set.samples.len() == 5));
    let asked = questions(&first);
    assert_eq!((asked.len(), asked[5].id.as_str()), (10, "sealed/mine/2/0"));
    assert_eq!(asked[5].messages, json!([{"role": "user", "content": format!("2-{SEED}-0?")}]));
    assert_eq!((sets(&folder, &config, &state), drawn.load(Ordering::SeqCst)), (first.clone(), 2));

    // A level that was lost again stays in force.
    let (_, _, lower) = world(&server.url, 1);
    assert_eq!(sets(&folder, &config, &lower), first);
    // None of it is a suite of rows.
    assert_eq!(crate::requests::suites(&Layout::new(folder.path()), &config).unwrap(), Vec::new());
}

#[test]
fn another_version_of_the_skill_draws_anew() {
    let (version, drawn) = (Arc::new(AtomicU64::new(1)), Arc::default());
    let server = skill(&version, &drawn);
    let (folder, config, state) = world(&server.url, 1);
    let first = sets(&folder, &config, &state);
    version.store(2, Ordering::SeqCst);
    let second = sets(&folder, &config, &state);
    assert_eq!(sets(&folder, &config, &state), second);
    assert_eq!(drawn.load(Ordering::SeqCst), 2);
    // The questions are the same ones; what judges the answers is not.
    assert_eq!(first[0].samples, second[0].samples);
    assert_ne!(first[0].hash, second[0].hash);
}

#[test]
fn results_under_another_limit_of_tokens_are_results_of_another_suite() {
    let (version, drawn) = (Arc::new(AtomicU64::new(1)), Arc::default());
    let server = skill(&version, &drawn);
    let (folder, mut config, state) = world(&server.url, 1);
    let before = sets(&folder, &config, &state);
    config.limits.max_answer_tokens += 1;
    let after = sets(&folder, &config, &state);
    assert_eq!((before[0].samples.clone(), drawn.load(Ordering::SeqCst)), (after[0].samples.clone(), 1));
    assert_ne!(before[0].hash, after[0].hash);
}

#[test]
fn a_level_that_cannot_be_drawn_takes_no_other_with_it() {
    let server = skill(&Arc::new(AtomicU64::new(1)), &Arc::default());
    let (folder, mut config, state) = world(&server.url, NOT_DRAWN);
    config.limits.skill_tries = 1;
    let suites = |folder| -> Vec<String> {
        let found = sets(folder, &config, &state).into_iter();
        found.map(|set| set.suite).collect()
    };
    assert_eq!(suites(&folder), ["mine/1", "mine/2"]);
    // One whose file is damaged is drawn again: the same seed gives the same questions.
    let file = file(&Layout::new(folder.path()), "mine", 1);
    let before = std::fs::read(&file).unwrap();
    std::fs::write(&file, "{").unwrap();
    assert_eq!(suites(&folder), ["mine/1", "mine/2"]);
    assert_eq!(std::fs::read(&file).unwrap(), before);
    // Where nobody can draw it, it is left out, and no other with it.
    std::fs::write(&file, "{").unwrap();
    let gone = SkillEndpoint::new("mine", "http://127.0.0.1:9");
    config.data_manager.skills = vec![gone];
    let left: Vec<String> = sets(&folder, &config, &state).into_iter().map(|set| set.suite).collect();
    assert_eq!(left, ["mine/2"]);
}

#[test]
fn every_answer_has_one_outcome() {
    let (version, drawn) = (Arc::new(AtomicU64::new(1)), Arc::default());
    let server = skill(&version, &drawn);
    let (folder, config, state) = world(&server.url, 1);
    let set = &sets(&folder, &config, &state)[0];
    let answers = [
        answer(set, "0", "yes", "stop"),
        answer(set, "1", "no", "stop"),
        answer(set, "2", "?", "stop"),
        answer(set, "3", "no no no", "length"),
    ];
    let result = score(set, &answers, &config);
    use AnswerOutcome::{Cut, Errored, Right, Unparsable, Wrong};
    assert_eq!(result.answers, Some(vec![Right, Wrong, Unparsable, Cut, Errored]));
    assert_eq!((result.suite.as_str(), &result.suite_hash, result.rows), ("mine/1", &set.hash, 5));
}

#[test]
fn a_skill_that_is_gone_leaves_its_sets_in_force_and_unjudged() {
    let (version, drawn) = (Arc::new(AtomicU64::new(1)), Arc::default());
    let server = skill(&version, &drawn);
    let (folder, mut config, state) = world(&server.url, 1);
    let there = sets(&folder, &config, &state);
    drop(server);
    config.limits.skill_tries = 1;
    assert_eq!(sets(&folder, &config, &state), there);
    let result = score(&there[0], &[answer(&there[0], "0", "yes", "stop")], &config);
    assert_eq!(result.answers, Some(vec![AnswerOutcome::Errored; 5]));
    // Where there is no set yet, there is none to answer.
    let (empty, _, _) = world("http://127.0.0.1:9", 1);
    assert_eq!(sets(&empty, &config, &state), Vec::new());
    config.sealed_questions = 0;
    assert_eq!(sets(&folder, &config, &state), Vec::new());
}
