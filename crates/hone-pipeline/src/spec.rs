//! The schema gate: a registry of row formats, deny by default. Pure.
//!
//! An entry of the registry is data: which columns a row has, and how it becomes an example. Adding one is
//! a file below `spec/` and a line in [`REGISTRY`]. A file whose rows do not have the shape of its schema
//! is refused, never reinterpreted.

mod alpaca_v1;
mod chat_sft_v1;
mod completion_v1;
mod conversation;
pub mod json;
mod nearest;
mod sharegpt_v1;
mod syllo_v1;
mod texts;

pub use conversation::{Conversation, Role};
pub use texts::{Extra, Speaker, Text};

use crate::finding::Severity;
use json::Json;
use serde_json::Value;

/// All formats, in the order of the documentation.
static REGISTRY: [&Spec; 5] =
    [&chat_sft_v1::SPEC, &syllo_v1::SPEC, &completion_v1::SPEC, &sharegpt_v1::SPEC, &alpaca_v1::SPEC];

/// A row format.
#[derive(Debug)]
pub struct Spec {
    /// Its id, as files name it.
    pub id: &'static str,
    /// A row in one line, for messages and documentation.
    pub row: &'static str,
    /// The columns that have a meaning. Others are kept out of training and reported.
    pub columns: &'static [Column],
    /// Keys that a job must carry for this format.
    pub job_keys: &'static [&'static str],
    /// Keys that the metadata of a file must carry for this format.
    pub metadata_keys: &'static [&'static str],
    /// How a row becomes an example.
    pub mapping: Mapping,
    /// A rule beyond shape that every row must keep.
    pub rule: Option<RowRule>,
}

/// A rule beyond shape; the reader of files holds rows against it, because it needs a skill's own checker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowRule {
    /// `metadata` holds a SYLLO puzzle, and the last answer solves it.
    SylloSolved,
}

/// A column of a row.
#[derive(Debug)]
pub struct Column {
    /// Its key.
    pub name: &'static str,
    /// Whether every row has it.
    pub required: bool,
    /// What it holds. An optional column may also be `null`.
    pub holds: Holds,
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// A string.
    Text,
    /// A list of messages, as the [`Conversation`] of the mapping says.
    Messages,
    /// A list of function schemas (objects).
    Tools,
    /// Anything; it is not trained on.
    Anything,
}

/// How a row becomes an example.
#[derive(Debug)]
pub enum Mapping {
    /// A list of messages.
    Conversation(Conversation),
    /// An instruction, an input that may be empty, an output: user and assistant.
    Instruction {
        /// Column of the instruction.
        instruction: &'static str,
        /// Column of the input, put below the instruction.
        input: &'static str,
        /// Column of the output.
        output: &'static str,
        /// Column of the system message.
        system: &'static str,
    },
    /// A text, or a prompt and its completion.
    Completion {
        /// Column of the whole text.
        text: &'static str,
        /// Column of the prompt.
        prompt: &'static str,
        /// Column of the completion.
        completion: &'static str,
    },
}

/// One problem of one row (or, from [`validate_job`], of a whole file).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowProblem {
    /// Stable name.
    pub code: &'static str,
    /// Whether it blocks.
    pub severity: Severity,
    /// A plain sentence.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl RowProblem {
    /// A problem that blocks.
    pub fn error(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        RowProblem { code, severity: Severity::Error, message: message.into(), hint: hint.into() }
    }

    /// A problem that does not.
    pub fn warning(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        RowProblem { code, severity: Severity::Warning, message: message.into(), hint: hint.into() }
    }
}

/// The format with this id.
#[must_use]
pub fn find(id: &str) -> Option<&'static Spec> {
    REGISTRY.iter().copied().find(|spec| spec.id == id)
}

/// All ids, in the order of the documentation.
#[must_use]
pub fn known_ids() -> Vec<&'static str> {
    REGISTRY.iter().map(|spec| spec.id).collect()
}

/// Answers for a whole file before its rows are read: is its schema known, and do its job and its metadata
/// (both JSON objects, or null where there are none) carry what that schema needs?
///
/// # Errors
/// All problems.
pub fn validate_job(schema_id: &str, job: &Value, metadata: &Value) -> Result<&'static Spec, Vec<RowProblem>> {
    let Some(spec) = find(schema_id) else { return Err(vec![unknown(schema_id)]) };
    let missing = |what: &str, keys: &[&str], value: &Value| -> Vec<RowProblem> {
        let missing = keys.iter().filter(|key| value.get(**key).is_none());
        let problem = |key: &&str| {
            let message = format!("schema {schema_id:?} needs {key:?} in the {what} of the file, and it is not there");
            RowProblem::error("job_key_missing", message, format!("add {key:?} to the {what}"))
        };
        missing.map(problem).collect()
    };
    let mut problems = missing("job", spec.job_keys, job);
    problems.extend(missing("metadata", spec.metadata_keys, metadata));
    if problems.is_empty() { Ok(spec) } else { Err(problems) }
}

/// The refusal of an id that is not in the registry.
#[must_use]
pub fn unknown(schema_id: &str) -> RowProblem {
    let known = known_ids();
    let nearest = nearest::nearest(schema_id, &known);
    let hint = match nearest {
        Some(nearest) => format!("did you mean {nearest:?}? Known schemas: {}", known.join(", ")),
        None => format!("known schemas: {}", known.join(", ")),
    };
    RowProblem::error("schema_unknown", format!("schema {schema_id:?} is not known"), hint)
}

