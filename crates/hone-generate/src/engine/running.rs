//! One request in a slot: from logits to events.

use crate::request::{FinishReason, GenEventKind, GenRequest, MAX_RULE, RequestId, TokenLogprob, TokenLogprobs, Usage};
use crate::sample::{Sampler, log_probabilities, not_finite};
use crate::stop::StopScanner;
use hone_data::{DecodeStream, Tokenizer};

/// A request that holds a slot.
pub(super) struct Running {
    pub(super) id: RequestId,
    /// The token that goes into the cache next.
    pub(super) last_token: u32,
    request: GenRequest,
    sampler: Sampler,
    text: DecodeStream,
    stops: StopScanner,
    num_generated: usize,
}

impl Running {
    pub(super) fn new(id: RequestId, request: GenRequest, tokenizer: &Tokenizer) -> Running {
        Running {
            id,
            last_token: 0,
            sampler: Sampler::new(&request.sampling, &request.prompt),
            text: tokenizer.stream(true),
            stops: StopScanner::new(&request.stop),
            num_generated: 0,
            request,
        }
    }

    pub(super) fn prompt(&self) -> &[u32] {
        &self.request.prompt
    }

    /// Chooses a token. Gives one token event, then the end if this is it; or a failure alone.
    pub(super) fn advance(&mut self, mut logits: Vec<f32>, tokenizer: &Tokenizer) -> Vec<GenEventKind> {
        if let Some(token) = not_finite(&logits) {
            let message = format!("the model's logit for token {token} is {}", logits[token]);
            return vec![GenEventKind::Failed { message }];
        }
        // Log-probabilities are the model's own, so they are taken before penalties change the logits.
        let untouched = self.request.top_logprobs.map(|count| (count, logits.clone()));
        self.sampler.penalise(&mut logits);
        self.apply_rules(&mut logits);
        if let Some(grammar) = &mut self.request.grammar
            && let Err(error) = grammar.mask(&mut logits)
        {
            return vec![GenEventKind::Failed { message: format!("the grammar allows no token: {error}") }];
        }
        let token = self.sampler.choose(&logits);
        let logprobs = untouched.map(|(count, logits)| describe(&logits, token, count, tokenizer));
        self.last_token = token;
        self.num_generated += 1;

        let is_end = tokenizer.eos_ids().contains(&token);
        let mut complete = is_end;
        if let (Some(grammar), false) = (&mut self.request.grammar, is_end) {
            match grammar.take(token) {
                Ok(ended) => complete = ended,
                Err(error) => {
                    return vec![GenEventKind::Failed { message: format!("the grammar refuses a token: {error}") }];
                }
            }
        }
        let piece = if is_end { None } else { self.text.push(token) };
        let mut scanned = self.stops.push(&piece.unwrap_or_default());
        let mut reason = match (complete || scanned.stopped, self.num_generated >= self.request.max_tokens) {
            (true, _) => Some(FinishReason::Stop),
            (false, true) => Some(FinishReason::Length),
            (false, false) => None,
        };
        if reason.is_some() && !scanned.stopped {
            // Half a character can no longer be completed, and what was held back is no stop string.
            let rest = self.text.finish().unwrap_or_default();
            let last = self.stops.push(&rest);
            scanned.text += &last.text;
            if last.stopped {
                reason = Some(FinishReason::Stop);
            } else {
                scanned.text += &self.stops.finish();
            }
        }
        let mut kinds = vec![GenEventKind::Token { text: scanned.text, token, logprobs }];
        if let Some(reason) = reason {
            let usage = Usage { prompt_tokens: self.request.prompt.len(), completion_tokens: self.num_generated };
            kinds.push(GenEventKind::Finished { reason, usage });
        }
        kinds
    }
}

impl Running {
    /// Rules hold back tokens of this answer only, by how long it is.
    fn apply_rules(&self, logits: &mut [f32]) {
        for rule in &self.request.rules {
            let amount =
                rule.schedule.iter().find(|(until, _)| self.num_generated < *until).map_or(0.0, |(_, amount)| *amount);
            logits[rule.token as usize] -= amount.clamp(-MAX_RULE, MAX_RULE);
        }
    }
}

fn describe(logits: &[f32], chosen: u32, count: usize, tokenizer: &Tokenizer) -> TokenLogprobs {
    let (logprob, top) = log_probabilities(logits, chosen, count);
    let with_bytes = |(token, logprob)| {
        // An id without bytes is a row of the embedding beyond the vocabulary.
        let bytes = tokenizer.token_bytes(token).unwrap_or_default();
        TokenLogprob { token, bytes, logprob }
    };
    TokenLogprobs { chosen: with_bytes((chosen, logprob)), top: top.into_iter().map(with_bytes).collect() }
}
