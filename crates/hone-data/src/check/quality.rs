//! Degenerate answers: repetition, broken encodings, refusals by rote. Pure.

use super::words::{Words, excerpt, hash_in_order};
use hone_pipeline::spec::RowProblem;
use std::collections::HashSet;

/// Answers of fewer words repeat themselves for good reasons.
const MIN_WORDS: usize = 40;
/// Words of a run.
const RUN: usize = 4;
/// Share of different runs below which an answer repeats itself.
const MIN_DIFFERENT: f64 = 0.3;
/// The same character so often in a row is no text.
const MAX_SAME_CHARS: usize = 60;
/// Rules of tables and headings may be long.
const RULE_CHARS: &str = "-=_*#~. \t\n|+";
/// Characters of an answer in which a refusal is looked for.
const REFUSAL_CHARS: usize = 160;

/// What UTF-8 looks like that was read as Windows-1252 or Latin-1.
const MOJIBAKE: [&str; 14] =
    ["Ã©", "Ã¨", "Ã¤", "Ã¶", "Ã¼", "ÃŸ", "Ã±", "Ã¡", "Ã³", "â€™", "â€œ", "â€“", "â€”", "Â\u{a0}"];

/// How refusals by rote begin.
const REFUSALS: [&str; 14] = [
    "as an ai language model",
    "as an ai assistant",
    "as a large language model",
    "i'm sorry, but i can't",
    "i'm sorry, but i cannot",
    "i am sorry, but i can't",
    "i am sorry, but i cannot",
    "i cannot assist with",
    "i can't assist with",
    "i cannot fulfill",
    "i can't fulfill",
    "i'm not able to help with that",
    "i cannot provide assistance",
    "i'm just a language model",
];

/// Problems of one answer, each with its evidence.
pub(super) fn problems(text: &str, words: &Words, problems: &mut Vec<(RowProblem, Option<String>)>) {
    if repeats(words) {
        let message = "an answer says the same few words again and again";
        let hint = "take the row out: a model learns to repeat itself from it";
        let evidence = excerpt(text, (0, text.len() as u32));
        problems.push((RowProblem::warning("text_repetitive", message, hint), Some(evidence)));
    } else if let Some(c) = same_character(text) {
        let message = format!("an answer holds the same character more than {MAX_SAME_CHARS} times in a row");
        let hint = "take the row out, unless it is meant";
        problems.push((RowProblem::warning("text_repetitive", message, hint), Some(format!("{:?}", c))));
    }
    if let Some(refusal) = refusal(text) {
        let message = "an answer is a refusal by rote";
        let hint = "take the row out, unless refusing is what the model shall learn";
        problems.push((RowProblem::warning("text_refusal", message, hint), Some(refusal.to_string())));
    }
}

/// Adds the problem of a text that was read in a wrong encoding.
pub(super) fn encoding_problem(text: &str, problems: &mut Vec<(RowProblem, Option<String>)>) {
    if let Some(mark) = mojibake(text) {
        let message = "a text was read in a wrong encoding somewhere";
        let hint = "convert the source to UTF-8 once more, from the right encoding";
        problems.push((RowProblem::warning("text_mojibake", message, hint), Some(mark.to_string())));
    }
}

/// A mark of a broken encoding in a text.
fn mojibake(text: &str) -> Option<&'static str> {
    // Marks begin with one of Ã, â, Â (all 0xc3), or with U+FFFD (0xef): look for those bytes only.
    let mut rest = text.as_bytes();
    while let Some(at) = memchr::memchr2(0xc3, 0xef, rest) {
        let here = &rest[at..];
        if here.starts_with("\u{fffd}".as_bytes()) {
            return Some("\u{fffd}");
        }
        if let Some(mark) = MOJIBAKE.iter().find(|mark| here.starts_with(mark.as_bytes())) {
            return Some(mark);
        }
        rest = &rest[at + 1..];
    }
    None
}

fn repeats(words: &Words) -> bool {
    if words.len() < MIN_WORDS {
        return false;
    }
    let runs: HashSet<u64> = words.hashes.windows(RUN).map(hash_in_order).collect();
    (runs.len() as f64) < MIN_DIFFERENT * (words.len() - RUN + 1) as f64
}

fn same_character(text: &str) -> Option<char> {
    let (mut previous, mut len) = ('\0', 0);
    for c in text.chars() {
        len = if c == previous { len + 1 } else { 1 };
        previous = c;
        if len > MAX_SAME_CHARS && !RULE_CHARS.contains(c) {
            return Some(c);
        }
    }
    None
}

fn refusal(text: &str) -> Option<&'static str> {
    let head: String =
        text.chars().take(REFUSAL_CHARS).map(|c| if c == '’' { '\'' } else { c.to_ascii_lowercase() }).collect();
    REFUSALS.iter().find(|refusal| head.contains(*refusal)).copied()
}

#[cfg(test)]
mod tests;
