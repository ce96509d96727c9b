//! Tests of `skill_sets`, against a stand-in skill.

use super::*;
use crate::testing::HttpServer;
use serde_json::Value;

fn skill() -> HttpServer {
    HttpServer::start(|request| {
        assert_eq!(request.line, "POST /generate");
        let asked: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(asked["split"], "eval", "training samples are what is checked");
        if asked["level"] == 2 {
            return (400, json!({"detail": "no such level"}).to_string());
        }
        let messages = json!([{"role": "user", "content": "1?"}, {"role": "assistant", "content": "yes"}]);
        let sample = json!({"id": "a", "messages": messages, "metadata": {}});
        (200, json!({"skill": "s", "version": "7", "level": 1, "samples": [sample]}).to_string())
    })
}

#[test]
fn each_level_that_is_reached_is_a_file_and_one_that_cannot_be_had_is_named() {
    let (server, folder) = (skill(), tempfile::tempdir().unwrap());
    let mut config = LoopConfig::default();
    config.data_manager.skills = vec![SkillEndpoint::new("mine", &server.url)];
    config.settings.curriculum.eval_samples = 1;
    let mut state = State::default();
    let progress = hone_pipeline::curriculum::SkillProgress { level: 2, ..state.skill("mine") };
    state.curriculum.insert("mine".to_string(), progress);
    let layout = Layout::new(folder.path());
    let files = write_skill_sets(&layout, &state, &config, &folder.path().join("sets")).unwrap();
    let [first, second] = &files[..] else { panic!("{files:?}") };
    assert_eq!(
        (first.name.as_str(), first.role),
        ("the evaluation set of mine at level 1", CompareRole::SkillEvaluation)
    );
    let rows: Vec<hone_data::Row> =
        hone_data::rows(&first.path, &first.schema_id).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(rows.len(), 1);
    assert!(!second.path.exists(), "so that the check says that it was not compared");
    assert!(second.name.contains("level 2") && second.name.contains("status 400"), "{}", second.name);
}

#[test]
fn the_sealed_questions_of_a_level_are_what_rows_are_held_against() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::new(folder.path());
    let path = layout.validation().join("skills/mine-1.jsonl");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let messages = json!([{"role": "user", "content": "2?"}, {"role": "assistant", "content": "yes"}]);
    std::fs::write(&path, json!({"id": "a", "messages": messages, "metadata": {}}).to_string()).unwrap();
    let sidecar = json!({"provenance": {"skill": "mine", "version": "7", "level": 1}});
    std::fs::write(hone_store::datasets::sidecar_of(&path), sidecar.to_string()).unwrap();
    let mut config = LoopConfig::default();
    // Nobody listens there: it is not asked.
    config.data_manager.skills = vec![SkillEndpoint::new("mine", "http://127.0.0.1:9")];
    let files = write_skill_sets(&layout, &State::default(), &config, &folder.path().join("sets")).unwrap();
    assert_eq!(files.iter().map(|file| &file.path).collect::<Vec<_>>(), [&path]);
    let rows = hone_data::rows(&path, SCHEMA_ID).unwrap().collect::<anyhow::Result<Vec<_>>>().unwrap();
    assert_eq!(rows.len(), 1, "a sealed question is a row of that schema");
}
