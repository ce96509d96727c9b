//! `hone eval N --rescore` with the real binary: the kept answers of a checkpoint are judged again without its weights.

#![expect(clippy::disallowed_methods, reason = "tests write their own fixtures")]

#[expect(dead_code, reason = "other tests use more of it")]
#[path = "end_to_end/rig.rs"]
mod rig;

use rig::Rig;
use std::time::Duration;

const KEY: &str = "key-that-must-not-be-logged";

// budget: 20 s
#[test]
fn kept_answers_are_scored_again_without_the_weights() {
    if std::env::var("HONE_SLOW").is_err() {
        return;
    }
    let skill = rig::free_address();
    let skills = format!("[{{\"name\": \"binary\", \"url\": \"http://{skill}\"}}]");
    let mut rig = Rig::new(&[
        ("skills", &skills),
        ("evaluation.sealed_questions", "6"),
        ("evaluation.max_answer_tokens", "8"),
        ("curriculum.eval_samples", "5"),
        ("auto_generate.enabled", "false"),
    ]);
    rig.start_skill("binary", &skill);
    // What is logged is looked at below.
    rig.set_variable("HONE_ADMIN_KEY", KEY);
    rig.set_variable("HONE_LOG", "trace");
    rig.start_daemon();
    let evaluated = |status: &serde_json::Value| status["champion"] == 0 && status["lease"].is_null();
    rig.wait("checkpoint-0 is evaluated", Duration::from_secs(60), evaluated);
    rig.stop_daemon_gently();
    // Every question has digits like these; of the answers those that cannot stand in a log by chance.
    let answers = kept_answers(&rig);
    let texts = ["\u{24ea}", "\u{2460}"].into_iter().chain(answers.iter().map(String::as_str));
    rig.check_discretion(&["daemon"], &[KEY], &texts.collect::<Vec<_>>());
    // By hand it is what the daemon found, questions included.
    let status = rig.hone(&["explain", "0", "--json"]).json();
    let by_daemon = status["chain"][0]["evaluation"]["suites"].as_array().unwrap();
    let evaluated = rig.hone(&["eval", "0", "--json"]).json();
    let by_hand = evaluated["suites"].as_array().unwrap();
    assert!(by_hand.iter().any(|suite| suite["suite"] == "binary/1" && suite["shares"].is_object()), "{evaluated}");
    assert_eq!(by_hand, by_daemon);

    let weights = rig.base_model().join("model.safetensors");
    std::fs::rename(&weights, weights.with_extension("away")).unwrap();

    let scored = rig.hone(&["eval", "0", "--rescore", "--json"]).json();
    let suite = &scored["suites"][0];
    assert_eq!((&suite["suite"], &suite["kept"]), (&"binary/1".into(), &6.into()), "{scored}");
    let parts = ["right", "wrong", "unparsable", "cut", "empty", "errored"].map(|kind| suite[kind].as_u64().unwrap());
    assert_eq!((parts.iter().sum::<u64>(), parts[5]), (6, 0), "{scored}");
    assert!(suite["share_right"].is_number(), "{scored}");
    assert_eq!(suite["share_right"], suite["share_right_before"], "the same checker says the same: {scored}");
    assert_eq!(scored["exams"][0]["result"]["questions"], 5, "{scored}");

    // No evaluation without weights: what was scored above was not generated.
    assert!(!rig.succeeds(&["eval", "0", "--suite", &rig.file("x.jsonl", &rig::rows_of_binary(1, 2))]));
    assert!(!rig.succeeds(&["eval", "--rescore"]), "it wants a checkpoint");
}

/// What checkpoint-0 answered, where it cannot stand in a log by chance.
fn kept_answers(rig: &Rig) -> Vec<String> {
    let folder = std::fs::read_dir(rig.root().join("runs/results/checkpoint-0")).unwrap();
    let files = folder.map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("answers-"));
    let text: String = files.map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let answers = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let answers: Vec<String> = answers.map(|line| line["answer"]["text"].as_str().unwrap().to_string()).collect();
    assert_eq!(answers.len(), 11, "six sealed questions and five fresh ones");
    answers.into_iter().filter(|answer| answer.chars().count() >= 6).collect()
}
