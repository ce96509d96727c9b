//! `hone model new` and `hone model info` as a person uses them.

use serde_json::Value;
use std::process::{Command, Output};

fn hone(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hone")).args(args).output().unwrap()
}

#[test]
fn a_new_model_has_the_context_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("m");
    let dir = dir.to_str().unwrap();
    let made = hone(&["model", "new", dir, "--context", "1024"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let info: Value = serde_json::from_slice(&hone(&["--json", "model", "info", dir]).stdout).unwrap();
    assert_eq!(info["context_length"], 1024);
}

#[test]
fn a_context_without_room_for_an_answer_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("m");
    let refused = hone(&["model", "new", dir.to_str().unwrap(), "--context", "1"]);
    assert!(!refused.status.success());
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(told.contains("a context of 1 tokens") && told.contains("take 2 or more"), "{told}");
    assert!(!dir.exists(), "nothing was made");
}
