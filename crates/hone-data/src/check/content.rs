//! The quick content check of one row: empty texts and control characters. Pure.

use hone_pipeline::spec::{Extra, RowProblem, Text};

/// Problems of a row's texts and of what stands beside them, each with its evidence.
pub(super) fn problems(texts: &[Text<'_>], extras: &[Extra]) -> Vec<(RowProblem, Option<String>)> {
    let mut problems = Vec::new();
    for text in texts {
        if !text.may_be_empty && text.text.trim().is_empty() {
            let message = format!("{} is empty", place(text));
            problems.push((RowProblem::error("content_empty", message, "write its text, or take the row out"), None));
        }
        problems.extend(first_control(text.text).map(|c| (control(c, &place(text)), None)));
    }
    for Extra { message, key, text } in extras {
        let place = || format!("{key:?} of message {message}");
        problems.extend(first_control(text).map(|c| (control(c, &place()), None)));
    }
    problems
}

fn control(c: char, place: &str) -> RowProblem {
    let message = format!("{place} holds the control character U+{:04X}", c as u32);
    // NUL is never text; the others come with copied terminals and PDF files.
    match c {
        '\0' => RowProblem::error("control_nul", message, "take NUL characters out"),
        _ => RowProblem::warning("control_character", message, "take it out unless it is meant"),
    }
}

fn place(text: &Text<'_>) -> String {
    match text.message {
        0 => format!("the column {:?}", text.key),
        number => format!("{:?} of message {number}", text.key),
    }
}

/// NUL if there is one, else the first control character other than tab, line feed and carriage return.
pub(super) fn first_control(text: &str) -> Option<char> {
    if !may_hold_control(text.as_bytes()) {
        return None;
    }
    if text.contains('\0') {
        return Some('\0');
    }
    text.chars().find(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r'))
}

/// All control characters are a byte below 0x20, 0x7f, or 0xc2 and a byte below 0xa0: rare, so look once, at whole
/// blocks without a branch per byte.
fn may_hold_control(bytes: &[u8]) -> bool {
    let is_suspect = |b: u8| (b < 0x20) & (b != b'\t') & (b != b'\n') & (b != b'\r') | (b == 0x7f) | (b == 0xc2);
    bytes.chunks(256).any(|block| block.iter().fold(0u8, |any, b| any | u8::from(is_suspect(*b))) != 0)
}
