//! Two older shapes of the answer to `/generate`, turned into the one of Skill API v1.
//!
//! - `{"puzzles": [{"words": [{"definition", "word" | "answer", "syllables"}], "syllable_bank", "solution"?}]}`: SYLLO
//!   puzzles. The conversation is made here; `solution` (words in order) may stand for the answers.
//! - `{"conversations": [{"id"?, "messages", "metadata"?}]}`, an entry may also be the list of messages itself.
//!
//! What is neither is returned as it came, and read as the shape of v1. A missing level is the one asked for.

use serde_json::{Map, Value, json};

/// The answer in the shape of v1.
pub(super) fn in_the_new_shape(answer: Value, level: u32, seed: u64) -> Value {
    let Value::Object(mut answer) = answer else { return answer };
    if answer.contains_key("samples") {
        return Value::Object(answer);
    }
    let samples: Vec<Value> = if let Some(Value::Array(puzzles)) = answer.remove("puzzles") {
        puzzles.iter().enumerate().map(|(number, puzzle)| sample_of_puzzle(puzzle, number, level, seed)).collect()
    } else if let Some(Value::Array(conversations)) = answer.remove("conversations") {
        conversations
            .into_iter()
            .enumerate()
            .map(|(number, c)| sample_of_conversation(c, number, level, seed))
            .collect()
    } else {
        return Value::Object(answer);
    };
    let told = |key: &str, default: Value| answer.get(key).cloned().unwrap_or(default);
    let (skill, version, level) = (told("skill", json!("")), told("version", json!("0")), told("level", json!(level)));
    json!({ "skill": skill, "version": version, "level": level, "samples": samples })
}

fn sample_of_conversation(conversation: Value, number: usize, level: u32, seed: u64) -> Value {
    let mut sample = match conversation {
        Value::Object(object) => object,
        messages => Map::from_iter([("messages".to_string(), messages)]),
    };
    sample.entry("id").or_insert_with(|| json!(format!("{level}-{seed}-{number}")));
    sample.entry("metadata").or_insert_with(|| json!({ "level": level }));
    Value::Object(sample)
}

fn sample_of_puzzle(puzzle: &Value, number: usize, level: u32, seed: u64) -> Value {
    let list = |key: &str| puzzle.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let solution = list("solution");
    let words: Vec<Value> = list("words")
        .iter()
        .enumerate()
        .map(|(index, word)| {
            let solved = solution.get(index).cloned().unwrap_or_default();
            let answer = ["answer", "word"].iter().find_map(|key| word.get(key)).cloned().unwrap_or(solved);
            json!({ "ans_num": index + 1, "definition": word["definition"], "answer": answer, "syllables": word["syllables"] })
        })
        .collect();
    let tiles = list("syllable_bank");
    let solutions: Vec<Value> = words
        .iter()
        .map(|word| json!({ "ans_num": word["ans_num"], "syllables": word["syllables"], "answer": word["answer"] }))
        .collect();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let definitions: Vec<String> =
        words.iter().map(|word| format!("{}. {}", word["ans_num"], text(&word["definition"]))).collect();
    let bank: Vec<String> = tiles.iter().map(text).collect();
    let question = format!(
        "Find the words. Spell them with the tiles.\n{}\nTiles: {}\nAnswer with JSON: {{\"solutions\":[…]}}",
        definitions.join("\n"),
        bank.join(" ")
    );
    let id = puzzle.get("id").cloned().unwrap_or_else(|| json!(format!("{level}-{seed}-{number}")));
    json!({
        "id": id,
        "messages": [
            { "role": "user", "content": question },
            { "role": "assistant", "content": json!({ "solutions": solutions }).to_string() },
        ],
        "metadata": { "skill": "syllo", "level": level, "words": words, "tiles": tiles },
    })
}
