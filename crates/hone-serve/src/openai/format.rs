//! What an answer must look like: `response_format`, `tools`, `tool_choice` and `parallel_tool_calls`.

use super::fields::{Fields, wrong_type};
use crate::error::ApiError;
use serde_json::{Value, json};

/// Most tools of a request.
const MAX_TOOLS: usize = 128;
/// Longest name of a function.
const MAX_NAME_BYTES: usize = 256;

/// The language of an answer's text.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ResponseFormat {
    /// Any text.
    #[default]
    Text,
    /// JSON that this schema allows.
    Json(Value),
}

/// Functions that the model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tools {
    /// As sent, for the chat template: `[{"type": "function", "function": {"name", "description", "parameters"}}]`.
    pub list: Value,
    /// Whether it must.
    pub choice: ToolChoice,
    /// Whether an answer may hold several calls; else it ends with the first.
    pub parallel: bool,
}

/// Whether a function is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolChoice {
    /// As the model likes.
    Auto,
    /// One of them.
    Required,
    /// This one.
    Named(String),
}

impl Tools {
    /// `(name, schema of the arguments)` of those that `choice` leaves.
    pub fn functions(&self) -> Vec<(&str, Value)> {
        let all = self.list.as_array().into_iter().flatten().map(|tool| &tool["function"]);
        let named =
            all.filter_map(|function| Some((function["name"].as_str()?, arguments_schema(&function["parameters"]))));
        match &self.choice {
            ToolChoice::Named(wanted) => named.filter(|(name, _)| name == wanted).collect(),
            _ => named.collect(),
        }
    }
}

/// Reads `response_format`.
pub fn read_response_format(fields: &Fields) -> Result<ResponseFormat, ApiError> {
    let Some(format) = fields.object("response_format")? else { return Ok(ResponseFormat::Text) };
    let fields = Fields(format);
    match fields.text("type").map_err(|e| e.within("response_format"))? {
        None => Err(ApiError::invalid("response_format.type", "`response_format.type` is missing")),
        Some("text") => Ok(ResponseFormat::Text),
        Some("json_object") => Ok(ResponseFormat::Json(json!({"type": "object"}))),
        Some("json_schema") => {
            let param = "response_format.json_schema";
            let inner = fields.object("json_schema").map_err(|e| e.within("response_format"))?;
            let inner = inner.ok_or_else(|| ApiError::invalid(param, format!("`{param}` is missing")))?;
            match Fields(inner).get("schema") {
                Some(schema @ (Value::Object(_) | Value::Bool(true))) => Ok(ResponseFormat::Json(schema.clone())),
                Some(other) => Err(wrong_type("response_format.json_schema.schema", "an object", other)),
                None => Err(ApiError::invalid("response_format.json_schema.schema", "the schema is missing")),
            }
        }
        Some(other) => {
            let message = format!("`response_format.type` must be text, json_object or json_schema, not {other:?}");
            Err(ApiError::invalid("response_format.type", message))
        }
    }
}

/// Reads `tools`, `tool_choice` and `parallel_tool_calls`; `None` when no function may be called.
pub fn read_tools(fields: &Fields) -> Result<Option<Tools>, ApiError> {
    let parallel = fields.flag("parallel_tool_calls")?.unwrap_or(true);
    let list = fields.list("tools")?.filter(|tools| !tools.is_empty());
    let names = list.map(|list| read_names(list)).transpose()?.unwrap_or_default();
    let choice = match fields.get("tool_choice") {
        None => ToolChoice::Auto,
        Some(Value::String(choice)) => match choice.as_str() {
            "auto" => ToolChoice::Auto,
            "none" => return Ok(None),
            "required" => ToolChoice::Required,
            other => {
                let message = format!("`tool_choice` must be auto, none, required or a function, not {other:?}");
                return Err(ApiError::invalid("tool_choice", message));
            }
        },
        Some(Value::Object(choice)) => match choice.get("function").and_then(|function| function["name"].as_str()) {
            Some(name) if names.contains(&name) => ToolChoice::Named(name.to_string()),
            Some(name) => return Err(ApiError::invalid("tool_choice", format!("no tool is named {name:?}"))),
            None => return Err(ApiError::invalid("tool_choice", "`tool_choice.function.name` is missing")),
        },
        Some(other) => return Err(wrong_type("tool_choice", "a string or an object", other)),
    };
    match (list, choice) {
        (None, ToolChoice::Auto) => Ok(None),
        (None, _) => Err(ApiError::invalid("tool_choice", "`tool_choice` needs `tools`")),
        (Some(list), choice) => Ok(Some(Tools { list: Value::Array(list.clone()), choice, parallel })),
    }
}

fn read_names(list: &[Value]) -> Result<Vec<&str>, ApiError> {
    if list.len() > MAX_TOOLS {
        return Err(ApiError::invalid("tools", format!("`tools` must hold at most {MAX_TOOLS} tools")));
    }
    let read = |(index, tool): (usize, &'_ Value)| -> Result<(), ApiError> {
        let param = format!("tools[{index}]");
        let Value::Object(map) = tool else { return Err(wrong_type(&param, "an object", tool)) };
        if map.get("type").is_some_and(|kind| kind != "function") {
            return Err(ApiError::unsupported(
                format!("{param}.type"),
                "only tools of type \"function\" are supported",
            ));
        }
        match tool["function"]["name"].as_str() {
            Some(name) if !name.is_empty() && name.len() <= MAX_NAME_BYTES => {}
            _ => {
                let param = format!("{param}.function.name");
                let message = format!("`{param}` must be a string of 1 to {MAX_NAME_BYTES} bytes");
                return Err(ApiError::invalid(param, message));
            }
        }
        match &tool["function"]["parameters"] {
            Value::Null | Value::Object(_) => Ok(()),
            other => Err(wrong_type(&format!("{param}.function.parameters"), "an object", other)),
        }
    };
    list.iter().enumerate().try_for_each(read)?;
    Ok(list.iter().filter_map(|tool| tool["function"]["name"].as_str()).collect())
}

/// Arguments are an object, also where the schema leaves their type open. A function without parameters takes one without
/// fields.
fn arguments_schema(parameters: &Value) -> Value {
    let Value::Object(schema) = parameters else {
        return json!({"type": "object", "properties": {}, "additionalProperties": false});
    };
    let mut schema = schema.clone();
    let leaves_open = match schema.get("type") {
        None => true,
        Some(Value::Array(types)) => types.iter().any(|kind| kind == "object"),
        Some(_) => false,
    };
    if leaves_open {
        schema.insert("type".to_string(), json!("object"));
    }
    Value::Object(schema)
}
