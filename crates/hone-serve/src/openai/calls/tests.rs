//! Calls in each family's text, whole and in pieces of every size.

use super::super::format::ToolChoice;
use super::*;
use expect_test::{Expect, expect};
use hone_data::{Tokenizer, tiny};
use hone_generate::Grammars;
use serde_json::json;

/// Scans a text in pieces of one, two, … characters: what comes out, joined, must not depend on it.
#[track_caller]
fn check(format: CallFormat, text: &str, expected: Expect) {
    let mut seen: Option<String> = None;
    for size in 1..=text.chars().count() {
        let mut scanner = CallScanner::new(format);
        let characters: Vec<char> = text.chars().collect();
        let mut pieces: Vec<Piece> =
            characters.chunks(size).flat_map(|piece| scanner.push(&piece.iter().collect::<String>())).collect();
        pieces.extend(scanner.finish());
        let shown = show(&pieces);
        assert_eq!(seen.get_or_insert_with(|| shown.clone()), &shown, "in pieces of {size}");
    }
    expected.assert_eq(&seen.unwrap_or_default());
}

/// Neighbouring texts as one.
fn show(pieces: &[Piece]) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut text = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(more) => text += more,
            Piece::Call(call) => {
                if !text.is_empty() {
                    lines.push(format!("text {:?}", std::mem::take(&mut text)));
                }
                lines.push(format!("call {} {}", call.name, call.arguments));
            }
        }
    }
    if !text.is_empty() {
        lines.push(format!("text {text:?}"));
    }
    lines.join("\n")
}

