//! Choosing puzzles: sets of words, the split of every set, and the sample that follows from a set.
//!
//! The split is decided by the hash of the level and the set of words. Every level has more than 10^10 sets, so a batch
//! never repeats one.

use super::phrasing::{self, NUM_PHRASINGS, Shape};
use super::puzzle::{Puzzle, Slot};
use super::words::BANK;
use super::{DOMAIN, LONG, Level, NAME, VERSION};
use crate::chance::{index, shuffle, split_of};
use crate::{Batch, GenerateRequest, Message, Sample};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use std::collections::HashSet;

/// Share of the puzzles that is for evaluation.
const EVAL_PERCENT: u64 = 20;

/// Makes a batch; the request's level is `level` and its count is within bounds.
pub(super) fn batch(level: &Level, request: &GenerateRequest) -> Batch {
    let mut rng = DOMAIN.batch_rng(request);
    let candidates = Candidates::of(level);
    let mut seen = HashSet::new();
    let mut samples = Vec::with_capacity(request.count);
    while samples.len() < request.count {
        let Some(words) = candidates.draw(level, &mut rng) else { continue };
        let key = key(request.level, &words);
        let hash = DOMAIN.hash(&key);
        if split_of(hash, EVAL_PERCENT) == request.split && seen.insert(hash) {
            samples.push(sample(level, request, words, &key));
        }
    }
    Batch {
        skill: NAME.to_string(),
        version: VERSION.to_string(),
        level: request.level,
        split: request.split,
        seed: request.seed,
        distinct: samples.len(),
        repeated: false,
        samples,
    }
}

/// What names a puzzle: level and words, whatever their order.
fn key(level: u32, words: &[usize]) -> String {
    let mut words = words.to_vec();
    words.sort_unstable();
    let texts: Vec<&str> = words.into_iter().map(|word| BANK[word].text).collect();
    format!("{level}/{}", texts.join(","))
}

/// Words that a level may use, by length.
struct Candidates {
    short: Vec<usize>,
    long: Vec<usize>,
}

impl Candidates {
    fn of(level: &Level) -> Candidates {
        let fits = |word: &usize| BANK[*word].syllables.len() <= level.max_syllables;
        let (short, long) = (0..BANK.len()).filter(fits).partition(|word| BANK[*word].syllables.len() < LONG);
        Candidates { short, long }
    }

    /// A set of words of which none stands in the definition of another; none when the draw did not come out so.
    fn draw(&self, level: &Level, rng: &mut ChaCha8Rng) -> Option<Vec<usize>> {
        let mut words: Vec<usize> = Vec::with_capacity(level.num_words);
        while words.len() < level.num_words {
            let list = if words.len() < level.num_long { &self.long } else { &self.short };
            let word = list[index(rng, list.len())];
            if words.contains(&word) || words.iter().any(|other| BANK[*other].given_away.contains(&word)) {
                return None;
            }
            words.push(word);
        }
        Some(words)
    }
}

/// The sample of a set of words. Nothing but the set decides how it looks.
fn sample(level: &Level, request: &GenerateRequest, mut words: Vec<usize>, key: &str) -> Sample {
    let mut rng = DOMAIN.rng(&format!("{key}/sample"));
    words.sort_unstable();
    shuffle(&mut rng, &mut words);
    let slots: Vec<Slot> = (1..).zip(&words).map(|(number, &word)| slot(number, word)).collect();
    let mut tiles: Vec<String> = slots.iter().flat_map(|slot| slot.syllables.iter().cloned()).collect();
    for _ in 0..level.num_herrings {
        tiles.push(herring(&mut rng, &tiles));
    }
    shuffle(&mut rng, &mut tiles);
    let puzzle = Puzzle { slots, tiles };
    let number = index(&mut rng, NUM_PHRASINGS);
    let shape = Shape::ALL[index(&mut rng, Shape::ALL.len())];
    let id = format!("{NAME}-{}-{:016x}", request.level, DOMAIN.hash(&format!("{key}/id")));
    let question = phrasing::question(&puzzle, number, shape);
    let answer = phrasing::answer(&puzzle.slots, shape);
    let metadata = json!({
        "id": id,
        "skill": NAME,
        "version": VERSION,
        "level": request.level,
        "split": request.split,
        "words": puzzle.slots,
        "tiles": puzzle.tiles,
        "num_herrings": level.num_herrings,
        "phrasing": number,
        "shape": shape,
    });
    let user = Message { role: "user".to_string(), content: question };
    let assistant = Message { role: "assistant".to_string(), content: answer };
    Sample { id, messages: vec![user, assistant], metadata }
}

fn slot(ans_num: u64, word: usize) -> Slot {
    let word = &BANK[word];
    Slot {
        ans_num,
        definition: word.definition.to_string(),
        answer: word.text.to_string(),
        syllables: word.syllables.iter().map(ToString::to_string).collect(),
    }
}

/// A tile that is not among `tiles`.
fn herring(rng: &mut ChaCha8Rng, tiles: &[String]) -> String {
    loop {
        let word = &BANK[index(rng, BANK.len())];
        let tile = word.syllables[index(rng, word.syllables.len())];
        if !tiles.iter().any(|there| there == tile) {
            return tile.to_string();
        }
    }
}
