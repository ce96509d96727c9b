//! Tests of `spec`.

use super::*;
use crate::finding::Severity;
use serde_json::json;

/// The codes of all problems of a row, warnings with a `?`.
#[track_caller]
fn check(schema: &str, row: &str, expected: &[&str]) {
    let row = Json::parse(row).unwrap();
    let codes: Vec<String> = find(schema)
        .unwrap()
        .problems(&row)
        .iter()
        .map(|p| format!("{}{}", p.code, if p.severity == Severity::Warning { "?" } else { "" }))
        .collect();
    assert_eq!(codes, expected);
}

#[test]
fn accepts_chats() {
    for row in [
        r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#,
        r#"{"messages":[{"role":"system","content":""},{"role":"user","content":"a"},{"role":"assistant","content":"","tool_calls":[{"function":{"name":"f"}}]},{"role":"tool","content":"r","name":"f","tool_call_id":"1"},{"role":"assistant","content":"b","reasoning_content":"because"}],"tools":[{"type":"function"}]}"#,
        r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"system_prompt":"s","tags":["x"],"difficulty":3,"metadata":{"a":1}}"#,
        r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"system_prompt":"s","tags":null,"tools":null}"#,
    ] {
        check("chat_sft_v1", row, &[]);
    }
}

#[test]
fn names_every_problem_of_a_chat_not_the_first() {
    check("chat_sft_v1", r#"{}"#, &["column_missing"]);
    check("chat_sft_v1", r#"[1]"#, &["row_not_object"]);
    check("chat_sft_v1", r#"{"messages":"hi"}"#, &["column_type"]);
    check("chat_sft_v1", r#"{"messages":null}"#, &["column_type"]);
    check("chat_sft_v1", r#"{"messages":[]}"#, &["messages_empty"]);
    check("chat_sft_v1", r#"{"messages":[{"role":"assistant","content":"b"}]}"#, &["user_missing"]);
    check(
        "chat_sft_v1",
        r#"{"messages":["x",{"role":"bot","content":1},{"content":"y"},{"role":"system","content":null,"x":1},{"role":"user"}],"system_promt":"s","tools":{}}"#,
        &[
            "column_type",
            "column_unknown?",
            "message_not_object",
            "role_unknown",
            "content_type",
            "role_missing",
            "content_type",
            "message_key_unknown?",
            "content_missing",
            "system_not_first",
            "last_not_assistant",
        ],
    );
    check(
        "chat_sft_v1",
        r#"{"messages":[{"role":"system","content":"a"},{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"system_prompt":"b"}"#,
        &["system_conflict"],
    );
}

#[test]
fn a_doubled_key_is_seen_and_its_last_value_counts() {
    check("completion_v1", r#"{"text":1,"text":"a"}"#, &["key_duplicate?"]);
    check(
        "chat_sft_v1",
        r#"{"messages":[{"role":"user","role":"bot","content":"a"},{"role":"assistant","content":"b"}]}"#,
        &["key_duplicate?", "role_unknown"],
    );
}

#[test]
fn completions_are_a_text_or_a_prompt_with_its_completion() {
    check("completion_v1", r#"{"text":"a"}"#, &[]);
    check("completion_v1", r#"{"prompt":"a","completion":"b","text":null}"#, &[]);
    check("completion_v1", r#"{"completion":"b"}"#, &[]);
    check("completion_v1", r#"{"prompt":"a"}"#, &["column_missing"]);
    check("completion_v1", r#"{}"#, &["column_missing"]);
    check("completion_v1", r#"{"text":"a","completion":"b"}"#, &["text_and_prompt"]);
    check("completion_v1", r#"{"text":["a"]}"#, &["column_type"]);
}

#[test]
fn reads_the_shapes_of_sharegpt_and_alpaca() {
    check(
        "sharegpt_v1",
        r#"{"conversations":[{"from":"human","value":"a"},{"from":"gpt","value":"b"}],"id":"x"}"#,
        &[],
    );
    check(
        "sharegpt_v1",
        r#"{"conversations":[{"from":"human","value":"a"},{"from":"robot","value":"b"}]}"#,
        &["role_unknown"],
    );
    check("alpaca_v1", r#"{"instruction":"a","input":"","output":"b"}"#, &[]);
    check("alpaca_v1", r#"{"instruction":"a"}"#, &["column_missing"]);
}

#[test]
fn suggests_the_schema_that_fits() {
    assert_eq!(suggest(&json!({"instruction": "a", "output": "b"})), Some("alpaca_v1"));
    assert_eq!(suggest(&json!({"text": "a"})), Some("completion_v1"));
    assert_eq!(
        suggest(&json!({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]})),
        Some("sharegpt_v1")
    );
    assert_eq!(suggest(&json!({"question": "a"})), None);
}

#[test]
fn an_unknown_schema_is_refused_with_the_known_ones_and_the_nearest() {
    let problems = validate_job("chat_sft_v2", &json!(null), &json!({})).unwrap_err();
    assert_eq!(problems[0].code, "schema_unknown");
    assert_eq!(
        problems[0].hint,
        "did you mean \"chat_sft_v1\"? Known schemas: chat_sft_v1, syllo_v1, completion_v1, sharegpt_v1, alpaca_v1"
    );
    assert!(unknown("parquet").hint.starts_with("known schemas"), "nothing is near");
    assert_eq!(validate_job("alpaca_v1", &json!(null), &json!(null)).unwrap().id, "alpaca_v1");
}

#[test]
fn check_row_gives_only_what_blocks() {
    let spec = find("completion_v1").unwrap();
    assert_eq!(spec.check_row(&json!({"text": "a", "source": "b"})), Ok(()));
    assert_eq!(spec.check_row(&json!({"txt": "a"})).unwrap_err().len(), 1);
}

#[test]
fn texts_are_given_with_their_speakers() {
    let row = Json::parse(
        r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":""}],"system_prompt":"s"}"#,
    )
    .unwrap();
    let texts: Vec<_> =
        find("chat_sft_v1").unwrap().texts(&row).iter().map(|t| (t.speaker, t.message, t.text.to_string())).collect();
    assert_eq!(
        texts,
        [
            (Speaker::Role(Role::System), 0, "s".to_string()),
            (Speaker::Role(Role::User), 1, "a".to_string()),
            (Speaker::Role(Role::Assistant), 2, String::new()),
        ]
    );
}

#[test]
fn reasoning_and_tool_calls_stand_beside_the_texts() {
    let extras = |message: Value| {
        let row = json!({"messages": [{"role": "user", "content": "a", "name": "b"}, message]});
        let extras = find("chat_sft_v1").unwrap().extras(&Json::from(&row));
        extras.into_iter().map(|extra| (extra.message, extra.key, extra.text)).collect::<Vec<_>>()
    };
    let call = |arguments: Value| {
        let calls = json!([{"id": "call_1", "function": {"name": "f", "arguments": arguments}}]);
        extras(json!({"role": "assistant", "content": "", "tool_calls": calls, "reasoning_content": "why"}))
    };
    let expected = r#"[{"function": {"name": "f", "arguments": {"x": 1, "y": ["a
b", null]}}}]"#;
    let expected = vec![(2, "tool_calls", expected.to_string()), (2, "reasoning_content", "why".to_string())];
    assert_eq!(call(json!({"x": 1, "y": ["a\nb", null]})), expected);
    assert_eq!(call(json!(r#"{"x":1,"y":["a\nb",null]}"#)), expected, "the same call as a text");
    let empty = json!({"role": "assistant", "content": "", "tool_calls": [], "reasoning": null, "thinking": ""});
    assert!(extras(empty).is_empty());
}

#[test]
fn borrowed_json_equals_owned_json() {
    let text = r#"{"a":[1,-2,1.5,true,null,"x\n\u00e9"],"b":{"c":{}}}"#;
    assert_eq!(Json::parse(text).unwrap().to_value(), serde_json::from_str::<Value>(text).unwrap());
    assert!(matches!(Json::parse(r#""plain""#).unwrap(), Json::String(Cow::Borrowed("plain"))));
    assert!(Json::parse(&"[".repeat(100_000)).unwrap_err().to_string().contains("recursion"));
}
use std::borrow::Cow;
