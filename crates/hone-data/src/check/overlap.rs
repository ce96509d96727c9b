//! Rows that stand in validation data, or were accepted before. Pure but for the files that are read once.
//!
//! Every validation message but a system message is a *unit*. A row, its system message included, holds a unit when most of the unit's distinctive runs of 13 words
//! stand in it, whatever case, punctuation, line breaks and text around them, and all the unit's numbers too. A run
//! that stands in more than [`MAX_UNITS_PER_RUN`] units is the wording of a template and not distinctive: puzzles
//! that differ in one number do not overlap. A unit of 8 to 12 words must stand there whole; a row whose words are a
//! unit's in another order counts too. A shorter text counts only as a whole row: same prompt, same answer; in a row whose
//! texts are all shorter, symbols (`+`, `=`) count as well. A text with the words of a unit but another sign between two
//! operands (`20 + 3`, `20 * 3`) is another text.
//! A unit that many rows hold is a phrase that data share (a usual greeting, an instruction), not a leak.
//!
//! Of earlier accepted files only whole rows are compared.

use super::words::{Words, excerpt, hash_in_any_order, hash_in_order};
use hone_pipeline::content::ContentSettings;
use std::collections::HashMap;

/// Units shorter than this are compared only as whole rows.
pub(super) const MIN_WORDS: usize = 8;
/// A run of words of more units than this is a template's wording.
const MAX_UNITS_PER_RUN: u16 = 2;
/// A unit that more rows hold than this, and than [`COMMON_SHARE`] of all rows, is a phrase that data share.
const COMMON_ROWS: u64 = 20;
const COMMON_SHARE: f64 = 0.01;
/// Bits of the filter that most runs do not pass; a power of two.
const FILTER_BITS: usize = 1 << 23;
/// Most rows of earlier files that are remembered.
const MAX_EARLIER_ROWS: usize = 4_000_000;

/// Where something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Place {
    pub file: u32,
    pub line: u64,
    /// Number of the message, 0 for a whole row.
    pub message: u32,
}

#[derive(Debug)]
struct Unit {
    place: Place,
    num_words: u32,
    /// Distinctive runs.
    num_runs: u32,
    /// Words with a digit, sorted.
    numbers: Vec<u32>,
    /// All words, where there are fewer than a run has.
    words: Vec<u32>,
    /// Hash of the words in their order.
    in_order: u64,
    /// Signs of formulas: those of each validation text that has these words.
    operators: Vec<Vec<(u32, char)>>,
    excerpt: String,
}

impl Unit {
    /// False for a text that has other signs between the same operands.
    fn has_signs_of(&self, words: &Words) -> bool {
        let agrees = |(operands, sign): &(u32, char)| {
            let mut others = words.operators.iter().filter(|(other, _)| other == operands).peekable();
            others.peek().is_none() || others.any(|(_, other)| other == sign)
        };
        self.operators.iter().any(|operators| operators.iter().all(agrees))
    }
}

/// What rows are compared with.
#[derive(Debug, Default)]
pub(super) struct Index {
    run_words: usize,
    coverage: f64,
    pub file_names: Vec<String>,
    units: Vec<Unit>,
    /// Units by their words in order.
    seen: HashMap<u64, u32>,
    /// Runs of `run_words` words: the unit, and in how many units they stand.
    runs: HashMap<u64, (u32, u16)>,
    /// Units shorter than a run, by their first words.
    short: HashMap<u64, Vec<u32>>,
    any_order: HashMap<u64, u32>,
    whole_rows: HashMap<u64, (u32, u64)>,
    pub earlier_rows: HashMap<u64, (u32, u64)>,
    /// Rows of earlier files that were not remembered.
    pub num_earlier_left_out: u64,
    filter: Vec<u64>,
}

/// A row that holds a unit.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Hit {
    pub line: u64,
    pub place: Place,
    /// Index of the unit; `None` for a whole row.
    pub unit: Option<u32>,
    /// What of the row it is, as evidence.
    pub found: String,
}

/// Words of the messages of a row. System messages are apart: rows share them, and no row is named after them.
#[derive(Debug, Default)]
pub(super) struct RowWords {
    /// Number of the message and its words.
    pub texts: Vec<(u32, Words)>,
    /// The same of system messages.
    pub system_texts: Vec<(u32, Words)>,
    /// Words of reasoning and tool calls.
    pub extras: Vec<Words>,
    /// Hash of the words of the system message; 0 without one.
    pub system: u64,
    /// Hash of all other words of the row but its last answer; tool calls count, reasoning does not.
    pub prompt: u64,
    /// Hash of the words of the last answer and its tool calls.
    pub answer: u64,
    /// Words of the last answer.
    pub num_answer_words: usize,
    /// Hash of the texts with their symbols, where none has [`MIN_WORDS`] words.
    pub with_symbols: Option<u64>,
}

