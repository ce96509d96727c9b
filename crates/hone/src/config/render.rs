//! What is made from the table of keys: the commented file, the reference page, the JSON Schema.

use super::keys::{ELSEWHERE, KEYS, Key, Kind};
use super::read::{allowed, environment_name};
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// The `config.json` of `hone init`: every key with its meaning; those in `chosen` are set, the others stand as comments.
#[must_use]
pub fn commented_file(chosen: &[(&str, Value)]) -> String {
    let mut out = String::from("{\n  // Configuration of this workspace. Lines in comments show the defaults.\n");
    let mut group = "";
    for key in KEYS {
        let (this_group, name) = key.path.rsplit_once('.').unwrap_or(("", key.path));
        if this_group != group {
            if !group.is_empty() {
                out.push_str("  },\n");
            }
            if !this_group.is_empty() {
                let _ = writeln!(out, "\n  {this_group:?}: {{");
            }
            group = this_group;
        }
        let indent = if group.is_empty() { "  " } else { "    " };
        let _ = writeln!(out, "\n{indent}// {}", key.doc);
        let _ = match chosen.iter().find(|(path, _)| *path == key.path) {
            Some((_, value)) => writeln!(out, "{indent}{name:?}: {value},"),
            None => writeln!(out, "{indent}// {name:?}: {},", key.default),
        };
    }
    out.push_str(if group.is_empty() { "}\n" } else { "  },\n}\n" });
    out
}

/// `docs/configuration.md`.
#[must_use]
pub fn markdown() -> String {
    let mut out = String::from(
        "# Configuration\n\n<!-- Made by `cargo run -p xtask -- gen-docs` from the table of keys; do not edit. -->\n\n\
         `config.json` in the workspace is the only configuration file: JSON in which `//` comments and trailing commas \
         are allowed. Precedence: command line (`--set key=value`) over `HONE_*` environment over `config.json` over \
         defaults. An unknown key, a variable that is nearly a key's, a wrong type or a value out of range stops the start with all problems listed (exit \
         code 2). The file is read again before each job; a job keeps the values of its first step.\n\n\
         | key | allowed | default | meaning | environment |\n| --- | --- | --- | --- | --- |\n",
    );
    for key in KEYS {
        let cell = |text: &str| text.replace('|', "\\|");
        let _ = writeln!(
            out,
            "| `{}` | {} | `{}` | {} | `{}` |",
            key.path,
            cell(&allowed(key.kind)),
            key.default,
            cell(key.doc),
            environment_name(key.path)
        );
    }
    out.push_str("\nKeys of other trainers that are refused by name:\n\n| key | here |\n| --- | --- |\n");
    for (key, here) in ELSEWHERE {
        let _ = writeln!(out, "| `{key}` | {here} |");
    }
    out
}

/// The JSON Schema of `config.json`.
#[must_use]
pub fn json_schema() -> Value {
    let mut root = Map::new();
    for key in KEYS {
        let parts: Vec<&str> = key.path.split('.').collect();
        insert(&mut root, &parts, schema_of(key));
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hone config.json",
        "type": "object",
        "properties": root,
        "additionalProperties": false,
    })
}

fn insert(properties: &mut Map<String, Value>, parts: &[&str], schema: Value) {
    let [first, rest @ ..] = parts else { return };
    if rest.is_empty() {
        properties.insert((*first).to_string(), schema);
        return;
    }
    let group = properties
        .entry((*first).to_string())
        .or_insert_with(|| json!({"type": "object", "properties": {}, "additionalProperties": false}));
    if let Some(inner) = group["properties"].as_object_mut() {
        insert(inner, rest, schema);
    }
}

fn schema_of(key: &Key) -> Value {
    let mut schema = schema_of_kind(key.kind);
    schema["description"] = Value::String(key.doc.to_string());
    schema["default"] = key.default_value();
    schema
}

fn schema_of_kind(kind: Kind) -> Value {
    match kind {
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Int { min, max: u64::MAX } => json!({"type": "integer", "minimum": min}),
        Kind::Int { min, max } => json!({"type": "integer", "minimum": min, "maximum": max}),
        Kind::IntOrAuto { min, max } => {
            json!({"anyOf": [{"type": "integer", "minimum": min, "maximum": max}, {"const": "auto"}]})
        }
        Kind::Float { min, max } => json!({"type": "number", "minimum": min, "maximum": max}),
        Kind::Text | Kind::Address => json!({"type": "string", "minLength": 1}),
        Kind::Texts => json!({"type": "array", "items": {"type": "string"}}),
        Kind::TimeOfDay => json!({"type": ["string", "null"], "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$"}),
        Kind::OptionalText => json!({"type": ["string", "null"]}),
        Kind::Choice(words) => json!({"enum": words}),
        Kind::Object => json!({"type": "object"}),
        Kind::Words(_) => json!({"type": "array", "items": {"type": "string"}}),
        Kind::Records(fields) => {
            let properties: Map<String, Value> =
                fields.iter().map(|field| (field.name.to_string(), schema_of_kind(field.kind))).collect();
            let required: Vec<&str> = fields.iter().filter(|field| field.required).map(|field| field.name).collect();
            json!({"type": "array", "items": {"type": "object", "properties": properties, "required": required, "additionalProperties": false}})
        }
    }
}
