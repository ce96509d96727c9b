//! A fast way to the same ids: pieces are cut by hand ([`super::split`]) and the ids of each piece are remembered.
//!
//! It stands beside the library's own way and is used only where it is known to do the same: a byte-level BPE whose
//! expression is known, whose added tokens are plain, and whose normalizer leaves the text as it is. The ids of a
//! piece that is seen first come from the library's own model. A few probes are compared when a tokenizer is read;
//! one that differs switches this off.

use super::Encoded;
use super::split::Splitter;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use tokenizers::Model as _;

/// Pieces that one thread remembers; when there are more it begins anew.
const MAX_REMEMBERED: usize = 1 << 17;
/// Longer pieces are not remembered.
const MAX_PIECE_BYTES: usize = 128;

/// What is needed beside the library's tokenizer.
pub(super) struct Fast {
    /// Names this tokenizer in the memory of threads.
    name: u64,
    splitter: Splitter,
    /// True where the text must be in Unicode's normal form C already.
    needs_nfc: bool,
    /// Added tokens by their first byte, the longest first; those that are found first, then the others.
    added: [Vec<(String, u32)>; 2],
    /// Character that stands for each byte in the vocabulary.
    alphabet: [char; 256],
    /// Bytes of each token of the vocabulary.
    token_bytes: Vec<u32>,
}

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

#[derive(Default)]
struct Memory {
    tokenizer: u64,
    pieces: HashMap<Box<str>, (u32, u32), BuildHasherDefault<PieceHasher>>,
    ids: Vec<u32>,
}

impl Fast {
    /// `None` where the file asks for something that is not done here.
    pub fn of(file: &Value, tokenizer: &tokenizers::Tokenizer) -> Option<Fast> {
        static NAMES: AtomicU64 = AtomicU64::new(1);
        let needs_nfc = match &file["normalizer"] {
            Value::Null => false,
            normalizer if normalizer["type"] == "NFC" => true,
            _ => return None,
        };
        let mut added = [Vec::new(), Vec::new()];
        for (id, token) in tokenizer.get_added_tokens_decoder() {
            if token.single_word || token.lstrip || token.rstrip || (needs_nfc && !is_nfc(&token.content)) {
                return None;
            }
            if !token.content.is_empty() {
                added[usize::from(token.normalized)].push((token.content, id));
            }
        }
        added.iter_mut().for_each(|tokens| tokens.sort_by_key(|(text, _)| std::cmp::Reverse(text.len())));
        let alphabet = alphabet();
        let is_added = |token: &str| added.iter().flatten().any(|(text, _)| text == token);
        let mut token_bytes = vec![0; tokenizer.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1)];
        for (token, id) in tokenizer.get_vocab(false) {
            let is_plain = token.chars().all(|c| alphabet.contains(&c));
            if !is_plain && !is_added(&token) {
                return None;
            }
            token_bytes[id as usize] = token.chars().count() as u32;
        }
        let splitter = splitter(&file["pre_tokenizer"])?;
        is_plain_bpe(&file["model"]).then_some(())?;
        let name = NAMES.fetch_add(1, Ordering::Relaxed);
        let fast = Fast { name, splitter, needs_nfc, added, alphabet, token_bytes };
        fast.agrees(tokenizer).then_some(fast)
    }

    /// Ids and their bytes; `None` where the text is not one that is handled here.
    pub fn encode(&self, tokenizer: &tokenizers::Tokenizer, text: &str, spans: bool) -> Option<Encoded> {
        if self.needs_nfc && !is_nfc(text) {
            return None;
        }
        let mut encoded = Encoded { ids: Vec::with_capacity(text.len() / 3), spans: Vec::new() };
        MEMORY.with_borrow_mut(|memory| {
            if memory.tokenizer != self.name || memory.pieces.len() >= MAX_REMEMBERED {
                *memory = Memory { tokenizer: self.name, ..Memory::default() };
            }
            let mut call = Call { fast: self, tokenizer, text, spans, memory, encoded: &mut encoded, failed: false };
            call.segment(0, text.len(), 0);
            (!call.failed).then_some(())
        })?;
        Some(encoded)
    }

    fn agrees(&self, tokenizer: &tokenizers::Tokenizer) -> bool {
        const PROBES: [&str; 8] = [
            "",
            " Hello, world!  It's 2024;\tdon't you'LL?\r\n\r\n x \n",
            "naïve Grüße 猫が好き 12345 ①⓪ ½ مرحبا \u{a0}\u{2003}x  ",
            "a.b_c-d(e)[f]{g}\\h/i 3.14e-10 #$%&*+=<>?@^`|~",
            "'s 's'S 'ſ''re 'RE x'lly",
            "🙂👍🏽 é\u{200d}👨‍👩‍👧",
            "  leading\n   indented\n\n\ttab   ",
            "<|im_start|>user\n<|endoftext|><s></s>",
        ];
        PROBES.iter().all(|probe| {
            let Some(own) = self.encode(tokenizer, probe, true) else { return true };
            let theirs = tokenizer.encode(*probe, false);
            theirs.is_ok_and(|theirs| theirs.get_ids() == own.ids && theirs.get_offsets() == own.spans)
        })
    }

    /// The first added token of a kind in a text: where, how long, its id.
    fn find_added(&self, text: &str, kind: usize) -> Option<(usize, usize, u32)> {
        let tokens = &self.added[kind];
        if tokens.is_empty() {
            return None;
        }
        let bytes = text.as_bytes();
        let begins = |byte: u8| tokens.iter().any(|(token, _)| token.as_bytes()[0] == byte);
        let one = tokens[0].0.as_bytes()[0];
        let all_begin_alike = tokens.iter().all(|(token, _)| token.as_bytes()[0] == one);
        let mut at = 0;
        while at < bytes.len() {
            at += match all_begin_alike {
                true => memchr::memchr(one, &bytes[at..])?,
                false => bytes[at..].iter().position(|byte| begins(*byte))?,
            };
            let found = tokens.iter().find(|(token, _)| bytes[at..].starts_with(token.as_bytes()));
            if let Some((token, id)) = found {
                return Some((at, token.len(), *id));
            }
            at += 1;
        }
        None
    }
}

