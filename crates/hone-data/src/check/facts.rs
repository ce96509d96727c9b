//! What is remembered of every row until all rows are known: fixed small records, so that a million rows fit into
//! some hundred megabytes.

use super::balance::Counter;
use super::near::{self, Keys, NearDuplicate};
use super::overlap::{Hit, MIN_WORDS, RowWords};
use super::words::{Words, hash_in_order};
use hone_pipeline::content::ContentSettings;
use hone_pipeline::finding::{Finding, MAX_FINDING_LINES, Severity, TokenStats};
use hone_pipeline::spec::{Extra, Role, RowProblem, Speaker, Text};

/// Findings of comparisons show so many examples.
const MAX_EXAMPLES: usize = 5;

/// What rows leave behind.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Tokens of each counted row.
    pub lengths: Vec<u32>,
    /// Hash of what each row says, and its line.
    pub rows: Vec<(u64, u64)>,
    /// Hash of the prompt, hash of the answer, line; where both have words.
    pub answers: Vec<(u64, u64, u64)>,
    pub keys: Vec<Keys>,
    pub overlaps: Vec<Hit>,
    /// Rows of this file that earlier files hold: line, file, line there.
    pub earlier: Vec<(u64, u32, u64)>,
    pub num_leaks: u64,
    pub balance: Counter,
}

impl Facts {
    /// Adds what later rows left.
    pub fn append(&mut self, mut later: Facts) {
        self.lengths.append(&mut later.lengths);
        self.rows.append(&mut later.rows);
        self.answers.append(&mut later.answers);
        self.keys.append(&mut later.keys);
        self.overlaps.append(&mut later.overlaps);
        self.earlier.append(&mut later.earlier);
        self.num_leaks += later.num_leaks;
        self.balance.append(later.balance);
    }

    /// Quantiles and shares; sorts the lengths.
    pub fn finish_stats(&mut self, stats: &mut TokenStats) {
        self.lengths.sort_unstable();
        let lengths = &self.lengths;
        // The smallest length that at least that share of rows does not exceed (nearest rank).
        let at = |share: f64| {
            let rank = (share * lengths.len() as f64).ceil() as usize;
            lengths.get(rank.saturating_sub(1)).map_or(0, |length| u64::from(*length))
        };
        stats.min_row_tokens = lengths.first().map_or(0, |length| u64::from(*length));
        (stats.median_row_tokens, stats.p95_row_tokens, stats.p99_row_tokens) = (at(0.5), at(0.95), at(0.99));
        stats.overlong_share = stats.num_overlong_rows as f64 / lengths.len().max(1) as f64;
        stats.trained_share = stats.num_trained_tokens as f64 / stats.num_tokens.max(1) as f64;
    }
}

