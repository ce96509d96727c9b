//! The word bank: common English words with their syllables and a short definition, written for this project.
//!
//! `words.txt` has one word a line, `word<TAB>syl-la-bles<TAB>definition`, in alphabetical order. Words and
//! definitions occur once; the syllables joined are the word; a definition does not hold its word. The syllables were
//! held against a pronouncing dictionary and hyphenation patterns.

use std::collections::HashMap;
use std::sync::LazyLock;

/// The file as it ships.
pub(super) const TEXT: &str = include_str!("words.txt");

/// An entry of the bank.
#[derive(Debug)]
pub(super) struct Word {
    pub text: &'static str,
    pub syllables: Vec<&'static str>,
    pub definition: &'static str,
    /// Indices of other entries whose definition holds this word, or that this definition holds.
    pub given_away: Vec<usize>,
}

/// All words, in the order of the file.
pub(super) static BANK: LazyLock<Vec<Word>> = LazyLock::new(|| {
    let mut bank: Vec<Word> = TEXT.lines().map(|line| read_line(line).expect("a test reads every line")).collect();
    let index_of: HashMap<&str, usize> = bank.iter().enumerate().map(|(index, word)| (word.text, index)).collect();
    for index in 0..bank.len() {
        let held = |token: &str| index_of.get(token).copied();
        let others: Vec<usize> = tokens(bank[index].definition).filter_map(held).collect();
        for other in others {
            bank[index].given_away.push(other);
            bank[other].given_away.push(index);
        }
    }
    bank
});

/// One line of the file; none when it has not three columns.
pub(super) fn read_line(line: &'static str) -> Option<Word> {
    let mut columns = line.split('\t');
    let (text, syllables, definition) = (columns.next()?, columns.next()?, columns.next()?);
    let word = Word { text, syllables: syllables.split('-').collect(), definition, given_away: Vec::new() };
    columns.next().is_none().then_some(word)
}

/// The words of a definition.
pub(super) fn tokens(definition: &str) -> impl Iterator<Item = &str> {
    definition.split(|c: char| !c.is_ascii_alphabetic()).filter(|token| !token.is_empty())
}