/// One text on its way.
struct Call<'a> {
    fast: &'a Fast,
    tokenizer: &'a tokenizers::Tokenizer,
    text: &'a str,
    spans: bool,
    memory: &'a mut Memory,
    encoded: &'a mut Encoded,
    failed: bool,
}

impl Call<'_> {
    /// Cuts added tokens of one kind out, then those of the next, then pieces.
    fn segment(&mut self, start: usize, end: usize, kind: usize) {
        let Some(_) = self.fast.added.get(kind) else { return self.pieces(start, end) };
        let mut from = start;
        while let Some((at, len, id)) = self.fast.find_added(&self.text[from..end], kind) {
            self.segment(from, from + at, kind + 1);
            self.encoded.ids.push(id);
            if self.spans {
                self.encoded.spans.push((from + at, from + at + len));
            }
            from += at + len;
        }
        self.segment(from, end, kind + 1);
    }

    fn pieces(&mut self, start: usize, end: usize) {
        if start < end {
            let (splitter, part) = (self.fast.splitter, &self.text[start..end]);
            splitter.split(part, &mut |from, to| self.piece(start + from, start + to));
        }
    }

    fn piece(&mut self, start: usize, end: usize) {
        let piece = &self.text[start..end];
        let first = self.encoded.ids.len();
        if let Some((from, len)) = self.memory.pieces.get(piece) {
            let from = *from as usize;
            self.encoded.ids.extend_from_slice(&self.memory.ids[from..from + *len as usize]);
        } else {
            self.new_piece(piece);
        }
        if self.spans {
            let mut at = start;
            for i in first..self.encoded.ids.len() {
                let len = self.fast.token_bytes[self.encoded.ids[i] as usize] as usize;
                let to = (at + len).min(end);
                self.encoded.spans.push((floor(self.text, at), ceil(self.text, to)));
                at = to;
            }
        }
    }

    /// Asks the library's model, and remembers.
    fn new_piece(&mut self, piece: &str) {
        let mapped: String = piece.bytes().map(|byte| self.fast.alphabet[usize::from(byte)]).collect();
        let Ok(tokens) = self.tokenizer.get_model().tokenize(&mapped) else {
            self.failed = true;
            return;
        };
        let ids = tokens.iter().map(|token| token.id);
        self.encoded.ids.extend(ids.clone());
        if piece.len() <= MAX_PIECE_BYTES {
            let from = self.memory.ids.len() as u32;
            self.memory.ids.extend(ids);
            self.memory.pieces.insert(piece.into(), (from, tokens.len() as u32));
        }
    }
}

