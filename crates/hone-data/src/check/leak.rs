//! Answers that can be read off their own prompt. Pure.
//!
//! An answer leaks when all its words stand together in the prompt, in any order, or when half of its runs of 13
//! words do. What is no leak: an answer that is short, or only a number; an option of a list that the prompt offers.

use super::words::{Words, hash_in_any_order, hash_in_order, spread};
use std::collections::HashSet;

/// Words of a run that is distinctive by itself.
const RUN: usize = 13;
/// Share of an answer's runs that make it leaked.
const LEAKED_SHARE: f64 = 0.5;
/// Fewer words can be read off many prompts.
const MIN_WORDS: usize = 4;

/// The words of the prompt that are the answer. `min_chars` is the shortest answer that is looked at.
pub(super) fn find(
    prompt: &Words,
    prompt_text: &str,
    answer: &Words,
    answer_text: &str,
    min_chars: usize,
) -> Option<std::ops::Range<usize>> {
    let only_numbers = answer.numbers.len() == answer.len();
    if answer.len() < MIN_WORDS || only_numbers || answer_text.chars().take(min_chars).count() < min_chars {
        return None;
    }
    let range = whole(&prompt.hashes, &answer.hashes).or_else(|| most(&prompt.hashes, &answer.hashes))?;
    let span = (prompt.spans[range.start].0 as usize, prompt.spans[range.end - 1].1 as usize);
    (!is_option(prompt_text, span)).then_some(range)
}

/// A window of the prompt that has exactly the words of the answer; one in their order before any other.
fn whole(prompt: &[u32], answer: &[u32]) -> Option<std::ops::Range<usize>> {
    if prompt.len() < answer.len() {
        return None;
    }
    let target = hash_in_any_order(answer);
    let mut sum = hash_in_any_order(&prompt[..answer.len()]);
    let mut first = None;
    for start in 0.. {
        let window = start..start + answer.len();
        if sum == target {
            if prompt[window.clone()] == *answer {
                return Some(window);
            }
            first = first.or(Some(window.clone()));
        }
        let Some(next) = prompt.get(window.end) else { break };
        sum = sum.wrapping_sub(spread(prompt[start])).wrapping_add(spread(*next));
    }
    first
}

/// The words of the prompt in which half of the answer's runs stand.
fn most(prompt: &[u32], answer: &[u32]) -> Option<std::ops::Range<usize>> {
    if answer.len() < RUN || prompt.len() < RUN {
        return None;
    }
    let runs: HashSet<u64> = answer.windows(RUN).map(hash_in_order).collect();
    let mut found = HashSet::new();
    let (mut first, mut last) = (None, 0);
    for (at, run) in prompt.windows(RUN).enumerate() {
        let hash = hash_in_order(run);
        if runs.contains(&hash) && found.insert(hash) {
            first.get_or_insert(at);
            last = at + RUN;
        }
    }
    (found.len() as f64 >= LEAKED_SHARE * runs.len() as f64).then_some(first?..last)
}

/// True where the span is one of several items that the prompt offers: `(B) Paris`, `2. Paris`, `- Paris`.
fn is_option(prompt: &str, span: (usize, usize)) -> bool {
    let (Some(before), Some(behind)) = (prompt.get(..span.0), prompt.get(span.1..)) else { return false };
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line_end = behind.find('\n').map_or(prompt.len(), |len| span.1 + len);
    let Some(line) = prompt.get(line_start..line_end) else { return false };
    let Some(rest) = after_marker(line) else { return false };
    let rest_start = line_end - rest.len();
    let is_whole_item = span.0 <= rest_start + (rest.len() - rest.trim_start().len()) + 2
        && behind[..line_end - span.1].chars().all(|c| !c.is_alphanumeric());
    is_whole_item && prompt.lines().filter(|line| after_marker(line).is_some()).count() >= 2
}

/// What stands behind the marker of a list item.
fn after_marker(line: &str) -> Option<&str> {
    let line = line.trim_start();
    if let Some(rest) = line.strip_prefix(['-', '*', '•']) {
        return rest.starts_with(' ').then_some(rest);
    }
    let inner = line.strip_prefix('(').unwrap_or(line);
    let len = inner.find(|c: char| !c.is_ascii_alphanumeric())?;
    let rest = inner[len..].strip_prefix([')', '.', ':'])?;
    (len == 1 || (len <= 3 && inner[..len].bytes().all(|b| b.is_ascii_digit()))).then_some(rest)
}

#[cfg(test)]
mod tests;
