//! From `config.json`, the environment and `--set` to checked values, with every problem named.

use super::keys::{KEYS, Key, Kind};
use super::{Origin, Problem};
use jsonc_parser::ast;
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::net::SocketAddr;

type Target = BTreeMap<&'static str, (Value, Origin)>;

/// Reads the text of `config.json`.
pub fn file(text: &str, values: &mut Target, problems: &mut Vec<Problem>) {
    let options = ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    let parsed = match parse_to_ast(text, &CollectOptions::default(), &options) {
        Ok(parsed) => parsed,
        Err(error) => {
            let place = format!("config.json:{}", error.line_display());
            problems.push(Problem { place, key: String::new(), message: format!("not JSON: {}", error.kind()) });
            return;
        }
    };
    match &parsed.value {
        Some(ast::Value::Object(object)) => walk(text, object, "", values, problems),
        None => {}
        Some(other) => problems.push(Problem {
            place: format!("config.json:{}", line_of(text, other.start())),
            key: String::new(),
            message: "the file must hold one object { … }".to_string(),
        }),
    }
}

/// Reads `HONE_*` variables: the path in capitals, dots as underscores (`HONE_SERVE_LISTEN`). Other names are not ours.
pub fn environment(variables: &[(String, String)], values: &mut Target, problems: &mut Vec<Problem>) {
    for (name, text) in variables {
        let Some(key) = KEYS.iter().find(|key| environment_name(key.path) == *name) else { continue };
        set(key, loose_value(key, text), Origin::Environment, name.clone(), values, problems);
    }
}

/// Reads `--set key=value` pairs.
pub fn command_line(pairs: &[(String, String)], values: &mut Target, problems: &mut Vec<Problem>) {
    for (path, text) in pairs {
        match KEYS.iter().find(|key| key.path == path) {
            Some(key) => set(key, loose_value(key, text), Origin::CommandLine, "--set".to_string(), values, problems),
            None => problems.push(unknown("--set".to_string(), path)),
        }
    }
}

/// Name of the environment variable of a key.
#[must_use]
pub fn environment_name(path: &str) -> String {
    format!("HONE_{}", path.replace('.', "_").to_uppercase())
}

/// Outside of JSON a text needs no quotes.
fn loose_value(key: &Key, text: &str) -> Value {
    let wants_text = matches!(key.kind, Kind::Text | Kind::Address | Kind::Choice(_));
    if wants_text {
        return Value::String(text.to_string());
    }
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_string()))
}

fn walk(text: &str, object: &ast::Object<'_>, prefix: &str, values: &mut Target, problems: &mut Vec<Problem>) {
    let mut seen: Vec<&str> = Vec::new();
    for property in &object.properties {
        let name = property.name.as_str();
        let path = if prefix.is_empty() { name.to_string() } else { format!("{prefix}.{name}") };
        let place = format!("config.json:{}", line_of(text, property.range.start));
        if seen.contains(&name) {
            problems.push(Problem { place, key: path, message: "stands twice; one value per place".to_string() });
            continue;
        }
        seen.push(name);
        if let Some(key) = KEYS.iter().find(|key| key.path == path) {
            set(key, to_json(&property.value), Origin::File, place, values, problems);
        } else if KEYS.iter().any(|key| key.path.starts_with(&format!("{path}."))) {
            match &property.value {
                ast::Value::Object(inner) => walk(text, inner, &path, values, problems),
                _ => problems.push(Problem { place, key: path, message: "must be an object { … }".to_string() }),
            }
        } else {
            problems.push(unknown(place, &path));
        }
    }
}

fn set(
    key: &'static Key,
    value: Value,
    origin: Origin,
    place: String,
    values: &mut Target,
    problems: &mut Vec<Problem>,
) {
    match check(key.kind, &value) {
        Ok(()) => drop(values.insert(key.path, (value, origin))),
        Err(message) => problems.push(Problem { place, key: key.path.to_string(), message }),
    }
}

fn unknown(place: String, path: &str) -> Problem {
    let nearest = KEYS
        .iter()
        .map(|key| (strsim::damerau_levenshtein(key.path, path), key.path))
        .min()
        .filter(|(distance, _)| *distance <= path.len() / 2);
    let message = match nearest {
        Some((_, name)) => format!("unknown key (nearest: {name:?})"),
        None => "unknown key (`hone config show` lists all)".to_string(),
    };
    Problem { place, key: path.to_string(), message }
}

