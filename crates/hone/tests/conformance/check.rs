//! One case by raw HTTP: what the table expects, and what holds for every answer.

use crate::server::{Answer, Server};
use crate::table::Case;
use serde_json::{Map, Value, json};

type Check = Result<(), String>;

/// Sends a case and holds its answer against the table; an answer that is not streamed is asked for once more as a stream.
pub fn run(server: &Server, case: &Case) -> Check {
    let answer = send(server, case, &case.body);
    hold(server, case, &answer).map_err(|problem| format!("{}: {problem}\n    {}", case.name, clip(&answer.text)))
}

fn hold(server: &Server, case: &Case, answer: &Answer) -> Check {
    ensure(answer.status == case.status, || format!("status {}, expected {}", answer.status, case.status))?;
    if case.body["stream"] == true && case.status == 200 {
        let stream = read_stream(&answer.text)?;
        any_stream(&stream, &case.body)?;
        return expect(&case.expect, &stream);
    }
    let body = if case.path == "/metrics" { json!({"text": answer.text}) } else { parse(&answer.text)? };
    expect(&case.expect, &body)?;
    match (case.status, case.method.as_str()) {
        (200, "POST") => {
            any_answer(&body)?;
            as_stream(server, case, &body)
        }
        (200, _) => Ok(()),
        _ => any_error(answer, &body),
    }
}

/// Whole and streamed answers agree in text, tool calls, log-probabilities, reasons and usage.
fn as_stream(server: &Server, case: &Case, whole: &Value) -> Check {
    let mut body = case.body.clone();
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    // A drawn answer repeats only with its seed.
    if body["seed"].is_null() && body["temperature"] != 0 {
        return Ok(());
    }
    let answer = send(server, case, &body);
    ensure(answer.status == 200, || format!("streamed: status {}: {}", answer.status, answer.text))?;
    let stream = read_stream(&answer.text)?;
    any_stream(&stream, &body)?;
    let choices = whole["choices"].as_array().ok_or("no choices")?;
    for (index, choice) in choices.iter().enumerate() {
        let streamed = &stream["joined"][index];
        for field in ["content", "tool_calls", "finish_reason", "logprobs"] {
            let mut expected = match field {
                "content" | "tool_calls" if case.path.contains("chat") => choice["message"][field].clone(),
                "content" => choice["text"].clone(),
                "tool_calls" => Value::Null,
                _ => choice[field].clone(),
            };
            expected.as_array_mut().into_iter().flatten().for_each(|call| {
                // Every call gets a new id.
                call.as_object_mut().map(|call| call.remove("id"));
            });
            if field == "content" && expected.is_null() {
                expected = json!("");
            }
            ensure(expected == streamed[field], || {
                format!("choice {index}: streamed {field} is {}, whole is {expected}", streamed[field])
            })?;
        }
    }
    ensure(stream["usage"] == whole["usage"], || format!("streamed usage is {}", stream["usage"]))
}

fn any_answer(body: &Value) -> Check {
    ensure(body["usage"]["total_tokens"].as_u64() == sum(&body["usage"]), || "usage does not add up".to_string())?;
    ensure(body["system_fingerprint"].as_str().is_some_and(|stamp| stamp.starts_with("checkpoint-7-")), || {
        "no stamp".into()
    })?;
    for choice in body["choices"].as_array().ok_or("no choices")? {
        let reason = choice["finish_reason"].as_str().unwrap_or("none");
        ensure(["stop", "length", "tool_calls"].contains(&reason), || format!("finish_reason is {reason}"))?;
        let calls = choice["message"]["tool_calls"].as_array();
        ensure(calls.is_some() == (reason == "tool_calls"), || "tool calls and their reason disagree".to_string())?;
        for call in calls.into_iter().flatten() {
            ensure(call["type"] == "function" && call["id"].is_string(), || {
                format!("a call without type or id: {call}")
            })?;
            parse(call["function"]["arguments"].as_str().ok_or("arguments are no string")?)?;
        }
    }
    Ok(())
}

