//! Tool calls in a model family's own text, and the text around them.
//!
//! | family | how a call is written |
//! | --- | --- |
//! | ChatML with Hermes tags (Qwen2.5, Qwen3, SmolLM2, and whatever else takes `tools`) | `<tool_call>{"name", "arguments"}</tool_call>`, several in a row |
//! | Llama 3 | the whole answer is `{"name", "parameters"}`, several parted by `;` |
//! | Mistral | the whole answer is `[{"name", "arguments"}, ...]` |
//!
//! What cannot be read as a call stays text: nothing of an answer is lost.

use super::format::Tools;
use serde_json::{Map, Value};
use std::collections::HashSet;

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// How a model writes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallFormat {
    /// Between tags, anywhere in the text.
    Tagged,
    /// The whole answer, one object or several.
    Llama3,
    /// The whole answer, a list.
    Mistral,
}

/// A call that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Name of the function.
    pub name: String,
    /// JSON text of an object.
    pub arguments: String,
}

/// What a piece of text brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Text of the answer.
    Text(String),
    /// A call, in place of its text.
    Call(Call),
}

impl CallFormat {
    /// By the chat template's text; `None` when it takes no tools.
    pub fn of_template(source: &str) -> Option<CallFormat> {
        if !source.contains("tools") {
            return None;
        }
        Some(match source {
            _ if source.contains(OPEN) => CallFormat::Tagged,
            _ if source.contains("TOOL_CALLS") => CallFormat::Mistral,
            _ if source.contains("python_tag") || source.contains("\"parameters\"") => CallFormat::Llama3,
            _ => CallFormat::Tagged,
        })
    }

    /// A Lark grammar of one call to one of the functions that are left to choose from. The schema of each one's arguments
    /// is a document of its own: what it refers to (`#/$defs/...`) is looked for inside it.
    pub fn forced(self, tools: &Tools) -> String {
        let mut functions = tools.functions();
        // The first of a name counts.
        let mut names = HashSet::new();
        functions.retain(|(name, _)| names.insert(*name));
        let start = match self {
            CallFormat::Tagged => format!("\"{OPEN}\\n\" call \"\\n{CLOSE}\""),
            CallFormat::Llama3 => "call".to_string(),
            CallFormat::Mistral => "\"[\" call \"]\"".to_string(),
        };
        let calls: Vec<String> = (0..functions.len()).map(|index| format!("call_{index}")).collect();
        let mut grammar = format!("start: {start}\ncall: {}\n", calls.join(" | "));
        let key = if self == CallFormat::Llama3 { "\"parameters\":" } else { "\"arguments\":" };
        for (index, (name, schema)) in functions.into_iter().enumerate() {
            // A space or none after each colon and comma, as within the arguments.
            let parts = ["{\"name\":".to_string(), format!("{},", Value::from(name)), key.to_string()];
            let head: String = parts.iter().map(|part| format!(" {} \" \"?", lark_text(part))).collect();
            let schema = hone_generate::compact_json_schema(&schema);
            grammar += &format!("call_{index}: HEAD_{index} arguments_{index} \"}}\"\n");
            grammar += &format!("HEAD_{index}:{head}\narguments_{index}: %json {schema}\n");
        }
        grammar
    }
}

/// Parts an answer that comes in pieces into text and calls.
#[derive(Clone, Debug)]
pub struct CallScanner {
    format: CallFormat,
    /// Not given out yet.
    held: String,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No text was given out yet, or a call just ended: white space is dropped.
    Start,
    Text,
    /// Behind an opening tag, or in an answer that may be a call as a whole.
    Call,
}

impl CallScanner {
    /// At the beginning of an answer.
    pub fn new(format: CallFormat) -> CallScanner {
        CallScanner { format, held: String::new(), state: State::Start }
    }