/// Name of what a row says: its texts and who says them, and what stands beside them; case and spaces count.
pub(super) fn identity(texts: &[Text<'_>], extras: &[Extra]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for text in texts {
        let speaker = text.speaker.index() as u8;
        hasher.update(&[speaker]).update(&(text.text.len() as u64).to_le_bytes()).update(text.text.as_bytes());
    }
    for Extra { message, key, text } in extras {
        hasher.update(key.as_bytes()).update(&(*message as u64).to_le_bytes());
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    u64::from_le_bytes(*hasher.finalize().as_bytes().first_chunk().expect("a hash has 32 bytes"))
}

/// Name of what a row says, system messages left out; case, spaces and the marks of sentences do not count, other symbols
/// do: in `3 + 4 = ?` they are all that tells one problem from the next.
fn with_symbols(texts: &[Text<'_>], extras: &[Extra]) -> u64 {
    const CALLS: u8 = Speaker::COUNT as u8;
    let mut hasher = blake3::Hasher::new();
    let mut add = |speaker: u8, text: &str| {
        let counts = |c: &char| !c.is_whitespace() && !".,;:!?'\"()".contains(*c);
        let kept: String = text.chars().filter(counts).flat_map(char::to_lowercase).collect();
        hasher.update(&[speaker]).update(&(kept.len() as u64).to_le_bytes()).update(kept.as_bytes());
    };
    for text in texts.iter().filter(|text| text.speaker != Speaker::Role(Role::System)) {
        add(text.speaker.index() as u8, text.text);
    }
    extras.iter().filter(|extra| extra.is_calls()).for_each(|extra| add(CALLS, &extra.text));
    u64::from_le_bytes(*hasher.finalize().as_bytes().first_chunk().expect("a hash has 32 bytes"))
}

/// True for what the model learns to say.
pub(super) fn is_answer(text: &Text<'_>) -> bool {
    matches!(text.speaker, Speaker::Role(Role::Assistant) | Speaker::Completion)
}

/// True for what a person asks.
pub(super) fn is_prompt(text: &Text<'_>) -> bool {
    matches!(text.speaker, Speaker::Role(Role::User) | Speaker::Prompt)
}

/// Number by which evidence names a text, another one for each text of a row: that of its message; of columns 0 for the
/// system message, which may stand beside messages, and 1, 2, … for the others.
pub(super) fn number_of(index: usize, text: &Text<'_>) -> u32 {
    match (text.message, text.speaker) {
        (0, Speaker::Role(Role::System)) => 0,
        (0, _) => index as u32 + 1,
        (message, _) => message as u32,
    }
}

/// The words of a row, those of system messages and of what stands beside texts apart.
pub(super) fn row_words(texts: &[Text<'_>], extras: &[Extra]) -> RowWords {
    let mut row = RowWords::default();
    let last = texts.len().saturating_sub(1);
    let mut prompt: u64 = 0;
    for (index, text) in texts.iter().enumerate() {
        if text.speaker == Speaker::Role(Role::System) {
            let words = Words::of(text.text);
            row.system = hash_in_order(&words.hashes);
            row.system_texts.push((number_of(index, text), words));
            continue;
        }
        let words = Words::of(text.text);
        let hash = words.hash();
        if index == last && is_answer(text) {
            (row.answer, row.num_answer_words) = (hash, words.len());
        } else {
            prompt = prompt.rotate_left(9) ^ hash;
        }
        row.texts.push((number_of(index, text), words));
    }
    for extra in extras {
        let words = Words::of(&extra.text);
        // Several ways of reasoning lead from one question to one answer.
        if extra.is_calls() {
            let hash = words.hash();
            match texts.last() {
                Some(last) if last.message == extra.message && is_answer(last) => {
                    row.answer = row.answer.rotate_left(9) ^ hash;
                }
                _ => prompt = prompt.rotate_left(9) ^ hash,
            }
        }
        row.extras.push(words);
    }
    row.prompt = prompt;
    if row.texts.iter().all(|(_, words)| words.len() < MIN_WORDS) {
        row.with_symbols = Some(with_symbols(texts, extras));
    }
    row
}

/// Rows that say exactly what an earlier row says. Sorts `rows`.
pub(super) fn duplicates(rows: &mut [(u64, u64)]) -> Vec<(u64, u64)> {
    rows.sort_unstable();
    let mut found = Vec::new();
    for group in rows.chunk_by(|a, b| a.0 == b.0) {
        found.extend(group[1..].iter().map(|(_, line)| (*line, group[0].1)));
    }
    found.sort_unstable();
    found
}

/// Rows whose prompt has another answer in an earlier row. Sorts `answers`.
pub(super) fn contradictions(answers: &mut [(u64, u64, u64)]) -> Vec<(u64, u64)> {
    answers.sort_unstable_by_key(|(prompt, _, line)| (*prompt, *line));
    let mut found = Vec::new();
    for group in answers.chunk_by(|a, b| a.0 == b.0) {
        let (_, first_answer, first_line) = group[0];
        found.extend(
            group[1..].iter().filter(|(_, answer, _)| *answer != first_answer).map(|(_, _, line)| (*line, first_line)),
        );
    }
    found.sort_unstable();
    found
}

/// A finding about rows that are like others: `lines` in order, `examples` for its evidence.
pub(super) fn comparison(
    problem: RowProblem,
    lines: &[u64],
    examples: impl Iterator<Item = String>,
) -> Option<Finding> {
    let RowProblem { code, severity, message, hint } = problem;
    let examples: Vec<String> = examples.take(MAX_EXAMPLES).collect();
    (!lines.is_empty()).then(|| Finding {
        code: code.to_string(),
        severity,
        count: lines.len() as u64,
        lines: lines.iter().copied().take(MAX_FINDING_LINES).collect(),
        message,
        hint,
        evidence: (!examples.is_empty()).then(|| examples.join("; ")),
    })
}

/// A warning, or an error above a share.
pub(super) fn severity_by_share(count: usize, num_rows: u64, max_share: f64) -> Severity {
    if count as f64 > max_share * num_rows.max(1) as f64 { Severity::Error } else { Severity::Warning }
}

/// Exact duplicates as a finding.
pub(super) fn duplicate_finding(found: &[(u64, u64)], num_rows: u64, settings: &ContentSettings) -> Option<Finding> {
    let lines: Vec<u64> = found.iter().map(|(line, _)| *line).collect();
    let share = 100.0 * found.len() as f64 / num_rows.max(1) as f64;
    let problem = RowProblem {
        code: "row_duplicate",
        severity: severity_by_share(found.len(), num_rows, settings.max_duplicate_share),
        message: format!("{} rows ({share:.1} %) say exactly what an earlier row says", found.len()),
        hint: "take them out, unless these rows shall weigh more".to_string(),
    };
    comparison(problem, &lines, found.iter().map(|(line, of)| format!("line {line} is line {of}")))
}

/// Confirmed near-duplicates as a finding.
pub(super) fn near_finding(found: &[NearDuplicate], not_compared: u64, settings: &ContentSettings) -> Option<Finding> {
    let lines: Vec<u64> = found.iter().map(|near| near.line).collect();
    let rest = match not_compared {
        0 => String::new(),
        some => format!("; {some} pairs were not compared for lack of memory"),
    };
    let message = format!(
        "{} rows are near-duplicates of an earlier row (similarity at least {}){rest}",
        found.len(),
        settings.near_duplicate_similarity
    );
    let problem = RowProblem::warning("row_near_duplicate", message, "keep one of each, unless all are meant");
    let example = |near: &NearDuplicate| {
        let NearDuplicate { line, of, similarity, excerpts: (own, other) } = near;
        format!("line {line}: \"{own}\" is like line {of}: \"{other}\" (similarity {similarity:.2})")
    };
    comparison(problem, &lines, found.iter().map(example))
}

/// Contradicting answers as a finding.
pub(super) fn contradiction_finding(found: &[(u64, u64)]) -> Option<Finding> {
    let lines: Vec<u64> = found.iter().map(|(line, _)| *line).collect();
    let message = format!("{} rows answer the prompt of an earlier row differently", found.len());
    let hint = "keep the right answer, unless several are right";
    let problem = RowProblem::warning("answer_contradicts", message, hint);
    comparison(problem, &lines, found.iter().map(|(line, of)| format!("line {line} and line {of}")))
}

/// The keys of a row for near-duplicates, from its words.
pub(super) fn near_keys(line: u64, row: &RowWords) -> Option<Keys> {
    let all = all_words(row);
    let answer = match row.texts.last() {
        Some((_, words)) if row.num_answer_words > 0 => &words.hashes[..],
        _ => &[],
    };
    near::keys(line, &all, answer)
}

/// All words of a row as one text.
pub(super) fn all_words(row: &RowWords) -> Words {
    let mut all = Words::default();
    for words in row.texts.iter().map(|(_, words)| words).chain(&row.extras) {
        all.hashes.extend(&words.hashes);
        all.numbers.extend(&words.numbers);
    }
    all
}
