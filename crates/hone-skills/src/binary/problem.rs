//! Problems: operations, how numbers are written, results, and the numbering of all problems of a range.

/// The digit zero.
pub(super) const ZERO: char = '⓪';
/// The digit one.
pub(super) const ONE: char = '①';

/// What is done with the operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Add,
    Subtract,
    Multiply,
    And,
    Or,
    Xor,
    Not,
    LeftShift,
    RightShift,
    ToBinary,
    ToDecimal,
}

impl Operation {
    pub(super) const ALL: [Operation; 11] = [
        Operation::Add,
        Operation::Subtract,
        Operation::Multiply,
        Operation::And,
        Operation::Or,
        Operation::Xor,
        Operation::Not,
        Operation::LeftShift,
        Operation::RightShift,
        Operation::ToBinary,
        Operation::ToDecimal,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Operation::Add => "add",
            Operation::Subtract => "subtract",
            Operation::Multiply => "multiply",
            Operation::And => "and",
            Operation::Or => "or",
            Operation::Xor => "xor",
            Operation::Not => "not",
            Operation::LeftShift => "leftshift",
            Operation::RightShift => "rightshift",
            Operation::ToBinary => "tobinary",
            Operation::ToDecimal => "todecimal",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Operation> {
        Operation::ALL.into_iter().find(|operation| operation.name() == name)
    }

    pub(super) fn num_operands(self) -> usize {
        match self {
            Operation::Not | Operation::ToBinary | Operation::ToDecimal => 1,
            _ => 2,
        }
    }

    pub(super) fn operand_notation(self) -> Notation {
        if self == Operation::ToBinary { Notation::Decimal } else { Notation::Binary }
    }

    pub(super) fn result_notation(self) -> Notation {
        if self == Operation::ToDecimal { Notation::Decimal } else { Notation::Binary }
    }

    /// True where the result keeps the operands' width.
    fn keeps_width(self) -> bool {
        matches!(self, Operation::And | Operation::Or | Operation::Xor | Operation::Not)
    }
}

/// How a number is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notation {
    /// ⓪ and ①.
    Binary,
    /// 0 to 9.
    Decimal,
}

impl Notation {
    /// The number without leading zeros.
    pub(super) fn write(self, number: u64) -> String {
        match self {
            Notation::Binary => write_bits(number, bit_width(number)),
            Notation::Decimal => number.to_string(),
        }
    }

    /// The value of digits, leading zeros accepted; none when `text` is empty, holds anything else, or is too large.
    pub(super) fn read(self, text: &str) -> Option<u64> {
        let (base, digit_of): (u64, fn(char) -> Option<u64>) = match self {
            Notation::Binary => (2, |digit| match digit {
                ZERO => Some(0),
                ONE => Some(1),
                _ => None,
            }),
            Notation::Decimal => (10, |digit| digit.is_ascii_digit().then(|| u64::from(digit) - u64::from('0'))),
        };
        if text.is_empty() {
            return None;
        }
        text.chars().try_fold(0_u64, |value, digit| value.checked_mul(base)?.checked_add(digit_of(digit)?))
    }

    /// True when `text` is one or more digits, of whatever value.
    pub(super) fn accepts(self, text: &str) -> bool {
        let is_digit = |digit: char| match self {
            Notation::Binary => digit == ZERO || digit == ONE,
            Notation::Decimal => digit.is_ascii_digit(),
        };
        !text.is_empty() && text.chars().all(is_digit)
    }
}

/// An operation with its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) operation: Operation,
    pub(super) a: u64,
    /// 0 for operations of one operand.
    pub(super) b: u64,
}

impl Problem {
    /// Reads what [`Problem::text`] writes, and nothing else.
    pub(super) fn parse(text: &str) -> Option<Problem> {
        let mut words = text.split(' ');
        let operation = Operation::from_name(words.next()?)?;
        let notation = operation.operand_notation();
        let a = notation.read(words.next()?)?;
        let b = if operation.num_operands() == 2 { notation.read(words.next()?)? } else { 0 };
        let problem = Problem { operation, a, b };
        (problem.text() == text).then_some(problem)
    }

