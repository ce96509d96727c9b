//! `hone lineage` with the real binary, without a daemon.

#![expect(clippy::disallowed_methods, reason = "tests write their own fixtures")]

use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};

fn hone(root: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hone"));
    command.env_remove("HONE_ROOT").arg("--root").arg(root).args(args).output().unwrap()
}

#[track_caller]
fn lineages(root: &Path) -> Value {
    let answer = hone(root, &["lineage", "--json"]);
    assert!(answer.status.success(), "{answer:?}");
    serde_json::from_slice(&answer.stdout).unwrap()
}

fn stderr(answer: &Output) -> String {
    String::from_utf8_lossy(&answer.stderr).into_owned()
}

#[test]
fn another_base_model_is_a_lineage_of_its_own_and_the_first_one_can_be_gone_back_to() {
    let dir = tempfile::tempdir().unwrap();
    let (root, other) = (dir.path().join("root"), dir.path().join("other model"));
    assert!(hone(&root, &["init", "--tiny"]).status.success());
    std::fs::create_dir(&other).unwrap();
    for entry in std::fs::read_dir(root.join("models/tiny")).unwrap().map(|entry| entry.unwrap()) {
        std::fs::copy(entry.path(), other.join(entry.file_name())).unwrap();
    }
    let config = || std::fs::read_to_string(root.join("config.json")).unwrap();
    let before = config();

    let answer = hone(&root, &["lineage", "new", "--model", &other.display().to_string()]);
    assert!(answer.status.success(), "{}", stderr(&answer));
    let now = lineages(&root);
    assert_eq!((&now["lineage"]["number"], &now["chain"]), (&json!(2), &json!([1])), "{now}");
    assert_eq!(now["lineage"]["base_model"], json!(other));
    assert_eq!((&now["others"][0]["number"], &now["others"][0]["left_at"]["head"]), (&json!(1), &json!(0)));
    let named = format!("\"model_path\": {}", json!(other));
    assert!(config().contains(&named), "config.json follows");

    let again = hone(&root, &["lineage", "new", "--model", &other.display().to_string()]);
    assert!(!again.status.success() && stderr(&again).contains("hone lineage switch 2"), "{}", stderr(&again));
    assert!(hone(&root, &["lineage", "switch", "1", "--reason", "back"]).status.success());
    assert_eq!((&lineages(&root)["lineage"]["number"], &lineages(&root)["chain"]), (&json!(1), &json!([0])));
    assert_eq!(config(), before, "config.json is what it was");
}

#[test]
fn a_model_path_or_a_base_model_that_changed_is_refused_and_says_how_to_begin_a_lineage() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    assert!(hone(&root, &["init", "--tiny"]).status.success());
    let refused = hone(&root, &["daemon", "--set", "model_path=models/another"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("hone lineage new --model models/another"), "{}", stderr(&refused));

    let tokenizer = root.join("models/tiny/tokenizer.json");
    let text = std::fs::read_to_string(&tokenizer).unwrap();
    std::fs::write(&tokenizer, text + "\n").unwrap();
    let refused = hone(&root, &["daemon"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("the tokenizer changed since lineage 1 began"), "{}", stderr(&refused));
}
