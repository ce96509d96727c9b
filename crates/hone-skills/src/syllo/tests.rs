//! Tests of `syllo`.

use super::words::{BANK, TEXT, read_line, tokens};
use super::*;
use crate::{MAX_RESPONSE_BYTES, Sample, Split};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

fn generate(level: u32, count: usize, seed: u64, split: Split) -> Batch {
    Syllo.generate(&GenerateRequest { level, count, seed, split, steps: false }).unwrap()
}

fn puzzle(sample: &Sample) -> Puzzle {
    Puzzle::from_metadata(&sample.metadata).unwrap()
}

#[test]
fn the_word_bank_is_as_its_format_says() {
    let mut words = BTreeSet::new();
    let mut definitions = BTreeSet::new();
    let mut last = "";
    for line in TEXT.lines() {
        let word = read_line(line).unwrap_or_else(|| panic!("{line:?} has not three columns"));
        assert!(word.text > last, "{line:?} is not in alphabetical order, or comes twice");
        last = word.text;
        assert!(word.text.bytes().all(|byte| byte.is_ascii_lowercase()), "{line:?}");
        assert_eq!(word.syllables.concat(), word.text, "{line:?}");
        assert!((2..=6).contains(&word.syllables.len()), "{line:?}");
        let voiced = |syllable: &&str| syllable.contains(['a', 'e', 'i', 'o', 'u', 'y']);
        assert!(word.syllables.iter().all(voiced), "{line:?} has a syllable without a vowel");
        assert!((3..=64).contains(&word.definition.len()) && word.definition.is_ascii(), "{line:?}");
        assert_eq!(word.definition.trim(), word.definition, "{line:?}");
        assert!(!word.definition.to_lowercase().contains(word.text), "{line:?} gives its word away");
        words.insert(word.text);
        assert!(definitions.insert(word.definition), "{line:?}: the definition comes twice");
    }
    assert!(words.len() >= 1_500, "{}", words.len());
    let of_syllables = |count: usize| BANK.iter().filter(|word| word.syllables.len() == count).count();
    // The levels want short words, and enough long ones for half of the highest.
    assert!(of_syllables(2) >= 1_000 && of_syllables(3) >= 400 && of_syllables(4) >= 100);
}

#[test]
fn levels_are_as_the_table_says() {
    let expected = [(4, 2, 0, 0), (5, 3, 1, 1), (6, 3, 2, 2), (7, 4, 3, 3), (8, 6, 4, 4)];
    for (level, (num_words, max_syllables, num_long, num_herrings)) in (1..).zip(expected) {
        for sample in generate(level, 200, 3, Split::Train).samples {
            let Puzzle { slots, tiles } = puzzle(&sample);
            assert_eq!(slots.len(), num_words);
            assert!(slots.iter().all(|slot| slot.syllables.len() <= max_syllables));
            assert_eq!(slots.iter().filter(|slot| slot.syllables.len() >= 3).count(), num_long);
            let used: usize = slots.iter().map(|slot| slot.syllables.len()).sum();
            assert_eq!(tiles.len(), used + num_herrings);
        }
    }
}

#[test]
fn a_question_holds_its_definitions_and_tiles_and_no_answer() {
    for level in 1..=5 {
        for sample in generate(level, 200, 4, Split::Eval).samples {
            let Puzzle { slots, tiles } = puzzle(&sample);
            let question = &sample.messages[0].content;
            assert!(slots.iter().all(|slot| question.contains(&slot.definition)), "{question}");
            assert!(tiles.iter().all(|tile| question.contains(tile.as_str())), "{question}");
            let defined: BTreeSet<&str> = slots.iter().flat_map(|slot| tokens(&slot.definition)).collect();
            assert!(slots.iter().all(|slot| !defined.contains(slot.answer.as_str())), "{question}");
        }
    }
}

#[test]
fn wordings_and_forms_vary() {
    let samples = generate(1, 600, 1, Split::Train).samples;
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for sample in &samples {
        *seen.entry(format!("{} {}", sample.metadata["phrasing"], sample.metadata["shape"])).or_default() += 1;
    }
    assert_eq!(seen.len(), 6 * 3, "{seen:?}");
    assert!(seen.values().all(|&count| count > 10), "{seen:?}");
}

