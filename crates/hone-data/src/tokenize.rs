//! Rows to token ids with their loss mask, born together.
//!
//! **Conversations.** The rendered whole is tokenized once, so its ids are those of the reference template
//! engine. For every assistant turn the conversation before it is rendered with the generation prompt (what
//! the server sees), and up to it (what the turn adds). Where each is a true prefix of the next and of the
//! whole, the row is one example and its turns are the trained spans. Where it is not (Qwen3 prints an empty
//! think block in the last turn only), each assistant turn becomes an example of its own, as the server would
//! meet it: exactly the prompt that the server renders before that turn, then the turn as the template prints
//! it. An empty think block that the template made and that is not in the server's prompt is left out of the
//! example: the model is asked without it, so it must be trained without it. With `enable_thinking: false` the
//! prompt ends with such a block; a turn that brings reasoning of its own is then trained without the reasoning.
//!
//! A span begins where the generation prompt ends and reaches to its end-of-turn token, which is trained;
//! what templates print after it (a line break, the end of the whole) is not. A token that straddles the border between prompt
//! and answer of a whole conversation holds text of the prompt and is not trained; in an example of one turn
//! both sides are then tokenized apart, since the server's prompt ends there.
//!
//! **Completions.** `ids = prefix + prompt + completion + end`: prompt and completion are tokenized apart, so
//! the border never falls into a token; prefix is what the tokenizer's own post-processor puts before a text
//! (a beginning-of-text token, or nothing); end is the model's `eos_token`, trained. A model without one gets
//! no end.

use crate::example::{Example, Message, Row, RowId};
use crate::profile::{Plain, Profile};
use crate::template::{ChatTemplate, RenderInput};
use crate::tokenizer::{Encoded, Tokenizer};
use anyhow::{Result, anyhow};
use hone_pipeline::config::{Overlong, ProfileSettings};
use serde_json::{Map, Value};
use std::path::Path;
use std::sync::Arc;

/// Everything that turns a conversation into ids: the same for training, preview, evaluation and serving.
#[derive(Clone)]
pub struct ChatContext {
    /// The model's template; `None` for a model without one (then only completions can be used).
    pub template: Option<ChatTemplate>,
    /// The model's tokenizer.
    pub tokenizer: Tokenizer,
    /// The data profile.
    pub profile: Arc<dyn Profile>,
    /// Configured extra variables of the template.
    pub kwargs: Map<String, Value>,
}

/// A row as token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    /// The row it comes from.
    pub row: RowId,
    /// Its line, from 1.
    pub line: u64,
    /// Token ids.
    pub ids: Vec<u32>,
    /// `mask[i]`: `ids[i]` is trained. `mask[0]` is always false: nothing predicts the first token.
    pub mask: Vec<bool>,
}

impl TokenRow {
    /// How many tokens carry loss.
    #[must_use]
    pub fn num_trained(&self) -> usize {
        self.mask.iter().filter(|trained| **trained).count()
    }
}

/// Why a row cannot be trained on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {kind}")]
pub struct RowError {
    /// Its line, from 1.
    pub line: u64,
    /// The row.
    pub row: RowId,
    /// Why.
    pub kind: RowErrorKind,
}

/// The reasons, each with a stable [`code`](RowErrorKind::code).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowErrorKind {
    /// The model has no chat template.
    #[error("the model has no chat template, so conversations cannot be trained on it")]
    NoTemplate,
    /// The template raised an error.
    #[error("the model's chat template refuses the conversation: {0}")]
    TemplateRefuses(String),
    /// The prompt that the server would send is not the beginning of the rendered conversation.
    #[error("message {turn}: the rendered prompt is not the beginning of the rendered conversation")]
    PromptNotPrefix {
        /// Number of the assistant's message, from 1.
        turn: usize,
    },
    /// No end-of-turn token after an answer.
    #[error("message {turn}: the template prints no end-of-turn token after the answer")]
    NoEndToken {
        /// Number of the assistant's message, from 1.
        turn: usize,
    },
    /// The profile cannot decorate an answer.
    #[error("the profile {0:?} cannot decorate it: {1}")]
    ProfileRefuses(&'static str, String),
    /// Nothing is left to train.
    #[error("no token of the row would be trained")]
    NothingTrained,
    /// The tokenizer failed.
    #[error("the tokenizer fails: {0}")]
    Tokenizer(String),
}