#[test]
fn tagged_calls_are_read_with_the_text_around_them() {
    let check = |text: &str, expected: Expect| check(CallFormat::Tagged, text, expected);
    check("no call at all", expect![[r#"text "no call at all""#]]);
    check("a < b and <tool is text ", expect![[r#"text "a < b and <tool is text ""#]]);
    check(
        "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": [1, \"é\"]}}\n</tool_call>",
        expect![[r#"call f {"x":[1,"é"]}"#]],
    );
    check(
        "I look.\n\n<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>\n<tool_call>{\"name\": \"g\"}</tool_call> ",
        expect![[r#"
            text "I look."
            call f {}
            call g {}"#]],
    );
    // A tag inside a string ends nothing; arguments may be a text that holds the object.
    check(
        "<tool_call>{\"name\": \"f\", \"arguments\": {\"s\": \"</tool_call>\"}}</tool_call>",
        expect![[r#"call f {"s":"</tool_call>"}"#]],
    );
    check(
        "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"x\\\": 1}\"}</tool_call>",
        expect![[r#"call f {"x":1}"#]],
    );
    // The end token instead of the closing tag.
    check("<tool_call>{\"name\": \"f\", \"arguments\": {}}", expect!["call f {}"]);
}

#[test]
fn what_is_no_call_stays_text() {
    let check = |text: &str, expected: Expect| check(CallFormat::Tagged, text, expected);
    check("<tool_call>{\"name\": }</tool_call> then", expect![[r#"text "<tool_call>{\"name\": }</tool_call> then""#]]);
    check("<tool_call>{\"name\": \"f\", \"argu", expect![[r#"text "<tool_call>{\"name\": \"f\", \"argu""#]]);
    check("<tool_call>[1]</tool_call>", expect![[r#"text "<tool_call>[1]</tool_call>""#]]);
    check(
        "<tool_call>{\"name\": \"f\", \"arguments\": 3}</tool_call>",
        expect![[r#"text "<tool_call>{\"name\": \"f\", \"arguments\": 3}</tool_call>""#]],
    );
}

#[test]
fn whole_answers_are_read_as_llama_and_mistral_write_them() {
    check(CallFormat::Llama3, "{\"name\": \"f\", \"parameters\": {\"x\": 1}}", expect![[r#"call f {"x":1}"#]]);
    check(
        CallFormat::Llama3,
        "{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {}}",
        expect![[r#"
            call f {}
            call g {}"#]],
    );
    check(CallFormat::Llama3, "{\"answer\": 42}", expect![[r#"text "{\"answer\": 42}""#]]);
    check(CallFormat::Llama3, "It is {\"name\": \"f\"}", expect![[r#"text "It is {\"name\": \"f\"}""#]]);
    check(
        CallFormat::Mistral,
        "[{\"name\": \"f\", \"arguments\": {\"x\": 1}}, {\"name\": \"g\", \"arguments\": {}}]",
        expect![[r#"
            call f {"x":1}
            call g {}"#]],
    );
}

#[test]
fn a_template_tells_its_family() {
    let of = |source| CallFormat::of_template(source);
    assert_eq!(of("{{ messages }}"), None);
    assert_eq!(of("{% if tools %}<tool_call>"), Some(CallFormat::Tagged));
    assert_eq!(of("{% if tools %}{\"name\": f, \"parameters\": p}<|python_tag|>"), Some(CallFormat::Llama3));
    assert_eq!(of("{% if tools %}[AVAILABLE_TOOLS] [TOOL_CALLS]"), Some(CallFormat::Mistral));
}

#[test]
fn a_forced_call_leaves_only_the_named_function() {
    let list =
        json!([{"type": "function", "function": {"name": "a"}}, {"type": "function", "function": {"name": "b"}}]);
    let tools = Tools { list, choice: ToolChoice::Named("b".to_string()), parallel: true };
    expect![[r#"
        start: "<tool_call>\n" call "\n</tool_call>"
        call: call_0
        call_0: HEAD_0 arguments_0 "}"
        HEAD_0: "{\"name\":" " "? "\"b\"," " "? "\"arguments\":" " "?
        arguments_0: %json {"type":"object","properties":{},"additionalProperties":false,"x-guidance":{"whitespace_flexible":false,"item_separator":", ?","key_separator":": ?"}}
    "#]]
    .assert_eq(&CallFormat::Tagged.forced(&tools));
}

/// Every family's grammar compiles for schemas as clients write them, and for every name that a function may have.
#[test]
fn a_schema_may_refer_to_its_own_definitions() {
    let schema = json!({"properties": {"at": {"$ref": "#/$defs/point"}}, "$defs": {"point": {"enum": ["here"]}}});
    let function = |name: &str, parameters: &Value| json!({"function": {"name": name, "parameters": parameters}});
    let list = json!([
        function("f", &schema),
        function("g \"\\\n\u{7f}//é", &schema),
        function("f", &json!({"type": ["object", "null"]})),
        function("h", &json!({})),
    ]);
    let json = tiny::build_tokenizer(["a call".to_string()].into_iter(), 300).unwrap();
    let tokenizer = Tokenizer::from_json(&json.to_string(), &[2], None).unwrap();
    let grammars = Grammars::new(&tokenizer).unwrap();
    let tools = Tools { list, choice: ToolChoice::Required, parallel: true };
    for format in [CallFormat::Tagged, CallFormat::Llama3, CallFormat::Mistral] {
        grammars.lark(&format.forced(&tools)).unwrap();
    }
}

#[test]
fn arguments_are_an_object_whatever_the_schema_leaves_open() {
    let arguments = |parameters: Value| {
        let list = json!([{"function": {"name": "f", "parameters": parameters}}]);
        Tools { list, choice: ToolChoice::Required, parallel: true }.functions().remove(0).1
    };
    assert_eq!(arguments(json!({})), json!({"type": "object"}));
    assert_eq!(arguments(json!({"type": ["object", "null"]})), json!({"type": "object"}));
    assert_eq!(arguments(json!({"required": ["a"]})), json!({"required": ["a"], "type": "object"}));
    assert_eq!(arguments(json!({"type": "object"})), json!({"type": "object"}));
}
