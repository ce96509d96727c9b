//! The one chat template: a model's own Jinja template, rendered as `transformers` renders it.
//!
//! The engine is set up as there: `trim_blocks` and `lstrip_blocks`, loop controls, `raise_exception`,
//! `strftime_now` (in UTC), `tojson` as Python's `json.dumps`, Python's string and dict methods, the model's
//! special tokens as variables, `tools` and `documents` always defined, keys with `null` left out of
//! messages, and reasoning under each of its names. `{% generation %}` marks are accepted and print nothing.
//! Arguments of tool calls that are JSON text, as OpenAI writes them, are given to the template as the object that
//! they hold, so that `tojson` does not encode them twice. A template that asks whether arguments are a string, or that
//! fails with the object (it adds them to a text), gets the text as it came. Rows and requests are rendered here alike.
//! Line ends of a template are LF to the engine, whatever its file has.
//!
//! Files read from a model folder: `chat_template.jinja`, else `chat_template` in `tokenizer_config.json` (a
//! text, or a list of `{name, template}` with a `default` and perhaps a `tool_use`), and the special tokens
//! of `tokenizer_config.json` and `special_tokens_map.json`.

mod clock;
mod python_json;

use crate::example::Message;
use crate::tokenizer::read_json;
use anyhow::{Context, Result, anyhow};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

/// A compiled chat template with the special tokens it prints. Cheap to clone, shared between threads.
#[derive(Clone)]
pub struct ChatTemplate {
    inner: Arc<Inner>,
}

struct Inner {
    environment: Environment<'static>,
    source: String,
    hash: String,
    special_tokens: Map<String, Value>,
    /// The text of the template for conversations with tools, where it is another one.
    tool_use: Option<String>,
}

/// What is rendered.
#[derive(Clone, Copy, Debug)]
pub struct RenderInput<'a> {
    /// The conversation.
    pub messages: &'a [Message],
    /// Function schemas, a list of objects.
    pub tools: Option<&'a Value>,
    /// Whether the header of the assistant's next turn is appended.
    pub add_generation_prompt: bool,
    /// Extra variables (`chat_template_kwargs`). They win over special tokens, not over the fields above.
    pub kwargs: &'a Map<String, Value>,
}

/// A conversation as the template's own values: made once, rendered for each of its turns.
#[derive(Debug)]
pub struct Conversation<'a> {
    template: minijinja::Template<'a, 'a>,
    variables: BTreeMap<String, minijinja::Value>,
    messages: Vec<minijinja::Value>,
    /// With the arguments of calls as they came, where `messages` has them parsed.
    as_they_came: Option<Vec<minijinja::Value>>,
}

impl Conversation<'_> {
    /// Its first `num_messages` messages as text, with the header of the assistant's next turn if asked for.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render(&self, num_messages: usize, add_generation_prompt: bool) -> Result<String> {
        let rendered = self.render_messages(&self.messages[..num_messages], add_generation_prompt);
        let rendered = rendered.or_else(|error| match &self.as_they_came {
            Some(messages) => self.render_messages(&messages[..num_messages], add_generation_prompt).map_err(|_| error),
            None => Err(error),
        });
        rendered.map_err(|e| anyhow!(explain(&e)))
    }

    fn render_messages(&self, messages: &[minijinja::Value], add_generation_prompt: bool) -> Result<String, Error> {
        let mut variables = self.variables.clone();
        variables.insert("messages".to_string(), messages.to_vec().into());
        variables.insert("add_generation_prompt".to_string(), add_generation_prompt.into());
        self.template.render(minijinja::Value::from(variables))
    }
}

impl ChatTemplate {
    /// The template of a model folder.
    ///
    /// # Errors
    /// The folder has no template, or it does not compile.
    pub fn from_dir(model_dir: &Path) -> Result<Self> {
        Self::find_in_dir(model_dir)?.ok_or_else(|| {
            anyhow!(
                "the model in {} has no chat template (neither chat_template.jinja nor chat_template in \
                 tokenizer_config.json), so it can only be used with completion data",
                model_dir.display()
            )
        })
    }

    /// The template of a model folder, `None` when it has none.
    ///
    /// # Errors
    /// A broken file, or a template that does not compile.
    pub fn find_in_dir(model_dir: &Path) -> Result<Option<Self>> {
        let config = read_json(&model_dir.join("tokenizer_config.json"))?.unwrap_or(Value::Null);
        let path = model_dir.join("chat_template.jinja");
        let templates = match std::fs::read_to_string(&path) {
            Ok(text) => vec![(DEFAULT.to_string(), text)],
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => named_templates(&config["chat_template"]),
            Err(e) => return Err(e).with_context(|| format!("read {}", path.display())),
        };
        if templates.is_empty() {
            return Ok(None);
        }
        let special_tokens = special_tokens(model_dir, &config)?;
        Self::compile(templates, special_tokens).map(Some)
    }

