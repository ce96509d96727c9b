//! Grammars over a vocabulary of bytes: a random walk through what is allowed always ends in a valid text.

use super::*;
use hone_data::tiny;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// End token of the tiny tokenizer.
const END: u32 = 2;

fn tokenizer() -> Tokenizer {
    let texts = ["{\"name\": \"value\", \"count\": 12}", "true false null [1, 2]"];
    let json = tiny::build_tokenizer(texts.iter().map(|text| (*text).to_string()), 290).unwrap();
    Tokenizer::from_json(&json.to_string(), &[END], None).unwrap()
}

/// Draws among the allowed tokens, `max_tokens` at most; the text, and whether it came to its end.
fn walk(grammar: &Grammar, tokenizer: &Tokenizer, seed: u64, max_tokens: usize) -> (String, bool) {
    let (mut grammar, mut random) = (grammar.clone(), ChaCha12Rng::seed_from_u64(seed));
    let mut ids = Vec::new();
    let text = |ids: &[u32]| tokenizer.decode(ids, true).unwrap();
    for _ in 0..max_tokens {
        let mut logits = vec![0.0; tokenizer.vocab_size() + 3];
        grammar.mask(&mut logits).unwrap();
        let allowed: Vec<u32> = (0..logits.len() as u32).filter(|id| logits[*id as usize].is_finite()).collect();
        let token = allowed[random.next_u64() as usize % allowed.len()];
        if token == END {
            return (text(&ids), true);
        }
        ids.push(token);
        if grammar.take(token).unwrap() {
            return (text(&ids), true);
        }
    }
    (text(&ids), false)
}

/// Every walk that ends is JSON for which `holds`; some walk ends.
#[track_caller]
fn check(schema: &Value, holds: impl Fn(&Value) -> bool) {
    let tokenizer = tokenizer();
    let grammar = Grammars::new(&tokenizer).unwrap().json_schema(schema).unwrap();
    let mut num_ended = 0;
    for seed in 0..40 {
        let (text, ended) = walk(&grammar, &tokenizer, seed, 400);
        if ended {
            num_ended += 1;
            let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
            assert!(holds(&value), "{text}");
        }
    }
    assert!(num_ended > 0, "no walk came to an end");
}

#[test]
fn every_answer_of_a_schema_is_valid() {
    check(&json!({"enum": ["red", "green", 3, null]}), |value| {
        *value == 3 || value.is_null() || *value == "red" || *value == "green"
    });
    check(&json!({"type": "integer", "minimum": 5, "maximum": 37}), |value| {
        (5..=37).contains(&value.as_i64().unwrap())
    });
    check(&json!({"type": "string", "pattern": "^[a-c]{2,4}$"}), |value| {
        let text = value.as_str().unwrap();
        (2..=4).contains(&text.len()) && text.bytes().all(|byte| (b'a'..=b'c').contains(&byte))
    });
    check(&json!({"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3}), |value| {
        let items = value.as_array().unwrap();
        (1..=3).contains(&items.len()) && items.iter().all(Value::is_boolean)
    });
    let object = json!({
        "type": "object", "additionalProperties": false, "required": ["name", "at"],
        "properties": {"name": {"type": "string", "maxLength": 6}, "at": {"$ref": "#/$defs/point"}, "note": {"type": "null"}},
        "$defs": {"point": {"type": "object", "additionalProperties": false, "required": ["x"], "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 9}}}},
    });
    check(&object, |value| {
        let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
        let name_fits = value["name"].as_str().unwrap().chars().count() <= 6;
        name_fits
            && (0..10).contains(&value["at"]["x"].as_i64().unwrap())
            && (keys == ["name", "at"] || keys == ["name", "at", "note"])
    });
}

#[test]
fn a_cut_answer_is_the_beginning_of_a_valid_one() {
    let tokenizer = tokenizer();
    let grammar = Grammars::new(&tokenizer).unwrap().json_schema(&json!({"type": "object"})).unwrap();
    for seed in 0..20 {
        let (text, ended) = walk(&grammar, &tokenizer, seed, 12);
        let parsed: Result<Value, _> = serde_json::from_str(&text);
        match (ended, parsed) {
            (true, parsed) => assert!(parsed.unwrap().is_object(), "{text}"),
            // A character may be cut as well: then the text ends with a replacement.
            (false, Err(error)) => assert!(error.is_eof() || text.contains('\u{fffd}'), "{error}: {text}"),
            (false, Ok(_)) => {}
        }
    }
}

#[test]
fn a_grammar_with_a_schema_inside_holds_text_and_json() {
    let tokenizer = tokenizer();
    let grammars = Grammars::new(&tokenizer).unwrap();
    let grammar = grammars.lark("start: \"<call>\\n\" body \"\\n</call>\"\nbody: %json {\"enum\": [1, 22]}\n").unwrap();
    for seed in 0..10 {
        let (text, ended) = walk(&grammar, &tokenizer, seed, 40);
        assert!(ended && (text == "<call>\n1\n</call>" || text == "<call>\n22\n</call>"), "{text}");
    }
}

#[test]
fn what_cannot_be_held_is_refused_with_a_reason() {
    let grammars = Grammars::new(&tokenizer()).unwrap();
    let refused = |schema: Value| grammars.json_schema(&schema).unwrap_err().to_string();
    assert!(!refused(json!({"type": "nonsense"})).is_empty());
    assert!(!refused(json!({"type": "string", "pattern": "("})).is_empty());
    assert!(!refused(json!({"$ref": "http://example.com/schema.json"})).is_empty());
    assert!(!refused(json!({"$ref": "#/$defs/x", "$defs": {"x": {"$ref": "#/$defs/x"}}})).is_empty());
    assert_eq!(refused(json!([1])), "a schema is an object, true or false");
    assert!(!refused(json!(false)).is_empty());
    assert!(!refused(json!({"not": {"type": "string"}})).is_empty());
}