fn any_error(answer: &Answer, body: &Value) -> Check {
    let error = body["error"].as_object().ok_or("no error object")?;
    let keys: Vec<&String> = error.keys().collect();
    ensure(keys == ["message", "type", "param", "code"], || format!("the error's fields are {keys:?}"))?;
    ensure(error["message"].as_str().is_some_and(|text| text.len() > 5), || "no message".to_string())?;
    ensure(answer.status < 500, || "a fault of the server".to_string())
}

fn any_stream(stream: &Value, body: &Value) -> Check {
    let events = stream["events"].as_array().ok_or("no events")?;
    ensure(events.iter().all(|event| event["id"] == events[0]["id"]), || "the chunks have different ids".to_string())?;
    ensure(events.iter().all(|event| event["system_fingerprint"] == events[0]["system_fingerprint"]), || {
        "different stamps".into()
    })?;
    let wanted = body["stream_options"]["include_usage"] == true;
    let with_usage: Vec<usize> = (0..events.len()).filter(|index| events[*index]["usage"].is_object()).collect();
    if wanted {
        ensure(with_usage == [events.len() - 1], || format!("usage in the chunks {with_usage:?} of {}", events.len()))?;
        ensure(events[events.len() - 1]["choices"] == json!([]), || "the usage chunk has choices".to_string())?;
    } else {
        ensure(events.iter().all(|event| event.get("usage").is_none()), || "usage that nobody asked for".to_string())?;
    }
    for (index, choice) in stream["joined"].as_array().ok_or("no choices")?.iter().enumerate() {
        ensure(choice["num_reasons"] == 1, || format!("choice {index} has {} finish reasons", choice["num_reasons"]))?;
        let is_chat = !body["messages"].is_null();
        ensure(!is_chat || choice["first"]["role"] == "assistant", || {
            format!("choice {index} does not begin with the role")
        })?;
        ensure(choice["num_roles"] == u64::from(is_chat), || format!("choice {index} names its role more than once"))?;
    }
    Ok(())
}

/// `{"events", "joined": [{"content", "tool_calls", "finish_reason", "logprobs", ..}], "content", "usage"}`.
fn read_stream(text: &str) -> Result<Value, String> {
    let body = text.strip_suffix("data: [DONE]\n\n").ok_or("the stream does not end with [DONE]")?;
    let events: Vec<Value> = body
        .split_terminator("\n\n")
        .map(|event| parse(event.strip_prefix("data: ").ok_or("an event without data")?))
        .collect::<Result<_, String>>()?;
    let mut joined: Vec<Value> = Vec::new();
    for choice in events.iter().filter_map(|event| event["choices"].as_array()).flatten() {
        let index = choice["index"].as_u64().ok_or("a choice without index")? as usize;
        while joined.len() <= index {
            joined.push(json!({"content": "", "tool_calls": null, "finish_reason": null, "logprobs": null, "num_reasons": 0, "num_roles": 0}));
        }
        join(&mut joined[index], choice);
    }
    let content = joined.first().map(|choice| choice["content"].clone());
    let usage = events.last().map(|event| event["usage"].clone());
    Ok(json!({"events": events, "joined": joined, "content": content, "usage": usage}))
}

fn join(all: &mut Value, choice: &Value) {
    let delta = &choice["delta"];
    if all.get("first").is_none() {
        all["first"] = delta.clone();
    }
    all["num_roles"] = json!(all["num_roles"].as_u64().unwrap() + u64::from(delta["role"].is_string()));
    let piece = delta["content"].as_str().or(choice["text"].as_str()).unwrap_or_default();
    all["content"] = json!(format!("{}{piece}", all["content"].as_str().unwrap()));
    for part in delta["tool_calls"].as_array().into_iter().flatten() {
        let index = part["index"].as_u64().unwrap() as usize;
        if all["tool_calls"].is_null() {
            all["tool_calls"] = json!([]);
        }
        let calls = all["tool_calls"].as_array_mut().unwrap();
        if calls.len() == index {
            calls.push(json!({"type": part["type"], "function": {"name": part["function"]["name"], "arguments": ""}}));
        }
        let more = part["function"]["arguments"].as_str().unwrap_or_default();
        let so_far = calls[index]["function"]["arguments"].as_str().unwrap().to_string();
        calls[index]["function"]["arguments"] = json!(so_far + more);
    }
    if choice["finish_reason"].is_string() {
        all["finish_reason"] = choice["finish_reason"].clone();
        all["num_reasons"] = json!(all["num_reasons"].as_u64().unwrap() + 1);
    }
    join_logprobs(&mut all["logprobs"], &choice["logprobs"]);
}

