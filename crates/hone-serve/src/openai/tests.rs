//! The protocol as values: bodies in, shapes out.

use super::calls::{CallFormat, CallScanner};
use super::chunk::{self, Delta};
use super::format::ResponseFormat;
use super::logprobs;
use super::request::{ApiRequest, Endpoint, Input, Limits, Prompt, parse};
use super::response::{Choice, Head, Part, TotalUsage, whole};
use hone_generate::{FinishReason, TokenLogprob, TokenLogprobs};
use serde_json::{Value, json};

const LIMITS: Limits = Limits { max_choices: 4, default_max_tokens: 0 };

fn chat(body: Value) -> ApiRequest {
    parse(Endpoint::Chat, body.to_string().as_bytes(), &LIMITS).unwrap()
}

/// A chat body with one more field.
fn with(field: &str, value: Value) -> Value {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    body[field] = value;
    body
}

/// The body is refused with 400, and the error names this field.
#[track_caller]
fn refused(endpoint: Endpoint, body: &Value, param: &str) -> String {
    let error = parse(endpoint, body.to_string().as_bytes(), &LIMITS).unwrap_err();
    assert_eq!(error.status.as_u16(), 400);
    assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
    let shape = error.body();
    assert_eq!(shape["error"]["type"], "invalid_request_error");
    assert_eq!(shape["error"]["param"], param);
    error.message
}

#[test]
fn chat_defaults_are_openai_defaults() {
    let request = chat(with("some_future_field", json!([1])));
    assert_eq!(request.model.as_deref(), Some("m"));
    assert_eq!(request.sampling.temperature, 1.0);
    assert_eq!(request.sampling.top_p, 1.0);
    assert_eq!(request.sampling.top_k, 0);
    assert_eq!((request.max_tokens, request.num_answers, request.seed), (None, 1, None));
    assert!(!request.stream && !request.include_usage && request.top_logprobs.is_none() && request.stop.is_empty());
    let Input::Chat { messages, tools, template_kwargs, format } = request.input else { panic!("not a chat") };
    assert_eq!((messages[0].role.as_str(), messages[0].content.as_str()), ("user", "hi"));
    assert!(tools.is_none() && template_kwargs.is_empty() && *format == ResponseFormat::Text);
}

#[test]
fn null_counts_as_absent() {
    let mut body = with("temperature", Value::Null);
    for field in ["top_p", "stop", "seed", "max_tokens", "stream", "stream_options", "tools", "response_format", "n"] {
        body[field] = Value::Null;
    }
    assert_eq!(chat(body).sampling.temperature, 1.0);
}

#[test]
fn every_parameter_is_read() {
    let mut body = json!({
        "messages": [{"role": "user", "content": "hi"}], "temperature": 0.5, "top_p": 0.9, "top_k": -1, "min_p": 0.1,
        "seed": -3, "stop": ["a", "b"], "n": 2, "presence_penalty": 1, "frequency_penalty": -1.5,
        "repetition_penalty": 1.2, "logprobs": true, "top_logprobs": 5, "max_tokens": 7, "max_completion_tokens": 9,
        "stream": true, "stream_options": {"include_usage": true}, "chat_template_kwargs": {"enable_thinking": false},
        "tools": [{"type": "function", "function": {"name": "f"}}],
    });
    let request = chat(body.clone());
    let sampling = &request.sampling;
    assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p), (0.5, 0.9, 0, 0.1));
    assert_eq!((sampling.presence_penalty, sampling.frequency_penalty), (1.0, -1.5));
    assert_eq!(sampling.repetition_penalty, 1.2);
    assert_eq!(request.seed, Some(-3i64 as u64));
    assert_eq!(request.stop, ["a", "b"]);
    assert_eq!((request.num_answers, request.top_logprobs, request.max_tokens), (2, Some(5), Some(9)));
    assert!(request.stream && request.include_usage);
    let Input::Chat { tools, template_kwargs, .. } = request.input else { panic!("not a chat") };
    let tools = tools.unwrap();
    assert!(tools.list[0]["function"]["name"] == "f" && tools.parallel);
    assert_eq!(template_kwargs["enable_thinking"], false);

    body["parallel_tool_calls"] = json!(false);
    let Input::Chat { tools, .. } = chat(body.clone()).input else { panic!("not a chat") };
    assert!(!tools.unwrap().parallel);

    body["tool_choice"] = json!("none");
    let Input::Chat { tools, .. } = chat(body).input else { panic!("not a chat") };
    assert!(tools.is_none());
}

