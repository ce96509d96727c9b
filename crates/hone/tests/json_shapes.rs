//! What `docs/json.md` says of answers in JSON is what the program prints.

#![expect(clippy::disallowed_methods, reason = "tests write their own fixtures")]

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

const ROWS: usize = 8;

fn hone(root: &Path, args: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hone"));
    let answer = command.env_remove("HONE_ROOT").arg("--root").arg(root).arg("--json").args(args).output().unwrap();
    let text = String::from_utf8_lossy(&answer.stdout);
    let line = text.lines().last().unwrap_or_else(|| panic!("{args:?} printed nothing: {answer:?}"));
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{args:?}: {error}: {line}"))
}

/// The object of an answer that a row of the table is about.
fn object<'a>(answer: &'a Value, place: &str) -> &'a Value {
    match place.strip_suffix("[]") {
        Some(list) => &answer[list][0],
        None if place == "each" => &answer[0],
        None => answer,
    }
}

#[test]
fn answers_in_json_have_the_documented_keys_and_no_others() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/json.md")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (root, file) = (dir.path().join("root"), dir.path().join("data.jsonl"));
    let row =
        r#"{"messages": [{"role": "user", "content": "One and one?"}, {"role": "assistant", "content": "Two."}]}"#;
    std::fs::write(&file, format!("{row}\n").repeat(ROWS)).unwrap();
    hone(&root, &["init", "--tiny"]);
    let model = root.join("models/tiny");
    let (mut answer, mut num_checked) = (Value::Null, 0);
    for line in page.lines().filter(|line| line.starts_with("| ") && line.contains('`')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [command, place, keys] = cells[..] else { panic!("three columns: {line}") };
        if let Some(command) = command.strip_prefix("`hone ") {
            let word = |word: &str| match word {
                "FILE" => file.display().to_string(),
                "MODEL" => model.display().to_string(),
                word => word.to_string(),
            };
            let words: Vec<String> = command.trim_end_matches('`').split(' ').map(word).collect();
            answer = hone(&root, &words.iter().map(String::as_str).collect::<Vec<_>>());
        }
        let documented: BTreeSet<&str> = keys.split(", ").map(|key| key.trim_matches('`')).collect();
        let found = object(&answer, place.trim_matches('`'));
        let found = found.as_object().unwrap_or_else(|| panic!("an object for {line}: {answer}"));
        let found: BTreeSet<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(found, documented, "{line}");
        num_checked += 1;
    }
    assert_eq!(num_checked, 17, "every row of the table was held against the program");
}
