//! Skills with the real binary: samples of a real server through both gates, and what the verbs say of a learner.

#![expect(clippy::disallowed_methods, reason = "tests write their own fixtures")]

#[expect(dead_code, reason = "other tests use more of it")]
#[path = "end_to_end/rig.rs"]
mod rig;

use hone_pipeline::curriculum::{CurriculumSettings, SkillEvaluation, SkillProgress, record};
use hone_pipeline::ids::CheckpointId;
use hone_pipeline::state::Change;
use hone_store::Store;
use rig::Rig;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;

/// One of hone's own skills on a free port; ends with the test.
struct Skill {
    url: String,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Skill {
    fn serve(name: &'static str) -> Skill {
        let stop = Arc::new(AtomicBool::new(false));
        let (say, heard) = channel();
        let flag = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let listen = "127.0.0.1:0".parse().unwrap();
            hone_skill_server::run(name, listen, flag, |address| say.send(address).unwrap()).unwrap();
        });
        Skill { url: format!("http://{}", heard.recv().unwrap()), stop, thread: Some(thread) }
    }
}

impl Drop for Skill {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A row with another last message.
fn with_answer(row: &Value, answer: &Value) -> Value {
    let mut row = row.clone();
    let last = row["messages"].as_array().unwrap().len() - 1;
    row["messages"][last]["content"] = answer.to_string().into();
    row
}

/// The answer of a row of SYLLO, whatever form it has.
fn answer_of(row: &Value) -> Value {
    let text = row["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap();
    let json = text.trim_start_matches("```json").trim_end_matches("```");
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn samples_of_both_skills_pass_both_gates_and_damaged_puzzles_do_not() {
    let (binary, syllo) = (Skill::serve("binary"), Skill::serve("syllo"));
    let skills = json!([{"name": "binary", "url": binary.url}, {"name": "syllo", "url": syllo.url}]).to_string();
    let rig = Rig::new(&[("skills", &skills), ("max_length", "2048")]);
    let generate = |skill: &str| {
        let answer = rig.hone(&["data", "generate", "--skill", skill, "--force", "--count", "100", "--json"]).json();
        let path = answer["inbox_path"].as_str().unwrap_or_else(|| panic!("{answer}"));
        rig.root().join("inbox").join(path).display().to_string()
    };
    for (skill, schema) in [("binary", "chat_sft_v1"), ("syllo", "syllo_v1")] {
        let report = rig.hone(&["validate", &generate(skill), "--json"]).json();
        let found = (&report["verdict"], &report["schema_id"], &report["rows"]);
        assert_eq!(found, (&json!("accepted"), &json!(schema), &json!(100)), "{report}");
    }

    let text = std::fs::read_to_string(generate("syllo")).unwrap();
    let rows: Vec<Value> = text.lines().take(3).map(|line| serde_json::from_str(line).unwrap()).collect();
    let good = answer_of(&rows[2]);
    let (mut stolen, mut wrong, mut missing) = (good.clone(), good.clone(), good);
    stolen["solutions"][0]["syllables"][0] = "zz".into();
    wrong["solutions"][1]["answer"] = "zebra".into();
    missing["solutions"].as_array_mut().unwrap().pop();
    for (name, answer) in [("stolen", stolen), ("wrong", wrong), ("missing", missing)] {
        let lines = [&rows[0], &rows[1], &with_answer(&rows[2], &answer)].map(|row| row.to_string() + "\n");
        let file = rig.file(&format!("{name}.jsonl"), &lines.concat());
        let report = rig.hone(&["validate", &file, "--schema", "syllo_v1", "--json"]).json();
        let finding = &report["findings"][0];
        let found = (&report["verdict"], &finding["code"], &finding["lines"]);
        assert_eq!(found, (&json!("rejected"), &json!("puzzle_unsolved"), &json!([3])), "{name}: {report}");
    }
}

/// What a learner that answers so many percent, at the level of each time, comes to.
fn learner(skill: &str, percents: &[u64]) -> SkillProgress {
    let settings = CurriculumSettings::default();
    let start = SkillProgress { total_levels: 5, ..SkillProgress::new(skill) };
    (1..).zip(percents).fold(start, |progress, (checkpoint, percent)| {
        let evaluation = SkillEvaluation {
            checkpoint: CheckpointId(checkpoint),
            version: "1".to_string(),
            level: progress.level,
            questions: 300,
            solved: 3 * percent,
            at_ms: checkpoint,
            ..SkillEvaluation::default()
        };
        record(&progress, evaluation, &settings).0
    })
}

#[test]
fn the_verbs_tell_levels_with_their_evidence_and_which_skill_gives_nothing() {
    let binary = Skill::serve("binary");
    // Nobody listens there any more.
    let gone = Skill::serve("syllo").url.clone();
    let skills = json!([{"name": "binary", "url": binary.url}, {"name": "syllo", "url": gone}]).to_string();
    let rig = Rig::new(&[("skills", &skills), ("auto_generate.enabled", "true")]);
    let learners = [learner("binary", &[90, 90, 90, 60]), learner("syllo", &[20])];
    let learners = learners.map(|progress| (progress.skill.clone(), progress)).into();
    Store::open(&rig.root()).unwrap().commit(&[Change::SetCurriculum { skills: learners }]).unwrap();
    let failure = json!({"at_ms": 1, "tries": 2, "reason": "ask it: nobody is there"});
    let memory = json!({"next_seed": 3, "last_ms": 1, "failures": {"syllo": failure}});
    std::fs::create_dir_all(rig.root().join("run")).unwrap();
    std::fs::write(rig.root().join("run/data_manager.json"), memory.to_string()).unwrap();

    let levels = rig.hone(&["curriculum", "status", "--json"]).json();
    let told = |index: usize| {
        let skill = &levels["skills"][index];
        let keys = ["skill", "level", "total_levels", "accuracy", "evidence", "needed"];
        json!(keys.map(|key| skill[key].clone()))
    };
    assert_eq!(told(0), json!(["binary", 2, 5, 0.6, 1, 3]), "{levels}");
    assert_eq!(told(1), json!(["syllo", 1, 5, 0.2, 1, 3]), "{levels}");
    let step = &levels["skills"][0]["moves"][0];
    let why = "the last 3 evaluations average 90.0 %, at least 80 %";
    assert_eq!(json!([step["from"], step["to"], step["checkpoint"], step["reason"]]), json!([1, 2, 3, why]));
    assert_eq!(levels["skills"][0]["history"].as_array().unwrap().len(), 4);

    let status = rig.hone(&["data", "status", "--json"]).json();
    assert_eq!((&status["enabled"], &status["waits_for"]), (&json!(true), &json!(null)), "{status}");
    let [binary, syllo] = [0, 1].map(|index: usize| status["skills"][index].clone());
    assert_eq!(json!([binary["level"], binary["health"], binary["failure"]]), json!([2, "ok", null]));
    assert!(syllo["health"].as_str().unwrap().contains("does not answer"), "{syllo}");
    assert_eq!((&syllo["level"], &syllo["failure"]), (&json!(1), &failure));
    assert!(!rig.succeeds(&["data", "generate", "--skill", "chess", "--force"]));
}
