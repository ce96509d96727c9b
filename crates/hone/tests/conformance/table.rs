//! Reading the table: one JSON object a line, `//` lines are headings. What a case may say:
//!
//! - `name`; `why` when the name does not say it;
//! - `to`: `chat` (default), `complete`, or `GET /path`; `send`: fields over the base request (`"$none"` takes one away);
//!   or `raw`: a body as it is;
//! - `status` (200); `expect`: values by path. A path's parts are keys and indices (`-1` the last one); in a stream
//!   `events` are its chunks, `content` the joined text of choice 0. A value is what must stand there, or one matcher:
//!   `{"starts"}`, `{"ends"}`, `{"has"}`, `{"len"}`, `{"type"}`, `{"near"}` (± 0.005), `{"in"}`, `{"below"}`, `{"json": true}`,
//!   `{"absent": true}`;
//! - `each`: `{"N": [..]}` makes one case for each value; `$N` stands for it;
//! - `only`: who can send it (`["http"]` where the official clients cannot).
//!
//! `$id(text)` is a token's id, `$words(N)` the first N words of the script `[count]`.

use crate::scripted::{MODEL_NAME, Vocabulary};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// A case, ready to be sent.
#[derive(Clone, Debug, Serialize)]
pub struct Case {
    pub name: String,
    /// `POST /v1/chat/completions`, say.
    pub method: String,
    pub path: String,
    pub body: Value,
    /// A body that is not what `body` says.
    pub raw: Option<String>,
    pub status: u16,
    pub expect: Map<String, Value>,
    pub only: Vec<String>,
}

const TABLE: &str = include_str!("cases.jsonl");

pub fn load() -> Vec<Case> {
    let vocabulary = Vocabulary::new();
    let lines = TABLE.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with("//"));
    let mut cases: Vec<Case> = Vec::new();
    for (index, line) in lines {
        let row: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("cases.jsonl:{}: {e}", index + 1));
        for row in expand(&row) {
            cases.push(read(&fill(&row, &vocabulary)));
        }
    }
    let mut names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "two cases have one name");
    cases
}

fn expand(row: &Value) -> Vec<Value> {
    let Some((name, values)) = row["each"].as_object().and_then(|each| each.iter().next()) else {
        return vec![row.clone()];
    };
    let values = values.as_array().unwrap();
    values
        .iter()
        .map(|value| {
            let bare = value.as_str().map_or_else(|| value.to_string(), str::to_string);
            let text = row
                .to_string()
                .replace(&format!("\"${name}\""), &value.to_string())
                .replace(&format!("${name}"), &bare);
            serde_json::from_str(&text).unwrap()
        })
        .collect()
}

fn fill(value: &Value, vocabulary: &Vocabulary) -> Value {
    match value {
        Value::String(text) => match text.split_once('(').map(|(head, rest)| (head, rest.trim_end_matches(')'))) {
            Some(("$id", token)) => json!(vocabulary.id(token)),
            Some(("$words", count)) => json!(words(count.parse().unwrap())),
            _ => value.clone(),
        },
        Value::Array(items) => items.iter().map(|item| fill(item, vocabulary)).collect(),
        Value::Object(map) => {
            let name = |key: &String| match fill(&json!(key), vocabulary) {
                Value::Number(id) => id.to_string(),
                _ => key.clone(),
            };
            map.iter().map(|(key, item)| (name(key), fill(item, vocabulary))).collect::<Map<_, _>>().into()
        }
        other => other.clone(),
    }
}

fn words(count: usize) -> String {
    (1..=count).map(|number| format!(" w{number}")).collect()
}

fn read(row: &Value) -> Case {
    const KEYS: [&str; 9] = ["name", "why", "to", "send", "raw", "status", "expect", "each", "only"];
    let unknown = row.as_object().unwrap().keys().find(|key| !KEYS.contains(&key.as_str()));
    assert!(unknown.is_none(), "{unknown:?} in {row}");
    let (method, path, mut body) = match row["to"].as_str().unwrap_or("chat") {
        "chat" => {
            let messages = json!([{"role": "user", "content": "[count]"}]);
            let body = json!({"model": MODEL_NAME, "messages": messages, "temperature": 0, "max_tokens": 4});
            ("POST", "/v1/chat/completions", body)
        }
        "complete" => {
            let body = json!({"model": MODEL_NAME, "prompt": "[count]", "temperature": 0, "max_tokens": 4});
            ("POST", "/v1/completions", body)
        }
        other => {
            let (method, path) = other.split_once(' ').unwrap();
            (method, path, Value::Null)
        }
    };
    for (key, value) in row["send"].as_object().into_iter().flatten() {
        if value == "$none" {
            body.as_object_mut().unwrap().remove(key);
        } else if let (true, Some(text)) = (key == "messages", value.as_str()) {
            body[key] = json!([{"role": "user", "content": text}]);
        } else {
            body[key] = value.clone();
        }
    }
    Case {
        name: row["name"].as_str().unwrap().to_string(),
        method: method.to_string(),
        path: path.to_string(),
        body,
        raw: row["raw"].as_str().map(str::to_string),
        status: row["status"].as_u64().unwrap_or(200) as u16,
        expect: row["expect"].as_object().cloned().unwrap_or_default(),
        only: row["only"].as_array().into_iter().flatten().map(|who| who.as_str().unwrap().to_string()).collect(),
    }
}
