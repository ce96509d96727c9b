//! Worked steps: what a person would write down before the answer.
//!
//! Arithmetic goes by way of decimal numbers, bitwise operations digit by digit, shifts by their rule. No step has the
//! form of an answer, so the checker never takes one for it.

use super::problem::{Notation, Operation, Problem, ZERO};

/// The steps of a problem, one a line, without the answer.
pub(super) fn worked(problem: &Problem) -> String {
    let Problem { operation, a, b } = *problem;
    let lines = match operation {
        Operation::Add => arithmetic(problem, "+"),
        Operation::Subtract => arithmetic(problem, "-"),
        Operation::Multiply => arithmetic(problem, "*"),
        Operation::And | Operation::Or | Operation::Xor => {
            let operands = problem.operands();
            let width = operands.iter().map(|text| text.chars().count()).max().unwrap_or_default();
            let padded = operands.iter().map(|text| {
                let missing = width - text.chars().count();
                format!("{}{text}", ZERO.to_string().repeat(missing))
            });
            let mut lines: Vec<String> = padded.collect();
            lines.push(format!("{} {}", rule(operation), problem.answer()));
            lines
        }
        Operation::Not => vec![format!("{}, each digit flipped: {}", problem.operands()[0], problem.answer())],
        Operation::LeftShift => vec![format!("{b} zeros more: {}{}", binary(a), ZERO.to_string().repeat(b as usize))],
        Operation::RightShift => vec![format!("{b} digits less: {}", problem.answer())],
        Operation::ToBinary | Operation::ToDecimal => vec![powers(a)],
    };
    lines.join("\n")
}

/// `①⓪ is 2, ①① is 3`, `2 + 3 is 5`, `5 is 4 + 1`.
fn arithmetic(problem: &Problem, sign: &str) -> Vec<String> {
    let Problem { a, b, .. } = *problem;
    let result = problem.result();
    vec![format!("{} is {a}, {} is {b}", binary(a), binary(b)), format!("{a} {sign} {b} is {result}"), powers(result)]
}

/// `13 is 8 + 4 + 1`.
fn powers(number: u64) -> String {
    let parts: Vec<String> = (0..u64::BITS)
        .rev()
        .map(|bit| 1_u64 << bit)
        .filter(|power| number & power != 0)
        .map(|power| power.to_string())
        .collect();
    let sum = if parts.is_empty() { "0".to_string() } else { parts.join(" + ") };
    format!("{number} is {sum}")
}

fn rule(operation: Operation) -> &'static str {
    match operation {
        Operation::And => "one where both are one:",
        Operation::Or => "one where any is one:",
        _ => "one where they differ:",
    }
}

fn binary(number: u64) -> String {
    Notation::Binary.write(number)
}
