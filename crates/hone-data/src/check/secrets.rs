//! Secrets and personal data: keys, tokens, passwords in URLs, mail addresses, card and phone numbers. Pure.
//!
//! Evidence is masked: a report must not carry what it warns of.

use hone_pipeline::spec::RowProblem;

/// How secrets begin, what they are, and how many key characters follow at least.
const PREFIXES: [(&str, &str, usize); 14] = [
    ("-----BEGIN RSA PRIVATE KEY", "a private key", 0),
    ("-----BEGIN PRIVATE KEY", "a private key", 0),
    ("-----BEGIN OPENSSH PRIVATE KEY", "a private key", 0),
    ("-----BEGIN EC PRIVATE KEY", "a private key", 0),
    ("AKIA", "an AWS key id", 16),
    ("ASIA", "an AWS key id", 16),
    ("ghp_", "a GitHub token", 30),
    ("github_pat_", "a GitHub token", 30),
    ("glpat-", "a GitLab token", 18),
    ("xoxb-", "a Slack token", 20),
    ("sk-", "an API key", 32),
    ("AIza", "a Google API key", 35),
    ("hf_", "a Hugging Face token", 30),
    ("eyJ", "a JSON web token", 60),
];

/// Hosts that stand in examples everywhere.
const EXAMPLE_HOSTS: [&str; 5] = ["example.com", "example.org", "example.net", "test.com", "domain.com"];

/// Problems of one text, each with its masked evidence.
pub(super) fn problems(text: &str, problems: &mut Vec<(RowProblem, Option<String>)>) {
    if let Some((what, evidence)) = secret(text) {
        let message = format!("a text holds what looks like {what}");
        let hint = "take it out and revoke it: a model may repeat it to anyone";
        problems.push((RowProblem::warning("secret", message, hint), Some(evidence)));
    }
    if let Some((what, evidence)) = personal(text) {
        let message = format!("a text holds what looks like {what}");
        let hint = "replace it with a made-up one, or take the row out";
        problems.push((RowProblem::warning("personal_data", message, hint), Some(evidence)));
    }
}

fn secret(text: &str) -> Option<(&'static str, String)> {
    let bytes = text.as_bytes();
    let mut at = 0;
    // Each prefix begins with a hyphen, A, g, x, s, h or e behind something that is no word.
    while at < bytes.len() {
        let boundary = at == 0 || !bytes[at - 1].is_ascii_alphanumeric();
        if boundary && matches!(bytes[at], b'-' | b'A' | b'g' | b'x' | b's' | b'h' | b'e') {
            for (prefix, what, min_len) in PREFIXES {
                let Some(rest) = bytes[at..].strip_prefix(prefix.as_bytes()) else { continue };
                let len = rest.iter().take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')).count();
                if len >= min_len && (min_len == 0 || is_varied(&rest[..len])) {
                    return Some((what, format!("{prefix}…")));
                }
            }
        }
        at += 1;
    }
    None
}

/// A key has letters and digits mixed; `sk-learn-…` has not.
fn is_varied(key: &[u8]) -> bool {
    key.iter().any(u8::is_ascii_digit) && key.iter().any(u8::is_ascii_alphabetic)
}

fn personal(text: &str) -> Option<(&'static str, String)> {
    mail_address(text).or_else(|| number(text))
}

fn mail_address(text: &str) -> Option<(&'static str, String)> {
    let bytes = text.as_bytes();
    for at in memchr::memchr_iter(b'@', bytes) {
        let is_name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'+');
        let name_len = bytes[..at].iter().rev().take_while(|b| is_name(b)).count();
        let host_len =
            bytes[at + 1..].iter().take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-')).count();
        let host = text[at + 1..at + 1 + host_len].trim_end_matches(['.', '-']).to_ascii_lowercase();
        let Some((domain, top)) = host.rsplit_once('.') else { continue };
        let is_host = top.len() >= 2 && top.bytes().all(|b| b.is_ascii_alphabetic()) && !domain.is_empty();
        let is_example = EXAMPLE_HOSTS.iter().any(|known| host == *known || host.ends_with(&format!(".{known}")));
        if name_len > 0 && is_host && !is_example {
            return Some(("a mail address", format!("…@{host}")));
        }
    }
    None
}

/// A card number (13 to 19 digits whose checksum is right) or a phone number with its country code.
fn number(text: &str) -> Option<(&'static str, String)> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        let before = at.checked_sub(1).map(|i| bytes[i]);
        let mut digits: Vec<u8> = Vec::new();
        let (mut end, mut separators) = (at, 0);
        while end < bytes.len() && digits.len() <= 20 {
            match bytes[end] {
                b if b.is_ascii_digit() => digits.push(b - b'0'),
                b' ' | b'-' if bytes.get(end + 1).is_some_and(u8::is_ascii_digit) => separators += 1,
                _ => break,
            }
            end += 1;
        }
        let after = bytes.get(end).copied();
        let inside_word =
            |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'/'));
        let first = digits[0];
        let is_card = (13..=19).contains(&digits.len())
            && (3..=6).contains(&first)
            && (separators == 0 || separators >= 3)
            && separators <= 4
            && checksum_holds(&digits);
        if is_card && !inside_word(before) && !after.is_some_and(|b| b.is_ascii_alphanumeric()) {
            return Some(("a card number", format!("{first}… ({} digits)", digits.len())));
        }
        if before == Some(b'+') && (9..=15).contains(&digits.len()) && first != 0 && separators > 0 {
            return Some(("a phone number", format!("+{first}… ({} digits)", digits.len())));
        }
        at = end.max(at + 1);
    }
    None
}

/// The checksum of card numbers (Luhn): every second digit from the right doubled.
fn checksum_holds(digits: &[u8]) -> bool {
    let mut sum = 0u32;
    for (i, digit) in digits.iter().rev().enumerate() {
        let doubled = u32::from(*digit) * if i % 2 == 1 { 2 } else { 1 };
        sum += doubled / 10 + doubled % 10;
    }
    sum.is_multiple_of(10) && digits.iter().any(|digit| *digit != digits[0])
}

#[cfg(test)]
mod tests;
