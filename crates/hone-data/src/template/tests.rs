//! Tests of `template`.

use super::*;
use serde_json::json;

#[track_caller]
fn check(source: &str, messages: &[Message], expected: &str) {
    let template = ChatTemplate::from_source(source, Some("<s>"), Some("</s>")).unwrap();
    let input = RenderInput { messages, tools: None, add_generation_prompt: false, kwargs: &Map::new() };
    assert_eq!(template.render(&input).unwrap(), expected);
}

#[test]
fn white_space_of_blocks_is_trimmed_as_in_transformers() {
    check(
        "{% for m in messages %}\n    {% if true %}\n  {{ m.content }}\n    {% endif %}\n{% endfor %}\nend\n",
        &[Message::new("user", "x")],
        "  x\nend",
    );
}

#[test]
fn generation_marks_print_nothing_and_keep_their_white_space_control() {
    let messages = [Message::new("assistant", "x")];
    check("a {%- generation -%}  {{ messages[0].content }}  {%- endgeneration %} b", &messages, "ax b");
    check("{% generation %}\n{{ messages[0].content }}{% endgeneration %}\n", &messages, "x");
}

#[test]
fn special_tokens_methods_and_loop_controls_work() {
    check(
        "{{ bos_token }}{% for m in messages %}{% if m.content.startswith('skip') %}{% continue %}{% endif %}{{ m.content.split('|')[-1].strip().upper() }}{% if loop.index0 == 1 %}{% break %}{% endif %}{% endfor %}{{ eos_token }}",
        &["skip", "a| b ", "c"].map(|text| Message::new("user", text)),
        "<s>B</s>",
    );
}

#[test]
fn values_print_as_python_prints_them() {
    let mut message = Message::new("user", "x");
    message.extra.insert("a".into(), json!({"k": [1, 2.0, null, true, "it's"], "é": "\""}));
    message.extra.insert("gone".into(), json!(null));
    check(
        "{{ messages[0].a | tojson }}|{{ true }}|{{ none }}|{{ messages[0].gone is defined }}|{{ tools is none }}",
        &[message],
        r#"{"k": [1, 2.0, null, true, "it's"], "é": "\""}|True|None|False|True"#,
    );
}

#[test]
fn nothing_is_not_iterable_and_line_ends_are_line_feeds() {
    let messages = [Message::new("user", "x\r\ny")];
    check(
        "{{ tools is iterable }} {{ nowhere is iterable }} {{ 'a' is iterable }} {{ 1 is iterable }}",
        &messages,
        "False True True False",
    );
    check("a\r\n{{ 'b\r\nc' }}\r{{ messages[0].content }}", &messages, "a\nb\nc\nx\r\ny");
}

#[test]
fn reasoning_is_known_under_each_of_its_names() {
    let mut message = Message::new("assistant", "x");
    message.extra.insert("reasoning".into(), json!("why"));
    check("{{ messages[0].reasoning_content }} {{ messages[0].thinking }}", &[message], "why why");
}

