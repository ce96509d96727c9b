//! The protocol: whole answers and streams say the same, and say it in OpenAI's words.

use crate::fixture::*;
use hone_data::tokenize::{completion_prompt_ids, prompt_ids};
use hone_data::{ChatContext, Message, tiny};
use hone_serve::WeightFormat;
use serde_json::{Map, Value, json};

fn context(model: &Model) -> ChatContext {
    ChatContext::from_dir(model.dir.path(), &Default::default(), &Map::new()).unwrap()
}

#[test]
fn answers_a_chat_with_stamp_and_usage() {
    let model = Model::random(7, 1);
    let server = Server::with(&model);
    let mut answer = server.post("/v1/chat/completions", &greedy("hello", 8));
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_string();
    assert_eq!(header("x-hone-checkpoint"), "checkpoint-7");
    assert_eq!(header("x-hone-manifest"), model.request.manifest_hash);
    let body: Value = answer.body_mut().read_json().unwrap();
    assert!(body["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["model"], MODEL_NAME);
    assert_eq!(body["system_fingerprint"], model.stamp());
    assert_eq!(body["choices"].as_array().unwrap().len(), 1);
    assert_eq!(body["choices"][0]["message"]["role"], "assistant");
    assert_eq!(body["choices"][0]["finish_reason"], "length");
    let prompt = prompt_ids(&context(&model), &[Message::new("user", "hello")], None, None).unwrap();
    let usage = json!({"prompt_tokens": prompt.len(), "completion_tokens": 8, "total_tokens": prompt.len() + 8});
    assert_eq!(body["usage"], usage);
    // Greedy answers repeat; another prompt is another answer.
    assert_eq!(content(&server.chat(&greedy("hello", 8))), content(&body));
    assert_ne!(content(&server.chat(&greedy("something else", 8))), content(&body));
}

#[test]
fn a_stream_says_the_same_as_a_whole_answer() {
    let model = Model::random(7, 2);
    let server = Server::with(&model);
    let body = greedy("grüße 你好", 60);
    let whole = server.chat(&body);
    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    let (events, stamp) = server.stream("/v1/chat/completions", &with(body.clone(), &options));
    assert_eq!(stamp, model.stamp());
    assert_eq!(streamed_content(&events, 0), content(&whole));
    assert_eq!(events[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let (usage, chunks) = events.split_last().unwrap();
    assert_eq!(usage["usage"], whole["usage"]);
    assert_eq!(usage["choices"], json!([]));
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event["object"], "chat.completion.chunk");
        assert_eq!(event["system_fingerprint"], model.stamp());
        assert_eq!(event["id"], events[0]["id"]);
        let reason = &event["choices"][0]["finish_reason"];
        let expected = if index == chunks.len() - 1 { json!("length") } else { Value::Null };
        assert_eq!(*reason, expected);
    }
    // Without the option there is no usage.
    let (plain, _) = server.stream("/v1/chat/completions", &with(body, &json!({"stream": true})));
    assert!(plain.iter().all(|event| event.get("usage").is_none()));
}

#[test]
fn stop_strings_end_an_answer_and_stay_out_of_it() {
    let server = Server::with(&Model::random(1, 3));
    let free = server.chat(&greedy("tell me", 48));
    let text = content(&free);
    // Three characters in the middle lie across token borders here and there.
    let middle: Vec<char> = text.chars().collect();
    let stop: String = middle[middle.len() / 2..middle.len() / 2 + 3].iter().collect();
    let expected = &text[..text.find(&stop).unwrap()];
    for stops in [json!(stop), json!(["never-there-xyz", stop])] {
        let body = with(greedy("tell me", 48), &json!({"stop": stops}));
        let stopped = server.chat(&body);
        assert_eq!(content(&stopped), expected);
        assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
        assert!(stopped["usage"]["completion_tokens"].as_u64().unwrap() < 48);
        let (events, _) = server.stream("/v1/chat/completions", &with(body, &json!({"stream": true})));
        assert_eq!(streamed_content(&events, 0), expected);
        assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "stop");
    }
}

#[test]
fn choices_differ_and_a_seed_repeats_them() {
    let server = Server::with(&Model::random(1, 4));
    let mut body = with(greedy("dice", 12), &json!({"n": 3, "seed": 5}));
    body.as_object_mut().unwrap().remove("temperature");
    let texts = |answer: &Value| -> Vec<String> {
        let choices = answer["choices"].as_array().unwrap();
        choices.iter().map(|choice| choice["message"]["content"].as_str().unwrap().to_string()).collect()
    };
    let first = server.chat(&body);
    let drawn = texts(&first);
    assert_eq!(drawn.len(), 3);
    assert!(drawn[0] != drawn[1] && drawn[1] != drawn[2], "{drawn:?}");
    assert_eq!(texts(&server.chat(&body)), drawn);
    assert_ne!(texts(&server.chat(&with(body.clone(), &json!({"seed": 6})))), drawn);
    let single = server.chat(&greedy("dice", 12));
    assert_eq!(first["usage"]["prompt_tokens"], single["usage"]["prompt_tokens"]);
    assert_eq!(first["usage"]["completion_tokens"], 36);
    let (events, _) = server.stream("/v1/chat/completions", &with(body, &json!({"stream": true})));
    assert_eq!((0..3).map(|choice| streamed_content(&events, choice)).collect::<Vec<_>>(), drawn);
}

#[test]
fn log_probabilities_are_reported_for_each_token() {
    let server = Server::with(&Model::random(1, 5));
    let body = with(greedy("odds", 6), &json!({"logprobs": true, "top_logprobs": 3}));
    let answer = server.chat(&body);
    let tokens = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(tokens.len(), 6);
    for token in tokens {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        // Greedy: the chosen one is the most probable one.
        assert_eq!(top[0]["logprob"], token["logprob"]);
        let values: Vec<f64> = top.iter().map(|item| item["logprob"].as_f64().unwrap()).collect();
        assert!(values[0] <= 0.0 && values.is_sorted_by(|a, b| a >= b), "{values:?}");
        assert!(values.iter().map(|value| value.exp()).sum::<f64>() <= 1.0 + 1e-4);
    }
    let (events, _) = server.stream("/v1/chat/completions", &with(body, &json!({"stream": true})));
    let streamed: Vec<Value> = events
        .iter()
        .filter_map(|event| event["choices"][0]["logprobs"]["content"].as_array())
        .flatten()
        .cloned()
        .collect();
    assert_eq!(&streamed, tokens);
    assert!(server.chat(&greedy("odds", 2))["choices"][0]["logprobs"].is_null());
}

#[test]
fn completions_take_text_and_ids() {
    let model = Model::random(1, 6);
    let server = Server::with(&model);
    let ask = |prompt: Value| -> Value {
        let body = json!({"model": MODEL_NAME, "prompt": prompt, "temperature": 0, "max_tokens": 10});
        parsed(server.post("/v1/completions", &body))
    };
    let text = ask(json!("the quick"));
    assert_eq!(text["object"], "text_completion");
    assert_eq!(text["usage"]["completion_tokens"], 10);
    let ids = completion_prompt_ids(&context(&model), "the quick").unwrap();
    assert_eq!(text["usage"]["prompt_tokens"], ids.len());
    assert_eq!(ask(json!(ids))["choices"], text["choices"]);
    let two = ask(json!(["the quick", "brown"]));
    assert_eq!(two["choices"][0], text["choices"][0]);
    assert_eq!(two["choices"][1]["text"], ask(json!("brown"))["choices"][0]["text"]);
    let body = json!({"prompt": "the quick", "temperature": 0, "max_tokens": 10, "stream": true, "logprobs": 1});
    let (events, _) = server.stream("/v1/completions", &body);
    let streamed: String = events.iter().map(|event| event["choices"][0]["text"].as_str().unwrap()).collect();
    assert_eq!(streamed, text["choices"][0]["text"].as_str().unwrap());
    assert_eq!(error_of(server.post("/v1/completions", &json!({"prompt": [99999]}))).2, "prompt");
    assert_eq!(error_of(server.post("/v1/completions", &json!({"prompt": ""}))).2, "prompt");
}

/// A model whose template takes tools and has calls written between tags.
fn model_with_tools(seed: u64) -> Model {
    let model = Model::random(1, seed);
    let mut config = tiny::tokenizer_config();
    config["chat_template"] = json!(format!("{}{{# tools: <tool_call> #}}", tiny::TINY_CHAT_TEMPLATE));
    hone_disk::write_json(&model.dir.path().join("tokenizer_config.json"), &config).unwrap();
    Model::of(model.dir, 1)
}

#[test]
fn a_forced_call_fits_the_schema_of_its_function() {
    let server = Server::with(&model_with_tools(10));
    let parameters = json!({
        "properties": {"to": {"$ref": "#/$defs/place"}}, "required": ["to"], "additionalProperties": false,
        "$defs": {"place": {"enum": ["here", "there"]}},
    });
    let tools = json!([{"type": "function", "function": {"name": "move", "parameters": parameters}}]);
    let body = with(greedy("go", 200), &json!({"tools": tools, "tool_choice": "required"}));
    let answer = server.chat(&body);
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
    let call = &choice["message"]["tool_calls"][0]["function"];
    assert_eq!(call["name"], "move");
    let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
    assert!(arguments == json!({"to": "here"}) || arguments == json!({"to": "there"}), "{arguments}");
    // An answer that ends with its first call ends here as well.
    let single = server.chat(&with(body, &json!({"parallel_tool_calls": false})));
    assert_eq!(single["choices"][0]["message"]["tool_calls"][0]["function"], *call);
    assert_eq!(
        (&single["usage"], &single["choices"][0]["finish_reason"]),
        (&answer["usage"], &choice["finish_reason"])
    );
}

#[test]
fn tells_what_it_serves() {
    let model = Model::random(12, 7);
    let server = Server::with(&model);
    let list = json_of(server.get("/v1/models"));
    assert_eq!((list["object"].as_str(), list["data"][0]["id"].as_str()), (Some("list"), Some(MODEL_NAME)));
    assert_eq!(list["data"].as_array().unwrap().len(), 1);
    assert_eq!(json_of(server.get("/v1/models/tiny"))["id"], MODEL_NAME);
    assert_eq!(error_of(server.get("/v1/models/gpt-4")).1, "model_not_found");
    let info = json_of(server.get("/models/info"));
    assert_eq!(info["checkpoint"], "checkpoint-12");
    assert_eq!(info["manifest_hash"], model.request.manifest_hash);
    assert_eq!(info["system_fingerprint"], model.stamp());
    assert_eq!(info["template_hash"], context(&model).template.unwrap().hash());
    assert_eq!(info["max_context"], CONTEXT);
    assert_eq!(info["config"]["num_hidden_layers"], 2);
    assert_eq!(info["weights"], json!({"dtype": "f32", "rounding": null}));
    assert_eq!(list["data"][0]["dtype"], "f32");
    assert!(info["serving_since_ms"].as_u64().unwrap() > 0);
    assert_eq!(json_of(server.get("/health"))["status"], "ok");
    assert_eq!(json_of(server.get("/ready"))["checkpoint"], "checkpoint-12");
}

#[test]
fn weights_in_8_bits_answer_and_say_what_rounding_costs() {
    let model = Model::random(3, 9);
    let server = Server::start_with(|options| options.weights = Some(WeightFormat::Int8));
    server.deploy(&model);
    let body = greedy("the quick", 20);
    let answer = server.chat(&body);
    let stamp = answer["system_fingerprint"].as_str().unwrap();
    assert!(stamp.starts_with("checkpoint-3-") && stamp.ends_with("-int8"), "{stamp}");
    assert_eq!(server.chat(&body)["choices"], answer["choices"], "answers repeat");
    assert_eq!(json_of(server.get("/v1/models"))["data"][0]["dtype"], "int8");
    let rounding = json_of(server.get("/models/info"))["weights"]["rounding"].clone();
    let number = |key: &str| rounding[key].as_f64().unwrap();
    assert!(number("tokens") > 100.0, "{rounding}");
    assert!((number("nll_held") - number("nll_stored") - number("nll_difference")).abs() < 1e-9, "{rounding}");
    // Rounding to 8 bits moves a random model's loss, and little.
    assert!(number("nll_difference") != 0.0 && number("nll_difference").abs() < 0.1, "{rounding}");
}

#[test]
fn counts_what_it_does() {
    let server = Server::with(&Model::random(1, 8));
    server.chat(&greedy("a", 5));
    server.post("/v1/chat/completions", &json!({}));
    let text = server.get("/metrics").body_mut().read_to_string().unwrap();
    for line in [
        "hone_serve_requests_total{route=\"/v1/chat/completions\",status=\"2xx\"} 1",
        "hone_serve_requests_total{route=\"/v1/chat/completions\",status=\"4xx\"} 1",
        "hone_serve_generated_tokens_total 5",
        "hone_serve_answer_seconds_count 1",
        "hone_serve_first_token_seconds_bucket{le=\"+Inf\"} 1",
        "hone_serve_models 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
}
