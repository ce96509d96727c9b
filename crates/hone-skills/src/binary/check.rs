//! The checker: reads an answer from a response and holds it against the problem.
//!
//! An answer is a *statement* `op A B = R` anywhere in a line, or, when the response has no `op A B =`, its last line
//! consisting of `R` or `= R` alone. The last statement of the response counts, also when its R cannot be read. Letter case of the operation, spacing,
//! Markdown marks and closing punctuation do not matter; the digits do: they must be ⓪ and ①.

use super::problem::{Notation, ONE, Operation, Problem, ZERO};
use crate::{MAX_RESPONSE_BYTES, VerifyResult};

pub(super) fn verify(problem: &Problem, response: &str) -> VerifyResult {
    if response.len() > MAX_RESPONSE_BYTES {
        return unparsable(format!("the answer is longer than {MAX_RESPONSE_BYTES} bytes"));
    }
    let lines: Vec<Vec<String>> = response.lines().map(words).filter(|words| !words.is_empty()).collect();
    if let Some(statement) = lines.iter().flat_map(|line| statements(line)).last() {
        return judge_statement(problem, &statement);
    }
    let notation = problem.operation.result_notation();
    let last_line = lines.last().map_or(&[][..], Vec::as_slice);
    let bare = last_line.strip_prefix(&["=".to_string()][..]).unwrap_or(last_line);
    match bare {
        [result] if notation.accepts(result) => judge_result(problem, result),
        _ => unparsable(format!("no answer of the form `{} = …` found", problem.text())),
    }
}

/// `op A B =` as it stands in a response, with what follows.
struct Statement<'a> {
    operation: Operation,
    operands: &'a [String],
    /// R; none when what follows is no single number.
    result: Option<&'a str>,
}

/// All statements of a line, in order.
fn statements(line: &[String]) -> impl Iterator<Item = Statement<'_>> {
    (0..line.len()).filter_map(|start| statement_at(&line[start..]))
}

fn statement_at(words: &[String]) -> Option<Statement<'_>> {
    let operation = Operation::from_name(&words.first()?.to_lowercase())?;
    let (operands, rest) = words[1..].split_at_checked(operation.num_operands())?;
    let (equals, after) = rest.split_first()?;
    if equals != "=" || !operands.iter().all(|operand| operation.operand_notation().accepts(operand)) {
        return None;
    }
    let result = match after {
        [_, next, ..] if next == "=" || looks_like_number(next) => None,
        [result, ..] if operation.result_notation().accepts(result) => Some(result.as_str()),
        _ => None,
    };
    Some(Statement { operation, operands, result })
}

fn judge_statement(problem: &Problem, statement: &Statement) -> VerifyResult {
    let Statement { operation, operands, result } = statement;
    let read = format!("{} {}", operation.name(), operands.join(" "));
    let Some(result) = result else {
        return unparsable(format!("`{read} =` is not followed by one number"));
    };
    if *operation != problem.operation || **operands != problem.operands() {
        return wrong(format!("it answers `{read}`, asked was `{}`", problem.text()));
    }
    judge_result(problem, result)
}

fn judge_result(problem: &Problem, result: &str) -> VerifyResult {
    let expected = problem.answer();
    if result == expected {
        return VerifyResult { solved: true, score: 1.0, parsed: true, reason: "right".to_string() };
    }
    let value = problem.operation.result_notation().read(result);
    if value == Some(problem.result()) {
        return wrong(format!("the value is right, but it must be written {expected}, not {result}"));
    }
    wrong(format!("expected {expected}, read {result}"))
}

/// The words of a line with `=` as a word of its own and marks around words removed.
fn words(line: &str) -> Vec<String> {
    const MARKS: &[char] = &['*', '_', '`', '"', '\'', '(', ')', '[', ']', '$', '.', ',', ';', ':', '!'];
    line.replace('=', " = ")
        .split_whitespace()
        .map(|word| word.trim_matches(MARKS).to_string())
        .filter(|word| !word.is_empty())
        .collect()
}

fn looks_like_number(word: &str) -> bool {
    word.contains([ZERO, ONE]) || Notation::Decimal.accepts(word)
}

fn wrong(reason: String) -> VerifyResult {
    VerifyResult { solved: false, score: 0.0, parsed: true, reason }
}

fn unparsable(reason: String) -> VerifyResult {
    VerifyResult { solved: false, score: 0.0, parsed: false, reason }
}