impl RowErrorKind {
    /// Stable name, used as the code of a finding.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            RowErrorKind::NoTemplate => "template_missing",
            RowErrorKind::TemplateRefuses(_) => "template_refuses",
            RowErrorKind::PromptNotPrefix { .. } => "mask_prompt_not_prefix",
            RowErrorKind::NoEndToken { .. } => "mask_no_end_token",
            RowErrorKind::ProfileRefuses(..) => "profile_refuses",
            RowErrorKind::NothingTrained => "mask_nothing_trained",
            RowErrorKind::Tokenizer(_) => "tokenizer_failed",
        }
    }
}

impl ChatContext {
    /// Loads template and tokenizer of a model folder.
    ///
    /// # Errors
    /// A broken file, or an unknown profile. A missing template is not an error here.
    pub fn from_dir(model_dir: &Path, profile: &ProfileSettings, kwargs: &Map<String, Value>) -> Result<Self> {
        Ok(ChatContext {
            template: ChatTemplate::find_in_dir(model_dir)?,
            tokenizer: Tokenizer::from_dir(model_dir)?,
            profile: crate::profile::find(profile)?,
            kwargs: kwargs.clone(),
        })
    }

    /// BLAKE3 of the chat template's text, hex; empty for a model without one.
    #[must_use]
    pub fn template_hash(&self) -> &str {
        self.template.as_ref().map_or("", ChatTemplate::hash)
    }

    /// The hash of how a conversation becomes tokens: that of the template, and where profile or variables are not the
    /// plain ones, of all three. Evaluations under different ones are not compared.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let (template, profile) = (self.template_hash(), self.profile.fingerprint());
        if profile == Plain.fingerprint() && self.kwargs.is_empty() {
            return template.to_string();
        }
        let variables = Value::Object(self.kwargs.clone());
        blake3::hash(format!("{template}\n{profile}\n{variables}").as_bytes()).to_hex().to_string()
    }
}

/// Why the profile cannot decorate one of a row's answers.
fn refused_by_profile(profile: &dyn Profile, example: &Example) -> Option<RowErrorKind> {
    let Example::Chat { messages, .. } = example else { return None };
    let mut answers = messages.iter().filter(|message| message.role == "assistant");
    let problem = answers.find_map(|answer| profile.problem(&answer.content))?;
    Some(RowErrorKind::ProfileRefuses(profile.name(), problem))
}

/// A row, decorated by the profile, as ids and mask; several where the template needs one example per
/// assistant turn. Pure.
///
/// # Errors
/// The row cannot be trained on, by name.
pub fn tokenize(ctx: &ChatContext, row: &Row) -> Result<Vec<TokenRow>, RowError> {
    let name = |kind| RowError { line: row.line, row: row.id, kind };
    if let Some(refusal) = refused_by_profile(&*ctx.profile, &row.example) {
        return Err(name(refusal));
    }
    let decorated = ctx.profile.apply(row);
    let masked = match &decorated.example {
        Example::Chat { messages, tools } => tokenize_chat(ctx, messages, tools.as_ref()),
        Example::Completion { prompt, completion } => tokenize_completion(ctx, prompt.as_deref(), completion),
    };
    let rows: Vec<TokenRow> = masked.map_err(name)?.into_iter().map(|m| m.into_row(row)).collect();
    match rows.iter().all(|r| r.num_trained() > 0) && !rows.is_empty() {
        true => Ok(rows),
        false => Err(name(RowErrorKind::NothingTrained)),
    }
}

/// The ids that server, preview and evaluation put before the assistant's next turn: the conversation with
/// generation prompt. `kwargs` of a request win over the configured ones. The profile is *not* applied.
///
/// # Errors
/// The model has no template, or it refuses the conversation.
pub fn prompt_ids(
    ctx: &ChatContext,
    messages: &[Message],
    tools: Option<&Value>,
    kwargs: Option<&Map<String, Value>>,
) -> Result<Vec<u32>> {
    let template = ctx.template.as_ref().ok_or_else(|| anyhow!(RowErrorKind::NoTemplate))?;
    let mut merged = ctx.kwargs.clone();
    merged.extend(kwargs.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())));
    let text = template.render(&RenderInput { messages, tools, add_generation_prompt: true, kwargs: &merged })?;
    ctx.tokenizer.encode(&text)
}

