//! What the rows of a file are made of: roles, lengths, labels, scripts, languages, sources. Pure.

use hone_pipeline::content::ContentSettings;
use hone_pipeline::finding::Balance;
use hone_pipeline::spec::json::Json;
use hone_pipeline::spec::{RowProblem, Speaker, Text};
use std::collections::{BTreeMap, HashMap};

/// An answer of at most so many characters and words is a label.
const MAX_LABEL_CHARS: usize = 32;
const MAX_LABEL_WORDS: usize = 3;
/// Different labels and sources that are counted; further ones are `other`.
const MAX_NAMES: usize = 4096;
/// Longer names are counted by their beginning.
const MAX_NAME_CHARS: usize = 100;
/// Labels and sources that a report lists.
const MAX_LISTED: usize = 20;
/// Letters of a text that are looked at.
const MAX_LETTERS: usize = 400;
/// Balance is judged from so many rows on.
const MIN_ROWS: u64 = 50;

/// Frequent words of languages in Latin script. Some stand in two lists: a text is of the
/// language that alone has the most.
const LANGUAGES: [(&str, &[&str]); 8] = [
    ("en", &["the", "and", "is", "of", "to", "you", "that", "it", "what", "how", "this", "are"]),
    ("de", &["der", "und", "ist", "nicht", "das", "ich", "ein", "zu", "wie", "auf", "mit", "wir"]),
    ("fr", &["le", "et", "les", "des", "est", "pas", "une", "vous", "je", "dans", "pour", "que"]),
    ("es", &["el", "los", "y", "una", "por", "es", "con", "las", "como", "para", "qué", "no"]),
    ("it", &["il", "di", "che", "è", "un", "sono", "non", "della", "gli", "per", "anche", "questo"]),
    ("pt", &["o", "não", "uma", "os", "com", "um", "você", "em", "do", "da", "mais", "são"]),
    ("nl", &["het", "een", "van", "niet", "ik", "en", "dat", "zijn", "voor", "op", "wat", "je"]),
    ("pl", &["nie", "się", "jest", "na", "w", "z", "jak", "do", "co", "to", "i", "że"]),
];

/// Counts under way; merged in any order.
#[derive(Debug, Default)]
pub(super) struct Counter {
    roles: [u64; Speaker::COUNT],
    turns: [u64; 5],
    lengths: [u64; 5],
    labels: HashMap<String, u64>,
    sources: HashMap<String, u64>,
    scripts: BTreeMap<&'static str, u64>,
    languages: BTreeMap<&'static str, u64>,
    num_rows: u64,
}

/// By [`Speaker::index`].
const ROLES: [&str; Speaker::COUNT] = ["system", "user", "assistant", "tool", "prompt", "completion"];
const TURNS: [&str; 5] = ["1", "2", "3-4", "5-8", "9+"];
const LENGTHS: [&str; 5] = ["0-9", "10-99", "100-999", "1000-9999", "10000+"];