#[test]
fn arguments_of_calls_may_be_json_text() {
    let told = |arguments: Value, expected: &str| {
        let mut message = Message::new("assistant", "");
        message.extra.insert("tool_calls".into(), json!([{"function": {"name": "f", "arguments": arguments}}]));
        check("{{ messages[0].tool_calls[0].function.arguments | tojson }}", &[message], expected);
    };
    let object = r#"{"b": 1.0, "a": "é"}"#;
    told(json!({"b": 1.0, "a": "é"}), object);
    told(json!("{\"b\": 1.0, \"a\":\n\"é\"}"), object);
    told(json!("no JSON"), r#""no JSON""#);
    told(json!("[1]"), r#""[1]""#);
    told(Value::Null, "null");
}

/// A call whose arguments are this text.
fn call(arguments: &str) -> Message {
    let mut message = Message::new("assistant", "");
    let function = json!({"name": "f", "arguments": arguments});
    message.extra.insert("tool_calls".into(), json!([{"type": "function", "function": function}]));
    message
}

/// Expected values: jinja2 3.1.6 with the settings of `transformers` (`scripts/make_chat_goldens.py`), `<s>` as `bos_token`.
#[test]
fn text_of_arguments_stays_as_it_came_where_the_template_takes_text() {
    let messages = [Message::new("user", "q"), call(r#"{"x":1,  "y": "é"}"#)];
    check(
        include_str!("../../testdata/labels/templates/deepseekv3.jinja"),
        &messages,
        concat!(
            "<s><｜User｜>q<｜Assistant｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n",
            "{\"x\":1,  \"y\": \"é\"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>",
        ),
    );
    check(
        include_str!("../../testdata/labels/templates/qwen3.jinja"),
        &messages,
        concat!(
            "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n<tool_call>\n",
            "{\"name\": \"f\", \"arguments\": {\"x\":1,  \"y\": \"é\"}}\n</tool_call><|im_end|>\n",
        ),
    );
}

#[test]
fn a_template_asks_whether_arguments_are_text_in_several_ways() {
    for asked in [
        "{% if tool_call.arguments is string %}",
        "{% if call['function'][\"arguments\"]  is not string %}",
        "{% if (call.arguments) is  string%}",
    ] {
        assert!(takes_text_arguments(asked), "{asked}");
    }
    for other in ["{{ call.arguments | tojson }}", "{% if call.arguments is mapping %}", "arguments is", "x is string"]
    {
        assert!(!takes_text_arguments(other), "{other}");
    }
}

#[test]
fn a_refusal_is_that_of_the_parsed_arguments() {
    let source = "{% if messages[0].tool_calls[0].function.arguments is mapping %}{{ raise_exception('parsed') }}{% else %}{{ raise_exception('text') }}{% endif %}";
    let template = ChatTemplate::from_source(source, None, None).unwrap();
    let messages = [call("{}")];
    let input = RenderInput { messages: &messages, tools: None, add_generation_prompt: false, kwargs: &Map::new() };
    assert_eq!(template.render(&input).unwrap_err().to_string(), "parsed");
}

#[test]
fn a_template_refuses_in_its_own_words() {
    let template = ChatTemplate::from_source("{{ raise_exception('roles must alternate') }}", None, None).unwrap();
    let input = RenderInput { messages: &[], tools: None, add_generation_prompt: false, kwargs: &Map::new() };
    assert_eq!(template.render(&input).unwrap_err().to_string(), "roles must alternate");
    assert!(ChatTemplate::from_source("{% for %}", None, None).is_err());
}

#[test]
fn the_clock_is_readable() {
    let year = clock::strftime_now("%Y").parse::<u32>().unwrap();
    assert!((2024..2200).contains(&year), "{year}");
}

#[test]
fn the_file_wins_over_the_configuration_and_a_list_has_a_default() {
    let dir = tempfile::tempdir().unwrap();
    let error = ChatTemplate::from_dir(dir.path()).unwrap_err().to_string();
    assert!(error.contains("no chat template"), "{error}");
    let config = json!({
        "eos_token": {"content": "</s>", "special": true},
        "chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D{{ eos_token }}"}, {"name": "rag", "template": "{% broken"}],
    });
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let template = ChatTemplate::from_dir(dir.path()).unwrap();
    let tools = json!([]);
    let mut input = RenderInput { messages: &[], tools: None, add_generation_prompt: false, kwargs: &Map::new() };
    assert_eq!(template.render(&input).unwrap(), "D</s>");
    input.tools = Some(&tools);
    assert_eq!(template.render(&input).unwrap(), "T");
    assert_eq!((template.source(), template.source_with_tools()), ("D{{ eos_token }}", "T"));
    std::fs::write(dir.path().join("chat_template.jinja"), "J").unwrap();
    let template = ChatTemplate::from_dir(dir.path()).unwrap();
    assert_eq!(template.render(&input).unwrap(), "J");
    assert_eq!(template.source_with_tools(), "J");
    assert_eq!(template.hash(), blake3::hash(b"J").to_hex().as_str());
}
