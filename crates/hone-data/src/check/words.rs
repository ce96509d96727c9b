//! A text as the hashes of its words: what is left when case, punctuation and line breaks do not count; the signs between
//! the numbers of a formula are kept beside them. Pure.
//!
//! A word is a run of letters and digits, lower case. In scripts that write without spaces (Han, kana, Thai, Lao,
//! Khmer, Burmese) each character is a word.

/// Words of one text or several.
#[derive(Clone, Debug, Default)]
pub(super) struct Words {
    /// Hash of each word.
    pub hashes: Vec<u32>,
    /// Bytes of the text that each came from.
    pub spans: Vec<(u32, u32)>,
    /// Hashes of the words that hold a digit.
    pub numbers: Vec<u32>,
    /// Signs between two operands (words with a digit, single letters): hash of the two, and the sign.
    pub operators: Vec<(u32, char)>,
}

const SEED: u32 = 0x811c_9dc5;
const PRIME: u32 = 0x0100_0193;

/// Lower case of an ASCII letter or digit, 0 for anything else.
const LOWER: [u8; 128] = {
    let mut table = [0; 128];
    let mut byte = 0;
    while byte < 128 {
        let b = byte as u8;
        if b.is_ascii_alphanumeric() {
            table[byte] = b.to_ascii_lowercase();
        }
        byte += 1;
    }
    table
};

impl Words {
    /// Words of a text.
    pub fn of(text: &str) -> Words {
        let mut words = Words::default();
        words.add(text);
        words.operators = operators(text, &words);
        words
    }

    /// Adds the words of a text.
    fn add(&mut self, text: &str) {
        let bytes = text.as_bytes();
        let mut word = Word::default();
        let mut at = 0;
        while at < bytes.len() {
            let byte = bytes[at];
            if byte < 128 {
                match LOWER[usize::from(byte)] {
                    0 => self.end(&mut word, at),
                    lower => word.push(at, u32::from(lower), lower.is_ascii_digit()),
                }
                at += 1;
                continue;
            }
            let c = text[at..].chars().next().expect("a character begins here");
            if !c.is_alphanumeric() && !is_mark(c) {
                self.end(&mut word, at);
            } else if stands_alone(c) {
                self.end(&mut word, at);
                word.push(at, c as u32, false);
                self.end(&mut word, at + c.len_utf8());
            } else {
                let is_digit = c.is_numeric();
                c.to_lowercase().for_each(|lower| word.push(at, lower as u32, is_digit));
            }
            at += c.len_utf8();
        }
        self.end(&mut word, bytes.len());
    }

    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Hash of the words in their order, with the signs between them. Strokes are not counted: they are signs only with spaces
    /// around them, and spaces make no other text.
    pub fn hash(&self) -> u64 {
        let hash = hash_in_order(&self.hashes);
        let surely = self.operators.iter().filter(|(_, sign)| !matches!(sign, '-' | '/'));
        let signs: Vec<u32> = surely.map(|(operands, sign)| mix(operands ^ u32::from(*sign))).collect();
        if signs.is_empty() {
            return hash;
        }
        hash ^ hash_in_order(&signs).rotate_left(23)
    }

    fn end(&mut self, word: &mut Word, at: usize) {
        if let Some(start) = word.start.take() {
            let hash = mix(word.hash);
            self.hashes.push(hash);
            self.spans.push((start as u32, at as u32));
            if word.has_digit {
                self.numbers.push(hash);
            }
        }
    }
}

/// A word under way.
#[derive(Default)]
struct Word {
    start: Option<usize>,
    hash: u32,
    has_digit: bool,
}

impl Word {
    fn push(&mut self, at: usize, unit: u32, is_digit: bool) {
        if self.start.is_none() {
            *self = Word { start: Some(at), hash: SEED, has_digit: false };
        }
        self.hash = (self.hash ^ unit).wrapping_mul(PRIME);
        self.has_digit |= is_digit;
    }
}

/// Combining accents and vowel signs belong to the word around them.
fn is_mark(c: char) -> bool {
    matches!(c as u32, 0x300..=0x36f | 0x591..=0x5c7 | 0x610..=0x61a | 0x64b..=0x65f | 0x900..=0x903 | 0x93a..=0x94f | 0x200c..=0x200d)
}

fn stands_alone(c: char) -> bool {
    matches!(c as u32, 0x0e00..=0x0eff | 0x1000..=0x109f | 0x1780..=0x17ff | 0x3040..=0x30ff | 0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xf900..=0xfaff | 0x20000..=0x3ffff)
}

fn operators(text: &str, words: &Words) -> Vec<(u32, char)> {
    let mut operators = Vec::new();
    for (spans, hashes) in words.spans.windows(2).zip(words.hashes.windows(2)) {
        let gap = &text[spans[0].1 as usize..spans[1].0 as usize];
        let Some(sign) = Some(gap).filter(|gap| *gap != " ").and_then(sign) else { continue };
        let [left, right] = [spans[0], spans[1]].map(|(start, end)| &text.as_bytes()[start as usize..end as usize]);
        let has_digit = |word: &[u8]| word.iter().any(u8::is_ascii_digit);
        let is_operand = |word: &[u8]| has_digit(word) || sign != '-' && word.len() == 1;
        if is_operand(left) && is_operand(right) {
            operators.push((mix(hashes[0].rotate_left(13) ^ hashes[1]), sign));
        }
    }
    operators
}

/// The sign of a formula between two words, if it is surely one: strokes without spaces stand in dates, two asterisks
/// are bold type, and marks at the beginning of a line are those of a list.
fn sign(gap: &str) -> Option<char> {
    if gap.contains('\n') {
        return None;
    }
    let is_spaced = gap.contains(' ');
    gap.split("**").flat_map(str::chars).find_map(|c| match c {
        '+' | '*' | '=' | '<' | '>' | '^' => Some(c),
        '×' => Some('*'),
        '/' | '÷' if is_spaced => Some('/'),
        '-' | '−' | '–' if is_spaced => Some('-'),
        _ => None,
    })
}

/// Spreads the bits of a hash (the finalizer of MurmurHash3).
pub(super) fn mix(mut hash: u32) -> u32 {
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85eb_ca6b);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

/// Hash of some words in their order.
pub(super) fn hash_in_order(words: &[u32]) -> u64 {
    words.iter().fold(words.len() as u64 ^ 0x9e37_79b9_7f4a_7c15, |hash, word| {
        let hash = (hash ^ u64::from(*word)).wrapping_mul(0x9fb2_1c65_1e98_df25);
        hash ^ (hash >> 32)
    })
}

/// Hash of some words in any order.
pub(super) fn hash_in_any_order(words: &[u32]) -> u64 {
    words.iter().fold(0, |sum, word| sum.wrapping_add(spread(*word)))
}

/// A word's share in [`hash_in_any_order`].
pub(super) fn spread(word: u32) -> u64 {
    let hash = (u64::from(word) ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0x9fb2_1c65_1e98_df25);
    (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// An excerpt of a text around some bytes, printable, with its end marked when it was cut.
pub(super) fn excerpt(text: &str, span: (u32, u32)) -> String {
    const MAX_CHARS: usize = 80;
    let part = text.get(span.0 as usize..span.1 as usize).unwrap_or(text);
    let mut short: String = part.chars().take(MAX_CHARS).flat_map(char::escape_debug).collect();
    if part.chars().nth(MAX_CHARS).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests;
