//! Tests of `exam`, against a stand-in skill.

use super::*;
use crate::testing::HttpServer;
use serde_json::Value;

/// What a skill says to `/verify` whose right answer is always `yes`, and for which `?` is no answer.
pub(crate) fn yes_is_right(body: &[u8]) -> (u16, String) {
    let asked: Value = serde_json::from_slice(body).unwrap();
    let judge = |sample: &Value| {
        let solved = sample["response"] == "yes";
        json!({"id": sample["id"], "solved": solved, "score": f64::from(u8::from(solved)),
            "parsed": sample["response"] != "?", "reason": ""})
    };
    let results: Vec<Value> = asked["samples"].as_array().unwrap().iter().map(judge).collect();
    (200, json!({"results": results}).to_string())
}

/// A skill at whose level 2 the answer is always `yes`; `broken` paths answer with status 500.
fn skill(broken: &'static str) -> HttpServer {
    HttpServer::start(move |request| match request.line.as_str() {
        line if line.ends_with(broken) => (500, String::new()),
        "GET /info" => {
            let info = json!({"skill": "s", "name": "S", "description": "", "version": "7", "api_version": "1", "total_levels": 3});
            (200, info.to_string())
        }
        "GET /levels" => {
            let level = json!({"level": 2, "name": "", "description": "", "eval_samples": 4, "pass_threshold": 0.6});
            (200, json!({"levels": [level]}).to_string())
        }
        "POST /generate" => {
            let asked: Value = serde_json::from_slice(&request.body).unwrap();
            assert_eq!((&asked["level"], &asked["split"]), (&json!(2), &json!("eval")));
            let sample = |i: u64| {
                let messages =
                    json!([{"role": "user", "content": format!("{i}?")}, {"role": "assistant", "content": "yes"}]);
                json!({"id": i.to_string(), "messages": messages, "metadata": {}})
            };
            let samples: Vec<Value> = (0..asked["count"].as_u64().unwrap()).map(sample).collect();
            (200, json!({"skill": "s", "version": "7", "level": 2, "samples": samples}).to_string())
        }
        "POST /verify" => yes_is_right(&request.body),
        line => panic!("{line}"),
    })
}

fn config(url: &str) -> LoopConfig {
    let mut config = LoopConfig::default();
    config.data_manager.skills = vec![SkillEndpoint::new("mine", url)];
    config.settings.curriculum.eval_samples = 4;
    config
}

fn at_level_2() -> State {
    let mut state = State::default();
    let progress = hone_pipeline::curriculum::SkillProgress { level: 2, ..state.skill("mine") };
    state.curriculum.insert("mine".to_string(), progress);
    state
}

fn answer(id: &str, text: &str, finish_reason: &str) -> Answer {
    Answer { id: id.to_string(), text: text.to_string(), finish_reason: finish_reason.to_string(), num_tokens: 1 }
}

#[test]
fn questions_go_out_without_answers_and_come_back_as_counts() {
    let server = skill("nothing");
    let (state, config) = (at_level_2(), config(&server.url));
    let mut exams = prepare(&state, &config, (CheckpointId(9), LeaseToken(5)), &|| {});
    assert_eq!(exams[0].seed, FIRST_SEED + 5);
    let asked = questions(&exams);
    assert_eq!((asked.len(), asked[1].id.as_str()), (4, "mine/1"));
    assert_eq!(asked[1].messages, json!([{"role": "user", "content": "1?"}]));

    let folder = tempfile::tempdir().unwrap();
    // Question 3 was not answered.
    let answers =
        vec![answer("mine/0", "yes", "stop"), answer("mine/1", "no", "length"), answer("mine/2", "?", "stop")];
    keep(&mut exams, &answers, folder.path()).unwrap();
    let kept = kept(folder.path()).unwrap();
    assert_eq!(kept, exams);
    assert_eq!(kept[0].answers[1].text, "no");

    let Event::SkillScored { skill, total_levels, manifest_hash, evaluation } =
        score(&exams[0], CheckpointId(9), "m9", &config).unwrap()
    else {
        panic!("it is scored");
    };
    assert_eq!((skill.as_str(), total_levels, manifest_hash.as_str()), ("mine", 3, "m9"));
    let SkillEvaluation { questions, solved, unparsed, cut, empty, errored, .. } = evaluation;
    assert_eq!((questions, solved, unparsed, cut, empty, errored), (4, 1, 1, 1, 0, 1));
    assert_eq!((evaluation.level, evaluation.version.as_str(), evaluation.pass_threshold), (2, "7", Some(0.6)));
}

