//! The wordings of a puzzle and the forms of its answer. Short on purpose: a small model pays for every token.

use super::puzzle::{Puzzle, Slot};
use serde::Serialize;
use serde_json::json;

/// How many wordings there are.
pub(super) const NUM_PHRASINGS: usize = 6;

/// How the JSON of an answer is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Shape {
    /// One line.
    Compact,
    /// One line per word.
    Lines,
    /// In a Markdown code fence.
    Fenced,
}

impl Shape {
    pub const ALL: [Shape; 3] = [Shape::Compact, Shape::Lines, Shape::Fenced];

    fn instruction(self) -> &'static str {
        match self {
            Shape::Compact => "Answer with JSON in one line:",
            Shape::Lines => "Answer with JSON, one line per word:",
            Shape::Fenced => "Answer with JSON in a code block:",
        }
    }
}

/// The question of a puzzle in one wording; `number` is below [`NUM_PHRASINGS`].
pub(super) fn question(puzzle: &Puzzle, number: usize, shape: Shape) -> String {
    let count = puzzle.slots.len();
    let intro = match number {
        0 => format!("Find the {count} words. Spell them with the tiles, each used at most once."),
        1 => format!("Which {count} words fit the definitions? Build them from the syllables."),
        2 => "Solve this syllable puzzle. Every tile may be used once.".to_string(),
        3 => format!("SYLLO: {count} words, each from some of the tiles below."),
        4 => "Match each definition with a word made of the given tiles.".to_string(),
        _ => format!("Here are {count} definitions and a bank of tiles. Name the words."),
    };
    let (mark, tiles) = match number {
        0 | 3 => (". ", format!("Tiles: {}", puzzle.tiles.join(" "))),
        1 | 4 => (") ", format!("Syllables: {}", puzzle.tiles.join(", "))),
        _ => (": ", format!("Bank: [{}]", puzzle.tiles.join("] ["))),
    };
    let list: Vec<String> =
        puzzle.slots.iter().map(|slot| format!("{}{mark}{}", slot.ans_num, slot.definition)).collect();
    let form = r#"{"solutions":[{"ans_num":1,"syllables":["a","b"],"answer":"ab"}]}"#;
    let (list, instruction) = (list.join("\n"), shape.instruction());
    match number {
        4 | 5 => format!("{intro}\n{tiles}\n{list}\n{instruction} {form}"),
        _ => format!("{intro}\n{list}\n{tiles}\n{instruction} {form}"),
    }
}

/// The right answer in one form.
pub(super) fn answer(slots: &[Slot], shape: Shape) -> String {
    let entries: Vec<String> = slots
        .iter()
        .map(|slot| json!({ "ans_num": slot.ans_num, "syllables": slot.syllables, "answer": slot.answer }).to_string())
        .collect();
    match shape {
        Shape::Compact => format!("{{\"solutions\":[{}]}}", entries.join(",")),
        Shape::Lines => format!("{{\"solutions\":[\n{}\n]}}", entries.join(",\n")),
        Shape::Fenced => format!("```json\n{{\"solutions\":[{}]}}\n```", entries.join(",")),
    }
}