impl RowWords {
    /// Name of the whole row, whatever its case, punctuation and line breaks; in one that is short, symbols count.
    pub fn whole(&self) -> u64 {
        self.with_symbols.unwrap_or(self.prompt.rotate_left(17) ^ self.answer)
    }

    fn num_words(&self) -> usize {
        self.texts.iter().map(|(_, words)| words.len()).sum()
    }
}

impl Index {
    pub fn new(settings: &ContentSettings) -> Self {
        Index {
            run_words: settings.overlap_words.max(2),
            coverage: settings.overlap_coverage,
            filter: vec![0; FILTER_BITS / 64],
            ..Index::default()
        }
    }

    /// True when there is nothing to compare with.
    pub fn is_empty(&self) -> bool {
        self.units.is_empty() && self.whole_rows.is_empty() && self.earlier_rows.is_empty()
    }

    /// Adds a row of a validation file; `text` gives the text of a message.
    pub fn add_validation(&mut self, file: u32, line: u64, row: &RowWords, text: &dyn Fn(u32) -> String) {
        if row.num_words() > 0 {
            self.whole_rows.entry(row.whole()).or_insert((file, line));
        }
        for (message, words) in row.texts.iter().filter(|(_, words)| words.len() >= MIN_WORDS) {
            let in_order = hash_in_order(&words.hashes);
            if let Some(known) = self.seen.get(&in_order) {
                let known = &mut self.units[*known as usize].operators;
                if !known.contains(&words.operators) {
                    known.push(words.operators.clone());
                }
                continue;
            }
            let mut numbers = words.numbers.clone();
            numbers.sort_unstable();
            numbers.dedup();
            let id = self.units.len() as u32;
            self.seen.insert(in_order, id);
            let is_short = words.len() < self.run_words;
            self.any_order.entry(hash_in_any_order(&words.hashes)).or_insert(id);
            let text = text(*message);
            self.units.push(Unit {
                place: Place { file, line, message: *message },
                num_words: words.len() as u32,
                num_runs: 0,
                numbers,
                words: if is_short { words.hashes.clone() } else { Vec::new() },
                in_order,
                operators: vec![words.operators.clone()],
                excerpt: excerpt(&text, (0, text.len() as u32)),
            });
            if is_short {
                self.short.entry(hash_in_order(&words.hashes[..MIN_WORDS])).or_default().push(id);
                continue;
            }
            for run in words.hashes.windows(self.run_words) {
                let entry = self.runs.entry(hash_in_order(run)).or_insert((id, 0));
                // A run that comes twice in one unit counts once.
                if entry.1 == 0 || entry.0 != id {
                    *entry = (id, entry.1.saturating_add(1));
                }
            }
        }
    }

    /// Adds a row of an earlier file.
    pub fn add_earlier(&mut self, file: u32, line: u64, row: &RowWords) {
        if self.earlier_rows.len() >= MAX_EARLIER_ROWS {
            self.num_earlier_left_out += 1;
        } else if row.num_words() > 0 {
            self.earlier_rows.entry(row.whole()).or_insert((file, line));
        }
    }

    /// To be called once, after all rows were added.
    pub fn finish(&mut self) {
        self.seen = HashMap::new();
        // A run of two units names only one of them: both must be found, so each keeps the runs that name it.
        self.runs.retain(|_, (_, num_units)| *num_units <= MAX_UNITS_PER_RUN);
        for (unit, _) in self.runs.values() {
            self.units[*unit as usize].num_runs += 1;
        }
        self.runs.shrink_to_fit();
        for hash in self.runs.keys().chain(self.short.keys()) {
            self.filter[bit(*hash) / 64] |= 1 << (bit(*hash) % 64);
        }
    }

    fn may_hold(&self, hash: u64) -> bool {
        self.filter[bit(hash) / 64] >> (bit(hash) % 64) & 1 == 1
    }

