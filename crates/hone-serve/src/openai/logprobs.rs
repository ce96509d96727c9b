//! Log-probabilities in the two shapes of the protocol.

use hone_generate::{TokenLogprob, TokenLogprobs};
use serde_json::{Map, Value, json};

/// `choices[].logprobs` of a chat answer or chunk.
pub fn chat(positions: &[TokenLogprobs]) -> Value {
    let content: Vec<Value> = positions
        .iter()
        .map(|position| {
            let mut entry = token(&position.chosen);
            entry.insert("top_logprobs".to_string(), position.top.iter().map(token).map(Value::Object).collect());
            Value::Object(entry)
        })
        .collect();
    json!({"content": content, "refusal": null})
}

/// `choices[].logprobs` of a completion or its chunk; offsets count characters from `first_offset`.
pub fn completion(positions: &[TokenLogprobs], first_offset: usize) -> Value {
    let mut offset = first_offset;
    let mut offsets = Vec::with_capacity(positions.len());
    for position in positions {
        offsets.push(offset);
        offset += position.chosen.text.chars().count();
    }
    let top = |position: &TokenLogprobs| -> Map<String, Value> {
        position.top.iter().map(|item| (item.text.clone(), json!(item.logprob))).collect()
    };
    json!({
        "tokens": positions.iter().map(|p| p.chosen.text.as_str()).collect::<Vec<_>>(),
        "token_logprobs": positions.iter().map(|p| p.chosen.logprob).collect::<Vec<_>>(),
        "top_logprobs": positions.iter().map(top).collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}

/// `bytes` is `null` where the token is a part of a character: its text alone does not tell its bytes.
fn token(item: &TokenLogprob) -> Map<String, Value> {
    let whole = !item.text.contains('\u{fffd}');
    let bytes = if whole { json!(item.text.as_bytes()) } else { Value::Null };
    Map::from_iter([
        ("token".to_string(), json!(item.text)),
        ("logprob".to_string(), json!(item.logprob)),
        ("bytes".to_string(), bytes),
    ])
}