/// The first format whose shape fits a row.
#[must_use]
pub fn suggest(row: &Value) -> Option<&'static str> {
    suggest_json(&Json::from(row))
}

/// As [`suggest`], for a row that was parsed borrowed.
#[must_use]
pub fn suggest_json(row: &Json<'_>) -> Option<&'static str> {
    let fits = |spec: &&&Spec| spec.fits(row);
    // A format with a rule fits by that rule, which is not known here.
    REGISTRY.iter().filter(|spec| spec.rule.is_none()).find(fits).map(|spec| spec.id)
}

impl Spec {
    /// True for a row that has the format's shape.
    #[must_use]
    pub fn fits(&self, row: &Json<'_>) -> bool {
        self.problems(row).iter().all(|problem| problem.severity != Severity::Error)
    }

    /// Holds a row against the format.
    ///
    /// # Errors
    /// All problems that block.
    pub fn check_row(&self, row: &Value) -> Result<(), Vec<RowProblem>> {
        let mut problems = self.problems(&Json::from(row));
        problems.retain(|problem| problem.severity == Severity::Error);
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// All problems of a row, warnings too; empty for a good row.
    #[must_use]
    pub fn problems(&self, row: &Json<'_>) -> Vec<RowProblem> {
        let Json::Object(fields) = row else {
            let hint = match row {
                Json::Array(_) => "this looks like a JSON array; write one object per line (`jq -c '.[]' FILE`)",
                _ => "write one JSON object per line",
            };
            let message = format!("the row is {}, not an object like {}", row.kind(), self.row);
            return vec![RowProblem::error("row_not_object", message, hint)];
        };
        let mut problems = Vec::new();
        for column in self.columns {
            self.check_column(column, row.get(column.name), &mut problems);
        }
        for (name, value) in fields {
            if *value != Json::Null && !self.columns.iter().any(|column| column.name == name) {
                problems.push(self.unknown_column(name));
            }
        }
        if let Some(key) = row.duplicate_key() {
            problems.push(RowProblem::warning(
                "key_duplicate",
                format!("the key {key:?} occurs twice in one object; the last value is used"),
                "write every key once",
            ));
        }
        self.mapping.check(row, &mut problems);
        problems
    }

    fn check_column(&self, column: &Column, value: Option<&Json<'_>>, problems: &mut Vec<RowProblem>) {
        let name = column.name;
        let Some(value) = value.filter(|value| column.required || **value != Json::Null) else {
            if column.required {
                let message = format!("the column {name:?} is missing");
                problems.push(RowProblem::error(
                    "column_missing",
                    message,
                    format!("a row of {} is {}", self.id, self.row),
                ));
            }
            return;
        };
        let expected = match column.holds {
            Holds::Text if !matches!(value, Json::String(_)) => "a string",
            Holds::Messages if !matches!(value, Json::Array(_)) => "a list of messages",
            Holds::Tools if !is_list_of_objects(value) => "a list of objects",
            _ => return,
        };
        let message = format!("the column {name:?} is {}, not {expected}", value.kind());
        problems.push(RowProblem::error("column_type", message, format!("a row of {} is {}", self.id, self.row)));
    }

    fn unknown_column(&self, name: &str) -> RowProblem {
        let known: Vec<&str> = self.columns.iter().map(|column| column.name).collect();
        let hint = match nearest::nearest(name, &known) {
            Some(nearest) => format!("did you mean {nearest:?}? Columns of {}: {}", self.id, known.join(", ")),
            None => format!("put it into \"metadata\", or leave it; columns of {}: {}", self.id, known.join(", ")),
        };
        let message = format!("the column {name:?} has no meaning in {} and is not trained on", self.id);
        RowProblem::warning("column_unknown", message, hint)
    }
}

impl Mapping {
    /// Rules beyond the types of columns.
    fn check(&self, row: &Json<'_>, problems: &mut Vec<RowProblem>) {
        match self {
            Mapping::Conversation(conversation) => conversation.check(row, problems),
            Mapping::Instruction { .. } => {}
            Mapping::Completion { text, prompt, completion } => {
                let has = |column: &str| row.get(column).is_some_and(|value| *value != Json::Null);
                let hint = format!("write either {text:?}, or {prompt:?} and {completion:?}");
                match (has(text), has(prompt), has(completion)) {
                    (true, false, false) | (false, _, true) => {}
                    (true, ..) => {
                        let message = format!("the row has {text:?} and also {prompt:?} or {completion:?}");
                        problems.push(RowProblem::error("text_and_prompt", message, hint));
                    }
                    (false, true, false) => {
                        let message = format!("the column {completion:?} is missing beside {prompt:?}");
                        problems.push(RowProblem::error("column_missing", message, hint));
                    }
                    (false, false, false) => {
                        let message = format!("neither the column {text:?} nor {completion:?} is there");
                        problems.push(RowProblem::error("column_missing", message, hint));
                    }
                }
            }
        }
    }
}

fn is_list_of_objects(value: &Json<'_>) -> bool {
    matches!(value, Json::Array(items) if items.iter().all(|item| matches!(item, Json::Object(_))))
}

#[cfg(test)]
mod tests;
