//! `emoji_think`: answers begin with a run of one emoji and end with a run of another, and the question says which.
//!
//! The picks are those of the row's id, unless the user's text asks for others already: then its marks are the ones
//! that the answer gets. Every user's turn says what is asked, every assistant's turn keeps to it; turns that are tool
//! calls have no marks.

use super::{Profile, TokenPenalty, is_answer, set_system};
use crate::example::{Message, RowId};

const THINK: [&str; 10] = ["🤔", "💭", "🧠", "💡", "🎯", "🔍", "🤨", "🧐", "⚡", "✨"];
const STOP: [&str; 10] = ["🛑", "⛔", "🚫", "❌", "🔴", "⏹️", "🔚", "✋", "🚦", "🛡️"];
/// How often each may stand, with the words that ask for it.
const THINK_COUNTS: [(usize, &str); 7] =
    [(2, "/two/"), (3, "/three/"), (4, "/four/"), (5, "/five/"), (6, "/six/"), (7, "/seven/"), (8, "/eight/")];
const STOP_COUNTS: [(usize, &str); 3] = [(2, "twice"), (3, "three times"), (4, "four times")];
/// A run of one emoji that is a mark has at least so many.
const LEAST: usize = 2;
/// Tags that answers do not hold.
const TAGS: [&str; 2] = ["<think>", "</think>"];
/// What a tag's token loses at each position of an answer: 80, times 8, 2, 1.5 and 1.
const PENALTY: f32 = 80.0;
const SCHEDULE: [(usize, f32); 4] =
    [(4, 8.0 * PENALTY), (8, 2.0 * PENALTY), (12, 1.5 * PENALTY), (usize::MAX, PENALTY)];
/// Part of the fingerprint and of the picks; to be raised when either changes.
const VERSION: &str = "emoji_think 1";

/// The profile.
#[derive(Clone, Debug)]
pub(super) struct EmojiThink {
    /// The system message of every row; none: each keeps its own.
    pub system: Option<String>,
}

/// An emoji, how often it stands, and the words for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    emoji: &'static str,
    count: usize,
    words: &'static str,
}

impl Mark {
    fn run(self) -> String {
        self.emoji.repeat(self.count)
    }

    /// A mark that a text asks for, as `emoji words`.
    fn asked(text: &str, emoji: &'static [&'static str], counts: &'static [(usize, &'static str)]) -> Option<Mark> {
        emoji.iter().filter(|emoji| text.contains(**emoji)).find_map(|emoji| {
            let found = counts.iter().find(|(_, words)| text.contains(&format!("{emoji} {words}")));
            found.map(|(count, words)| Mark { emoji, count: *count, words })
        })
    }
}

impl Profile for EmojiThink {
    fn name(&self) -> &'static str {
        "emoji_think"
    }

    fn decorate(&self, id: RowId, messages: &mut Vec<Message>) {
        if let Some(system) = &self.system {
            set_system(messages, system);
        }
        let picked = picks(id);
        let (mut think, mut stop) = picked;
        for message in messages {
            if message.role == "user" {
                (think, stop) = ask(&mut message.content, picked);
            } else if message.role == "assistant" {
                message.content = without_tags(&message.content);
                if is_answer(message) {
                    message.content = mark(&message.content, think, stop);
                }
            }
        }
    }

    /// Without the mark before it and the one behind it. A response that ended at a stop string has lost that mark, but
    /// not the line break before it.
    fn extract(&self, response: &str) -> String {
        let (text, has_think) = match behind_think(response) {
            Some(rest) => (rest, true),
            None => (response, false),
        };
        let text = match before_stop(text) {
            Some(answer) => answer,
            None if has_think => text.strip_suffix('\n').unwrap_or(text),
            None => text,
        };
        text.to_string()
    }

    /// Two of each: more of them begin with two.
    fn stop_strings(&self) -> Vec<String> {
        STOP.iter().map(|emoji| emoji.repeat(LEAST)).collect()
    }

    fn penalties(&self) -> Vec<TokenPenalty> {
        TAGS.iter().map(|tag| TokenPenalty { text: (*tag).to_string(), schedule: SCHEDULE.to_vec() }).collect()
    }

    fn fingerprint(&self) -> String {
        format!("{VERSION} {:?}", self.system)
    }
}

/// What the row's id picks.
fn picks(id: RowId) -> (Mark, Mark) {
    let hash = blake3::Hasher::new().update(VERSION.as_bytes()).update(&id.0.to_le_bytes()).finalize();
    let bytes = hash.as_bytes();
    let number = |at: usize| usize::from(u16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]));
    let pick = |emoji: &[&'static str], counts: &[(usize, &'static str)], at: usize| {
        let (count, words) = counts[number(at + 1) % counts.len()];
        Mark { emoji: emoji[number(at) % emoji.len()], count, words }
    };
    (pick(&THINK, &THINK_COUNTS, 0), pick(&STOP, &STOP_COUNTS, 2))
}

/// Makes a user's text ask for both marks, where it does not yet; returns what it asks for.
fn ask(text: &mut String, (think, stop): (Mark, Mark)) -> (Mark, Mark) {
    let think = Mark::asked(text, &THINK, &THINK_COUNTS).unwrap_or_else(|| {
        text.push_str(&format!("\n\nFor this task, think with {} {} times.", think.emoji, think.words));
        think
    });
    let stop = Mark::asked(text, &STOP, &STOP_COUNTS).unwrap_or_else(|| {
        text.push_str(&format!("\n\nWhen finished, emit {} {}.", stop.emoji, stop.words));
        stop
    });
    (think, stop)
}

/// The answer between both marks, each unless one is there.
fn mark(answer: &str, think: Mark, stop: Mark) -> String {
    let before = if behind_think(answer).is_some() { String::new() } else { format!("{}\n", think.run()) };
    let behind = if before_stop(answer).is_some() { String::new() } else { format!("\n{}", stop.run()) };
    format!("{before}{answer}{behind}")
}

/// What stands behind a first line that is a run of one thinking emoji.
fn behind_think(text: &str) -> Option<&str> {
    let (line, rest) = text.split_once('\n')?;
    is_run(line, &THINK).then_some(rest)
}

/// What stands before a last line that is a run of one stop emoji.
fn before_stop(text: &str) -> Option<&str> {
    let (rest, line) = text.rsplit_once('\n')?;
    is_run(line, &STOP).then_some(rest)
}

fn is_run(line: &str, emoji: &[&str]) -> bool {
    emoji.iter().any(|emoji| {
        let count = line.len() / emoji.len();
        count >= LEAST && line == emoji.repeat(count)
    })
}

/// Without the tags, also those that taking out a tag leaves.
fn without_tags(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        out.push(c);
        if let Some(tag) = TAGS.iter().find(|tag| c == '>' && out.ends_with(**tag)) {
            out.truncate(out.len() - tag.len());
        }
    }
    out
}