/// The ids of a plain prompt (no template): exactly what stands before the completion in training.
///
/// # Errors
/// The tokenizer's own failure.
pub fn completion_prompt_ids(ctx: &ChatContext, prompt: &str) -> Result<Vec<u32>> {
    let mut ids = ctx.tokenizer.text_prefix_ids().to_vec();
    ids.extend(ctx.tokenizer.encode(prompt)?);
    Ok(ids)
}

/// Brings a row to at most `max_length` tokens, or leaves it out (`None`). An answer is never cut: with
/// [`Overlong::TruncatePrompt`] only tokens before the first trained one go.
#[must_use]
pub fn fit(row: TokenRow, max_length: usize, overlong: Overlong) -> Option<TokenRow> {
    if row.ids.len() <= max_length {
        return Some(row);
    }
    if overlong != Overlong::TruncatePrompt {
        return None;
    }
    let first_trained = row.mask.iter().position(|trained| *trained)?;
    let cut = row.ids.len() - max_length;
    // One untrained token must stay: it predicts the first trained one.
    (cut < first_trained).then(|| TokenRow { ids: row.ids[cut..].to_vec(), mask: row.mask[cut..].to_vec(), ..row })
}

/// Ids and mask before they get the name of their row.
struct Masked {
    ids: Vec<u32>,
    mask: Vec<bool>,
}

impl Masked {
    fn untrained(ids: Vec<u32>) -> Self {
        Masked { mask: vec![false; ids.len()], ids }
    }

    fn into_row(mut self, row: &Row) -> TokenRow {
        if let Some(first) = self.mask.first_mut() {
            *first = false;
        }
        TokenRow { row: row.id, line: row.line, ids: self.ids, mask: self.mask }
    }
}

/// One assistant turn in the rendered conversation.
struct Turn {
    /// Number of the message, from 1.
    number: usize,
    /// What the server renders before it.
    prompt: String,
    /// What the turn adds to that, without a think block that the template made.
    target: String,
    /// The conversation rendered up to and with it.
    upto: String,
}

impl Turn {
    /// Whether the turn, as rendered, is the server's prompt and nothing but the target after it.
    fn follows_prompt(&self) -> bool {
        self.prompt.len() + self.target.len() == self.upto.len() && self.upto.starts_with(&self.prompt)
    }
}

fn tokenize_chat(ctx: &ChatContext, messages: &[Message], tools: Option<&Value>) -> Result<Vec<Masked>, RowErrorKind> {
    let template = ctx.template.as_ref().ok_or(RowErrorKind::NoTemplate)?;
    let refused = |e: anyhow::Error| RowErrorKind::TemplateRefuses(format!("{e:#}"));
    let conversation = template.conversation(messages, tools, &ctx.kwargs).map_err(refused)?;
    let render = |num_messages: usize, add_generation_prompt: bool| {
        conversation.render(num_messages, add_generation_prompt).map_err(refused)
    };
    let whole = render(messages.len(), false)?;
    let mut turns = Vec::new();
    for (i, message) in messages.iter().enumerate().filter(|(_, message)| message.role == "assistant") {
        let number = i + 1;
        let prompt = render(i, true)?;
        let upto = if number == messages.len() { whole.clone() } else { render(number, false)? };
        let target = target(&prompt, &upto, message).ok_or(RowErrorKind::PromptNotPrefix { turn: number })?;
        turns.push(Turn { number, target: target.to_string(), prompt, upto });
    }
    let eos_ids = ctx.tokenizer.eos_ids();
    if turns.iter().all(|turn| turn.follows_prompt() && whole.starts_with(&turn.upto)) {
        let encoded = encode(ctx, &whole)?;
        let mut masked = Masked::untrained(encoded.ids.clone());
        for turn in &turns {
            train_span(&mut masked.mask, &encoded, &whole[..turn.upto.len()], turn.prompt.len(), eos_ids)
                .ok_or(RowErrorKind::NoEndToken { turn: turn.number })?;
        }
        return Ok(vec![masked]);
    }
    let one_turn = |turn: &Turn| {
        let text = format!("{}{}", turn.prompt, turn.target);
        let encoded = encode_turn(ctx, turn, &text)?;
        let mut masked = Masked::untrained(encoded.ids.clone());
        train_span(&mut masked.mask, &encoded, &text, turn.prompt.len(), eos_ids)
            .ok_or(RowErrorKind::NoEndToken { turn: turn.number })?;
        Ok(masked)
    };
    turns.iter().map(one_turn).collect()
}