impl Counter {
    /// Counts a row.
    pub fn row(&mut self, row: &Json<'_>, texts: &[Text<'_>]) {
        self.num_rows += 1;
        for text in texts {
            self.roles[text.speaker.index()] += 1;
        }
        self.turns[match texts.len() {
            0 | 1 => 0,
            2 => 1,
            3..=4 => 2,
            5..=8 => 3,
            _ => 4,
        }] += 1;
        let Some(answer) = texts.last() else { return };
        self.lengths[match answer.text.chars().count() {
            0..10 => 0,
            10..100 => 1,
            100..1000 => 2,
            1000..10_000 => 3,
            _ => 4,
        }] += 1;
        let label = answer.text.trim();
        let is_label = label.len() <= MAX_LABEL_CHARS * 4
            && label.chars().count() <= MAX_LABEL_CHARS
            && label.split_whitespace().count() <= MAX_LABEL_WORDS;
        if is_label {
            count(&mut self.labels, label, 1);
        }
        let metadata = row.get("metadata").and_then(|metadata| metadata.get("source"));
        if let Some(source) = row.get("source").or(metadata).and_then(Json::as_str) {
            count(&mut self.sources, source, 1);
        }
        let script = script(texts);
        *self.scripts.entry(script).or_default() += 1;
        if script == "Latin" {
            *self.languages.entry(language(texts)).or_default() += 1;
        }
    }

    /// Adds the counts of other rows.
    pub fn append(&mut self, other: Counter) {
        let Counter { roles, turns, lengths, labels, sources, scripts, languages, num_rows } = other;
        let add = |to: &mut [u64], from: &[u64]| to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        add(&mut self.roles, &roles);
        add(&mut self.turns, &turns);
        add(&mut self.lengths, &lengths);
        labels.into_iter().for_each(|(name, rows)| count(&mut self.labels, &name, rows));
        sources.into_iter().for_each(|(name, rows)| count(&mut self.sources, &name, rows));
        scripts.into_iter().for_each(|(name, rows)| *self.scripts.entry(name).or_default() += rows);
        languages.into_iter().for_each(|(name, rows)| *self.languages.entry(name).or_default() += rows);
        self.num_rows += num_rows;
    }

    /// The counts as they are reported.
    pub fn balance(&self, num_duplicates: u64) -> Balance {
        let named = |names: &[&str], counts: &[u64]| {
            let pairs = names.iter().zip(counts).filter(|(_, count)| **count > 0);
            pairs.map(|(name, count)| (name.to_string(), *count)).collect()
        };
        let owned = |counts: &BTreeMap<&'static str, u64>| {
            counts.iter().map(|(name, count)| (name.to_string(), *count)).collect()
        };
        Balance {
            roles: named(&ROLES, &self.roles),
            turns: named(&TURNS, &self.turns),
            labels: most_frequent(&self.labels),
            scripts: owned(&self.scripts),
            languages: owned(&self.languages),
            sources: most_frequent(&self.sources),
            answer_chars: named(&LENGTHS, &self.lengths),
            num_duplicates,
        }
    }

    /// What is out of balance.
    pub fn problems(&self, settings: &ContentSettings) -> Vec<RowProblem> {
        let mut problems = Vec::new();
        let num_labelled: u64 = self.labels.values().sum();
        let top = self.labels.iter().max_by_key(|(name, rows)| (**rows, std::cmp::Reverse(name.as_str())));
        if let Some((label, rows)) = top
            && self.num_rows >= MIN_ROWS
            && num_labelled * 2 > self.num_rows
            && *rows as f64 > settings.max_label_share * num_labelled as f64
        {
            let message = format!("{rows} of {num_labelled} short answers are {label:?}");
            let hint = "a model learns to answer that whatever is asked: add rows with other answers";
            problems.push(RowProblem::warning("labels_unbalanced", message, hint));
        }
        problems
    }

    /// What differs from earlier files.
    pub fn shifts(&self, earlier: &Counter, settings: &ContentSettings) -> Vec<RowProblem> {
        if self.num_rows < MIN_ROWS || earlier.num_rows < MIN_ROWS {
            return Vec::new();
        }
        let (own, other) = (self.balance(0), earlier.balance(0));
        let [own_labels, other_labels] = [self, earlier].map(Counter::classes_of_answers);
        let (own_sources, other_sources) = (classes(&self.sources), classes(&earlier.sources));
        let kinds = [
            ("labels", &own_labels, &other_labels),
            ("sources", &own_sources, &other_sources),
            ("roles", &own.roles, &other.roles),
            ("scripts", &own.scripts, &other.scripts),
            ("languages", &own.languages, &other.languages),
            ("lengths of answers", &own.answer_chars, &other.answer_chars),
            ("numbers of messages", &own.turns, &other.turns),
        ];
        let shift = |(what, own, other): (&str, &BTreeMap<String, u64>, &BTreeMap<String, u64>)| {
            let (distance, name) = distance(own, other)?;
            (distance > settings.max_shift).then(|| {
                let message = format!(
                    "the {what} differ from those of earlier files (distance {distance:.2} of 1), most in {name:?}: {} against {}",
                    share(own, &name),
                    share(other, &name)
                );
                RowProblem::warning("balance_shift", message, "make sure that the change is meant")
            })
        };
        kinds.into_iter().filter_map(shift).collect()
    }

    /// The labels, where most answers are labels.
    fn classes_of_answers(&self) -> BTreeMap<String, u64> {
        let num_labelled: u64 = self.labels.values().sum();
        if num_labelled * 2 > self.num_rows { classes(&self.labels) } else { BTreeMap::new() }
    }
}

/// The names, where they are few. Of many different ones, two draws of the same data differ too.
fn classes(counts: &HashMap<String, u64>) -> BTreeMap<String, u64> {
    if counts.len() <= MAX_LISTED { most_frequent(counts) } else { BTreeMap::new() }
}

