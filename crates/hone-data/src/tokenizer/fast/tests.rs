//! Tests of `fast`: the same ids and bytes as the library's own way.

use super::super::Tokenizer;
use super::*;
use crate::tiny;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Texts of characters that the expressions tell apart.
fn text(rng: &mut ChaCha8Rng) -> String {
    const CHARS: [&str; 44] = [
        "a",
        "b",
        "S",
        "s",
        "t",
        "re",
        "LL",
        "'",
        "'",
        " ",
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "\u{a0}",
        "\u{2003}",
        "1",
        "2",
        "٣",
        "½",
        "Ⅷ",
        "①",
        "é",
        "e\u{301}",
        "ß",
        "ſ",
        "猫",
        "が",
        "한",
        "ا",
        "ह",
        "ि",
        "🙂",
        "\u{200d}",
        "…",
        "-",
        "_",
        ".",
        "!",
        "<|im_end|>",
        "<|im_start|>",
        "<|",
        "\u{fffd}",
    ];
    (0..rng.random_range(0..40)).map(|_| CHARS[rng.random_range(0..CHARS.len())]).collect()
}

#[track_caller]
fn agree(file: &Value, seeds: u64) {
    let texts: Vec<String> = (0..seeds).map(|seed| text(&mut ChaCha8Rng::seed_from_u64(seed))).collect();
    agree_on(file, &texts);
}

/// Gives how many texts went the fast way.
#[track_caller]
fn agree_on(file: &Value, texts: &[String]) -> usize {
    let mut library = tokenizers::Tokenizer::from_bytes(file.to_string()).map_err(|e| e.to_string()).unwrap();
    library.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
    let fast = Fast::of(file, &library).expect("this tokenizer is known");
    let mut num_fast = 0;
    for text in texts {
        let Some(own) = fast.encode(&library, text, true) else { continue };
        num_fast += 1;
        let theirs = library.encode(text.as_str(), false).unwrap();
        assert_eq!(own.ids, theirs.get_ids(), "{text:?}");
        assert_eq!(own.spans, theirs.get_offsets(), "{text:?}");
        assert_eq!(fast.encode(&library, text, false).unwrap().ids, own.ids);
    }
    num_fast
}

fn tiny_file() -> Value {
    let texts = ["the cat's hat isn't the rat's mat".to_string(), "Grüße 123 12 1 ½ 🙂🙂 猫猫 \n\n  \n".to_string()];
    tiny::build_tokenizer(texts.into_iter().cycle().take(20), 400).unwrap()
}

#[test]
fn ids_and_bytes_are_those_of_the_library() {
    let qwen = tiny_file();
    agree(&qwen, 3000);
    let mut llama = qwen.clone();
    let expression = &mut llama["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"];
    *expression = expression.as_str().unwrap().replace(r"|\p{N}|", r"|\p{N}{1,3}|").into();
    agree(&llama, 3000);
    let byte_level =
        serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let mut gpt2 = qwen.clone();
    gpt2["pre_tokenizer"] = byte_level.clone();
    agree(&gpt2, 3000);
    let mut smollm = qwen.clone();
    let digits = serde_json::json!({"type": "Digits", "individual_digits": true});
    smollm["pre_tokenizer"] = serde_json::json!({"type": "Sequence", "pretokenizers": [digits, byte_level]});
    agree(&smollm, 3000);
    let mut nfc = qwen;
    nfc["normalizer"] = serde_json::json!({"type": "NFC"});
    agree(&nfc, 3000);
}

#[test]
fn what_is_not_known_is_left_to_the_library() {
    for change in [
        |file: &mut Value| file["normalizer"] = serde_json::json!({"type": "Lowercase"}),
        |file: &mut Value| file["pre_tokenizer"] = serde_json::json!({"type": "Whitespace"}),
        |file: &mut Value| file["model"]["unk_token"] = "a".into(),
        |file: &mut Value| file["added_tokens"][0]["lstrip"] = true.into(),
    ] {
        let mut file = tiny_file();
        change(&mut file);
        let library = tokenizers::Tokenizer::from_bytes(file.to_string()).map_err(|e| e.to_string()).unwrap();
        assert!(Fast::of(&file, &library).is_none());
    }
}

/// On real vocabularies, where they lie there; `scripts/real_vocabularies.sh` fetches them.
#[test]
fn real_vocabularies_agree_too() {
    for name in ["HONE_SMOLLM2_DIR", "HONE_QWEN3_TOKENIZER_DIR", "HONE_LLAMA3_TOKENIZER_DIR"] {
        let Some(dir) = std::env::var_os(name) else { continue };
        let text = std::fs::read_to_string(std::path::Path::new(&dir).join("tokenizer.json")).unwrap();
        let file = serde_json::from_str(&text).unwrap();
        agree(&file, 2000);
        let num_fast = agree_on(&file, &real_texts());
        assert!(num_fast >= 1000, "{name}: only {num_fast} texts went the fast way");
        assert!(Tokenizer::from_json(&text, &[], None).unwrap().is_fast());
    }
}

/// Prose, code and conversations in many scripts (what this repository has of them), in parts of every length; and
/// characters from all of Unicode.
fn real_texts() -> Vec<String> {
    let sources = [
        include_str!("../../../../../docs/formats.md"),
        include_str!("../../../../../ARCHITECTURE.md"),
        include_str!("../fast.rs"),
        include_str!("../../../testdata/labels/conversations.json"),
        include_str!("../../../testdata/gates/rows.txt"),
    ];
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let mut texts: Vec<String> = Vec::new();
    for source in sources {
        texts.push(source.to_string());
        // Characters written as escapes in JSON are characters here.
        let chars: Vec<char> =
            serde_json::from_str::<Value>(source).map_or(source.to_string(), |json| all_texts(&json)).chars().collect();
        for _ in 0..400 {
            let start = rng.random_range(0..chars.len());
            let end = (start + (1 << rng.random_range(0..10))).min(chars.len());
            texts.push(chars[start..end].iter().collect());
        }
    }
    let any = |rng: &mut ChaCha8Rng| (0..20).filter_map(|_| char::from_u32(rng.random_range(0..0x11_0000))).collect();
    texts.extend((0..1000).map(|_| any(&mut rng)));
    texts
}

/// Every text within a value.
fn all_texts(json: &Value) -> String {
    match json {
        Value::String(text) => format!("{text}\n"),
        Value::Array(values) => values.iter().map(all_texts).collect(),
        Value::Object(fields) => fields.values().map(all_texts).collect(),
        _ => String::new(),
    }
}