    /// A template from its text; `bos` and `eos` become `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// The text does not compile.
    pub fn from_source(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self> {
        let tokens = [("bos_token", bos), ("eos_token", eos)];
        let special_tokens = tokens.iter().filter_map(|(name, token)| Some((name.to_string(), (*token)?.into())));
        Self::compile(vec![(DEFAULT.to_string(), source.to_string())], special_tokens.collect())
    }

    /// The conversation as text.
    ///
    /// # Errors
    /// The template refuses the conversation (`raise_exception`) or fails; the message is its own.
    pub fn render(&self, input: &RenderInput<'_>) -> Result<String> {
        let conversation = self.conversation(input.messages, input.tools, input.kwargs)?;
        conversation.render(input.messages.len(), input.add_generation_prompt)
    }

    /// A conversation of which several beginnings will be rendered; arguments as those of [`RenderInput`].
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn conversation(
        &self,
        messages: &[Message],
        tools: Option<&Value>,
        kwargs: &Map<String, Value>,
    ) -> Result<Conversation<'_>> {
        let mut variables = self.inner.special_tokens.clone();
        variables.extend(kwargs.clone());
        variables.insert("tools".to_string(), tools.cloned().unwrap_or(Value::Null));
        variables.entry("documents").or_insert(Value::Null);
        let variables = variables.into_iter().map(|(name, value)| (name, minijinja::Value::from(Serde(value))));
        let name = if tools.is_some() && self.inner.tool_use.is_some() { TOOL_USE } else { DEFAULT };
        let template = self.inner.environment.get_template(name).context("find the compiled template")?;
        let messages: Vec<Value> = messages.iter().map(message_variables).collect();
        let parsed = if takes_text_arguments(template.source()) { None } else { with_parsed_arguments(&messages) };
        let values = |messages: Vec<Value>| -> Vec<minijinja::Value> {
            messages.into_iter().map(|message| minijinja::Value::from(Serde(message))).collect()
        };
        let (messages, as_they_came) = match parsed {
            Some(parsed) => (values(parsed), Some(values(messages))),
            None => (values(messages), None),
        };
        Ok(Conversation { template, variables: variables.collect(), messages, as_they_came })
    }

    /// BLAKE3 of the template's text, hex.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.inner.hash
    }

    /// The template's text.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.inner.source
    }

    /// The text that renders conversations with tools: that of `tool_use` where the model has one, else
    /// [`source`](Self::source).
    #[must_use]
    pub fn source_with_tools(&self) -> &str {
        self.inner.tool_use.as_deref().unwrap_or(&self.inner.source)
    }

    fn compile(templates: Vec<(String, String)>, special_tokens: Map<String, Value>) -> Result<Self> {
        let mut hasher = blake3::Hasher::new();
        let text_of = |wanted: &str| templates.iter().find(|(name, _)| name == wanted).map(|(_, text)| text.clone());
        let source =
            text_of(DEFAULT).ok_or_else(|| anyhow!("none of the model's chat templates is named {DEFAULT:?}"))?;
        let tool_use = text_of(TOOL_USE);
        let mut environment = environment();
        for (name, text) in &templates {
            hasher.update(text.as_bytes());
            environment
                .add_template_owned(
                    name.clone(),
                    without_generation_marks(&text.replace("\r\n", "\n").replace('\r', "\n")),
                )
                .map_err(|e| anyhow!("compile the chat template: {e}"))?;
        }
        let hash = hasher.finalize().to_hex().to_string();
        Ok(ChatTemplate { inner: Arc::new(Inner { environment, source, hash, special_tokens, tool_use }) })
    }
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").field("hash", &self.inner.hash).finish_non_exhaustive()
    }
}

/// The special tokens of a model by their names (`bos_token`, …), each as its text.
pub(crate) fn special_tokens(model_dir: &Path, tokenizer_config: &Value) -> Result<Map<String, Value>> {
    let map = read_json(&model_dir.join("special_tokens_map.json"))?.unwrap_or(Value::Null);
    let mut tokens = Map::new();
    for source in [&map, tokenizer_config] {
        for (name, value) in source.as_object().into_iter().flatten() {
            let text = value.as_str().or_else(|| value.get("content").and_then(Value::as_str));
            if let Some(text) = text.filter(|_| name.ends_with("_token")) {
                tokens.insert(name.clone(), text.into());
            }
        }
    }
    Ok(tokens)
}

