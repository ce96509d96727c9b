//! A puzzle as its metadata describe it: slots with their answers, and the bank of tiles.
//!
//! `{"words":[{"ans_num":1,"definition":"…","answer":"tiger","syllables":["ti","ger"]}],"tiles":["ger","ti"]}`.
//! The words need not be of the bank that ships: people may write puzzles of their own.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What one definition asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Its number, from 1.
    pub ans_num: u64,
    /// The definition.
    pub definition: String,
    /// The word.
    pub answer: String,
    /// The word in tiles.
    pub syllables: Vec<String>,
}

/// Slots and tiles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Puzzle {
    /// The slots, by ascending number.
    #[serde(rename = "words")]
    pub slots: Vec<Slot>,
    /// The tiles; one that lies there twice may be used twice.
    pub tiles: Vec<String>,
}

impl Puzzle {
    /// Reads and checks the puzzle of a sample's metadata. Keys beyond `skill`, `words` and `tiles` are not looked at.
    ///
    /// # Errors
    /// A sentence that says what is missing or contradicts itself.
    pub fn from_metadata(metadata: &Value) -> Result<Puzzle, String> {
        if let Some(skill) = metadata.get("skill").filter(|skill| skill.as_str() != Some(super::NAME)) {
            return Err(format!("skill is {skill}, expected {:?}", super::NAME));
        }
        for key in ["words", "tiles"] {
            if !metadata.get(key).is_some_and(Value::is_array) {
                return Err(format!("{key} is missing or not a list"));
            }
        }
        let puzzle = Puzzle::deserialize(metadata).map_err(|error| error.to_string())?;
        puzzle.check()?;
        Ok(puzzle)
    }

    fn check(&self) -> Result<(), String> {
        if self.slots.is_empty() {
            return Err("words is empty".to_string());
        }
        let numbers: BTreeSet<u64> = self.slots.iter().map(|slot| slot.ans_num).collect();
        if numbers.len() != self.slots.len() {
            return Err("an ans_num comes twice".to_string());
        }
        let mut bank = Tiles::new(&self.tiles);
        for Slot { ans_num, answer, syllables, .. } in &self.slots {
            if clean(answer).is_empty() || !spells(syllables, answer) {
                return Err(format!("the syllables of word {ans_num} do not spell its answer"));
            }
            if !bank.take(syllables) {
                return Err(format!("the tiles are not enough for word {ans_num}"));
            }
        }
        Ok(())
    }
}

/// A word or a tile as it is compared: letter case and surrounding space do not matter.
pub(super) fn clean(text: &str) -> String {
    text.trim().to_lowercase()
}

/// Whether tiles give a word, in this order. Where spaces stand does not matter: they may be at the ends of tiles.
pub(super) fn spells(tiles: &[String], word: &str) -> bool {
    let letters = |text: &str| -> String { text.to_lowercase().split_whitespace().collect() };
    letters(&tiles.concat()) == letters(word)
}

/// Tiles that are still there, [`clean`].
pub(super) struct Tiles(BTreeMap<String, usize>);

impl Tiles {
    pub fn new(tiles: &[String]) -> Tiles {
        let mut left = BTreeMap::new();
        tiles.iter().for_each(|tile| *left.entry(clean(tile)).or_default() += 1);
        Tiles(left)
    }

    /// Takes all of `wanted`, or nothing when one of them is not there.
    pub fn take(&mut self, wanted: &[String]) -> bool {
        for (position, tile) in wanted.iter().enumerate() {
            match self.0.get_mut(&clean(tile)) {
                Some(count) if *count > 0 => *count -= 1,
                _ => {
                    wanted[..position].iter().for_each(|tile| self.put_back(tile));
                    return false;
                }
            }
        }
        true
    }

    fn put_back(&mut self, tile: &str) {
        if let Some(count) = self.0.get_mut(&clean(tile)) {
            *count += 1;
        }
    }
}
