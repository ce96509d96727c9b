//! The `messages` of a chat request become what the chat template renders.

use super::fields::{Fields, wrong_type};
use crate::error::ApiError;
use hone_data::Message;
use serde_json::{Map, Value};

/// Most messages of a conversation.
const MAX_MESSAGES: usize = 10_000;

/// Reads the list. Contents given as text parts are joined; fields beside role and content reach the template as
/// they are.
pub fn read(list: &[Value]) -> Result<Vec<Message>, ApiError> {
    if list.is_empty() {
        return Err(ApiError::invalid("messages", "`messages` is empty"));
    }
    if list.len() > MAX_MESSAGES {
        return Err(ApiError::invalid("messages", format!("`messages` must hold at most {MAX_MESSAGES} messages")));
    }
    list.iter().enumerate().map(|(index, item)| read_message(index, item)).collect()
}

fn read_message(index: usize, item: &Value) -> Result<Message, ApiError> {
    let at = |field: &str| format!("messages[{index}].{field}");
    let Value::Object(map) = item else {
        return Err(wrong_type(&format!("messages[{index}]"), "an object", item));
    };
    let role = match Fields(map).get("role") {
        None => return Err(ApiError::invalid(at("role"), format!("`{}` is missing", at("role")))),
        Some(Value::String(role)) => role.as_str(),
        Some(other) => return Err(wrong_type(&at("role"), "a string", other)),
    };
    let role = match role {
        // The newer name of the same thing; no template knows it.
        "developer" => "system",
        "system" | "user" | "assistant" | "tool" => role,
        other => {
            let message = format!("`{}` must be system, developer, user, assistant or tool, not {other:?}", at("role"));
            return Err(ApiError::invalid(at("role"), message));
        }
    };
    let extra: Map<String, Value> = map
        .iter()
        .filter(|(name, value)| *name != "role" && *name != "content" && !value.is_null())
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let has_calls = match extra.get("tool_calls") {
        None => false,
        Some(Value::Array(calls)) => !calls.is_empty(),
        Some(other) => return Err(wrong_type(&at("tool_calls"), "a list", other)),
    };
    let content = match map.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => read_parts(&at("content"), parts)?,
        None | Some(Value::Null) if role == "assistant" && has_calls => String::new(),
        None | Some(Value::Null) => {
            return Err(ApiError::invalid(at("content"), format!("`{}` is missing", at("content"))));
        }
        Some(other) => return Err(wrong_type(&at("content"), "a string or a list of text parts", other)),
    };
    Ok(Message { role: role.to_string(), content, extra })
}

fn read_parts(param: &str, parts: &[Value]) -> Result<String, ApiError> {
    let mut text = String::new();
    for (index, part) in parts.iter().enumerate() {
        let param = format!("{param}[{index}]");
        let Value::Object(map) = part else { return Err(wrong_type(&param, "an object", part)) };
        if map.get("type").and_then(Value::as_str) != Some("text") {
            return Err(ApiError::unsupported(param, "only parts of type \"text\" are supported"));
        }
        match map.get("text") {
            Some(Value::String(piece)) => text.push_str(piece),
            other => return Err(wrong_type(&format!("{param}.text"), "a string", other.unwrap_or(&Value::Null))),
        }
    }
    Ok(text)
}