#[test]
fn splits_share_no_puzzle_and_batches_no_duplicate() {
    for level in 1..=5 {
        let sets = |split, seed| -> HashSet<Vec<String>> {
            let samples = generate(level, 2_000, seed, split).samples;
            let words = |sample: &Sample| {
                let mut words: Vec<String> = puzzle(sample).slots.into_iter().map(|slot| slot.answer).collect();
                words.sort_unstable();
                words
            };
            let sets: HashSet<_> = samples.iter().map(words).collect();
            assert_eq!(sets.len(), 2_000);
            sets
        };
        let (train, eval) = (sets(Split::Train, 1), sets(Split::Eval, 1));
        assert!(train.is_disjoint(&eval));
        assert!(eval.is_disjoint(&sets(Split::Train, 2)));
    }
}

#[test]
fn same_request_gives_same_bytes_and_a_longer_batch_begins_with_a_shorter_one() {
    let bytes = |seed, level, split| serde_json::to_string(&generate(level, 20, seed, split)).unwrap();
    for level in 1..=5 {
        assert_eq!(bytes(1, level, Split::Train), bytes(1, level, Split::Train));
        assert_ne!(bytes(1, level, Split::Train), bytes(2, level, Split::Train));
        let (short, long) = (generate(level, 5, 9, Split::Eval), generate(level, 50, 9, Split::Eval));
        assert_eq!(short.samples[..], long.samples[..5]);
    }
}

#[test]
fn samples_of_version_1_stay_what_they_are() {
    // A change here changes the bytes of a seed, and so needs a new VERSION.
    let sample = &generate(1, 1, 7, Split::Train).samples[0];
    expect_test::expect![[r#"
        syllo-1-bef8aa1bbdedcc91
        Match each definition with a word made of the given tiles.
        Syllables: at, blos, som, blis, fort, tract, ter, com
        1) what a fruit tree bears in spring
        2) a sore bubble on the heel
        3) to ease someone's grief
        4) to pull like a magnet
        Answer with JSON in a code block: {"solutions":[{"ans_num":1,"syllables":["a","b"],"answer":"ab"}]}
        ```json
        {"solutions":[{"ans_num":1,"syllables":["blos","som"],"answer":"blossom"},{"ans_num":2,"syllables":["blis","ter"],"answer":"blister"},{"ans_num":3,"syllables":["com","fort"],"answer":"comfort"},{"ans_num":4,"syllables":["at","tract"],"answer":"attract"}]}
        ```"#]].assert_eq(&format!("{}\n{}\n{}", sample.id, sample.messages[0].content, sample.answer()));
}

#[test]
fn own_answers_verify_in_every_level() {
    for level in 1..=5 {
        for split in [Split::Train, Split::Eval] {
            for sample in generate(level, 200, 5, split).samples {
                let result = Syllo.verify(level, &sample.metadata, sample.answer()).unwrap();
                assert!(result.solved && result.parsed && result.score == 1.0, "{}", result.reason);
                let chatty = format!("Let me see {{tiles}}.\n{}\nThat is all.", sample.answer());
                assert!(Syllo.verify(level, &sample.metadata, &chatty).unwrap().solved);
            }
        }
    }
}

