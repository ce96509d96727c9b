//! What goes into the engine and what comes out: requests, refusals, events, outputs. Data only.

use crate::grammar::Grammar;
use hone_data::{Profile, Tokenizer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Stop strings of one request.
const MAX_STOPS: usize = 64;
/// Bytes of one stop string.
const MAX_STOP_BYTES: usize = 1024;
/// Most probable tokens that are reported for each position.
const MAX_TOP_LOGPROBS: usize = 20;
/// Largest change of a logit that a bias may make.
const MAX_BIAS: f32 = 100.0;
/// Largest change of a logit that a rule may make.
pub(crate) const MAX_RULE: f32 = 1000.0;
/// Rules of one request.
const MAX_RULES: usize = 256;

/// The caller's name for a request; unique among the requests that are waiting or running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub u64);

/// How the next token is chosen. The default is greedy: the most probable token, the lowest id on a tie.
///
/// Order of the rules: bias, rules and penalties on the logits, the grammar, temperature, `top_k`, `top_p`, `min_p`, draw. A request's draws come from its
/// own seeded generator: they do not depend on which other requests share the batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sampling {
    /// 0 is greedy; else logits are divided by it. At most 100.
    pub temperature: f32,
    /// Keep the smallest set of most probable tokens whose probability reaches this; in (0, 1], 1 keeps all.
    pub top_p: f32,
    /// Keep this many most probable tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep tokens at least this share as probable as the most probable one; in [0, 1], 0 keeps all.
    pub min_p: f32,
    /// Seed of the request's own random generator.
    pub seed: u64,
    /// Subtracted from the logit of every token that was generated already; in [-2, 2].
    pub presence_penalty: f32,
    /// Subtracted from a token's logit once for each time it was generated; in [-2, 2].
    pub frequency_penalty: f32,
    /// Divides positive and multiplies negative logits of tokens in the prompt or the answer so far; in [0.01, 100], 1 is off.
    pub repetition_penalty: f32,
    /// Added to the logits of these tokens; each in [-100, 100].
    pub logit_bias: BTreeMap<u32, f32>,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            seed: 0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: BTreeMap::new(),
        }
    }
}

/// A rule that lowers one token's logit for a part of the answer.
#[derive(Debug, Clone, PartialEq)]
pub struct LogitRule {
    /// The token.
    pub token: u32,
    /// `(up to this many generated tokens, subtracted from the logit)`, in order; nothing after the last. Amounts are cut
    /// to 1000.
    pub schedule: Vec<(usize, f32)>,
}

impl LogitRule {
    /// A profile's token penalties, those whose text is one token of this tokenizer.
    fn of_profile(profile: &dyn Profile, tokenizer: &Tokenizer) -> Vec<LogitRule> {
        let rules = profile.penalties().into_iter().filter_map(|penalty| {
            match tokenizer.encode(&penalty.text).ok()?.as_slice() {
                [token] => Some(LogitRule { token: *token, schedule: penalty.schedule }),
                _ => None,
            }
        });
        rules.collect()
    }
}

/// One prompt to continue.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenRequest {
    /// Token ids of the prompt, at least one.
    pub prompt: Vec<u32>,
    /// The most tokens to generate, at least one; the end token counts.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Generation ends where one of these would appear; none of it is given out. Empty strings are refused.
    pub stop: Vec<String>,
    /// Report log-probabilities: of the chosen token, and of this many most probable ones (0 to 20).
    pub top_logprobs: Option<usize>,
    /// Rules beside the sampling: those of the model's profile.
    pub rules: Vec<LogitRule>,
    /// The answer is a text of this language, or a beginning of one when `max_tokens` cuts it.
    pub grammar: Option<Grammar>,
}

impl GenRequest {
    /// Greedy, and held to the profile's stop strings and token penalties: what previews, evaluations and the server begin
    /// with.
    #[must_use]
    pub fn under_profile(
        profile: &dyn Profile,
        tokenizer: &Tokenizer,
        prompt: Vec<u32>,
        max_tokens: usize,
    ) -> GenRequest {
        let (stop, rules) = (profile.stop_strings(), LogitRule::of_profile(profile, tokenizer));
        GenRequest { prompt, max_tokens, stop, rules, ..GenRequest::default() }
    }