fn encode(ctx: &ChatContext, text: &str) -> Result<Encoded, RowErrorKind> {
    ctx.tokenizer.encode_with_spans(text).map_err(|e| RowErrorKind::Tokenizer(format!("{e:#}")))
}

/// Ids of `text`, a prompt and its target, that begin with the ids of the prompt alone: where a token would
/// straddle the border, both sides are tokenized apart (unless that would change the text).
fn encode_turn(ctx: &ChatContext, turn: &Turn, text: &str) -> Result<Encoded, RowErrorKind> {
    let joint = encode(ctx, text)?;
    let mut apart = encode(ctx, &turn.prompt)?;
    if joint.ids.starts_with(&apart.ids) {
        return Ok(joint);
    }
    let target = encode(ctx, &turn.target)?;
    apart.ids.extend(target.ids);
    apart.spans.extend(target.spans.iter().map(|(start, end)| (start + turn.prompt.len(), end + turn.prompt.len())));
    let decode = |ids: &[u32]| ctx.tokenizer.decode(ids, false).map_err(|e| RowErrorKind::Tokenizer(format!("{e:#}")));
    if decode(&apart.ids)? == decode(&joint.ids)? { Ok(apart) } else { Ok(joint) }
}

/// Marks the tokens of `text` from byte `start` to the end token of the turn: the first of the end tokens that
/// close the text (some templates print the end of the whole after that of the turn). `None` where none does:
/// an end token inside the answer does not end the turn.
fn train_span(mask: &mut [bool], encoded: &Encoded, text: &str, start: usize, eos_ids: &[u32]) -> Option<()> {
    let Encoded { ids, spans } = encoded;
    let first = spans.partition_point(|(token_start, _)| *token_start < start);
    let end = first + spans[first..].partition_point(|(_, token_end)| *token_end <= text.len());
    let is_blank = |text: &str| text.trim().is_empty();
    if end == first || !is_blank(&text[spans[end - 1].1..]) {
        return None;
    }
    let closing = |i: &usize| eos_ids.contains(&ids[*i]) || is_blank(&text[spans[*i].0..spans[*i].1]);
    let last = (first..end).rev().take_while(closing).filter(|i| eos_ids.contains(&ids[*i])).last()?;
    mask[first..=last].fill(true);
    Some(())
}

/// What a turn adds to the server's prompt, without a think block that the template made of nothing. `None`
/// where the prompt is not the beginning of what is rendered.
fn target<'a>(prompt: &str, upto: &'a str, message: &Message) -> Option<&'a str> {
    if let Some(added) = upto.strip_prefix(prompt) {
        let own = message.content.contains("<think>") || message.content.contains("</think>");
        let reasoned = message.reasoning().is_some_and(|r| r.as_str().is_none_or(|text| !text.trim().is_empty()));
        return match after_think(added) {
            Some((inside, rest)) if inside.trim().is_empty() && !own && !reasoned => Some(rest),
            _ => Some(added),
        };
    }
    // The prompt ends with an empty think block, where the data brings reasoning: the server will not think.
    let header = &prompt[..prompt.rfind("<think>")?];
    let (inside, rest) = after_think(&prompt[header.len()..])?;
    let is_empty_block = inside.trim().is_empty() && rest.is_empty();
    let (_, answer) = after_think(upto.strip_prefix(header)?)?;
    is_empty_block.then_some(answer)
}

/// What is inside a think block at the beginning of a text, and what comes after it and its line breaks.
fn after_think(text: &str) -> Option<(&str, &str)> {
    let (inside, rest) = text.trim_start().strip_prefix("<think>")?.split_once("</think>")?;
    Some((inside, rest.trim_start_matches('\n')))
}

fn tokenize_completion(ctx: &ChatContext, prompt: Option<&str>, completion: &str) -> Result<Vec<Masked>, RowErrorKind> {
    let failed = |e: anyhow::Error| RowErrorKind::Tokenizer(format!("{e:#}"));
    let mut masked = Masked::untrained(completion_prompt_ids(ctx, prompt.unwrap_or_default()).map_err(failed)?);
    masked.ids.extend(ctx.tokenizer.encode(completion).map_err(failed)?);
    masked.ids.extend(ctx.tokenizer.text_end_id());
    masked.mask.resize(masked.ids.len(), true);
    Ok(vec![masked])
}

#[cfg(test)]
mod tests;
