//! Log-probabilities in the two shapes of the protocol. A token that is no text of its own, such as a part of a character,
//! is shown by its bytes, as OpenAI does: `\xe2\x80`, in completions behind `bytes:`.

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
        offset += num_chars(position);
    }
    let text = |item: &TokenLogprob| text(item, "bytes:");
    let top = |position: &TokenLogprobs| {
        let mut top = Map::new();
        for item in &position.top {
            // Best first: of tokens with the same text the most likely one is told.
            top.entry(text(item)).or_insert_with(|| json!(item.logprob));
        }
        top
    };
    json!({
        "tokens": positions.iter().map(|p| text(&p.chosen)).collect::<Vec<_>>(),
        "token_logprobs": positions.iter().map(|p| p.chosen.logprob).collect::<Vec<_>>(),
        "top_logprobs": positions.iter().map(top).collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}

/// Characters that begin in the chosen token: summed up, those of the text.
pub fn num_chars(position: &TokenLogprobs) -> usize {
    position.chosen.bytes.iter().filter(|byte| *byte & 0xc0 != 0x80).count()
}

fn token(item: &TokenLogprob) -> Map<String, Value> {
    Map::from_iter([
        ("token".to_string(), json!(text(item, ""))),
        ("logprob".to_string(), json!(item.logprob)),
        ("bytes".to_string(), json!(item.bytes)),
    ])
}

fn text(item: &TokenLogprob, mark: &str) -> String {
    match str::from_utf8(&item.bytes) {
        Ok(text) => text.to_string(),
        Err(_) => format!("{mark}{}", item.bytes.escape_ascii()),
    }
}
