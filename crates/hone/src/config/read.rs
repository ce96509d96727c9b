//! From `config.json`, the environment and `--set` to checked values, with every problem named.

use super::keys::{ELSEWHERE, Field, KEYS, Key, Kind};
use super::{Given, Origin, Problem};
use jsonc_parser::ast;
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::net::SocketAddr;

type Target = BTreeMap<&'static str, Given>;

/// JSON with comments and trailing commas, and nothing else.
const OPTIONS: ParseOptions = ParseOptions {
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

/// Reads the text of `config.json`.
pub fn file(text: &str, values: &mut Target, problems: &mut Vec<Problem>) {
    let parsed = match parse_to_ast(text, &CollectOptions::default(), &OPTIONS) {
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
            place: place_of(text, other.start()),
            key: String::new(),
            message: "the file must hold one object { … }".to_string(),
        }),
    }
}

/// Where the value of a key of the top level stands in the text.
#[must_use]
pub fn range_of(text: &str, key: &str) -> Option<std::ops::Range<usize>> {
    let parsed = parse_to_ast(text, &CollectOptions::default(), &OPTIONS).ok()?;
    let Some(ast::Value::Object(object)) = &parsed.value else { return None };
    let property = object.properties.iter().find(|property| property.name.as_str() == key)?;
    Some(property.value.start()..property.value.end())
}

/// A variable whose name is off a key's by one letter in so many is taken for a slip; shorter names are near to each other anyway.
const LETTERS_PER_SLIP: usize = 12;

/// Reads `HONE_*` variables: the path in capitals, dots as underscores (`HONE_SERVE_LISTEN`). Other names are not ours, unless they
/// nearly are a key's.
pub fn environment(variables: &[(String, String)], values: &mut Target, problems: &mut Vec<Problem>) {
    for (name, text) in variables.iter().filter(|(name, _)| name.starts_with("HONE_")) {
        if let Some(key) = KEYS.iter().find(|key| environment_name(key.path) == *name) {
            set(key, Given::new(loose_value(key, text), Origin::Environment, name), values, problems);
            continue;
        }
        let distance = |key: &&Key| strsim::damerau_levenshtein(&environment_name(key.path), name);
        if let Some(key) = KEYS.iter().find(|key| distance(key) <= name.len() / LETTERS_PER_SLIP) {
            let message = format!("no key has this variable (nearest: {})", environment_name(key.path));
            problems.push(Problem { place: name.clone(), key: key.path.to_string(), message });
        }
    }
}