#[test]
fn the_least_values_that_the_document_allows_are_taken() {
    let body = json!({"messages": [{"role": "user", "content": "hi"}], "top_p": 5e-324, "repetition_penalty": 0.01});
    let sampling = chat(body).sampling;
    assert!(sampling.top_p > 0.0);
    assert_eq!(sampling.repetition_penalty, 0.01);
}

/// As JSON Schema defines `integer`: "any number with a zero fractional part".
#[test]
fn a_whole_number_may_be_written_with_a_fraction_of_zero() {
    let body = json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 16.0, "top_k": -1.0, "seed": 3e2, "n": 2.0});
    let request = chat(body);
    assert_eq!(
        (request.max_tokens, request.sampling.top_k, request.seed, request.num_answers),
        (Some(16), 0, Some(300), 2)
    );
    let body = json!({"prompt": [1.0, 2]}).to_string();
    let request = parse(Endpoint::Completions, body.as_bytes(), &LIMITS).unwrap();
    assert!(matches!(request.input, Input::Prompts(prompts) if prompts == [Prompt::Ids(vec![1, 2])]));

    let told = |value| refused(Endpoint::Chat, &with("max_tokens", value), "max_tokens");
    assert_eq!(told(json!(16.5)), "`max_tokens` must be an integer, not a number with a fraction");
    assert_eq!(told(json!(0.0)), "`max_tokens` must be from 1 to 9223372036854775807, not 0.0");
    assert_eq!(told(json!(1e300)), "`max_tokens` must be from 1 to 9223372036854775807, not 1e+300");
    assert_eq!(told(json!(u64::MAX)), "`max_tokens` must be from 1 to 9223372036854775807, not 18446744073709551615");
}

#[test]
fn wrong_types_and_values_are_refused_by_name() {
    let cases = [
        ("temperature", json!("hot")),
        ("temperature", json!(2.5)),
        ("temperature", json!(-0.1)),
        ("top_p", json!(0)),
        ("top_p", json!(1.01)),
        ("top_k", json!(-2)),
        ("top_k", json!(1.5)),
        ("min_p", json!(2)),
        ("seed", json!("1")),
        ("stop", json!(5)),
        ("stop", json!(["a", 5])),
        ("stop", json!(["a", "b", "c", "d", "e"])),
        ("stop", json!("")),
        ("n", json!(0)),
        ("n", json!(5)),
        ("n", json!(1.5)),
        ("presence_penalty", json!(2.1)),
        ("frequency_penalty", json!([])),
        ("repetition_penalty", json!(0)),
        ("repetition_penalty", json!(0.009)),
        ("max_tokens", json!(0)),
        ("max_tokens", json!("10")),
        ("max_completion_tokens", json!(-1)),
        ("logprobs", json!(3)),
        ("top_logprobs", json!(3)),
        ("stream", json!("yes")),
        ("stream_options", json!({"include_usage": true})),
        ("model", json!(7)),
        ("chat_template_kwargs", json!([])),
        ("tools", json!({})),
        ("tool_choice", json!("required")),
        ("tool_choice", json!({"type": "function"})),
        ("response_format", json!("json")),
        ("logit_bias", json!({"5": 101})),
        ("logit_bias", json!({"five": 1})),
        ("functions", json!([{}])),
        ("messages", json!("hi")),
        ("messages", json!([])),
        ("messages", Value::Null),
    ];
    for (param, value) in cases {
        refused(Endpoint::Chat, &with(param, value), param);
    }
    let message = refused(Endpoint::Chat, &with("temperature", json!("hot")), "temperature");
    assert_eq!(message, "`temperature` must be a number, not a string");
    for (param, value) in [
        ("response_format.type", json!({})),
        ("response_format.type", json!({"type": "xml"})),
        ("response_format.json_schema", json!({"type": "json_schema"})),
        ("response_format.json_schema.schema", json!({"type": "json_schema", "json_schema": {"name": "n"}})),
        ("response_format.json_schema.schema", json!({"type": "json_schema", "json_schema": {"schema": 3}})),
    ] {
        refused(Endpoint::Chat, &with("response_format", value), param);
    }
    for body in ["", "{", "[]", "7", "{\"messages\": [}"] {
        let error = parse(Endpoint::Chat, body.as_bytes(), &LIMITS).unwrap_err();
        assert_eq!(error.status.as_u16(), 400, "{body}");
    }
}

