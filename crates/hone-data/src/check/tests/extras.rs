//! What stands beside texts, reasoning and tool calls, is trained, so that it is looked at as well.

use super::*;
use serde_json::{Value, json};

/// A conversation whose answer has one more key.
fn row(key: &str, value: Value) -> String {
    let answer = json!({"role": "assistant", "content": "Done.", key: value});
    json!({"messages": [{"role": "user", "content": "Turn it on, please."}, answer]}).to_string()
}

fn call(arguments: Value) -> Value {
    json!([{"type": "function", "function": {"name": "turn", "arguments": arguments}}])
}

fn codes(rows: &[String]) -> Vec<String> {
    let folder = Folder::new();
    let request = CheckRequest { level: Level::Deep, ..request(&folder.file("data.jsonl", rows.join("\n"))) };
    let mut codes = summary(&check_file(&request, &|_| {}));
    codes.retain(|code| !code.contains("tokens_not_counted"));
    codes
}

#[test]
fn rows_that_differ_in_a_tool_call_or_in_their_reasoning_are_no_duplicates() {
    let lamps = [row("tool_calls", call(json!({"lamp": 1}))), row("tool_calls", call(json!({"lamp": 2})))];
    assert_eq!(codes(&lamps), ["warning answer_contradicts x1 [2]"]);
    let same = [row("tool_calls", call(json!({"lamp": 1}))), row("tool_calls", call(json!("{\"lamp\":1}")))];
    assert_eq!(codes(&same), ["warning row_duplicate x1 [2]"]);
    let reasons = [row("reasoning_content", json!("It is dark.")), row("reasoning_content", json!("Why not?"))];
    assert_eq!(codes(&reasons), [""; 0]);
}

#[test]
fn secrets_and_control_characters_beside_a_text_are_found() {
    let key = "key:\nghp_0123456789abcdefghijABCDEFGHIJ012345";
    assert_eq!(codes(&[row("reasoning_content", json!(key))]), ["warning secret x1 [1]"]);
    assert_eq!(codes(&[row("tool_calls", call(json!({"token": key})))]), ["warning secret x1 [1]"]);
    assert_eq!(codes(&[row("thinking", json!("a\u{1b}[1m"))]), ["warning control_character x1 [1]"]);
    assert_eq!(codes(&[row("tool_calls", call(json!({"a": "\0"})))]), ["error control_nul x1 [1]"]);
}