/// Damages that leave no right answer behind.
fn damages(sample: &Sample, rng: &mut ChaCha8Rng) -> Vec<Value> {
    let Puzzle { slots, tiles } = puzzle(sample);
    let right = json!({ "solutions": slots.iter().map(|slot| json!({
        "ans_num": slot.ans_num, "syllables": slot.syllables, "answer": slot.answer })).collect::<Vec<_>>() });
    let place = rng.next_u64() as usize % slots.len();
    let other = (place + 1) % slots.len();
    let changed = |change: &dyn Fn(&mut Vec<Value>)| {
        let mut answer = right.clone();
        change(answer["solutions"].as_array_mut().unwrap());
        answer
    };
    vec![
        changed(&|entries| drop(entries.remove(place))),
        changed(&|entries| entries.push(entries[place].clone())),
        changed(&|entries| entries[place]["ans_num"] = (slots.len() + 1).into()),
        changed(&|entries| {
            let swapped = entries[place]["ans_num"].take();
            entries[place]["ans_num"] = entries[other]["ans_num"].take();
            entries[other]["ans_num"] = swapped;
        }),
        changed(&|entries| entries[place]["answer"] = "wrong".into()),
        changed(&|entries| entries[place]["syllables"] = json!([slots[place].answer])),
        changed(&|entries| drop(entries[place]["syllables"].as_array_mut().unwrap().pop())),
        changed(&|entries| entries[place]["syllables"].as_array_mut().unwrap().push(tiles[0].clone().into())),
        changed(&|entries| {
            let syllables = entries[place]["syllables"].as_array_mut().unwrap();
            syllables.push(json!(""));
        }),
        changed(&|entries| {
            entries[place] = entries[other].clone();
            entries[place]["ans_num"] = slots[place].ans_num.into();
        }),
        changed(&|entries| {
            let number = (slots.len() + 1) as u64;
            entries.push(json!({ "ans_num": number, "syllables": [tiles[0]], "answer": tiles[0] }));
        }),
        json!({ "solutions": [] }),
        json!({ "answers": right["solutions"] }),
        changed(&|entries| drop(entries[place].as_object_mut().unwrap().remove("syllables"))),
        changed(&|entries| entries[place]["ans_num"] = "one".into()),
    ]
}

#[test]
fn damaged_answers_never_verify() {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    for level in 1..=5 {
        for sample in generate(level, 100, 6, Split::Train).samples {
            for damaged in damages(&sample, &mut rng) {
                let result = Syllo.verify(level, &sample.metadata, &damaged.to_string()).unwrap();
                assert!(!result.solved && result.score < 1.0, "{damaged} taken for {}", sample.answer());
            }
        }
    }
}

/// `tiger` and `mother`, with `er` once too often and one red herring.
fn two_words() -> Puzzle {
    let slot = |ans_num, answer: &str, syllables: &[&str]| Slot {
        ans_num,
        definition: format!("definition {ans_num}"),
        answer: answer.to_string(),
        syllables: syllables.iter().map(ToString::to_string).collect(),
    };
    let tiles = ["er", "moth", "ger", "ti", "er"].map(str::to_string).to_vec();
    Puzzle { slots: vec![slot(1, "tiger", &["ti", "ger"]), slot(2, "mother", &["moth", "er"])], tiles }
}

#[track_caller]
fn check(response: &str, parsed: bool, score: f64, reason: &str) {
    let result = two_words().judge(response);
    assert_eq!((result.parsed, result.score, result.reason.as_str()), (parsed, score, reason), "{response}");
    assert_eq!(result.solved, score == 1.0);
}

/// A word with the tiles it is spelled with.
type Spelled<'a> = (&'a str, &'a [&'a str]);

fn answer(first: Spelled, second: Spelled) -> String {
    json!({ "solutions": [
        { "ans_num": 1, "syllables": first.1, "answer": first.0 },
        { "ans_num": 2, "syllables": second.1, "answer": second.0 },
    ] })
    .to_string()
}

