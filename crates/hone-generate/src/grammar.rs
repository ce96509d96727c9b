//! Grammars: an answer held to a language, token by token. The language is a JSON schema or a Lark grammar; the library is
//! `llguidance`. What the grammar does not allow gets a logit of minus infinity before a token is chosen, so an answer is
//! either complete and valid or was cut by `max_tokens`.

use anyhow::{Context, Result};
use hone_data::Tokenizer;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};
use std::fmt;
use std::sync::Arc;

/// Between JSON's items and after its colons: a space or none. Without a bound a model could go on with white space for ever.
const ITEM_SEPARATOR: &str = ", ?";
const KEY_SEPARATOR: &str = ": ?";

/// Makes grammars for one tokenizer. Cheap to share, safe between threads.
pub struct Grammars {
    factory: ParserFactory,
    eos_ids: Vec<u32>,
}

/// A language and how far a text of it has come. Made for one tokenizer; a clone begins where the original stands.
pub struct Grammar {
    matcher: Matcher,
    eos_ids: Vec<u32>,
    source: Arc<str>,
}

/// A language that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GrammarError(String);

impl Grammars {
    /// Reads the vocabulary; takes up to some tenths of a second for a large one.
    ///
    /// # Errors
    /// A vocabulary that the library does not take.
    pub fn new(tokenizer: &Tokenizer) -> Result<Grammars> {
        let num_ids = tokenizer.vocab_size() as u32;
        // A model without an end token gets one that it cannot generate.
        let eos = tokenizer.eos_ids().first().copied().unwrap_or(num_ids);
        let words: Vec<Vec<u8>> = (0..=num_ids)
            .map(|id| match tokenizer.token_bytes(id) {
                // Special tokens are no text: they stand apart, behind the library's mark.
                Some(bytes) if tokenizer.is_special(id) => {
                    [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes.as_slice()].concat()
                }
                Some(bytes) => bytes,
                None => Vec::new(),
            })
            .collect();
        let trie = TokTrie::from(&TokRxInfo::new(num_ids + 1, eos), &words);
        let mut factory =
            ParserFactory::new_simple(&(Arc::new(ApproximateTokEnv::new(trie)) as _)).context("read the vocabulary")?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Grammars { factory, eos_ids: tokenizer.eos_ids().to_vec() })
    }

    /// JSON texts that a schema allows.
    ///
    /// # Errors
    /// A schema that is none, or asks for what cannot be held while generating; the message says what.
    pub fn json_schema(&self, schema: &Value) -> Result<Grammar, GrammarError> {
        let schema = with_options(schema).ok_or_else(|| GrammarError("a schema is an object, true or false".into()))?;
        let source = schema.to_string();
        self.compile(TopLevelGrammar::from_json_schema(schema), &source)
    }

    /// Texts of a Lark grammar in `llguidance`'s dialect, in which `%json {...}` is a JSON schema.
    ///
    /// # Errors
    /// A grammar that does not compile; the message says why.
    pub fn lark(&self, text: &str) -> Result<Grammar, GrammarError> {
        self.compile(TopLevelGrammar::from_lark(text.to_string()), text)
    }

    fn compile(&self, grammar: TopLevelGrammar, source: &str) -> Result<Grammar, GrammarError> {
        let parser = self.factory.create_parser(grammar).map_err(|e| GrammarError(format!("{e:#}")))?;
        let mut matcher = Matcher::new(Ok(parser));
        // What the schema asks for and the library leaves out would be a wrong answer.
        if let Some(warning) = matcher.grammar_warnings().into_iter().next() {
            return Err(GrammarError(warning));
        }
        let begins = matcher.compute_mask().map_err(|e| GrammarError(format!("{e:#}")))?;
        if begins.is_zero() {
            return Err(GrammarError("no text can be written in this language".into()));
        }
        Ok(Grammar { matcher, eos_ids: self.eos_ids.clone(), source: source.into() })
    }
}

/// A schema for `%json` in a Lark grammar, with white space bounded as in [`Grammars::json_schema`].
#[must_use]
pub fn compact_json_schema(schema: &Value) -> Value {
    with_options(schema).unwrap_or_else(|| schema.clone())
}

/// The schema with how white space is written; see the library's `x-guidance`.
fn with_options(schema: &Value) -> Option<Value> {
    let options = json!({
        "whitespace_flexible": false, "item_separator": ITEM_SEPARATOR, "key_separator": KEY_SEPARATOR,
    });
    match schema {
        Value::Object(map) => {
            let mut map = map.clone();
            map.insert("x-guidance".to_string(), options);
            Some(Value::Object(map))
        }
        Value::Bool(true) => Some(json!({"x-guidance": options})),
        _ => None,
    }
}

impl Grammar {
    /// Takes away what may not come next.
    pub(crate) fn mask(&mut self, logits: &mut [f32]) -> Result<()> {
        let mask = self.matcher.compute_mask_or_eos()?;
        let num_ids = mask.len();
        let ends = self.eos_ids.iter().any(|id| mask.is_allowed(*id));
        for (id, logit) in logits.iter_mut().enumerate() {
            let allowed = id < num_ids && mask.is_allowed(id as u32) || ends && self.eos_ids.contains(&(id as u32));
            if !allowed {
                *logit = f32::NEG_INFINITY;
            }
        }
        anyhow::ensure!(logits.iter().any(|logit| logit.is_finite()), "no token of the model's vocabulary fits");
        Ok(())
    }

    /// Goes on by a token that the mask allowed; true when the text is complete and nothing can follow.
    pub(crate) fn take(&mut self, token: u32) -> Result<bool> {
        self.matcher.consume_token(token)?;
        Ok(self.matcher.is_stopped())
    }
}

impl Clone for Grammar {
    fn clone(&self) -> Grammar {
        Grammar { matcher: self.matcher.deep_clone(), eos_ids: self.eos_ids.clone(), source: self.source.clone() }
    }
}

impl PartialEq for Grammar {
    fn eq(&self, other: &Grammar) -> bool {
        self.source == other.source
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Grammar").field(&self.source).finish()
    }
}

#[cfg(test)]
mod tests;
