//! Strictness: all problems at once, each with line, key, what is allowed and the nearest name.

use super::*;
use expect_test::{Expect, expect};
use hone_pipeline::config::TrainSettings;
use serde_json::json;

#[track_caller]
fn check(text: &str, expected: Expect) {
    let mut values = Values::defaults().0;
    let mut problems = Vec::new();
    read::file(text, &mut values, &mut problems);
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    expected.assert_eq(&lines.join("\n"));
}

#[test]
fn names_every_problem_with_its_line() {
    check(
        "{\n  // a comment\n  \"batch_sise\": 4,\n  \"learning_rate\": \"fast\",\n  \"serve\": {\"slots\": 0, \"port\": 1},\n  \"epochs\": 2, \"epochs\": 3,\n  \"validation\": 7,\n}",
        expect![[r#"
            config.json:3: batch_sise: unknown key (nearest: "batch_size")
            config.json:4: learning_rate: found "fast"; allowed: a number from 0.000000001 to 1
            config.json:5: serve.slots: found 0; allowed: a whole number from 1 to 4096
            config.json:5: serve.port: unknown key (nearest: "serve.slots")
            config.json:6: epochs: stands twice; one value per place
            config.json:7: validation: must be an object { … }"#]],
    );
}

#[test]
fn keys_of_other_trainers_are_told_what_stands_for_them() {
    check(
        "{\n  \"eval_steps\": 50,\n  \"dtype\": \"bf16\", \"devices\": [0, 1]\n}",
        expect![[r#"
            config.json:2: eval_steps: unknown key; every checkpoint is evaluated: set `save_steps`
            config.json:3: dtype: unknown key; set `device` for training (`cuda`: bf16 products with f32 masters; `cuda-f32` and `cpu`: all in f32) and `serve.dtype` for serving
            config.json:3: devices: unknown key; one device trains: set `device`; `trainer.command` runs a program on several (docs/trainer.md)"#]],
    );
}

#[test]
fn syntax_errors_name_the_line() {
    check("{\n \"epochs\": 1\n \"seed\": 2\n}", expect!["config.json:2: not JSON: Expected comma"]);
}

#[test]
fn margins_of_suites_and_urls_of_targets_are_checked() {
    let problems = |text: &str| -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        hone_disk::write_atomic(&dir.path().join("config.json"), text.as_bytes()).unwrap();
        read_all(dir.path(), &[], &[]).err().into_iter().flatten().map(|problem| problem.message).collect()
    };
    let margins =
        |min_gain: f64| problems(&json!({"promotion": {"suites": {"a": {"min_gain": min_gain}}}}).to_string());
    assert_eq!((margins(0.1), margins(-1.0)), (Vec::new(), vec!["a margin lies from 0 to 100".to_string()]));
    let target = |url: &str| problems(&json!({"deployment": {"targets": [{"name": "a", "url": url}]}}).to_string());
    let refused = r#"the url "ftp://x" begins neither with http:// nor with https://"#.to_string();
    assert_eq!((target("http://x"), target("ftp://x")), (Vec::new(), vec![refused]));
}

#[test]
fn a_variable_that_is_not_text_is_no_matter_unless_it_is_ours() {
    use std::os::unix::ffi::OsStringExt;
    let no_text = || OsString::from_vec(b"caf\xe9".to_vec());
    let others =
        [(OsString::from("LANGUAGE"), no_text()), (no_text(), OsString::from("x")), ("HONE_SEED".into(), "3".into())];
    assert_eq!(environment(others.into_iter()).unwrap(), [("HONE_SEED".to_string(), "3".to_string())]);
    let ours = environment([(OsString::from("HONE_SEED"), no_text())].into_iter()).unwrap_err();
    assert_eq!(ours[0].to_string(), "HONE_SEED: its value is not UTF-8");
}

#[test]
fn records_name_the_entry_and_the_field() {
    check(
        r#"{"deployment": {"targets": [{"name": "a", "url": "http://x"}, {"name": "b"}]}, "skills": [{"name": "binary", "link": "x"}]}"#,
        expect![[r#"
            config.json:1: deployment.targets[1]: url is missing
            config.json:1: skills[0]: unknown field "link"; allowed: name, url, schema_id, max_question_chars, max_answer_chars, min_distinct_answers, max_same_answer, generate
            config.json:1: skills[0]: url is missing"#]],
    );
}

#[test]
fn a_skill_has_the_bounds_that_are_configured_and_else_those_of_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let skills = r#"{"skills": [{"name": "syllo", "url": "http://a", "max_answer_chars": 9}, {"name": "yes-no", "url": "http://b", "generate": false, "max_same_answer": 1, "schema_id": "sharegpt_v1"}]}"#;
    hone_disk::write_atomic(&dir.path().join("config.json"), skills.as_bytes()).unwrap();
    let (_, config) = read_all(dir.path(), &[], &[]).unwrap();
    let [syllo, yes_no] = [0, 1].map(|index: usize| config.skills[index].endpoint().quality);
    assert_eq!(syllo, QualityProfile { max_answer_chars: 9, ..QualityProfile::of("syllo") });
    let expected =
        QualityProfile { max_same_answer: 1.0, schema_id: "sharegpt_v1".to_string(), ..QualityProfile::of("yes-no") };
    assert_eq!(yes_no, expected);
    assert_eq!([0, 1].map(|index: usize| config.skills[index].endpoint().generate), [true, false]);
    check(
        r#"{"skills": [{"name": "a", "url": "http://a", "max_same_answer": 2, "schema_id": "chat"}]}"#,
        expect![[r#"
            config.json:1: skills[0]: max_same_answer: found 2; allowed: a number from 0 to 1
            config.json:1: skills[0]: schema_id: found "chat"; allowed: "chat_sft_v1", "syllo_v1", "completion_v1", "sharegpt_v1", "alpaca_v1" (nearest: "chat_sft_v1")"#]],
    );
}

#[test]
fn command_line_beats_environment_beats_file_beats_default() {
    let dir = tempfile::tempdir().unwrap();
    hone_disk::write_atomic(&dir.path().join("config.json"), b"{\"epochs\": 2, \"seed\": 2, \"save_steps\": 2}")
        .unwrap();
    let environment =
        [("HONE_EPOCHS", "3"), ("HONE_SEED", "3"), ("HONE_SLOW", "1")].map(|(k, v)| (k.to_string(), v.to_string()));
    let (values, _) = read_all(dir.path(), &environment, &[("seed".to_string(), "4".to_string())]).unwrap();
    assert_eq!(values.get::<u64>("save_steps"), 2);
    assert_eq!(values.get::<u64>("epochs"), 3);
    assert_eq!(values.get::<u64>("seed"), 4);
    assert_eq!(values.origin("seed"), Origin::CommandLine);
    assert_eq!(values.get::<u64>("batch_size"), 8);
}

#[test]
fn the_file_of_init_is_valid_and_sets_what_was_chosen() {
    let text = commented_file(&[("model_path", json!("models/base")), ("serve.slots", json!(3))]);
    let mut values = Values::defaults().0;
    let mut problems = Vec::new();
    read::file(&text, &mut values, &mut problems);
    assert!(problems.is_empty(), "{problems:?}\n{text}");
    let given: Vec<_> = values.iter().filter(|(_, given)| given.origin == Origin::File).collect();
    let given: Vec<_> = given.into_iter().map(|(path, given)| (*path, given.value.clone())).collect();
    assert_eq!(given, [("model_path", json!("models/base")), ("serve.slots", json!(3))]);
}

#[test]
fn defaults_are_within_their_own_ranges_and_make_a_config() {
    for key in keys::KEYS {
        assert_eq!(read::check(key.kind, &key.default_value()), [], "{}", key.path);
    }
    let dir = tempfile::tempdir().unwrap();
    let (_, config) = read_all(dir.path(), &[], &[]).unwrap();
    // Only the program looks for a GPU by itself; who calls the library names a device.
    assert_eq!(config.settings.train, TrainSettings { device: "auto".to_string(), ..TrainSettings::default() });
    assert_eq!(config.settings.targets[0].url, "http://127.0.0.1:8765");
}

#[test]
fn duplicate_targets_and_unknown_transports_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let targets = r#"{"deployment": {"targets": [{"name": "a", "url": "http://x"}, {"name": "a", "url": "http://y"}, {"name": "c", "url": "u", "transport": "pigeon"}]}}"#;
    hone_disk::write_atomic(&dir.path().join("config.json"), targets.as_bytes()).unwrap();
    let problems = read_all(dir.path(), &[], &[]).unwrap_err();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[1].message.contains("pigeon"));
}

#[test]
fn schema_ids_of_the_table_are_those_of_the_gate() {
    assert_eq!(keys::SCHEMAS, hone_pipeline::spec::known_ids());
}

#[test]
fn a_value_is_put_into_the_file_and_comments_stay() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    assert!(!put_text(&file, "model_path", "m").unwrap(), "there is no file");
    let text = "{\n  // where it lies\n  \"model_path\": \"models/old\", // not \"model_path\"\n  \"epochs\": 2,\n}\n";
    hone_disk::write_atomic(&file, text.as_bytes()).unwrap();
    assert!(put_text(&file, "model_path", "/models/\"new\"").unwrap());
    let expected = text.replace("\"models/old\"", r#""/models/\"new\"""#);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), expected);
    assert!(!put_text(&file, "model_path", "/models/\"new\"").unwrap(), "it says so already");
    assert!(!put_text(&file, "seed", "x").unwrap(), "the default holds");
}

/// Every file in `testdata/bad_config` says itself what is wrong with it: `//! KEY | PART | PART …` at the end of a line
/// stands for one problem of that line, with that key and all parts in its message.
#[test]
fn forty_bad_files_are_told_all_their_problems_at_once() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/bad_config");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 40);
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let dir = tempfile::tempdir().unwrap();
        hone_disk::write_atomic(&dir.path().join("config.json"), text.as_bytes()).unwrap();
        let mut problems = read_all(dir.path(), &[], &[]).unwrap_err();
        for (number, line) in (1..).zip(text.lines()) {
            for expected in line.split("//!").skip(1) {
                let (key, parts) = expected.split_once('|').unwrap();
                let fits = |problem: &Problem| {
                    problem.place == format!("config.json:{number}")
                        && problem.key == key.trim()
                        && parts.split('|').all(|part| problem.message.contains(part.trim()))
                };
                let index = problems.iter().position(fits);
                let index = index.unwrap_or_else(|| panic!("{}:{number}: {expected}: {problems:#?}", file.display()));
                problems.remove(index);
            }
        }
        assert_eq!(problems, [], "{}", file.display());
    }
}