/// `chat_template` of a configuration: one text, or a list of named ones; only those that are used here.
fn named_templates(value: &Value) -> Vec<(String, String)> {
    match value {
        Value::String(text) => vec![(DEFAULT.to_string(), text.clone())],
        Value::Array(list) => list
            .iter()
            .filter_map(|entry| Some((entry["name"].as_str()?.to_string(), entry["template"].as_str()?.to_string())))
            .filter(|(name, _)| name == DEFAULT || name == TOOL_USE)
            .collect(),
        _ => Vec::new(),
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("only the white-space switches differ from the default"));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", tojson);
    environment.add_test("iterable", is_iterable);
    environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: String| clock::strftime_now(&format));
    environment
}

/// As in Python: `none` cannot be iterated over, an undefined value and a string can.
fn is_iterable(value: &minijinja::Value) -> bool {
    use minijinja::value::ValueKind;
    matches!(value.kind(), ValueKind::Undefined | ValueKind::String) || (!value.is_none() && value.try_iter().is_ok())
}

/// Python's `json.dumps(value, ensure_ascii=False, …)` with the arguments that `transformers` lets through.
fn tojson(value: minijinja::Value, kwargs: Kwargs) -> Result<minijinja::Value, Error> {
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let style = python_json::Style {
        ensure_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent: kwargs.get("indent")?,
        separators: separators.and_then(|list| <[String; 2]>::try_from(list).ok()),
    };
    kwargs.assert_all_used()?;
    let json = serde_json::to_value(&value)
        .map_err(|e| Error::new(ErrorKind::BadSerialization, "value is not JSON").with_source(e))?;
    Ok(minijinja::Value::from_safe_string(python_json::dumps(&json, &style)))
}

/// A message as the template sees it.
fn message_variables(message: &Message) -> Value {
    let mut map = Map::new();
    map.insert("role".to_string(), message.role.clone().into());
    map.insert("content".to_string(), message.content.clone().into());
    map.extend(message.extra.iter().filter(|(_, value)| !value.is_null()).map(|(k, v)| (k.clone(), v.clone())));
    if let Some(reasoning) = message.reasoning().cloned() {
        map.entry("thinking").or_insert_with(|| reasoning.clone());
        map.insert("reasoning_content".to_string(), reasoning);
    }
    Value::Object(map)
}

/// Whether a template asks if arguments of calls are a string (`arguments is string`, `['arguments'] is not string`).
fn takes_text_arguments(source: &str) -> bool {
    const NAME: &str = "arguments";
    let is_asked = |rest: &str| {
        let question = rest.trim_start_matches(['\'', '"', ']', ')']).trim_start().strip_prefix("is ")?.trim_start();
        Some(question.strip_prefix("not ").unwrap_or(question).trim_start().starts_with("string"))
    };
    source.match_indices(NAME).any(|(at, _)| is_asked(&source[at + NAME.len()..]) == Some(true))
}

/// Messages with the arguments of calls as the objects that they hold. `None` where none of them is the text of one.
fn with_parsed_arguments(messages: &[Value]) -> Option<Vec<Value>> {
    if messages.iter().all(|message| message.get("tool_calls").is_none()) {
        return None;
    }
    let mut messages = messages.to_vec();
    let mut is_any = false;
    let calls = messages.iter_mut().filter_map(|message| message.get_mut("tool_calls")?.as_array_mut()).flatten();
    for arguments in calls.filter_map(|call| call.pointer_mut("/function/arguments")) {
        if let Value::String(text) = &*arguments
            && let Ok(parsed @ Value::Object(_)) = serde_json::from_str::<Value>(text)
        {
            *arguments = parsed;
            is_any = true;
        }
    }
    is_any.then_some(messages)
}

/// What went wrong, in one sentence: the template's own words where it raised them.
fn explain(error: &Error) -> String {
    match (error.detail(), error.line()) {
        (Some(detail), _) if error.kind() == ErrorKind::InvalidOperation => detail.to_string(),
        (Some(detail), Some(line)) => format!("{}: {detail} (line {line} of the template)", error.kind()),
        (None, Some(line)) => format!("{} (line {line} of the template)", error.kind()),
        _ => error.to_string(),
    }
}

/// Turns `{% generation %}` … `{% endgeneration %}` into a block that prints its body, with the same
/// white-space control.
fn without_generation_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(len) = rest[start..].find("%}") else { break };
        let (tag, end) = (&rest[start + 2..start + len], start + len + 2);
        let word = tag.trim_matches(['-', '+']).trim();
        let block = match word {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        out.push_str(&rest[..start]);
        match block {
            Some(block) => out.push_str(&format!("{{%{}%}}", tag.replace(word, &format!(" {block} ")))),
            None => out.push_str(&rest[start..end]),
        }
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests;
