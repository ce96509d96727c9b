//! Rows that are surely without a problem at `quick`, told in one pass over their bytes: nothing is built for them.
//!
//! A plain row is an object with nothing but its list of messages; each message has a known role, a text that holds no
//! control character and is not blank where it must not be, and nothing else; the order of roles is right. Whatever is
//! not plain, also for good reasons, goes the way that names its problems.

use hone_pipeline::spec::{Conversation, Mapping, Role, Spec};

/// Whether a row is plain. True promises that every check of `quick` finds nothing.
pub(super) fn is_plain(spec: &Spec, text: &str) -> bool {
    let Mapping::Conversation(conversation) = &spec.mapping else { return false };
    spec.rule.is_none() && Scan { text, at: 0 }.row(conversation).is_some()
}

/// How far the row was read. Every part is `None` where it is not plain.
struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    fn row(&mut self, conversation: &Conversation) -> Option<()> {
        self.take(b'{')?;
        (self.word()? == conversation.messages).then_some(())?;
        self.take(b':')?;
        self.take(b'[')?;
        self.messages(conversation)?;
        self.take(b'}')?;
        self.next().is_none().then_some(())
    }

    fn messages(&mut self, conversation: &Conversation) -> Option<()> {
        let (mut last, mut has_user) = (None, false);
        loop {
            let role = self.message(conversation)?;
            if role == Role::System && last.is_some() {
                return None;
            }
            has_user |= role == Role::User;
            last = Some(role);
            if !self.goes_on(b']')? {
                return (has_user && role == Role::Assistant).then_some(());
            }
        }
    }

    /// Gives its role.
    fn message(&mut self, conversation: &Conversation) -> Option<Role> {
        let (mut role, mut is_blank) = (None, None);
        self.take(b'{')?;
        loop {
            let key = self.word()?;
            self.take(b':')?;
            if key == conversation.role && role.is_none() {
                let name = self.word()?;
                let (_, known) = conversation.roles.iter().find(|(known, _)| *known == name)?;
                role = Some(*known);
            } else if key == conversation.content && is_blank.is_none() {
                is_blank = Some(self.content()?);
            } else {
                return None;
            }
            if !self.goes_on(b'}')? {
                break;
            }
        }
        let role = role?;
        (!is_blank? || matches!(role, Role::System | Role::Tool)).then_some(role)
    }

    /// The next byte that is no white space, not taken yet.
    fn next(&mut self) -> Option<u8> {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count();
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then(|| self.at += 1)
    }

    /// After an element: whether another one follows, or its list ends with `end`.
    fn goes_on(&mut self, end: u8) -> Option<bool> {
        let byte = self.next()?;
        self.at += 1;
        (byte == b',' || byte == end).then_some(byte == b',')
    }

    /// A name: a string without escapes.
    fn word(&mut self) -> Option<&'a str> {
        self.take(b'"')?;
        let rest = &self.text[self.at..];
        let end = rest.bytes().position(|byte| byte == b'"' || byte == b'\\')?;
        self.at += end + 1;
        (rest.as_bytes()[end] == b'"').then_some(&rest[..end])
    }

    /// A string; gives whether it is blank.
    fn content(&mut self) -> Option<bool> {
        self.take(b'"')?;
        let start = self.at;
        let bytes = self.text.as_bytes();
        loop {
            self.at = next_special(bytes, self.at)?;
            match bytes[self.at] {
                b'"' => break,
                b'\\' => self.escape()?,
                0xc2 if bytes[self.at + 1] >= 0xa0 => self.at += 2,
                _ => return None,
            }
        }
        self.at += 1;
        Some(self.is_blank(start, self.at - 1))
    }

    /// Whether a string between two quotes is blank; the first character nearly always tells.
    fn is_blank(&self, start: usize, end: usize) -> bool {
        let first = self.text[start..end].chars().next();
        let is_seen = first.is_some_and(|c| c != '\\' && !c.is_whitespace());
        let whole = || serde_json::from_str::<String>(&self.text[start - 1..=end]);
        first.is_none() || !is_seen && whole().is_ok_and(|text| text.trim().is_empty())
    }

    /// Takes an escape that is no control character but those that texts have.
    fn escape(&mut self) -> Option<()> {
        match self.text.as_bytes().get(self.at + 1)? {
            b'n' | b'"' | b'\\' | b't' | b'r' | b'/' => self.at += 2,
            b'u' => {
                let mut unit = self.unit()?;
                if matches!(unit, 0xd800..=0xdbff) {
                    let low = self.unit().filter(|low| matches!(low, 0xdc00..=0xdfff))?;
                    unit = 0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                }
                let c = char::from_u32(unit)?;
                (!c.is_control() || matches!(c, '\t' | '\n' | '\r')).then_some(())?;
            }
            _ => return None,
        }
        Some(())
    }

    /// Takes `\uXXXX`.
    fn unit(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..)?.strip_prefix("\\u")?.get(..4)?;
        self.at += 6;
        digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
    }
}

/// The next byte that means something in a text: the end, an escape, or what a control character begins with. Eight
/// bytes are looked at together.
fn next_special(bytes: &[u8], mut at: usize) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    // The high bit of each byte below `limit`. A byte above such a one may be marked falsely, so only the lowest counts.
    let below = |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word & HIGH;
    let equal = |word: u64, byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        let word = u64::from_le_bytes(*chunk);
        let found = below(word, 0x20) | equal(word, b'"') | equal(word, b'\\') | equal(word, 0x7f) | equal(word, 0xc2);
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    let is_special = |byte: &u8| matches!(byte, 0..0x20 | b'"' | b'\\' | 0x7f | 0xc2);
    bytes.get(at..)?.iter().position(is_special).map(|len| at + len)
}

#[cfg(test)]
mod tests;
