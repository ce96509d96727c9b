//! Strictness: all problems at once, each with line, key, what is allowed and the nearest name.

use super::*;
use expect_test::{Expect, expect};
use hone_pipeline::config::TrainSettings;
use serde_json::json;

#[track_caller]
fn check(text: &str, expected: Expect) {
    let mut values = keys::KEYS.iter().map(|key| (key.path, (key.default_value(), Origin::Default))).collect();
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
fn syntax_errors_name_the_line() {
    check("{\n \"epochs\": 1\n \"seed\": 2\n}", expect!["config.json:2: not JSON: Expected comma"]);
}

#[test]
fn records_name_the_entry_and_the_field() {
    check(
        r#"{"deployment": {"targets": [{"name": "a", "url": "http://x"}, {"name": "b"}]}, "skills": [{"name": "binary", "link": "x"}]}"#,
        expect![[r#"
            config.json:1: deployment.targets: entry 1: url is missing
            config.json:1: skills: entry 0: unknown field "link" (allowed: name, url)"#]],
    );
}

#[test]
fn command_line_beats_environment_beats_file_beats_default() {
    let dir = tempfile::tempdir().unwrap();
    hone_disk::write_atomic(&dir.path().join("config.json"), b"{\"epochs\": 2, \"seed\": 2, \"save_steps\": 2}")
        .unwrap();
    let environment =
        [("HONE_EPOCHS", "3"), ("HONE_SEED", "3"), ("HONE_SLOW", "1")].map(|(k, v)| (k.to_string(), v.to_string()));
    let values = Values::load(dir.path(), &environment, &[("seed".to_string(), "4".to_string())]).unwrap();
    assert_eq!(values.get::<u64>("save_steps"), 2);
    assert_eq!(values.get::<u64>("epochs"), 3);
    assert_eq!(values.get::<u64>("seed"), 4);
    assert_eq!(values.origin("seed"), Origin::CommandLine);
    assert_eq!(values.get::<u64>("batch_size"), 8);
}

#[test]
fn the_file_of_init_is_valid_and_sets_what_was_chosen() {
    let text = commented_file(&[("model_path", json!("models/base")), ("serve.slots", json!(3))]);
    let mut values = keys::KEYS.iter().map(|key| (key.path, (key.default_value(), Origin::Default))).collect();
    let mut problems = Vec::new();
    read::file(&text, &mut values, &mut problems);
    assert!(problems.is_empty(), "{problems:?}\n{text}");
    assert_eq!(values["serve.slots"], (json!(3), Origin::File));
    assert_eq!(values["model_path"], (json!("models/base"), Origin::File));
    let from_file = values.values().filter(|(_, origin)| *origin == Origin::File).count();
    assert_eq!(from_file, 2);
}

#[test]
fn defaults_are_within_their_own_ranges_and_make_a_config() {
    for key in keys::KEYS {
        read::check(key.kind, &key.default_value()).unwrap_or_else(|message| panic!("{}: {message}", key.path));
    }
    let dir = tempfile::tempdir().unwrap();
    let values = Values::load(dir.path(), &[], &[]).unwrap();
    let config = Config::from_values(&values).unwrap();
    assert_eq!(config.settings.train, TrainSettings::default());
    assert_eq!(config.settings.targets[0].url, "http://127.0.0.1:8765");
}

#[test]
fn duplicate_targets_and_unknown_transports_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let targets = r#"{"deployment": {"targets": [{"name": "a", "url": "http://x"}, {"name": "a", "url": "http://y"}, {"name": "c", "url": "u", "transport": "pigeon"}]}}"#;
    hone_disk::write_atomic(&dir.path().join("config.json"), targets.as_bytes()).unwrap();
    let values = Values::load(dir.path(), &[], &[]).unwrap();
    let problems = Config::from_values(&values).unwrap_err();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[1].message.contains("pigeon"));
}

#[test]
fn schema_ids_of_the_table_are_those_of_the_gate() {
    assert_eq!(keys::SCHEMAS, hone_pipeline::spec::known_ids());
}
