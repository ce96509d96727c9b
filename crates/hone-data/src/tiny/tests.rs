//! Tests of `tiny`.

use super::*;
use crate::tokenizer::Tokenizer;

fn texts() -> impl Iterator<Item = String> {
    (0..200u32).map(|i| {
        let bits = format!("{i:b}").replace('0', "⓪").replace('1', "①");
        format!(
            "<|im_start|>user\nadd {bits} {bits} = ?<|im_end|>\n<|im_start|>assistant\nThe answer is {bits}<|im_end|>\n"
        )
    })
}

fn tokenizer() -> Tokenizer {
    let json = build_tokenizer(texts(), 400).unwrap();
    Tokenizer::from_json(&json.to_string(), &[2, 0], None).unwrap()
}

#[test]
fn special_tokens_have_the_ids_of_their_positions() {
    let tokenizer = tokenizer();
    for (id, token) in SPECIAL_TOKENS.iter().enumerate() {
        assert_eq!(tokenizer.encode(token).unwrap(), [id as u32], "{token}");
    }
}

#[test]
fn frequent_digits_are_one_token_each_and_never_merge() {
    let tokenizer = tokenizer();
    let zero = tokenizer.encode("⓪").unwrap();
    let one = tokenizer.encode("①").unwrap();
    assert_eq!((zero.len(), one.len()), (1, 1));
    assert_eq!(tokenizer.encode("①⓪⓪①").unwrap(), [one[0], zero[0], zero[0], one[0]]);
}

#[test]
fn any_text_comes_back_also_unseen_scripts_and_control_characters() {
    let tokenizer = tokenizer();
    for text in
        ["", " ", "a", "שלום עולם", "日本語\r\n\t", "👩‍👩‍👧‍👦 e\u{301}", "\u{0}\u{7f}\u{85}", "<|im_end|>x<|im_start|>"]
    {
        assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap(), false).unwrap(), text);
    }
}

#[test]
fn the_same_texts_give_the_same_bytes_in_any_order() {
    let forward = build_tokenizer(texts(), 380).unwrap();
    let mut reversed: Vec<String> = texts().collect();
    reversed.reverse();
    assert_eq!(forward, build_tokenizer(reversed.into_iter(), 380).unwrap());
}

#[test]
fn too_small_a_vocabulary_is_refused() {
    assert!(build_tokenizer(texts(), 258).is_err());
    let json = build_tokenizer(std::iter::empty(), 259).unwrap();
    assert_eq!(json["model"]["vocab"].as_object().unwrap().len(), 259);
}
