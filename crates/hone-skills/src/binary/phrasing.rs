//! The wordings of a problem. Short on purpose: a small model pays for every token.

use super::problem::{Operation, Problem};

/// How many wordings each operation has. A wording keeps its number for ever: it decides the split.
pub(super) const NUM_PHRASINGS: u64 = 10;

/// The question of a problem in one wording; `number` is below [`NUM_PHRASINGS`].
pub(super) fn question(problem: &Problem, number: u64) -> String {
    let operands = problem.operands();
    let template = templates(problem.operation)[number as usize];
    let text = template.replace("{a}", &operands[0]);
    operands.get(1).map_or_else(|| text.clone(), |b| text.replace("{b}", b))
}

fn templates(operation: Operation) -> &'static [&'static str; NUM_PHRASINGS as usize] {
    match operation {
        Operation::Add => &[
            "add {a} {b}",
            "add {a} {b} = ?",
            "{a} + {b} = ?",
            "Compute {a} + {b}.",
            "What is {a} + {b}?",
            "What is {a} plus {b}?",
            "Add {a} and {b}.",
            "Find {a} plus {b}.",
            "{a} plus {b} is?",
            "Sum of {a} and {b}?",
        ],
        Operation::Subtract => &[
            "subtract {a} {b}",
            "subtract {a} {b} = ?",
            "{a} - {b} = ?",
            "Compute {a} - {b}.",
            "What is {a} - {b}?",
            "What is {a} minus {b}?",
            "Start at {a}, subtract {b}.",
            "Find {a} minus {b}.",
            "{a} minus {b} is?",
            "Difference of {a} and {b}?",
        ],
        Operation::Multiply => &[
            "multiply {a} {b}",
            "multiply {a} {b} = ?",
            "{a} * {b} = ?",
            "Compute {a} * {b}.",
            "What is {a} * {b}?",
            "What is {a} times {b}?",
            "Multiply {a} by {b}.",
            "Find {a} times {b}.",
            "{a} times {b} is?",
            "Product of {a} and {b}?",
        ],
        Operation::And => &[
            "and {a} {b}",
            "and {a} {b} = ?",
            "{a} & {b} = ?",
            "Compute {a} & {b}.",
            "What is {a} & {b}?",
            "What is {a} and {b}?",
            "Bitwise and of {a} and {b}.",
            "Find {a} and {b}.",
            "{a} and {b} is?",
            "Common ones of {a} and {b}?",
        ],
        Operation::Or => &[
            "or {a} {b}",
            "or {a} {b} = ?",
            "{a} | {b} = ?",
            "Compute {a} | {b}.",
            "What is {a} | {b}?",
            "What is {a} or {b}?",
            "Bitwise or of {a} and {b}.",
            "Find {a} or {b}.",
            "{a} or {b} is?",
            "Joint ones of {a} and {b}?",
        ],
        Operation::Xor => &[
            "xor {a} {b}",
            "xor {a} {b} = ?",
            "{a} ^ {b} = ?",
            "Compute {a} ^ {b}.",
            "What is {a} ^ {b}?",
            "What is {a} xor {b}?",
            "Bitwise xor of {a} and {b}.",
            "Find {a} xor {b}.",
            "{a} xor {b} is?",
            "Unequal digits of {a} and {b}?",
        ],
        Operation::Not => &[
            "not {a}",
            "not {a} = ?",
            "~{a} = ?",
            "Compute ~{a}.",
            "What is ~{a}?",
            "What is not {a}?",
            "Invert {a}.",
            "Find not {a}.",
            "Flip each digit of {a}.",
            "Complement of {a}?",
        ],
        Operation::LeftShift => &[
            "leftshift {a} {b}",
            "leftshift {a} {b} = ?",
            "{a} << {b} = ?",
            "Compute {a} << {b}.",
            "What is {a} << {b}?",
            "What is {a} leftshift {b}?",
            "Shift {a} left by {b}.",
            "Find {a} leftshift {b}.",
            "{a} shifted left by {b} is?",
            "Left shift of {a} by {b}?",
        ],
        Operation::RightShift => &[
            "rightshift {a} {b}",
            "rightshift {a} {b} = ?",
            "{a} >> {b} = ?",
            "Compute {a} >> {b}.",
            "What is {a} >> {b}?",
            "What is {a} rightshift {b}?",
            "Shift {a} right by {b}.",
            "Find {a} rightshift {b}.",
            "{a} shifted right by {b} is?",
            "Right shift of {a} by {b}?",
        ],
        Operation::ToBinary => &[
            "tobinary {a}",
            "tobinary {a} = ?",
            "{a} in binary = ?",
            "Compute {a} in binary.",
            "What is {a} in binary?",
            "Write {a} in binary.",
            "Convert {a} to binary.",
            "Find {a} in binary.",
            "{a} in binary is?",
            "Binary form of {a}?",
        ],
        Operation::ToDecimal => &[
            "todecimal {a}",
            "todecimal {a} = ?",
            "{a} in decimal = ?",
            "Compute {a} in decimal.",
            "What is {a} in decimal?",
            "Write {a} in decimal.",
            "Convert {a} to decimal.",
            "Find {a} in decimal.",
            "{a} in decimal is?",
            "Decimal form of {a}?",
        ],
    }
}