    /// The operands as written.
    pub(super) fn operands(&self) -> Vec<String> {
        let notation = self.operation.operand_notation();
        [self.a, self.b][..self.operation.num_operands()].iter().map(|&number| notation.write(number)).collect()
    }

    /// Prefix form without the result: `add ①⓪ ①①`.
    pub(super) fn text(&self) -> String {
        format!("{} {}", self.operation.name(), self.operands().join(" "))
    }

    /// The result as it must be written.
    pub(super) fn answer(&self) -> String {
        if self.operation.keeps_width() {
            return write_bits(self.result(), self.width());
        }
        self.operation.result_notation().write(self.result())
    }

    /// The result's value.
    pub(super) fn result(&self) -> u64 {
        let Problem { operation, a, b } = *self;
        match operation {
            Operation::Add => a + b,
            Operation::Subtract => a - b,
            Operation::Multiply => a * b,
            Operation::And => a & b,
            Operation::Or => a | b,
            Operation::Xor => a ^ b,
            Operation::Not => !a & ((1 << self.width()) - 1),
            Operation::LeftShift => a << b,
            Operation::RightShift => a >> b,
            Operation::ToBinary | Operation::ToDecimal => a,
        }
    }

    /// Binary digits of the wider operand.
    fn width(&self) -> u32 {
        bit_width(self.a).max(bit_width(self.b))
    }
}

/// Largest shift amount.
const MAX_SHIFT: u64 = 4;

/// The operands of a level. Problems of one operation are numbered from 0 without gaps.
pub(super) struct Range {
    pub(super) low: u64,
    pub(super) high: u64,
}

impl Range {
    pub(super) const fn new(low: u64, high: u64) -> Range {
        Range { low, high }
    }

    fn len(&self) -> u64 {
        self.high - self.low + 1
    }

    /// How many problems an operation has here.
    pub(super) fn num_problems(&self, operation: Operation) -> u64 {
        let len = self.len();
        match operation {
            Operation::Subtract => len * (len + 1) / 2,
            Operation::LeftShift | Operation::RightShift => len * MAX_SHIFT,
            _ if operation.num_operands() == 1 => len,
            _ => len * len,
        }
    }

    /// Problem number `index` of an operation; `index` is below [`Range::num_problems`].
    pub(super) fn problem(&self, operation: Operation, index: u64) -> Problem {
        let (a, b) = match operation {
            Operation::Subtract => {
                // Row r holds the r + 1 problems of operand low + r, after r (r + 1) / 2 earlier ones.
                let row = ((8 * index + 1).isqrt() - 1) / 2;
                (self.low + row, self.low + index - row * (row + 1) / 2)
            }
            Operation::LeftShift | Operation::RightShift => (self.low + index / MAX_SHIFT, 1 + index % MAX_SHIFT),
            _ if operation.num_operands() == 1 => (self.low + index, 0),
            _ => (self.low + index / self.len(), self.low + index % self.len()),
        };
        Problem { operation, a, b }
    }

    /// True when a problem is one of those numbered here.
    pub(super) fn contains(&self, problem: &Problem) -> bool {
        let operands = self.low..=self.high;
        let b_fits = match problem.operation {
            Operation::Subtract => operands.contains(&problem.b) && problem.b <= problem.a,
            Operation::LeftShift | Operation::RightShift => (1..=MAX_SHIFT).contains(&problem.b),
            operation if operation.num_operands() == 1 => problem.b == 0,
            _ => operands.contains(&problem.b),
        };
        operands.contains(&problem.a) && b_fits
    }
}

fn bit_width(number: u64) -> u32 {
    number.checked_ilog2().map_or(1, |log| log + 1)
}

fn write_bits(number: u64, width: u32) -> String {
    (0..width).rev().map(|bit| if number >> bit & 1 == 1 { ONE } else { ZERO }).collect()
}
