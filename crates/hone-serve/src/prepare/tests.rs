//! What the server asks the engine for.

use super::*;
use crate::engine_thread::tests::model::{CONTEXT, MODEL_NAME, Model};
use hone_data::tiny;
use hone_data::tokenize::prompt_ids;
use hone_pipeline::wire::DeployRequest;
use serde_json::json;

/// One answer to `{"role": "user", "content": "hello"}`, by a model that is deployed with this profile.
fn prepared(profile: &str, stop: &str) -> (Served, GenRequest) {
    let model = Model::random(1, 1);
    let request = DeployRequest { profile: profile.to_string(), ..model.request };
    let served = Served::load(1, &request, model.dir.path(), CONTEXT, hone_generate::WeightFormat::F32).unwrap();
    let body = format!(
        r#"{{"messages": [{{"role": "user", "content": "hello"}}], "max_tokens": 5, "seed": 1, "stop": {stop}}}"#
    );
    let limits = Limits { max_choices: 4, default_max_tokens: 0 };
    let prepared = prepare(Endpoint::Chat, body.as_bytes(), &served, MODEL_NAME, &limits).unwrap();
    (served, prepared.requests.into_iter().next().unwrap())
}

#[test]
fn a_profile_holds_generation_and_leaves_the_prompt_alone() {
    let (served, request) = prepared("emoji_think", r#"["END"]"#);
    let hello = [hone_data::Message::new("user", "hello")];
    assert_eq!(request.prompt, prompt_ids(&served.context, &hello, None, None).unwrap(), "never rewritten");
    assert_eq!(request.stop[0], "END");
    assert_eq!(request.stop[1..], served.context.profile.stop_strings());
    assert!(request.stop.contains(&"🛑🛑".to_string()));
    let (_, plain) = prepared("plain", "null");
    assert_eq!(GenRequest { stop: Vec::new(), ..request }, plain, "nothing else differs");
}

#[test]
fn calls_are_read_as_the_template_for_tools_writes_them() {
    let model = Model::random(1, 1);
    let mut config = tiny::tokenizer_config();
    config["chat_template"] = json!([
        {"name": "default", "template": tiny::TINY_CHAT_TEMPLATE},
        {"name": "tool_use", "template": format!("{{# tools: [TOOL_CALLS] #}}{}", tiny::TINY_CHAT_TEMPLATE)},
    ]);
    hone_disk::write_json(&model.dir.path().join("tokenizer_config.json"), &config).unwrap();
    let served = Served::load(1, &model.request, model.dir.path(), CONTEXT, hone_generate::WeightFormat::F32).unwrap();
    let body = json!({
        "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5,
        "tools": [{"type": "function", "function": {"name": "f"}}],
    });
    let limits = Limits { max_choices: 4, default_max_tokens: 0 };
    let prepared = prepare(Endpoint::Chat, body.to_string().as_bytes(), &served, MODEL_NAME, &limits).unwrap();
    assert_eq!(prepared.calls, Some(CallFormat::Mistral));
}
