//! Wrong configuration, as a person meets it: the real binary tells all problems and ends with 2.

#![expect(clippy::disallowed_methods, reason = "tests write their own fixtures")]

use std::path::Path;
use std::process::{Command, Output};

fn hone(root: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hone"));
    command.env_remove("HONE_ROOT").arg("--root").arg(root).args(args).output().unwrap()
}

#[test]
fn a_bad_file_ends_every_verb_that_reads_it_with_2_and_all_its_problems() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/bad_config");
    for file in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let text = std::fs::read_to_string(&file).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), &text).unwrap();
        let answer = hone(dir.path(), &["config", "show"]);
        assert_eq!(answer.status.code(), Some(2), "{}", file.display());
        assert!(answer.stdout.is_empty(), "{}", file.display());
        let told = String::from_utf8(answer.stderr).unwrap();
        let num_told = told.lines().filter(|line| line.trim_start().starts_with("config.json:")).count();
        // Each problem is marked in the file.
        assert_eq!(num_told, text.matches("//!").count(), "{}: {told}", file.display());
    }
}

#[test]
fn config_show_names_the_origin_of_each_value_and_the_schema_is_json() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), "{ \"epochs\": 2, \"seed\": 1 }").unwrap();
    let answer = hone(dir.path(), &["config", "show", "--json", "--set", "seed=5"]);
    assert!(answer.status.success(), "{answer:?}");
    let shown: serde_json::Value = serde_json::from_slice(&answer.stdout).unwrap();
    let origin = |key: &str| (shown[key]["value"].clone(), shown[key]["origin"].as_str().unwrap());
    assert_eq!(origin("epochs"), (2.into(), "config.json"));
    assert_eq!(origin("seed"), (5.into(), "command line"));
    assert_eq!(origin("save_steps"), (100.into(), "default"));
    let schema = hone(dir.path(), &["config", "schema"]);
    let schema: serde_json::Value = serde_json::from_slice(&schema.stdout).unwrap();
    assert_eq!(schema["properties"]["epochs"]["minimum"], 1);
    assert_eq!(schema["additionalProperties"], false);
}
