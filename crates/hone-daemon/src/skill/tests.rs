//! Tests of `skill`.

use super::*;
use crate::testing::HttpServer;

fn client(server: &HttpServer) -> SkillClient {
    SkillClient::new(&format!("{}/", server.url), Duration::from_secs(20), 10_000)
}

fn generated(level: u32, ids: &[&str]) -> String {
    let samples: Vec<_> = ids.iter().map(|id| json!({"id": id, "messages": [], "metadata": {}})).collect();
    json!({"skill": "binary", "version": "1", "level": level, "samples": samples}).to_string()
}

#[test]
fn speaks_the_contract() {
    let server = HttpServer::start(|request| {
        match request.line.as_str() {
        "GET /health" => (200, json!({"status": "ok"}).to_string()),
        "GET /levels" => (
            200,
            json!({"levels": [{"level": 1, "name": "n", "description": "d", "eval_samples": 300, "pass_threshold": 0.8}]})
                .to_string(),
        ),
        "POST /generate" => {
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            assert_eq!(body, json!({"level": 2, "count": 2, "seed": 7, "split": "eval"}));
            (200, generated(2, &["a", "b"]))
        }
        "POST /verify" => (
            200,
            json!({"results": [{"id": "a", "solved": true, "score": 1.0, "parsed": true, "reason": null}]}).to_string(),
        ),
        line => panic!("{line}"),
    }
    });
    let client = client(&server);
    assert!(client.health().unwrap());
    assert_eq!(client.levels().unwrap()[0].eval_samples, 300);
    assert_eq!(client.generate(2, 2, 7, Split::Eval).unwrap().samples[1].id, "b");
    let sample = VerifySample { id: "a".to_string(), level: 2, metadata: json!({}), response: "①".to_string() };
    assert!(client.verify(&[sample]).unwrap()[0].solved);
}

#[test]
fn refuses_what_is_not_what_was_asked_for() {
    for (answer, expected) in [
        (generated(1, &["a", "b"]), "level 2 was asked for, level 1 came"),
        (generated(2, &["a"]), "2 samples were asked for, 1 came"),
        ("{}".to_string(), "POST /generate"),
        (format!("\"{}\"", "x".repeat(20_000)), "does not answer"),
    ] {
        let server = HttpServer::start(move |_| (200, answer.clone()));
        let error = client(&server).generate(2, 2, 7, Split::Train).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let server = HttpServer::start(|_| (422, json!({"error": {"message": "level 9 is unknown"}}).to_string()));
    let error = client(&server).generate(9, 1, 1, Split::Train).unwrap_err();
    assert!(matches!(error, SkillError::Refused { status: 422, ref message, .. } if message == "level 9 is unknown"));
}

#[test]
fn nobody_there_is_told_apart() {
    let url = HttpServer::start(|_| (200, String::new())).url.clone();
    let client = SkillClient::new(&url, Duration::from_secs(20), 100);
    assert!(matches!(client.health(), Err(SkillError::Unreachable { .. })));
}

#[test]
fn a_busy_server_is_asked_again_and_a_refusal_is_final() {
    let mut calls = 0;
    let server = HttpServer::start(move |_| {
        calls += 1;
        if calls < 3 { (503, String::new()) } else { (200, json!({"status": "ok"}).to_string()) }
    });
    assert!(client(&server).with_tries(3).health().unwrap());
    let mut calls = 0;
    let server = HttpServer::start(move |_| {
        calls += 1;
        assert_eq!(calls, 1, "a refusal is not tried again");
        (422, String::new())
    });
    assert!(matches!(client(&server).with_tries(3).health(), Err(SkillError::Refused { status: 422, .. })));
}

#[test]
fn reads_the_two_older_shapes() {
    let of = |answer: Value| {
        let server = HttpServer::start(move |_| (200, answer.to_string()));
        client(&server).generate(2, 1, 7, Split::Train).unwrap()
    };
    let messages = json!([{"role": "user", "content": "1?"}, {"role": "assistant", "content": "yes"}]);
    for entry in [messages.clone(), json!({"messages": messages})] {
        let generated = of(json!({"conversations": [entry]}));
        assert_eq!((generated.samples[0].id.as_str(), generated.level), ("2-7-0", 2));
        assert_eq!(json!(generated.samples[0].messages), messages);
    }
    let generated = of(json!({"puzzles": [{
        "words": [{"definition": "a striped cat", "syllables": ["ti", "ger"]}],
        "syllable_bank": ["ger", "ti"],
        "solution": ["tiger"],
    }]}));
    let sample = &generated.samples[0];
    assert_eq!(sample.metadata["tiles"], json!(["ger", "ti"]));
    let answer = r#"{"solutions":[{"ans_num":1,"syllables":["ti","ger"],"answer":"tiger"}]}"#;
    assert_eq!(sample.messages[1]["content"], answer);
    assert!(sample.messages[0]["content"].as_str().unwrap().contains("1. a striped cat\nTiles: ger ti"));
}