/// The beginning of the character that a byte belongs to.
fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The end of the character that the byte before belongs to.
fn ceil(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at += 1;
    }
    at
}

fn splitter(pre_tokenizer: &Value) -> Option<Splitter> {
    let byte_level = |value: &Value, use_regex: bool| {
        value["type"] == "ByteLevel"
            && value["add_prefix_space"] == false
            && value["use_regex"].as_bool().unwrap_or(true) == use_regex
    };
    if byte_level(pre_tokenizer, true) {
        return Some(Splitter::Gpt2 { digits: false });
    }
    let [first, second] =
        pre_tokenizer["pretokenizers"].as_array().filter(|_| pre_tokenizer["type"] == "Sequence")?.as_slice()
    else {
        return None;
    };
    match first["type"].as_str()? {
        "Digits" if first["individual_digits"] == true && byte_level(second, true) => {
            Some(Splitter::Gpt2 { digits: true })
        }
        "Split" if first["behavior"] == "Isolated" && first["invert"] == false && byte_level(second, false) => {
            Splitter::of_expression(first["pattern"]["Regex"].as_str()?)
        }
        _ => None,
    }
}

fn is_plain_bpe(model: &Value) -> bool {
    let is_none = |key: &str| matches!(&model[key], Value::Null) || model[key] == "";
    model["type"].as_str().is_none_or(|kind| kind == "BPE")
        && is_none("dropout")
        && is_none("unk_token")
        && is_none("continuing_subword_prefix")
        && is_none("end_of_word_suffix")
        && model["byte_fallback"].as_bool() != Some(true)
}

/// True for a text that is in normal form C for sure: no combining marks, and no character that has another form.
fn is_nfc(text: &str) -> bool {
    text.is_ascii()
        || text.chars().all(|c| {
            matches!(c as u32,
                0..=0x2ff | 0x400..=0x482 | 0x48a..=0x52f | 0x5d0..=0x5ea | 0x2010..=0x2027 | 0x2030..=0x205e
                | 0x20ac | 0x2190..=0x2199 | 0x2460..=0x24ff | 0x2500..=0x27bf | 0x3000..=0x3029 | 0x3041..=0x3096 | 0x30a1..=0x30fc
                | 0x4e00..=0x9fff | 0xac00..=0xd7a3 | 0xfe0f | 0xff01..=0xff60 | 0x1f300..=0x1faff)
        })
}

/// The characters that stand for bytes in byte-level vocabularies: printable ones for themselves, the others from
/// U+0100 on, in order.
fn alphabet() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| {
        let stands_for_itself = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let code = if stands_for_itself { byte as u32 } else { next };
        next += u32::from(!stands_for_itself);
        char::from_u32(code).expect("a character below U+0200")
    })
}

/// A quick hash of short texts (as in the compiler of Rust: rotate, add, multiply).
#[derive(Default)]
struct PieceHasher(u64);

impl Hasher for PieceHasher {
    fn write(&mut self, bytes: &[u8]) {
        let mut add = |word: u64| self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        let mut chunks = bytes.chunks_exact(8);
        chunks.by_ref().for_each(|chunk| add(u64::from_le_bytes(chunk.try_into().expect("eight bytes"))));
        let rest = chunks.remainder();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        add(u64::from_le_bytes(last) ^ (bytes.len() as u64) << 56);
    }

    fn write_u8(&mut self, _: u8) {}

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }
}

#[cfg(test)]
mod tests;