#[test]
fn verdicts_say_what_is_wrong() {
    let (tiger, mother): (Spelled, Spelled) = (("tiger", &["ti", "ger"]), ("mother", &["moth", "er"]));
    let right = answer(tiger, mother);
    check(&right, true, 1.0, "right");
    check(&format!("{}\n```json\n{right}\n```", answer(mother, tiger)), true, 1.0, "right");
    check(&answer(("Tiger ", &["TI", "ger"]), mother), true, 1.0, "right");
    check(&answer(("lion", &["li", "on"]), mother), true, 0.5, "word 1 is tiger, not lion");
    check(
        &answer(("tiger", &["tig", "er"]), mother),
        true,
        0.5,
        "word 1 uses a tile that is not (or no longer) in the bank",
    );
    check(&answer(("tiger", &["ti"]), mother), true, 0.5, "the syllables of word 1 do not spell tiger");
    check(r#"{"solutions":[]}"#, true, 0.0, "word 1 is missing; word 2 is missing");
    check("tiger, mother", false, 0.0, "no JSON object with solutions found");
    check(&right[..right.len() - 2], false, 0.0, "no JSON object with solutions found");
    check(&"{".repeat(5_000), false, 0.0, "no JSON object with solutions found");
    let late = format!("{}{right}", " ".repeat(MAX_RESPONSE_BYTES));
    check(&late, false, 0.0, "the answer is longer than 16384 bytes");
}

#[test]
fn letter_case_and_space_of_the_puzzle_do_not_matter_either() {
    let metadata = |tiles: Value| {
        json!({
            "words": [
                {"ans_num": 1, "definition": "a city", "answer": "Paris ", "syllables": ["Pa", " ris"]},
                {"ans_num": 2, "definition": "a father", "answer": "papa", "syllables": ["pa", "Pa"]},
                {"ans_num": 3, "definition": "another city", "answer": "New York", "syllables": ["New", " York"]},
            ],
            "tiles": tiles,
        })
    };
    let puzzle = Puzzle::from_metadata(&metadata(json!(["Pa", "New", "pa ", " York", "PA", "ris"]))).unwrap();
    let answer = |second: Value, york: &str| {
        json!({"solutions": [
            {"ans_num": 1, "syllables": ["pa", "ris"], "answer": "paris"},
            {"ans_num": 2, "syllables": second, "answer": "Papa"},
            {"ans_num": 3, "syllables": ["new", york], "answer": "new york"},
        ]})
        .to_string()
    };
    for york in ["York", " york"] {
        let verdict = puzzle.judge(&answer(json!(["pa", " pa"]), york));
        assert!(verdict.solved, "{}", verdict.reason);
    }
    assert!(!puzzle.judge(&answer(json!(["papa"]), "York")).solved);
    // One tile for each time that it is used.
    let error = Puzzle::from_metadata(&metadata(json!(["Pa", "New", "pa", " York", "ris"]))).unwrap_err();
    assert_eq!(error, "the tiles are not enough for word 2");
}

#[test]
fn damaged_metadata_is_an_error_and_no_verdict() {
    let sample = generate(2, 1, 0, Split::Train).samples.remove(0);
    let first_word = |key: &str, value: Value| {
        let mut words = sample.metadata["words"].clone();
        words[0][key] = value;
        ("words", words)
    };
    for (key, value) in [
        ("words", Value::Null),
        ("words", json!([])),
        ("tiles", json!([])),
        ("tiles", json!("ti ger")),
        ("skill", json!("binary")),
        ("level", json!(1)),
        first_word("answer", json!("other")),
        first_word("ans_num", json!(2)),
        first_word("ans_num", json!("1")),
        first_word("syllables", json!(["x"])),
    ] {
        let mut metadata = sample.metadata.clone();
        metadata[key] = value.clone();
        let verdict = Syllo.verify(2, &metadata, sample.answer());
        assert!(matches!(verdict, Err(SkillError::MetadataInvalid(_))), "{key}: {value}");
    }
}

#[test]
fn unknown_levels_and_counts_are_errors() {
    for level in [0, 6, u32::MAX] {
        let request = GenerateRequest { level, count: 1, seed: 0, split: Split::Train, steps: false };
        assert!(matches!(Syllo.generate(&request), Err(SkillError::UnknownLevel { .. })));
        assert!(matches!(Syllo.verify(level, &Value::Null, ""), Err(SkillError::UnknownLevel { .. })));
    }
    for count in [0, crate::MAX_COUNT + 1] {
        let request = GenerateRequest { level: 1, count, seed: 0, split: Split::Train, steps: false };
        assert!(matches!(Syllo.generate(&request), Err(SkillError::CountInvalid { .. })));
    }
}

#[test]
fn ten_thousand_samples_take_under_two_seconds() {
    // budget: 10 s
    if std::env::var_os("HONE_SLOW").is_none() {
        return;
    }
    for level in 1..=5 {
        let start = crate::testing::processor_time();
        assert_eq!(generate(level, 10_000, 1, Split::Eval).samples.len(), 10_000);
        let elapsed = crate::testing::processor_time() - start;
        assert!(elapsed < Duration::from_secs(2), "level {level}: {elapsed:?}");
    }
}