    /// The first unit that a row holds; `text` gives the text of a message.
    pub fn find(&self, line: u64, row: &RowWords, text: &dyn Fn(u32) -> String) -> Option<Hit> {
        if let Some((file, of)) = self.whole_rows.get(&row.whole()).filter(|_| row.num_words() > 0) {
            let (message, words) = row.texts.first()?;
            let found = describe(*message, &text(*message), words, 0..words.len());
            return Some(Hit { line, place: Place { file: *file, line: *of, message: 0 }, unit: None, found });
        }
        if self.units.is_empty() {
            return None;
        }
        row.texts.iter().chain(&row.system_texts).filter(|(_, words)| words.len() >= MIN_WORDS).find_map(
            |(message, words)| {
                let (unit, range) = self.find_in(words)?;
                let found = describe(*message, &text(*message), words, range);
                Some(Hit { line, place: self.units[unit as usize].place, unit: Some(unit), found })
            },
        )
    }

    /// The unit that a text holds, and the words of the text that are it.
    fn find_in(&self, words: &Words) -> Option<(u32, std::ops::Range<usize>)> {
        if let Some(id) = self.any_order.get(&hash_in_any_order(&words.hashes)) {
            let unit = &self.units[*id as usize];
            if unit.in_order != hash_in_order(&words.hashes) || unit.has_signs_of(words) {
                return Some((*id, 0..words.len()));
            }
        }
        let mut counts: Vec<(u32, u32, usize, usize)> = Vec::new();
        for (at, run) in words.hashes.windows(self.run_words).enumerate() {
            let hash = hash_in_order(run);
            if self.may_hold(hash)
                && let Some((unit, _)) = self.runs.get(&hash)
            {
                match counts.iter_mut().find(|(known, ..)| known == unit) {
                    Some((_, count, _, last)) => (*count, *last) = (*count + 1, at),
                    None => counts.push((*unit, 1, at, at)),
                }
            }
        }
        for (unit, count, first, last) in counts {
            let candidate = &self.units[unit as usize];
            let covered = f64::from(count) >= self.coverage * f64::from(candidate.num_runs);
            let has_numbers = candidate.numbers.iter().all(|number| words.numbers.contains(number));
            if covered && has_numbers && candidate.has_signs_of(words) {
                return Some((unit, first..last + self.run_words));
            }
        }
        if self.short.is_empty() {
            return None;
        }
        for (at, run) in words.hashes.windows(MIN_WORDS).enumerate() {
            let hash = hash_in_order(run);
            let Some(units) = self.may_hold(hash).then(|| self.short.get(&hash)).flatten() else { continue };
            for id in units {
                let unit = &self.units[*id as usize];
                if words.hashes[at..].starts_with(&unit.words) && unit.has_signs_of(words) {
                    return Some((*id, at..at + unit.words.len()));
                }
            }
        }
        None
    }

    /// Hits without phrases that many rows share.
    pub fn without_common(&self, hits: Vec<Hit>, num_rows: u64) -> Vec<Hit> {
        let mut rows_by_unit: HashMap<u32, u64> = HashMap::new();
        hits.iter().filter_map(|hit| hit.unit).for_each(|unit| *rows_by_unit.entry(unit).or_default() += 1);
        let limit = COMMON_ROWS.max((num_rows as f64 * COMMON_SHARE) as u64);
        hits.into_iter().filter(|hit| hit.unit.is_none_or(|unit| rows_by_unit[&unit] <= limit)).collect()
    }

    /// Both sides of a hit, for people.
    pub fn evidence(&self, hit: &Hit) -> String {
        let Place { file, line, message } = hit.place;
        let other = match (message, hit.unit) {
            (0, _) => String::new(),
            (number, None) => format!(", message {number}"),
            (number, Some(unit)) => {
                let Unit { num_words, excerpt, .. } = &self.units[unit as usize];
                format!(", message {number} ({num_words} words): \"{excerpt}\"")
            }
        };
        format!("line {}, {} is {} line {line}{other}", hit.line, hit.found, self.file_names[file as usize])
    }
}

/// Some words of a message with their bytes; message 0 is the system message of a column.
pub(super) fn describe(message: u32, text: &str, words: &Words, range: std::ops::Range<usize>) -> String {
    let start = words.spans.get(range.start).map_or(0, |span| span.0);
    let end = words.spans.get(range.end.saturating_sub(1)).map_or(start, |span| span.1);
    let name = if message == 0 { "the system message".to_string() } else { format!("message {message}") };
    format!("{name}, bytes {start}-{end}: \"{}\"", excerpt(text, (start, end)))
}

fn bit(hash: u64) -> usize {
    (hash >> 40) as usize % FILTER_BITS
}

#[cfg(test)]
mod tests;
