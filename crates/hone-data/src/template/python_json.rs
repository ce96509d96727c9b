//! JSON as Python's `json.dumps` prints it, since templates print it into prompts. Pure.

use serde_json::Value;
use std::fmt::Write as _;

/// The arguments of `json.dumps` that templates use.
#[derive(Clone, Debug, Default)]
pub(super) struct Style {
    /// Escape everything beyond ASCII.
    pub ensure_ascii: bool,
    /// Sort the keys of objects.
    pub sort_keys: bool,
    /// Spaces per level; a line for every item.
    pub indent: Option<usize>,
    /// Between items, and between key and value.
    pub separators: Option<[String; 2]>,
}

/// The value as text.
pub(super) fn dumps(value: &Value, style: &Style) -> String {
    let item = if style.indent.is_some() { "," } else { ", " };
    let [item, key] = style.separators.clone().unwrap_or_else(|| [item.to_string(), ": ".to_string()]);
    let mut out = String::new();
    write_value(&mut out, value, &Writer { style, item: &item, key: &key }, 0);
    out
}

struct Writer<'a> {
    style: &'a Style,
    item: &'a str,
    key: &'a str,
}

fn write_value(out: &mut String, value: &Value, writer: &Writer<'_>, level: usize) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => write_number(out, number),
        Value::String(text) => write_string(out, text, writer.style.ensure_ascii),
        Value::Array(items) if items.is_empty() => out.push_str("[]"),
        Value::Object(map) if map.is_empty() => out.push_str("{}"),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                separate(out, writer, i, level + 1);
                write_value(out, item, writer, level + 1);
            }
            new_line(out, writer, level);
            out.push(']');
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            if writer.style.sort_keys {
                entries.sort_by_key(|(key, _)| *key);
            }
            out.push('{');
            for (i, (key, item)) in entries.into_iter().enumerate() {
                separate(out, writer, i, level + 1);
                write_string(out, key, writer.style.ensure_ascii);
                out.push_str(writer.key);
                write_value(out, item, writer, level + 1);
            }
            new_line(out, writer, level);
            out.push('}');
        }
    }
}

fn separate(out: &mut String, writer: &Writer<'_>, index: usize, level: usize) {
    if index > 0 {
        out.push_str(writer.item);
    }
    new_line(out, writer, level);
}

fn new_line(out: &mut String, writer: &Writer<'_>, level: usize) {
    if let Some(indent) = writer.style.indent {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', indent * level));
    }
}

fn write_string(out: &mut String, text: &str, ensure_ascii: bool) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' || (ensure_ascii && (c as u32) > 0x7e) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Integers as they are; floats by Python's `repr`: shortest digits, exponent from 1e16 and below 1e-4.
fn write_number(out: &mut String, number: &serde_json::Number) {
    let Some(float) = number.as_f64().filter(|_| number.is_f64()) else {
        let _ = write!(out, "{number}");
        return;
    };
    let scientific = format!("{float:e}");
    let (mantissa, exponent) = scientific.split_once('e').expect("the e format has an exponent");
    let exponent: i32 = exponent.parse().expect("the exponent is a number");
    if float != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        let _ = write!(out, "{mantissa}e{sign}{:02}", exponent.abs());
    } else {
        let _ = write!(out, "{float:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Expected values: Python 3.11, `json.dumps(x, ensure_ascii=False)` and with the arguments named.
    #[test]
    fn prints_as_python_does() {
        let value = json!({"b": [1, -2, 1.0, 1e16, 1.5e-7, 123456789012345680.0, 0.0001, 1e22], "a": "é\"\n\u{1}\u{7f}😀", "n": null, "t": [true, false], "e": [{}, []]});
        assert_eq!(
            dumps(&value, &Style::default()),
            r#"{"b": [1, -2, 1.0, 1e+16, 1.5e-07, 1.2345678901234568e+17, 0.0001, 1e+22], "a": "é\"\n\u0001"#
                .to_string()
                + "\u{7f}"
                + r#"😀", "n": null, "t": [true, false], "e": [{}, []]}"#
        );
        let style = Style { ensure_ascii: true, sort_keys: true, ..Style::default() };
        assert_eq!(dumps(&json!({"b": "é😀", "a": 1}), &style), r#"{"a": 1, "b": "\u00e9\ud83d\ude00"}"#);
        let style = Style { indent: Some(2), ..Style::default() };
        assert_eq!(
            dumps(&json!({"a": [1, {"b": 2}]}), &style),
            "{\n  \"a\": [\n    1,\n    {\n      \"b\": 2\n    }\n  ]\n}"
        );
        let style = Style { separators: Some([",".to_string(), ":".to_string()]), ..Style::default() };
        assert_eq!(dumps(&json!({"a": [1, 2]}), &style), r#"{"a":[1,2]}"#);
    }
}