fn join_logprobs(all: &mut Value, more: &Value) {
    match (&mut *all, more) {
        (_, Value::Null) => {}
        (Value::Null, more) => *all = more.clone(),
        (Value::Object(all), more) => {
            for (key, value) in all.iter_mut() {
                if let (Some(list), Some(more)) = (value.as_array_mut(), more[key].as_array()) {
                    list.extend(more.iter().cloned());
                }
            }
        }
        _ => {}
    }
}

fn expect(expected: &Map<String, Value>, body: &Value) -> Check {
    for (path, matcher) in expected {
        let found = path.split('.').try_fold(body, |value, part| step(value, part));
        let holds = match (matcher.as_object().and_then(|map| map.iter().next()), found) {
            (Some((name, argument)), found) if MATCHERS.contains(&name.as_str()) => matches(name, argument, found),
            (_, Some(found)) => same(found, matcher),
            (_, None) => false,
        };
        ensure(holds, || format!("{path} is {}, expected {matcher}", found.unwrap_or(&json!("absent"))))?;
    }
    Ok(())
}

const MATCHERS: [&str; 10] = ["starts", "ends", "has", "len", "type", "near", "in", "below", "json", "absent"];

fn matches(name: &str, argument: &Value, found: Option<&Value>) -> bool {
    let Some(found) = found else { return name == "absent" };
    let (text, wanted) = (found.as_str().unwrap_or_default(), argument.as_str().unwrap_or_default());
    match name {
        "starts" => text.starts_with(wanted),
        "ends" => text.ends_with(wanted),
        "has" => text.contains(wanted),
        "len" => {
            let len = found
                .as_array()
                .map(Vec::len)
                .or(found.as_object().map(Map::len))
                .or(found.as_str().map(|t| t.chars().count()));
            len.map(|len| len as u64) == argument.as_u64()
        }
        "type" => match wanted {
            "string" => found.is_string(),
            "number" => found.is_number(),
            "object" => found.is_object(),
            _ => found.is_null(),
        },
        "near" => (found.as_f64().unwrap_or(f64::NAN) - argument.as_f64().unwrap()).abs() < 0.005,
        "in" => argument.as_array().unwrap().contains(found),
        "below" => found.as_f64().unwrap_or(f64::NAN) < argument.as_f64().unwrap(),
        "json" => parse(text).is_ok(),
        _ => false,
    }
}

/// Equal, where 1 and 1.0 are one number.
fn same(a: &Value, b: &Value) -> bool {
    a == b || (a.is_number() && a.as_f64() == b.as_f64())
}

fn step<'a>(value: &'a Value, part: &str) -> Option<&'a Value> {
    match value {
        Value::Array(items) => {
            let index: i64 = part.parse().ok()?;
            items.get(if index < 0 { items.len().checked_sub(index.unsigned_abs() as usize)? } else { index as usize })
        }
        value => value.get(part),
    }
}

fn send(server: &Server, case: &Case, body: &Value) -> Answer {
    let bytes = match (&case.raw, body) {
        (Some(raw), _) => raw.clone(),
        (None, Value::Null) => String::new(),
        (None, body) => body.to_string(),
    };
    server.send(&case.method, &case.path, bytes.as_bytes())
}

fn sum(usage: &Value) -> Option<u64> {
    Some(usage["prompt_tokens"].as_u64()? + usage["completion_tokens"].as_u64()?)
}

fn parse(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|e| format!("not JSON ({e}): {}", clip(text)))
}

fn ensure(holds: bool, problem: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(problem()) }
}

fn clip(text: &str) -> String {
    text.chars().take(600).collect()
}