/// Says what is allowed when a value is not.
pub fn check(kind: Kind, value: &Value) -> Result<(), String> {
    let ok = match kind {
        Kind::Bool => value.is_boolean(),
        Kind::Int { min, max } => value.as_u64().is_some_and(|n| (min..=max).contains(&n)),
        Kind::IntOrAuto { min, max } => value == "auto" || value.as_u64().is_some_and(|n| (min..=max).contains(&n)),
        Kind::Float { min, max } => value.as_f64().is_some_and(|n| (min..=max).contains(&n)),
        Kind::Text => value.as_str().is_some_and(|s| !s.trim().is_empty()),
        Kind::OptionalText => value.is_null() || value.as_str().is_some_and(|s| !s.trim().is_empty()),
        Kind::Choice(words) => value.as_str().is_some_and(|s| words.contains(&s)),
        Kind::Address => value.as_str().is_some_and(|s| s.parse::<SocketAddr>().is_ok()),
        Kind::Texts => value.as_array().is_some_and(|list| list.iter().all(Value::is_string)),
        Kind::TimeOfDay => value.is_null() || value.as_str().is_some_and(|s| minute_of(s).is_some()),
        Kind::Object => value.is_object(),
        Kind::Words(words) => {
            value.as_array().is_some_and(|list| list.iter().all(|v| v.as_str().is_some_and(|s| is_word(words, s))))
        }
        Kind::Records(fields) => return check_records(fields, value),
    };
    if ok { Ok(()) } else { Err(format!("found {}; allowed: {}", shorten(value), allowed(kind))) }
}

/// What a kind allows, in words.
#[must_use]
pub fn allowed(kind: Kind) -> String {
    match kind {
        Kind::Bool => "true or false".to_string(),
        Kind::Int { min, max: u64::MAX } => format!("a whole number from {min}"),
        Kind::Int { min, max } => format!("a whole number from {min} to {max}"),
        Kind::IntOrAuto { min, max } => format!("a whole number from {min} to {max}, or \"auto\""),
        Kind::Float { min, max } => format!("a number from {min} to {max}"),
        Kind::Text => "a text".to_string(),
        Kind::OptionalText => "a text or null".to_string(),
        Kind::Choice(words) => words.iter().map(|w| format!("{w:?}")).collect::<Vec<_>>().join(", "),
        Kind::Address => "an address such as \"127.0.0.1:8765\" (port 0 = any free one)".to_string(),
        Kind::Texts => "a list of texts".to_string(),
        Kind::TimeOfDay => "a time \"HH:MM\" (UTC) or null".to_string(),
        Kind::Object => "an object { … }".to_string(),
        Kind::Words(words) => {
            format!("a list of {}", words.iter().map(|w| word_form(w)).collect::<Vec<_>>().join(", "))
        }
        Kind::Records(fields) => {
            let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
            format!("a list of objects with the texts {}", names.join(", "))
        }
    }
}

/// Minutes since midnight of a time `HH:MM`.
#[must_use]
pub fn minute_of(text: &str) -> Option<u64> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str, below: u64| text.parse::<u64>().ok().filter(|n| text.len() == 2 && *n < below);
    Some(number(hours, 24)? * 60 + number(minutes, 60)?)
}

fn word_form(word: &str) -> String {
    if word.ends_with(':') { format!("\"{word}NAME\"") } else { format!("{word:?}") }
}

fn is_word(words: &[&str], text: &str) -> bool {
    words
        .iter()
        .any(|word| if word.ends_with(':') { text.len() > word.len() && text.starts_with(word) } else { *word == text })
}

fn check_records(fields: &[(&str, bool)], value: &Value) -> Result<(), String> {
    let all = allowed(Kind::Records(&[]));
    let Some(list) = value.as_array() else { return Err(format!("found {}; allowed: {all}…", shorten(value))) };
    for (index, row) in list.iter().enumerate() {
        let Some(row) = row.as_object() else { return Err(format!("entry {index} is not an object")) };
        for (name, value) in row {
            if !fields.iter().any(|(field, _)| field == name) {
                let names: Vec<&str> = fields.iter().map(|(field, _)| *field).collect();
                return Err(format!("entry {index}: unknown field {name:?} (allowed: {})", names.join(", ")));
            }
            if value.as_str().is_none_or(|s| s.trim().is_empty()) {
                return Err(format!("entry {index}: {name} must be a text"));
            }
        }
        if let Some((name, _)) = fields.iter().find(|(name, required)| *required && !row.contains_key(*name)) {
            return Err(format!("entry {index}: {name} is missing"));
        }
    }
    Ok(())
}

fn shorten(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 60 { format!("{}…", text.chars().take(60).collect::<String>()) } else { text }
}

fn line_of(text: &str, byte: usize) -> usize {
    1 + text.as_bytes()[..byte.min(text.len())].iter().filter(|b| **b == b'\n').count()
}

fn to_json(value: &ast::Value<'_>) -> Value {
    match value {
        ast::Value::StringLit(text) => Value::String(text.value.to_string()),
        ast::Value::NumberLit(number) => serde_json::from_str(number.value).unwrap_or(Value::Null),
        ast::Value::BooleanLit(flag) => Value::Bool(flag.value),
        ast::Value::NullKeyword(_) => Value::Null,
        ast::Value::Array(array) => Value::Array(array.elements.iter().map(to_json).collect()),
        ast::Value::Object(object) => {
            let fields = object.properties.iter().map(|p| (p.name.as_str().to_string(), to_json(&p.value)));
            Value::Object(fields.collect::<Map<String, Value>>())
        }
    }
}
