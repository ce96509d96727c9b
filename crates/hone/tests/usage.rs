//! Wrong use, as a person meets it: a sentence that says what to do, once, and the exit code that a service manager obeys.

use std::path::Path;
use std::process::Command;

/// Exit code and what stands on stderr.
fn hone(root: &Path, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hone"));
    for name in ["HONE_ROOT", "HONE_LOG", "HONE_READ_KEY", "HONE_ADMIN_KEY"] {
        command.env_remove(name);
    }
    let answer = command.arg("--root").arg(root).args(args).output().unwrap();
    (answer.status.code(), String::from_utf8(answer.stderr).unwrap())
}

#[track_caller]
fn check(root: &Path, args: &[&str], code: i32, expected: &str) {
    let (found, told) = hone(root, args);
    assert_eq!(found, Some(code), "{told}");
    assert!(told.contains(expected), "{told}");
}

#[test]
fn a_public_address_without_a_key_ends_with_2() {
    let dir = tempfile::tempdir().unwrap();
    check(dir.path(), &["serve", "--listen", "0.0.0.0:0"], 2, "failed to listen on 0.0.0.0:0: other machines");
    check(dir.path(), &["skill", "serve", "binary", "--listen", "0.0.0.0:0"], 2, "failed to listen on 0.0.0.0:0:");
    assert_eq!(hone(dir.path(), &["init", "--tiny"]).0, Some(0));
    check(dir.path(), &["monitor", "--listen", "0.0.0.0:0"], 2, "hint: set HONE_READ_KEY");
}

#[test]
fn keys_make_makes_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("srv/hone");
    check(&root, &["keys", "make", "trainer", "--level", "admin"], 0, "it is shown this once");
    assert!(root.join("keys.json").is_file());
    check(&root, &["keys", "make", "trainer"], 1, "failed to make the key \"trainer\": there is a key");
}

#[test]
fn what_is_missing_is_named_once_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let (_, told) = hone(&root, &["model", "info", "/nope"]);
    assert_eq!(told.matches("No such file").count(), 1, "{told}");
    check(&root, &["init", "--model", "/nope"], 2, "`hone model import` makes one");
    check(&root, &["validate", dir.path().to_str().unwrap()], 1, "it is a folder\nhint: name a file");
    check(&root, &["restore", "/nope"], 1, "failed to restore /nope: there is no such file");
    check(&root, &["selftest", "--device", "abacus"], 2, "invalid value 'abacus'");
    check(&root, &["skill", "conform", "abacus"], 2, "not a URL (expected http://HOST:PORT)");
    assert!(!root.exists(), "nothing was made");
}

#[test]
fn a_log_level_that_cannot_be_read_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let answer = Command::new(env!("CARGO_BIN_EXE_hone"))
        .env("HONE_LOG", "hone=loud")
        .args(["--root", dir.path().to_str().unwrap(), "config", "schema"])
        .output()
        .unwrap();
    let told = String::from_utf8(answer.stderr).unwrap();
    assert!(told.contains("WARN") && told.contains("HONE_LOG cannot be read"), "{told}");
    assert!(!told.contains('\x1b'), "colours are for terminals: {told}");
}

#[test]
fn what_would_be_dropped_in_silence_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    assert_eq!(hone(root, &["init", "--tiny"]).0, Some(0));
    check(root, &["pause", "--set", "epochs=2"], 2, "put the value into config.json");
    let slip = Command::new(env!("CARGO_BIN_EXE_hone"))
        .env("HONE_LEARNIG_RATE", "1")
        .args(["--root", root.to_str().unwrap(), "config", "show"])
        .output()
        .unwrap();
    let told = String::from_utf8(slip.stderr).unwrap();
    assert_eq!(slip.status.code(), Some(2), "{told}");
    assert!(told.contains("nearest: HONE_LEARNING_RATE"), "{told}");
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_hone"))
        .args(["--root", dir.path().to_str().unwrap(), "config", "show"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let answer = child.wait_with_output().unwrap();
    assert!(answer.stderr.is_empty() && answer.status.success(), "{answer:?}");
}