    /// Takes text; gives out what is certain.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        match self.format {
            CallFormat::Tagged => self.scan_tags(),
            CallFormat::Llama3 | CallFormat::Mistral => self.scan_whole(),
        }
    }

    /// The answer ends here.
    pub fn finish(&mut self) -> Vec<Piece> {
        let held = std::mem::take(&mut self.held);
        let calls = match (self.format, self.state) {
            (CallFormat::Tagged, State::Call) => {
                read_one(&held).filter(|(_, rest)| CLOSE.starts_with(rest.trim())).map(|(call, _)| vec![call])
            }
            (_, State::Call) => read_all(&held),
            _ => None,
        };
        match calls {
            Some(calls) => calls.into_iter().map(Piece::Call).collect(),
            None if self.format == CallFormat::Tagged && self.state == State::Call => {
                vec![Piece::Text(format!("{OPEN}{held}"))]
            }
            None if held.is_empty() || (self.state == State::Start && held.trim().is_empty()) => Vec::new(),
            None => vec![Piece::Text(held)],
        }
    }

    fn scan_tags(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        loop {
            let more =
                if self.state == State::Call { self.scan_call(&mut pieces) } else { self.scan_text(&mut pieces) };
            if !more {
                return pieces;
            }
        }
    }

    /// Gives out text up to a tag; true when one was found.
    fn scan_text(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let found = self.held.find(OPEN);
        let end = found.unwrap_or_else(|| self.held.len() - unfinished(&self.held, OPEN));
        // White space before a tag belongs to the tag.
        let end = self.held[..end].trim_end().len();
        let text: String = self.held.drain(..end).collect();
        let text = if self.state == State::Start { text.trim_start() } else { text.as_str() };
        if !text.is_empty() {
            self.state = State::Text;
            pieces.push(Piece::Text(text.to_string()));
        }
        if found.is_some() {
            let at = self.held.find(OPEN).expect("it was found");
            self.held.drain(..at + OPEN.len());
            self.state = State::Call;
        }
        found.is_some()
    }

    /// Takes a call to its closing tag; true when it is there.
    fn scan_call(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let Some(at) = self.held.find(CLOSE) else { return false };
        let (piece, len) = match read_one(&self.held) {
            Some((call, rest)) => match rest.trim_start().strip_prefix(CLOSE) {
                Some(after) => (Piece::Call(call), self.held.len() - after.len()),
                // The tag that was found stands inside a string of the arguments.
                None if CLOSE.starts_with(rest.trim()) => return false,
                None => (Piece::Text(format!("{OPEN}{}{CLOSE}", &self.held[..at])), at + CLOSE.len()),
            },
            None if is_unfinished(&self.held) => return false,
            None => (Piece::Text(format!("{OPEN}{}{CLOSE}", &self.held[..at])), at + CLOSE.len()),
        };
        self.held.drain(..len);
        self.state = if matches!(piece, Piece::Call(_)) { State::Start } else { State::Text };
        pieces.push(piece);
        true
    }

    /// An answer that begins as JSON is held to its end, every other one is text.
    fn scan_whole(&mut self) -> Vec<Piece> {
        if self.state == State::Start {
            self.state = match self.held.trim_start().chars().next() {
                None => State::Start,
                Some('{' | '[') => State::Call,
                Some(_) => State::Text,
            };
        }
        if self.state == State::Text && !self.held.is_empty() {
            return vec![Piece::Text(std::mem::take(&mut self.held))];
        }
        Vec::new()
    }
}

/// The call at the beginning of a text, and what stands behind it.
fn read_one(text: &str) -> Option<(Call, &str)> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let call = call_of(values.next()?.ok()?)?;
    Some((call, &text[values.byte_offset()..]))
}

/// JSON that breaks off.
fn is_unfinished(text: &str) -> bool {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    matches!(values.next(), Some(Err(error)) if error.is_eof())
}

/// Every part of a text is a call, and there is one.
fn read_all(text: &str) -> Option<Vec<Call>> {
    let mut calls = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        match values.next()?.ok()? {
            Value::Array(list) => calls.extend(list.into_iter().map(call_of).collect::<Option<Vec<_>>>()?),
            value => calls.push(call_of(value)?),
        }
        rest = rest[values.byte_offset()..].trim_start_matches(|c: char| c == ';' || c.is_whitespace());
    }
    (!calls.is_empty()).then_some(calls)
}

fn call_of(value: Value) -> Option<Call> {
    let Value::Object(mut map) = value else { return None };
    let name = map.get("name")?.as_str()?.to_string();
    let arguments = map.remove("arguments").or_else(|| map.remove("parameters")).unwrap_or_else(|| Map::new().into());
    let arguments = match arguments {
        // Some models write the object as a text.
        Value::String(text) => serde_json::from_str::<Map<String, Value>>(&text).ok()?,
        Value::Object(map) => map,
        _ => return None,
    };
    Some(Call { name, arguments: Value::Object(arguments).to_string() })
}

/// A text as Lark writes it.
fn lark_text(text: &str) -> String {
    // JSON writes this character as it is, which Lark refuses.
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// Length of the longest end of `text` that is a beginning of `tag`.
fn unfinished(text: &str, tag: &str) -> usize {
    (1..tag.len()).rev().find(|len| text.ends_with(&tag[..*len])).unwrap_or(0)
}

#[cfg(test)]
mod tests;
