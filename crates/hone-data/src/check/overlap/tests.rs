//! Tests of `overlap`: its rules one by one. Recall and false alarms on many rows: `tests/planted.rs`.

use super::*;
use crate::check::facts::row_words;
use hone_pipeline::spec;
use hone_pipeline::spec::json::Json;
use serde_json::json;

fn row(prompt: &str, answer: &str) -> RowWords {
    let row = json!({"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]});
    row_words(&spec::find("chat_sft_v1").unwrap().texts(&Json::from(&row)), &[])
}

fn index(rows: &[(&str, &str)]) -> Index {
    let mut index = Index::new(&ContentSettings::default());
    index.file_names.push("v.jsonl".to_string());
    for (line, (prompt, answer)) in (1..).zip(rows) {
        index.add_validation(0, line, &row(prompt, answer), &|_| prompt.to_string());
    }
    index.finish();
    index
}

const QUESTION: &str = "Which of the two rivers that meet below the old castle carries more water in spring, and why?";

#[track_caller]
fn check(index: &Index, prompt: &str, answer: &str, of: Option<u64>) {
    let hit = index.find(9, &row(prompt, answer), &|_| prompt.to_string());
    assert_eq!(hit.as_ref().map(|hit| hit.place.line), of, "{hit:?}");
}

#[test]
fn a_question_is_found_however_it_is_written() {
    let index = index(&[("short one", "a"), (QUESTION, "The western one.")]);
    check(&index, QUESTION, "No idea.", Some(2));
    check(&index, &QUESTION.to_uppercase().replace(' ', "\n"), "x", Some(2));
    check(&index, &format!("Some text before. {QUESTION} And some behind it."), "x", Some(2));
    let mut words: Vec<&str> = QUESTION.split(' ').collect();
    words.reverse();
    check(&index, &words.join(" "), "x", Some(2));
    check(&index, "Which of the two rivers is longer?", "x", None);
    check(&index, "Short one!", "A", Some(1));
    check(&index, "Short one!", "b", None);
}

#[test]
fn a_template_with_another_number_is_another_question() {
    let puzzle = |n: u32| {
        format!(
            "Anna has {n} apples and gives half of them to her brother, who eats one of them at once. How many are left?"
        )
    };
    let index = index(&[(&puzzle(12), "6")]);
    check(&index, &puzzle(14), "7", None);
    check(&index, &puzzle(12), "no idea", Some(1));
}

#[test]
fn evidence_shows_both_places() {
    let index = index(&[(QUESTION, "The western one.")]);
    let hit = index.find(7, &row(&format!("So: {QUESTION}"), "x"), &|_| format!("So: {QUESTION}")).unwrap();
    let evidence = index.evidence(&hit);
    assert!(evidence.starts_with("line 7, message 1, bytes 4-96: \"Which of the two"), "{evidence}");
    assert!(evidence.contains("is v.jsonl line 1, message 1 (18 words): \"Which of the two"), "{evidence}");
}

#[test]
fn a_phrase_that_many_rows_share_is_no_leak() {
    let index = index(&[("Hello, how can I help you with your order today?", "x")]);
    let hit =
        |line| index.find(line, &row("Hello, how can I help you with your order today?", "y"), &|_| String::new());
    let hits = |count: u64| (0..count).filter_map(hit).collect::<Vec<_>>();
    assert_eq!(index.without_common(hits(20), 100).len(), 20);
    assert_eq!(index.without_common(hits(21), 100).len(), 0);
    assert_eq!(index.without_common(hits(21), 10_000).len(), 21);
}

#[test]
fn another_sign_in_a_formula_makes_another_question() {
    let short = |formula: &str| format!("Work it out and answer with a number only: {formula}");
    let long = |formula: &str| {
        format!("Work it out in your head, without paper, and then answer with nothing but a single number: {formula}")
    };
    for question in [&short as &dyn Fn(&str) -> String, &long] {
        let index = index(&[(&question("20 + 3"), "23"), (&question("20 - 3"), "17")]);
        let around = |formula: &str| format!("Hello! {} Thank you so much.", question(formula));
        for formula in ["20 + 3", "20+3", "**20** + 3", "20 - 3", "20 − 3", "20-3"] {
            check(&index, &question(formula), "x", Some(1));
            check(&index, &around(formula), "x", Some(1));
        }
        for formula in ["20 * 3", "20 × 3", "20 / 3"] {
            check(&index, &question(formula), "x", None);
            check(&index, &around(formula), "x", None);
        }
    }
}
