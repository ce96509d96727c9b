//! Tests of `tokenizer`.

use super::*;
use crate::tiny;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

fn tokenizer() -> Tokenizer {
    let texts = ["the cat sat on the mat", "der Hund läuft über die Straße", "⓪①①⓪ ⓪①"].map(String::from);
    let json = tiny::build_tokenizer(texts.into_iter().cycle().take(60), 320).unwrap();
    Tokenizer::from_json(&json.to_string(), &[2, 0], None).unwrap()
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> String {
    let mut stream = tokenizer.stream(skip_special);
    let mut text = String::new();
    for id in ids {
        text.extend(stream.push(*id));
    }
    text.extend(stream.finish());
    text
}

#[test]
fn a_stream_never_splits_a_character() {
    let tokenizer = tokenizer();
    let ids = tokenizer.encode("a🙂b").unwrap();
    assert_eq!(ids.len(), 6, "the emoji is four bytes, each a token");
    let mut stream = tokenizer.stream(false);
    let pieces: Vec<_> = ids.iter().map(|id| stream.push(*id)).collect();
    assert_eq!(pieces, [Some("a".into()), None, None, None, Some("🙂".into()), Some("b".into())]);
    assert_eq!(stream.finish(), None);
}

#[test]
fn a_cut_character_comes_out_at_the_end() {
    let tokenizer = tokenizer();
    let ids = tokenizer.encode("x🙂").unwrap();
    let cut = &ids[..3];
    assert_eq!(tokenizer.decode(cut, false).unwrap(), "x\u{fffd}");
    assert_eq!(streamed(&tokenizer, cut, false), "x\u{fffd}");
}

/// Any sequence of ids, also of stray bytes: streaming equals decoding at once.
#[test]
fn a_stream_equals_the_whole_decoded() {
    let tokenizer = tokenizer();
    for seed in 0..300 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let len = rng.random_range(0..40);
        let ids: Vec<u32> = (0..len).map(|_| rng.random_range(0..tokenizer.vocab_size() as u32 + 3)).collect();
        for skip_special in [false, true] {
            let whole = tokenizer.decode(&ids, skip_special).unwrap();
            assert_eq!(streamed(&tokenizer, &ids, skip_special), whole, "seed {seed}, ids {ids:?}");
        }
    }
}

#[test]
fn special_tokens_are_parsed_and_can_be_skipped() {
    let tokenizer = tokenizer();
    let ids = tokenizer.encode("<|im_start|>cat<|im_end|>").unwrap();
    assert_eq!((ids[0], *ids.last().unwrap()), (1, 2));
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "cat");
    assert!(tokenizer.is_special(1) && !tokenizer.is_special(ids[1]));
}

#[test]
fn spans_point_at_the_text_and_share_a_character() {
    let tokenizer = tokenizer();
    let text = "a🙂 <|im_end|>";
    let encoded = tokenizer.encode_with_spans(text).unwrap();
    assert_eq!(encoded.ids, tokenizer.encode(text).unwrap());
    assert_eq!(encoded.spans, [(0, 1), (1, 5), (1, 5), (1, 5), (1, 5), (5, 6), (6, 16)]);
}

fn model_dir(files: &[(&str, Value)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let json = tiny::build_tokenizer(std::iter::empty(), 259).unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    for (name, value) in files {
        std::fs::write(dir.path().join(name), value.to_string()).unwrap();
    }
    dir
}

#[test]
fn end_tokens_come_from_the_generation_config_before_the_config() {
    use serde_json::json;
    let cases = [
        (vec![("generation_config.json", json!({"eos_token_id": [7, 5]}))], vec![5, 7]),
        (
            vec![("generation_config.json", json!({"eos_token_id": 9})), ("config.json", json!({"eos_token_id": 8}))],
            vec![9],
        ),
        (vec![("generation_config.json", json!({})), ("config.json", json!({"eos_token_id": 8}))], vec![8]),
        (vec![("tokenizer_config.json", json!({"eos_token": {"content": "<|im_end|>"}}))], vec![2]),
        (vec![], vec![]),
        // A base model whose configuration does not name the end of a turn: the template does.
        (
            vec![
                ("config.json", json!({"eos_token_id": 0})),
                (
                    "tokenizer_config.json",
                    json!({"eos_token": "<|endoftext|>", "chat_template": tiny::TINY_CHAT_TEMPLATE}),
                ),
            ],
            vec![0, 2],
        ),
    ];
    for (files, expected) in cases {
        let dir = model_dir(&files);
        assert_eq!(Tokenizer::from_dir(dir.path()).unwrap().eos_ids(), expected, "{files:?}");
    }
}

#[test]
fn what_the_post_processor_puts_before_a_text_is_known() {
    let mut json = tiny::build_tokenizer(std::iter::empty(), 259).unwrap();
    assert_eq!(Tokenizer::from_json(&json.to_string(), &[], None).unwrap().text_prefix_ids(), [0; 0]);
    json["post_processor"] = serde_json::json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
    });
    let tokenizer = Tokenizer::from_json(&json.to_string(), &[], Some("<|endoftext|>")).unwrap();
    assert_eq!(tokenizer.text_prefix_ids(), [0]);
    assert_eq!(tokenizer.bos_id(), Some(0));
    assert!(!tokenizer.encode("x").unwrap().contains(&0), "encode adds nothing");
}

/// The decoder of SentencePiece takes the space from the beginning of what it decodes, also of a single token.
#[test]
fn the_bytes_of_a_token_are_all_that_it_adds() {
    let added = |id: u32, content: &str, special: bool| serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": special});
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null, "post_processor": null,
        "added_tokens": [added(0, "<unk>", true), added(3, "\u{2581}\u{2581}", false)],
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": true, "byte_fallback": true, "ignore_merges": false, "merges": [],
            "vocab": {"<unk>": 0, "\u{2581}Hi": 1, "<0xE2>": 2, "\u{2581}\u{2581}": 3},
        },
    });
    let tokenizer = Tokenizer::from_json(&json.to_string(), &[], None).unwrap();
    assert_eq!(tokenizer.decode(&[1], false).unwrap(), "Hi");
    let bytes = |id| tokenizer.token_bytes(id);
    assert_eq!((bytes(1), bytes(2), bytes(3)), (Some(b" Hi".to_vec()), Some(vec![0xe2]), Some(b"  ".to_vec())));
    assert_eq!((bytes(0), bytes(4)), (Some(b"<unk>".to_vec()), None));
}

#[test]
fn a_missing_tokenizer_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = format!("{:#}", Tokenizer::from_dir(dir.path()).unwrap_err());
    assert!(error.contains("tokenizer.json"), "{error}");
}