#[test]
fn messages_are_read_strictly() {
    let cases = [
        (json!("hi"), "messages[0]"),
        (json!({"content": "hi"}), "messages[0].role"),
        (json!({"role": "robot", "content": "hi"}), "messages[0].role"),
        (json!({"role": 1, "content": "hi"}), "messages[0].role"),
        (json!({"role": "user"}), "messages[0].content"),
        (json!({"role": "user", "content": null}), "messages[0].content"),
        (json!({"role": "user", "content": 5}), "messages[0].content"),
        (json!({"role": "user", "content": [{"type": "image_url"}]}), "messages[0].content[0]"),
        (json!({"role": "user", "content": [{"type": "text"}]}), "messages[0].content[0].text"),
        (json!({"role": "user", "content": ["hi"]}), "messages[0].content[0]"),
        (json!({"role": "assistant", "content": null}), "messages[0].content"),
        (json!({"role": "assistant", "content": "a", "tool_calls": 5}), "messages[0].tool_calls"),
    ];
    for (message, param) in cases {
        refused(Endpoint::Chat, &with("messages", json!([message])), param);
    }
}

#[test]
fn messages_reach_the_template_as_it_expects_them() {
    let request = chat(with(
        "messages",
        json!([
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": null},
            {"role": "assistant", "content": null,
             "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}}]},
            {"role": "tool", "content": "2", "tool_call_id": "1"},
        ]),
    ));
    let Input::Chat { messages, .. } = request.input else { panic!("not a chat") };
    assert_eq!((messages[0].role.as_str(), messages[0].content.as_str()), ("system", "be brief"));
    assert_eq!(messages[1].content, "ab");
    assert!(messages[1].extra.is_empty());
    assert_eq!(messages[2].content, "");
    assert_eq!(messages[2].extra["tool_calls"][0]["function"]["name"], "f");
    assert_eq!(messages[3].extra["tool_call_id"], "1");
}

#[test]
fn completion_prompts_have_four_forms() {
    let prompts = |prompt: Value| {
        let body = json!({"prompt": prompt}).to_string();
        match parse(Endpoint::Completions, body.as_bytes(), &LIMITS).unwrap() {
            ApiRequest { input: Input::Prompts(prompts), max_tokens: Some(16), .. } => prompts,
            other => panic!("{other:?}"),
        }
    };
    let text = |text: &str| Prompt::Text(text.to_string());
    assert_eq!(prompts(json!("a")), [text("a")]);
    assert_eq!(prompts(json!(["a", "b"])), [text("a"), text("b")]);
    assert_eq!(prompts(json!([1, 2])), [Prompt::Ids(vec![1, 2])]);
    assert_eq!(prompts(json!([[1], [2, 3]])), [Prompt::Ids(vec![1]), Prompt::Ids(vec![2, 3])]);

    for prompt in [json!([]), json!(5), json!({}), Value::Null, json!([1, -2]), json!(["a", "b", "c", "d", "e"])] {
        refused(Endpoint::Completions, &json!({"prompt": prompt}), "prompt");
    }
    refused(Endpoint::Completions, &json!({"prompt": ["a", {}]}), "prompt[1]");
    refused(Endpoint::Completions, &json!({"prompt": ["a", "b", "c"], "n": 2}), "n");
    for (field, value) in
        [("echo", json!(true)), ("suffix", json!("x")), ("best_of", json!(2)), ("logprobs", json!(true))]
    {
        refused(Endpoint::Completions, &json!({"prompt": "a", field: value}), field);
    }
}

fn head(endpoint: Endpoint) -> Head {
    Head {
        endpoint,
        id: "id-1".to_string(),
        created_s: 5,
        model: "m".to_string(),
        system_fingerprint: "checkpoint-3-abc".to_string(),
        logprobs: true,
        include_usage: true,
    }
}

fn logprob(token: u32, bytes: &[u8], logprob: f32) -> TokenLogprob {
    TokenLogprob { token, bytes: bytes.to_vec(), logprob }
}

/// One token whose alternatives are a part of a character and another token with its own text.
fn position() -> TokenLogprobs {
    let chosen = logprob(1, "é!".as_bytes(), -0.5);
    TokenLogprobs {
        chosen: chosen.clone(),
        top: vec![chosen, logprob(2, b" \xe2\x80", -2.0), logprob(3, "é!".as_bytes(), -3.0)],
    }
}

#[test]
fn whole_answers_have_the_protocol_shape() {
    let choice = Choice {
        text: "é!".to_string(),
        logprobs: vec![position()],
        reason: Some(FinishReason::Stop),
        ..Choice::default()
    };
    let usage = TotalUsage { prompt_tokens: 4, completion_tokens: 2 };
    let chat = whole(&head(Endpoint::Chat), std::slice::from_ref(&choice), usage);
    assert_eq!(
        chat,
        json!({
            "id": "id-1", "object": "chat.completion", "created": 5, "model": "m", "system_fingerprint": "checkpoint-3-abc",
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": "é!", "refusal": null},
                "logprobs": {"refusal": null, "content": [{
                    "token": "é!", "logprob": -0.5, "bytes": [195, 169, 33],
                    "top_logprobs": [
                        {"token": "é!", "logprob": -0.5, "bytes": [195, 169, 33]},
                        {"token": " \\xe2\\x80", "logprob": -2.0, "bytes": [32, 226, 128]},
                        {"token": "é!", "logprob": -3.0, "bytes": [195, 169, 33]},
                    ],
                }]},
                "finish_reason": "stop",
            }],
            "usage": {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6},
        })
    );
    let completion = whole(&head(Endpoint::Completions), &[choice], usage);
    assert_eq!(completion["object"], "text_completion");
    assert_eq!(completion["choices"][0]["text"], "é!");
    assert_eq!(
        completion["choices"][0]["logprobs"],
        json!({
            "tokens": ["é!"], "token_logprobs": [-0.5], "text_offset": [0],
            "top_logprobs": [{"é!": -0.5, "bytes: \\xe2\\x80": -2.0}],
        })
    );
}

