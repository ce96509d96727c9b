//! A plain row has no problem, whatever its bytes; a usual row is plain.

use super::*;
use crate::check::content;
use hone_pipeline::spec::{self, json::Json};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const CHAT: &str = r#"{"messages": [{"role": "system", "content": ""}, {"role": "user", "content": "a \"q\" é\n"}, {"content": "猫 \u00e9", "role": "assistant"}]}"#;
const SHAREGPT: &str = r#"{"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]}"#;

/// What the way that names problems says.
fn has_problem(spec: &Spec, text: &str) -> bool {
    let Ok(row) = Json::parse(text) else { return true };
    !spec.problems(&row).is_empty() || !content::problems(&spec.texts(&row), &spec.extras(&row)).is_empty()
}

#[test]
fn usual_rows_are_plain() {
    for (id, text) in [("chat_sft_v1", CHAT), ("sharegpt_v1", SHAREGPT)] {
        assert!(is_plain(spec::find(id).unwrap(), text), "{id}");
    }
    assert!(!is_plain(spec::find("syllo_v1").unwrap(), CHAT), "it has a rule beyond shape");
    assert!(!is_plain(spec::find("completion_v1").unwrap(), r#"{"text": "a"}"#));
}

#[test]
fn every_way_of_writing_a_text_is_read() {
    let spec = spec::find("sharegpt_v1").unwrap();
    let row = |content: &str| SHAREGPT.replace("\"q\"", &format!("\"{content}\""));
    for content in [r"\ud83d\ude42", " a", r"\u0020\n\t.", "\u{3000}猫", "\u{a0}é", "a\u{a0}", r"C:\\dir\/", r"\u007e"]
    {
        assert!(is_plain(spec, &row(content)), "{content:?}");
        assert!(!has_problem(spec, &row(content)), "{content:?}");
    }
    let blank = ["", " ", r" \n\u0020", "\u{3000}\u{a0}"];
    let broken = [r"\ude42\ud83d", r"\ud83d", r"\ud83da", r"\u12", r"\u+123", "\t", r"\b", r"\x", "\\"];
    for content in blank.into_iter().chain(broken) {
        assert!(!is_plain(spec, &row(content)), "{content:?}");
    }
}

#[test]
fn a_plain_row_has_no_problem_whatever_was_done_to_it() {
    let pieces = [
        "\"role\"",
        "\"content\"",
        "\"user\"",
        "\"assistant\"",
        "\"system\"",
        "\"tool\"",
        "\"messages\"",
        "\"from\"",
        "\"value\"",
        "\"human\"",
        "\"gpt\"",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        " ",
        "\"",
        "\\u0000",
        "\\u0007",
        "\\u0085",
        "null",
        "7",
        "\"x\"",
        "\"\"",
        "\"  \"",
        "\"a\": {\"b\": 1, \"b\": 2},",
        "\\ud800",
        "\\ud83d\\ude42",
        "\\n",
        "\\f",
        "\\",
        "\n",
        "\t",
        "\u{a0}",
        "\u{9f}",
        "abcdefgh",
        "é",
        "\u{85}",
        "\u{7f}",
    ];
    let (mut num_plain, mut num_rows) = (0, 0);
    for seed in 0..40_000 {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let (id, start) = [("chat_sft_v1", CHAT), ("sharegpt_v1", SHAREGPT)][rng.random_range(0..2)];
        let mut text: Vec<char> = start.chars().collect();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..text.len());
            let end = (at + rng.random_range(0..16)).min(text.len());
            let piece = pieces[rng.random_range(0..pieces.len())];
            match rng.random_range(0..4) {
                0 => drop(text.drain(at..end)),
                1 => drop(text.splice(at..at, piece.chars())),
                2 => drop(text.splice(at..end, piece.chars())),
                // A message or a field twice.
                _ => {
                    let copy: Vec<char> = text[at..end].to_vec();
                    drop(text.splice(at..at, copy));
                }
            }
            if text.is_empty() {
                break;
            }
        }
        let (text, spec) = (text.into_iter().collect::<String>(), spec::find(id).unwrap());
        num_rows += 1;
        if is_plain(spec, &text) {
            num_plain += 1;
            assert!(!has_problem(spec, &text), "seed {seed}: {text}");
        }
    }
    assert!(num_plain > num_rows / 100, "{num_plain} of {num_rows} stayed plain");
}
