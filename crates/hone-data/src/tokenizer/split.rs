//! The two expressions by which byte-level tokenizers cut a text into pieces, by hand: the same pieces as the regular
//! expression, many times faster. Pure.

use std::sync::LazyLock;

/// A known expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Splitter {
    /// That of GPT-2; with `digits`, every digit was cut out before (SmolLM2).
    Gpt2 {
        /// Whether each digit is a piece of its own.
        digits: bool,
    },
    /// That of GPT-4 and its followers, with numbers of at most so many digits (Qwen: 1, Llama 3: 3).
    Gpt4 {
        /// Longest number.
        max_digits: usize,
    },
}

const GPT4_HEAD: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}";
const GPT4_TAIL: &str = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl Splitter {
    /// The splitter that does what an expression of GPT-4's kind says; `None` for any other expression.
    pub fn of_expression(expression: &str) -> Option<Splitter> {
        let digits = expression.strip_prefix(GPT4_HEAD)?.strip_suffix(GPT4_TAIL)?;
        let max_digits = match digits {
            "" => 1,
            "{1,2}" => 2,
            "{1,3}" => 3,
            _ => return None,
        };
        Some(Splitter::Gpt4 { max_digits })
    }

    /// Calls `piece` with the bytes of every piece of a text, in order.
    pub fn split(self, text: &str, piece: &mut dyn FnMut(usize, usize)) {
        match self {
            Splitter::Gpt2 { digits: false } => split_by(text, 0, text.len(), &gpt2, piece),
            Splitter::Gpt2 { digits: true } => {
                let mut start = 0;
                for (at, c) in text.char_indices().filter(|(_, c)| c.is_numeric()) {
                    split_by(text, start, at, &gpt2, piece);
                    start = at + c.len_utf8();
                    piece(at, start);
                }
                split_by(text, start, text.len(), &gpt2, piece);
            }
            Splitter::Gpt4 { max_digits } => {
                split_by(text, 0, text.len(), &|rest| gpt4(rest, max_digits), piece);
            }
        }
    }
}

/// Cuts a part of a text; `next` gives the length of the first piece of what is left.
fn split_by(text: &str, start: usize, end: usize, next: &dyn Fn(&str) -> usize, piece: &mut dyn FnMut(usize, usize)) {
    let mut at = start;
    while at < end {
        let len = next(&text[at..end]);
        piece(at, at + len);
        at += len;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Class {
    Other,
    Letter,
    Number,
    Space,
}

/// The class of every character, as the regular expressions see it.
static CLASSES: LazyLock<Vec<Class>> = LazyLock::new(|| {
    let mut classes = vec![Class::Other; 0x11_0000];
    for (expression, class) in [(r"\p{L}", Class::Letter), (r"\p{N}", Class::Number), (r"\s", Class::Space)] {
        let parsed = regex_syntax::parse(expression).expect("the expression is right");
        let regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(ranges)) = parsed.into_kind() else {
            unreachable!("a class of characters");
        };
        for range in ranges.iter() {
            classes[range.start() as usize..=range.end() as usize].fill(class);
        }
    }
    classes
});

/// The first character of a text with its class.
fn first(text: &str) -> Option<(char, Class)> {
    let c = text.chars().next()?;
    Some((c, CLASSES[c as usize]))
}

/// Bytes of the run of a class at the beginning of a text.
fn run(text: &str, class: Class) -> usize {
    let classes = &*CLASSES;
    text.char_indices().find(|(_, c)| classes[*c as usize] != class).map_or(text.len(), |(at, _)| at)
}

/// `\s+(?!\S)|\s+`: white space without its last character where something follows.
fn white_space(text: &str) -> usize {
    let len = run(text, Class::Space);
    if len == text.len() {
        return len;
    }
    let last = text[..len].chars().next_back().map_or(0, char::len_utf8);
    if len > last { len - last } else { len }
}

fn contraction(text: &str, ignore_case: bool) -> Option<usize> {
    let rest = text.strip_prefix('\'')?;
    let lower = |c: char| match c {
        // The long s is an s when case does not count.
        'ſ' if ignore_case => 's',
        c if ignore_case => c.to_ascii_lowercase(),
        c => c,
    };
    let mut chars = rest.chars();
    let (a, b) = (chars.next(), chars.next());
    match (a.map(lower)?, b.map(lower)) {
        ('s' | 't' | 'm' | 'd', _) => Some(1 + a?.len_utf8()),
        ('r' | 'v', Some('e')) | ('l', Some('l')) => Some(3),
        _ => None,
    }
}

/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
fn gpt2(text: &str) -> usize {
    if let Some(len) = contraction(text, false) {
        return len;
    }
    let space = usize::from(text.starts_with(' '));
    match first(&text[space..]) {
        Some((_, class)) if class != Class::Space => space + run(&text[space..], class),
        _ => white_space(text),
    }
}

/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,max}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
fn gpt4(text: &str, max_digits: usize) -> usize {
    if let Some(len) = contraction(text, true) {
        return len;
    }
    let Some((c, class)) = first(text) else { return 0 };
    match class {
        Class::Letter => return run(text, Class::Letter),
        Class::Number => {
            let digits = text.char_indices().take(max_digits);
            let classes = &*CLASSES;
            return digits
                .take_while(|(_, c)| classes[*c as usize] == Class::Number)
                .last()
                .map_or(0, |(at, c)| at + c.len_utf8());
        }
        Class::Other | Class::Space => {}
    }
    let after = c.len_utf8();
    if !matches!(c, '\r' | '\n') && matches!(first(&text[after..]), Some((_, Class::Letter))) {
        return after + run(&text[after..], Class::Letter);
    }
    let space = usize::from(c == ' ');
    if matches!(first(&text[space..]), Some((_, Class::Other))) {
        let len = space + run(&text[space..], Class::Other);
        let breaks = text[len..].bytes().take_while(|b| matches!(b, b'\r' | b'\n')).count();
        return len + breaks;
    }
    let spaces = run(text, Class::Space);
    match text[..spaces].rfind(['\r', '\n']) {
        Some(last_break) => last_break + 1,
        None => white_space(text),
    }
}