#[test]
fn without_parallel_calls_an_answer_ends_with_its_first() {
    let choice = |format| Choice { scanner: Some(CallScanner::new(format)), one_call: true, ..Choice::default() };
    let mut tagged = choice(CallFormat::Tagged);
    assert_eq!(
        tagged.take("I look. <tool_call>{\"name\": \"a\"}".to_string(), false),
        [Part::Text("I look.".to_string())]
    );
    assert!(!tagged.has_its_call());
    let rest = "</tool_call> and\n<tool_call>{\"name\": \"b\"}</tool_call>".to_string();
    assert_eq!(tagged.take(rest, false), [Part::Call(0)]);
    assert!(tagged.has_its_call() && tagged.take("more".to_string(), true).is_empty());

    let mut whole = choice(CallFormat::Mistral);
    assert!(whole.take("[{\"name\": \"a\"}, {\"name\": \"b\"}]".to_string(), false).is_empty());
    assert_eq!(whole.take(String::new(), true), [Part::Call(0)]);
    assert_eq!(whole.calls.len(), 1);
}

#[test]
fn offsets_count_the_characters_of_the_text() {
    let tokens: [&[u8]; 4] = [b"a", b"\xe2\x80", b"\x99", b" b"];
    let positions = tokens.map(|bytes| TokenLogprobs { chosen: logprob(1, bytes, -1.0), top: Vec::new() });
    let told = logprobs::completion(&positions, 2);
    assert_eq!(told["text_offset"], json!([2, 3, 4, 4]));
    assert_eq!(told["tokens"], json!(["a", "bytes:\\xe2\\x80", "bytes:\\x99", " b"]));
}

#[test]
fn chunks_have_the_protocol_shape() {
    let head = head(Endpoint::Chat);
    let parsed = |event: String| -> Value {
        let data = event.strip_prefix("data: ").unwrap().strip_suffix("\n\n").unwrap();
        assert!(!data.contains('\n'));
        serde_json::from_str(data).unwrap()
    };
    let role = parsed(chunk::event(&head, 1, &Delta::Role));
    assert_eq!(role["object"], "chat.completion.chunk");
    assert_eq!(
        role["choices"],
        json!([{"index": 1, "delta": {"role": "assistant", "content": ""}, "logprobs": null, "finish_reason": null}])
    );
    assert_eq!(role["usage"], Value::Null);
    let text = parsed(chunk::event(&head, 0, &Delta::Text { text: "a\nb", logprobs: &[position()], offset: 0 }));
    assert_eq!(text["choices"][0]["delta"], json!({"content": "a\nb"}));
    assert_eq!(text["choices"][0]["logprobs"]["content"][0]["logprob"], -0.5);
    let end = parsed(chunk::event(&head, 0, &Delta::Finish("length")));
    assert_eq!(end["choices"][0]["finish_reason"], "length");
    assert_eq!(end["choices"][0]["delta"], json!({}));
    let usage = parsed(chunk::usage_event(&head, TotalUsage { prompt_tokens: 1, completion_tokens: 2 }));
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["total_tokens"], 3);
    let completions = Head { endpoint: Endpoint::Completions, include_usage: false, ..head };
    let text = parsed(chunk::event(&completions, 0, &Delta::Text { text: "x", logprobs: &[position()], offset: 7 }));
    assert_eq!(text["choices"][0]["text"], "x");
    assert_eq!(text["choices"][0]["logprobs"]["text_offset"], json!([7]));
    assert!(text.get("usage").is_none());
}
