//! The checker: reads the JSON answer out of a response and holds it against the puzzle.
//!
//! The last JSON object of the response that has the key `solutions` counts, whatever stands around it (prose, a code
//! fence). An answer is right when it has exactly one entry for every slot, each with the slot's word, spelled with
//! tiles that are in the bank and not used up by another entry. Letter case and surrounding space of words and
//! tiles do not matter.

use super::puzzle::{Puzzle, Tiles, clean, spells};
use crate::{MAX_RESPONSE_BYTES, VerifyResult};
use serde::Deserialize;
use serde_json::Value;

/// How many JSON objects of a response are looked at. A response with more has no readable answer.
const MAX_OBJECTS: usize = 200;

/// One entry of an answer.
#[derive(Deserialize)]
struct Entry {
    ans_num: u64,
    syllables: Vec<String>,
    answer: String,
}

impl Puzzle {
    /// Judges a response. Pure; the same for generation, evaluation and the schema gate.
    #[must_use]
    pub fn judge(&self, response: &str) -> VerifyResult {
        match read_answer(response) {
            Ok(entries) => self.judge_entries(&entries),
            Err(reason) => VerifyResult { solved: false, score: 0.0, parsed: false, reason },
        }
    }

    fn judge_entries(&self, entries: &[Entry]) -> VerifyResult {
        let mut bank = Tiles::new(&self.tiles);
        let mut problems = Vec::new();
        for slot in &self.slots {
            let number = slot.ans_num;
            let mut of_slot = entries.iter().filter(|entry| entry.ans_num == number);
            let (entry, second) = (of_slot.next(), of_slot.next());
            problems.extend(match (entry, second) {
                (None, _) => Some(format!("word {number} is missing")),
                (_, Some(_)) => Some(format!("word {number} comes twice")),
                (Some(entry), _) if entry.answer != clean(&slot.answer) => {
                    Some(format!("word {number} is {}, not {}", slot.answer, entry.answer))
                }
                (Some(entry), _) if !spells(&entry.syllables, &entry.answer) => {
                    Some(format!("the syllables of word {number} do not spell {}", entry.answer))
                }
                (Some(entry), _) if !bank.take(&entry.syllables) => {
                    Some(format!("word {number} uses a tile that is not (or no longer) in the bank"))
                }
                _ => None,
            });
        }
        let right = self.slots.len() - problems.len();
        let known = |entry: &&Entry| self.slots.iter().any(|slot| slot.ans_num == entry.ans_num);
        problems.extend(
            entries.iter().find(|entry| !known(entry)).map(|entry| format!("there is no word {}", entry.ans_num)),
        );
        let solved = problems.is_empty();
        let score = if solved { 1.0 } else { right.min(self.slots.len() - 1) as f64 / self.slots.len() as f64 };
        let reason = if solved { "right".to_string() } else { problems.join("; ") };
        VerifyResult { solved, score, parsed: true, reason }
    }
}

/// The entries of the last answer in a response, their words [`clean`].
fn read_answer(response: &str) -> Result<Vec<Entry>, String> {
    if response.len() > MAX_RESPONSE_BYTES {
        return Err(format!("the answer is longer than {MAX_RESPONSE_BYTES} bytes"));
    }
    let Some(solutions) = last_solutions(response) else {
        return Err("no JSON object with solutions found".to_string());
    };
    let mut entries = Vec::<Entry>::deserialize(&solutions).map_err(|error| format!("solutions: {error}"))?;
    entries.iter_mut().for_each(|entry| entry.answer = clean(&entry.answer));
    Ok(entries)
}

fn last_solutions(response: &str) -> Option<Value> {
    let mut found = None;
    let mut rest = response;
    for _ in 0..MAX_OBJECTS {
        let Some(start) = rest.find('{') else { return found };
        rest = &rest[start..];
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        match values.next() {
            Some(Ok(value)) => {
                rest = &rest[values.byte_offset()..];
                found = value.get("solutions").cloned().or(found);
            }
            _ => rest = &rest[1..],
        }
    }
    None
}
