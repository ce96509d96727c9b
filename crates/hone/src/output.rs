//! Everything that the command line prints for people and programs; nothing else in the project prints.

use serde::Serialize;
use std::io::Write;

/// A line of the answer, on stdout.
pub fn line(text: &str) {
    part(&format!("{text}\n"));
}

/// Part of a line, shown at once (streamed answers). When nobody reads any more (`hone … | head`), the work goes on in silence.
pub fn part(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// A value as one line of JSON, on stdout.
pub fn json(value: &impl Serialize) {
    line(&serde_json::to_string(value).expect("our own values serialise"));
}

/// An error, on stderr.
pub fn error(text: &str) {
    note(&format!("hone: {text}"));
}

/// A remark that is not part of the answer, on stderr.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Rows under a heading, columns aligned; numbers to the right.
pub fn table(headings: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = headings.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let render = |cells: Vec<&str>| {
        let mut out = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            let pad = " ".repeat(width - cell.chars().count());
            let is_number = cell.starts_with(|c: char| c.is_ascii_digit() || c == '-') && !cell.contains(' ');
            out.push_str(&if is_number { format!("{pad}{cell}  ") } else { format!("{cell}{pad}  ") });
        }
        out.trim_end().to_string()
    };
    line(&render(headings.to_vec()));
    for row in rows {
        line(&render(row.iter().map(String::as_str).collect()));
    }
}

/// `1.5 GB`, `12 kB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// `3 s`, `2 min 5 s`, `1 h 3 min`.
#[must_use]
pub fn duration(seconds: f64) -> String {
    let total = seconds.max(0.0).round() as u64;
    match (total / 3600, total / 60 % 60, total % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

/// Shortens a text to `limit` characters on one line.
#[must_use]
pub fn excerpt(text: &str, limit: usize) -> String {
    let flat: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if flat.chars().count() <= limit { flat } else { format!("{}…", flat.chars().take(limit).collect::<String>()) }
}