#[test]
fn a_skill_that_fails_gives_no_exam_and_no_verdict() {
    for broken in ["/info", "/levels", "/generate"] {
        let server = skill(broken);
        assert!(
            prepare(&at_level_2(), &config(&server.url), (CheckpointId(1), LeaseToken(1)), &|| {}).is_empty(),
            "{broken}"
        );
    }
    let server = skill("/verify");
    let config = config(&server.url);
    let mut exams = prepare(&at_level_2(), &config, (CheckpointId(1), LeaseToken(1)), &|| {});
    let folder = tempfile::tempdir().unwrap();
    keep(&mut exams, &[answer("mine/0", "yes", "stop")], folder.path()).unwrap();
    assert!(score(&exams[0], CheckpointId(1), "m1", &config).is_err());
    let mut off = config.clone();
    off.settings.curriculum.enabled = false;
    assert!(prepare(&at_level_2(), &off, (CheckpointId(1), LeaseToken(1)), &|| {}).is_empty());
}

#[test]
fn a_checkpoint_is_examined_once_at_a_level() {
    let server = skill("nothing");
    let config = config(&server.url);
    let mut state = at_level_2();
    let progress = state.curriculum.get_mut("mine").unwrap();
    progress.history.push(SkillEvaluation { checkpoint: CheckpointId(9), visit: 1, ..SkillEvaluation::default() });
    assert!(prepare(&state, &config, (CheckpointId(9), LeaseToken(5)), &|| {}).is_empty());
    assert_eq!(prepare(&state, &config, (CheckpointId(10), LeaseToken(5)), &|| {}).len(), 1);
    state.curriculum.get_mut("mine").unwrap().visit = 2;
    assert_eq!(prepare(&state, &config, (CheckpointId(9), LeaseToken(5)), &|| {}).len(), 1);
}

#[test]
fn a_right_answer_that_the_limit_cuts_is_told_with_what_it_needs() {
    let model = tempfile::tempdir().unwrap();
    // A vocabulary of single bytes and little else: "yes" is three tokens and the end of the turn.
    let tokenizer = hone_data::tiny::build_tokenizer(std::iter::once("zzz".to_string()), 300).unwrap();
    hone_disk::write_json(&model.path().join("tokenizer.json"), &tokenizer).unwrap();
    hone_disk::write_json(&model.path().join("tokenizer_config.json"), &hone_data::tiny::tokenizer_config()).unwrap();
    let server = skill("nothing");
    let mut config = config(&server.url);
    let exams = prepare(&at_level_2(), &config, (CheckpointId(9), LeaseToken(5)), &|| {});
    let mut need = |max_answer_tokens| {
        config.limits.max_answer_tokens = max_answer_tokens;
        need_beyond(&exams[0], model.path(), &config).unwrap()
    };
    assert_eq!((need(2), need(3), need(4)), (Some(4), Some(4), None));
    config.limits.max_answer_tokens = 768;
    assert_eq!(need_beyond(&exams[0], Path::new("/nowhere"), &config).unwrap(), None, "nothing so short is counted");
}

/// The reason for the default of `evaluation.max_answer_tokens`.
#[test]
fn no_right_answer_of_hones_own_skills_has_as_many_bytes_as_the_default_has_tokens() {
    let limit = Limits::default().max_answer_tokens;
    for name in hone_skills::names() {
        let own = hone_skills::find(&name).unwrap();
        for level in 1..=own.info().total_levels {
            let split = hone_skills::Split::Eval;
            let request = hone_skills::GenerateRequest { level, count: 500, seed: 11, split, steps: true };
            let samples = own.generate(&request).unwrap().samples;
            let longest = samples.iter().map(|sample| sample.answer().len()).max().unwrap();
            assert!(longest < limit, "{name} level {level}: {longest} bytes");
        }
    }
}