    /// Refuses values that are out of range.
    pub(crate) fn check(&self, vocab_size: usize) -> Result<(), Refusal> {
        let Sampling { temperature, top_p, min_p, presence_penalty, frequency_penalty, repetition_penalty, .. } =
            self.sampling;
        let bias = &self.sampling.logit_bias;
        let ruled = self.rules.iter().map(|rule| rule.token);
        let outside = self.prompt.iter().find(|&&id| id as usize >= vocab_size);
        // Written so that NaN is refused.
        let checks = [
            ("prompt", !self.prompt.is_empty(), "must hold a token".to_owned()),
            (
                "prompt",
                outside.is_none(),
                format!("ids must be below {vocab_size}, one is {}", outside.copied().unwrap_or_default()),
            ),
            ("max_tokens", self.max_tokens > 0, "must be above 0".to_owned()),
            ("temperature", (0.0..=100.0).contains(&temperature), format!("must be from 0 to 100, is {temperature}")),
            ("top_p", top_p > 0.0 && top_p <= 1.0, format!("must be above 0 and at most 1, is {top_p}")),
            ("min_p", (0.0..=1.0).contains(&min_p), format!("must be from 0 to 1, is {min_p}")),
            (
                "presence_penalty",
                (-2.0..=2.0).contains(&presence_penalty),
                format!("must be from -2 to 2, is {presence_penalty}"),
            ),
            (
                "frequency_penalty",
                (-2.0..=2.0).contains(&frequency_penalty),
                format!("must be from -2 to 2, is {frequency_penalty}"),
            ),
            (
                "repetition_penalty",
                (0.01..=100.0).contains(&repetition_penalty),
                format!("must be from 0.01 to 100, is {repetition_penalty}"),
            ),
            (
                "stop",
                self.stop.len() <= MAX_STOPS,
                format!("must hold at most {MAX_STOPS} strings, holds {}", self.stop.len()),
            ),
            ("stop", self.stop.iter().all(|stop| !stop.is_empty()), "must not hold an empty string".to_owned()),
            (
                "stop",
                self.stop.iter().all(|stop| stop.len() <= MAX_STOP_BYTES),
                format!("strings must have at most {MAX_STOP_BYTES} bytes"),
            ),
            (
                "logit_bias",
                bias.values().all(|bias| (-MAX_BIAS..=MAX_BIAS).contains(bias)),
                format!("must be from -{MAX_BIAS} to {MAX_BIAS}"),
            ),
            (
                "logit_bias",
                bias.keys().copied().chain(ruled).all(|token| (token as usize) < vocab_size),
                format!("ids must be below {vocab_size}"),
            ),
            ("rules", self.rules.len() <= MAX_RULES, format!("must be at most {MAX_RULES}")),
            (
                "top_logprobs",
                self.top_logprobs.is_none_or(|count| count <= MAX_TOP_LOGPROBS),
                format!("must be at most {MAX_TOP_LOGPROBS}"),
            ),
        ];
        match checks.into_iter().find(|(_, ok, _)| !ok) {
            Some((field, _, message)) => Err(Refusal::Invalid { field, message }),
            None => Ok(()),
        }
    }
}

/// Why a request was not taken. Nothing about it is kept.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Prompt and answer together do not fit the context.
    #[error("prompt and max_tokens need {need} tokens, the context holds {limit}")]
    ContextOverflow {
        /// Tokens that the context holds.
        limit: usize,
        /// Prompt tokens plus `max_tokens`.
        need: usize,
    },
    /// The waiting queue is full: try again later.
    #[error("{limit} requests are waiting already")]
    Full {
        /// Requests that may wait.
        limit: usize,
    },
    /// A request with this id is waiting or running.
    #[error("a request with id {id} is already known")]
    Duplicate {
        /// The number in the request's id.
        id: u64,
    },
    /// A field is out of range.
    #[error("{field}: {message}")]
    Invalid {
        /// Name of the field of [`GenRequest`] or [`Sampling`].
        field: &'static str,
        /// What is allowed and what was given.
        message: String,
    },
}

/// Something that happened to a request in a step.
#[derive(Debug, Clone, PartialEq)]
pub struct GenEvent {
    /// The request.
    pub id: RequestId,
    /// What happened.
    pub kind: GenEventKind,
}

/// What happened to a request. Every accepted request ends with exactly one `Finished` or `Failed`, unless it is cancelled.
#[derive(Debug, Clone, PartialEq)]
pub enum GenEventKind {
    /// A token was generated, the end token included.
    Token {
        /// Text that became certain with this token: possibly empty (a character or a possible stop string is still
        /// incomplete), possibly with text held back earlier. The texts of a request, joined, are its answer.
        text: String,
        /// The token id.
        token: u32,
        /// Present when the request asked for log-probabilities.
        logprobs: Option<TokenLogprobs>,
    },
    /// The answer is complete.
    Finished {
        /// Why it ended.
        reason: FinishReason,
        /// What it took.
        usage: Usage,
    },
    /// The model gave numbers that are no probabilities (not finite): nothing after the texts so far is an answer.
    Failed {
        /// What was seen.
        message: String,
    },
}

/// Log-probability of one token.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// The token id.
    pub token: u32,
    /// What it adds to a text: possibly a part of a character; nothing for an id beyond the vocabulary.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability under the model (temperature 1, before penalties and cuts).
    pub logprob: f32,
}

/// Log-probabilities at one position.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// The token that was generated.
    pub chosen: TokenLogprob,
    /// The most probable tokens, best first; as many as were asked for.
    pub top: Vec<TokenLogprob>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// An end token or a stop string.
    Stop,
    /// `max_tokens` were generated.
    Length,
}

/// Tokens of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated, the end token included.
    pub completion_tokens: usize,
}

/// A whole answer, as [`crate::Engine::generate`] gives it.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// The answer without end token and stop string.
    pub text: String,
    /// Why it ended.
    pub reason: FinishReason,
    /// Tokens generated, the end token included.
    pub num_tokens: usize,
    /// The ids of these tokens.
    pub ids: Vec<u32>,
    /// Log-probabilities for each token; empty unless asked for.
    pub logprobs: Vec<TokenLogprobs>,
}