/// Reads `--set key=value` pairs.
pub fn command_line(pairs: &[(String, String)], values: &mut Target, problems: &mut Vec<Problem>) {
    for (path, text) in pairs {
        match KEYS.iter().find(|key| key.path == path) {
            Some(key) => set(key, Given::new(loose_value(key, text), Origin::CommandLine, "--set"), values, problems),
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
        let place = place_of(text, property.range.start);
        if seen.contains(&name) {
            problems.push(twice(place, path));
            continue;
        }
        seen.push(name);
        if let Some(key) = KEYS.iter().find(|key| key.path == path) {
            names_once(text, &property.value, &path, problems);
            let inner = places_inside(text, &property.value);
            set(key, Given { value: to_json(&property.value), origin: Origin::File, place, inner }, values, problems);
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

/// Names every field that stands twice within a value, where reading it as JSON would take one of them silently.
fn names_once(text: &str, value: &ast::Value<'_>, path: &str, problems: &mut Vec<Problem>) {
    match value {
        ast::Value::Array(array) => {
            let entries = array.elements.iter().enumerate();
            entries.for_each(|(index, entry)| names_once(text, entry, &format!("{path}[{index}]"), problems));
        }
        ast::Value::Object(object) => {
            let mut seen: Vec<&str> = Vec::new();
            for property in &object.properties {
                let inner = format!("{path}.{}", property.name.as_str());
                if seen.contains(&property.name.as_str()) {
                    problems.push(twice(place_of(text, property.range.start), inner.clone()));
                }
                seen.push(property.name.as_str());
                names_once(text, &property.value, &inner, problems);
            }
        }
        _ => {}
    }
}

/// Where the entries of a list, or the fields of an object, stand.
fn places_inside(text: &str, value: &ast::Value<'_>) -> Vec<String> {
    match value {
        ast::Value::Array(array) => array.elements.iter().map(|entry| place_of(text, entry.start())).collect(),
        ast::Value::Object(object) => object.properties.iter().map(|p| place_of(text, p.range.start)).collect(),
        _ => Vec::new(),
    }
}

fn set(key: &'static Key, given: Given, values: &mut Target, problems: &mut Vec<Problem>) {
    let faults = check(key.kind, &given.value);
    if faults.is_empty() {
        values.insert(key.path, given);
        return;
    }
    problems.extend(faults.into_iter().map(|fault| match fault.entry {
        None => Problem { place: given.place.clone(), key: key.path.to_string(), message: fault.message },
        Some(index) => Problem {
            place: given.place_of_entry(index),
            key: format!("{}[{index}]", key.path),
            message: fault.message,
        },
    }));
}

fn twice(place: String, key: String) -> Problem {
    Problem { place, key, message: "stands twice; one value per place".to_string() }
}

fn unknown(place: String, path: &str) -> Problem {
    if let Some((_, here)) = ELSEWHERE.iter().find(|(key, _)| *key == path) {
        return Problem { place, key: path.to_string(), message: format!("unknown key; {here}") };
    }
    let leaf = |path: &'static str| path.rsplit('.').next().unwrap_or(path);
    let (group, name) = path.rsplit_once('.').unwrap_or(("", path));
    // The same name in another group is nearer than any other name.
    let distance = |key: &Key| {
        let of_name = strsim::damerau_levenshtein(leaf(key.path), name);
        strsim::damerau_levenshtein(key.path, path).min(of_name + 1)
    };
    let in_other_group = |key: &Key| key.path.rsplit_once('.').map_or("", |(group, _)| group) != group;
    let nearest = KEYS.iter().map(|key| (distance(key), in_other_group(key), key.path)).min();
    let message = match nearest.filter(|(distance, ..)| *distance <= path.len() / 2) {
        Some((.., name)) => format!("unknown key (nearest: {name:?})"),
        None => "unknown key (`hone config show` lists all)".to_string(),
    };
    Problem { place, key: path.to_string(), message }
}

/// What is wrong with a value, or with one entry of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The entry of a list.
    pub entry: Option<usize>,
    /// What was found and what is allowed.
    pub message: String,
}

/// Everything that a value has which its kind does not allow.
pub fn check(kind: Kind, value: &Value) -> Vec<Fault> {
    let ok = match kind {
        Kind::Bool => value.is_boolean(),
        Kind::Int { min, max } => value.as_u64().is_some_and(|n| (min..=max).contains(&n)),
        Kind::IntOrAuto { min, max } => value == "auto" || value.as_u64().is_some_and(|n| (min..=max).contains(&n)),
        Kind::Float { min, max } => value.as_f64().is_some_and(|n| (min..=max).contains(&n)),
        Kind::Text => value.as_str().is_some_and(|s| !s.trim().is_empty()),
        Kind::OptionalText => value.is_null() || value.as_str().is_some_and(|s| !s.trim().is_empty()),
        Kind::Choice(words) => value.as_str().is_some_and(|s| words.contains(&s)),
        Kind::Address => value.as_str().is_some_and(|s| s.parse::<SocketAddr>().is_ok()),
        Kind::TimeOfDay => value.is_null() || value.as_str().is_some_and(|s| minute_of(s).is_some()),
        Kind::Object => value.is_object(),
        Kind::Texts | Kind::Words(_) | Kind::Records(_) => match value.as_array() {
            Some(list) => {
                let entries = list.iter().enumerate();
                return entries.flat_map(|(index, entry)| check_entry(kind, index, entry)).collect();
            }
            None => false,
        },
    };
    if ok { Vec::new() } else { vec![Fault { entry: None, message: found(value, kind) }] }
}

fn found(value: &Value, kind: Kind) -> String {
    let words = if let Kind::Choice(words) | Kind::Words(words) = kind { words } else { &[] };
    format!("found {}; allowed: {}{}", shorten(value), allowed(kind), nearest_word(words, value))
}

fn check_entry(kind: Kind, index: usize, entry: &Value) -> Vec<Fault> {
    let fault = |message: String| Fault { entry: Some(index), message };
    match kind {
        Kind::Words(words) if !entry.as_str().is_some_and(|text| is_word(words, text)) => {
            let allowed = words.iter().map(|word| word_form(word)).collect::<Vec<_>>().join(", ");
            let nearest = nearest_word(words, entry);
            vec![fault(format!("found {}; allowed: {allowed}{nearest}", shorten(entry)))]
        }
        Kind::Texts if !entry.is_string() => vec![fault(format!("found {}; allowed: a text", shorten(entry)))],
        Kind::Records(fields) => check_record(fields, entry).into_iter().map(fault).collect(),
        _ => Vec::new(),
    }
}

fn nearest_word(words: &[&str], value: &Value) -> String {
    let Some(text) = value.as_str() else { return String::new() };
    // What begins as it is near, however much is left out.
    let distance = |word: &str| match word.starts_with(text) && !text.is_empty() {
        true => 0,
        false => strsim::damerau_levenshtein(word, text),
    };
    let nearest = words.iter().map(|word| (distance(word), word)).min();
    let nearest = nearest.filter(|(distance, _)| *distance <= text.len() / 2);
    nearest.map(|(_, word)| format!(" (nearest: {})", word_form(word))).unwrap_or_default()
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
            let names: Vec<&str> = fields.iter().map(|field| field.name).collect();
            format!("a list of objects with {}", names.join(", "))
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

fn check_record(fields: &[Field], value: &Value) -> Vec<String> {
    let Some(row) = value.as_object() else { return vec![format!("found {}; allowed: an object", shorten(value))] };
    let names: Vec<&str> = fields.iter().map(|field| field.name).collect();
    let mut faults = Vec::new();
    for (name, value) in row {
        let Some(field) = fields.iter().find(|field| field.name == name) else {
            let nearest = nearest_word(&names, &Value::String(name.clone()));
            faults.push(format!("unknown field {name:?}; allowed: {}{nearest}", names.join(", ")));
            continue;
        };
        faults.extend(check(field.kind, value).into_iter().map(|fault| format!("{name}: {}", fault.message)));
    }
    let missing = fields.iter().filter(|field| field.required && !row.contains_key(field.name));
    faults.extend(missing.map(|field| format!("{} is missing", field.name)));
    faults
}

fn shorten(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 60 { format!("{}…", text.chars().take(60).collect::<String>()) } else { text }
}

fn place_of(text: &str, byte: usize) -> String {
    let line = 1 + text.as_bytes()[..byte.min(text.len())].iter().filter(|b| **b == b'\n').count();
    format!("config.json:{line}")
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