/// Half the sum of the differences of shares, and where the difference is greatest.
fn distance(own: &BTreeMap<String, u64>, other: &BTreeMap<String, u64>) -> Option<(f64, String)> {
    let part = |counts: &BTreeMap<String, u64>, name: &str| {
        let total: u64 = counts.values().sum();
        counts.get(name).copied().unwrap_or(0) as f64 / total.max(1) as f64
    };
    if own.is_empty() || other.is_empty() {
        return None;
    }
    let names = own.keys().chain(other.keys().filter(|name| !own.contains_key(*name)));
    let differences: Vec<(f64, &String)> =
        names.map(|name| ((part(own, name) - part(other, name)).abs(), name)).collect();
    let (_, name) = differences.iter().max_by(|a, b| a.0.total_cmp(&b.0))?;
    Some((differences.iter().map(|(difference, _)| difference).sum::<f64>() / 2.0, name.to_string()))
}

fn share(counts: &BTreeMap<String, u64>, name: &str) -> String {
    let total: u64 = counts.values().sum();
    format!("{:.1} %", 100.0 * counts.get(name).copied().unwrap_or(0) as f64 / total.max(1) as f64)
}

fn count(counts: &mut HashMap<String, u64>, name: &str, rows: u64) {
    let name = name.char_indices().nth(MAX_NAME_CHARS).map_or(name, |(end, _)| &name[..end]);
    if let Some(count) = counts.get_mut(name) {
        *count += rows;
    } else if counts.len() < MAX_NAMES {
        counts.insert(name.to_string(), rows);
    } else {
        *counts.entry("other".to_string()).or_default() += rows;
    }
}

fn most_frequent(counts: &HashMap<String, u64>) -> BTreeMap<String, u64> {
    let mut sorted: Vec<(&String, &u64)> = counts.iter().collect();
    sorted.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    sorted.into_iter().take(MAX_LISTED).map(|(name, rows)| (name.clone(), *rows)).collect()
}

/// The script of most letters.
fn script(texts: &[Text<'_>]) -> &'static str {
    const NAMES: [&str; 11] =
        ["Latin", "Cyrillic", "Greek", "Hebrew", "Arabic", "Devanagari", "Thai", "Kana", "Hangul", "Han", "other"];
    let mut counts = [0u32; NAMES.len()];
    for text in texts {
        for c in text.text.chars().filter(|c| c.is_alphabetic()).take(MAX_LETTERS) {
            counts[match c as u32 {
                0x00..=0x24f | 0x1e00..=0x1eff => 0,
                0x400..=0x52f => 1,
                0x370..=0x3ff | 0x1f00..=0x1fff => 2,
                0x590..=0x5ff => 3,
                0x600..=0x77f | 0xfb50..=0xfdff | 0xfe70..=0xfeff => 4,
                0x900..=0x97f => 5,
                0xe00..=0xe7f => 6,
                0x3040..=0x30ff => 7,
                0x1100..=0x11ff | 0xac00..=0xd7af => 8,
                0x3400..=0x4dbf | 0x4e00..=0x9fff | 0x20000..=0x3ffff => 9,
                _ => 10,
            }] += 1;
        }
    }
    // Japanese is written with both: kana tell it from Chinese.
    if counts[7] > 0 && counts[9] > 0 {
        counts[7] += counts[9];
    }
    let most = counts.iter().enumerate().max_by_key(|(i, count)| (**count, std::cmp::Reverse(*i)));
    most.filter(|(_, count)| **count > 0).map_or("none", |(i, _)| NAMES[i])
}

fn language(texts: &[Text<'_>]) -> &'static str {
    let mut counts = [0u32; LANGUAGES.len()];
    for text in texts {
        let head = text.text.char_indices().nth(MAX_LETTERS).map_or(text.text, |(at, _)| &text.text[..at]);
        for word in head.split(|c: char| !c.is_alphanumeric()).filter(|word| (1..=6).contains(&word.len())) {
            for (count, (_, words)) in counts.iter_mut().zip(&LANGUAGES) {
                *count += u32::from(words.iter().any(|known| known.eq_ignore_ascii_case(word)));
            }
        }
    }
    let best = *counts.iter().max().unwrap_or(&0);
    let mut winners = counts.iter().zip(&LANGUAGES).filter(|(count, _)| **count == best);
    match (best, winners.next(), winners.next()) {
        (2.., Some((_, (name, _))), None) => name,
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests;
