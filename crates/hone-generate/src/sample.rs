//! From logits to a token: penalties, temperature, cuts, and a draw from the request's own generator.

use crate::request::Sampling;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

/// Logits that are looked at together.
const LANES: usize = 16;

/// Chooses the tokens of one request. Its choices depend on the logits, the settings and the seed alone.
pub(crate) struct Sampler {
    sampling: Sampling,
    random: ChaCha12Rng,
    prompt: HashSet<u32>,
    /// How often each token was generated.
    counts: HashMap<u32, u32>,
}

/// A token and its share.
#[derive(Clone, Copy)]
struct Candidate {
    token: u32,
    share: f64,
}

impl Sampler {
    pub(crate) fn new(sampling: &Sampling, prompt: &[u32]) -> Sampler {
        let prompt = if sampling.repetition_penalty == 1.0 { HashSet::new() } else { prompt.iter().copied().collect() };
        let random = ChaCha12Rng::seed_from_u64(sampling.seed);
        Sampler { sampling: sampling.clone(), random, prompt, counts: HashMap::new() }
    }

    /// Takes logits (at least one of them finite, none above that), and remembers the token that it returns.
    pub(crate) fn choose(&mut self, logits: &[f32]) -> u32 {
        let token = if self.sampling.temperature == 0.0 { argmax(logits) } else { self.draw(logits) };
        *self.counts.entry(token).or_default() += 1;
        token
    }

    /// Changes finite logits by the penalties and the bias.
    pub(crate) fn penalise(&self, logits: &mut [f32]) {
        let Sampling { repetition_penalty, presence_penalty, frequency_penalty, .. } = self.sampling;
        if repetition_penalty != 1.0 {
            let generated = self.counts.keys().filter(|token| !self.prompt.contains(token));
            for &token in self.prompt.iter().chain(generated) {
                let logit = &mut logits[token as usize];
                *logit = if *logit > 0.0 { *logit / repetition_penalty } else { *logit * repetition_penalty };
            }
        }
        for (&token, &count) in &self.counts {
            logits[token as usize] -= presence_penalty + frequency_penalty * count as f32;
        }
        for (&token, &bias) in &self.sampling.logit_bias {
            logits[token as usize] += bias;
        }
    }

    fn draw(&mut self, logits: &[f32]) -> u32 {
        let candidates = candidates(&self.sampling, logits);
        let sum: f64 = candidates.iter().map(|candidate| candidate.share).sum();
        // 53 random bits: uniform in [0, 1).
        let mut rest = (self.random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64 * sum;
        for candidate in &candidates {
            if rest < candidate.share {
                return candidate.token;
            }
            rest -= candidate.share;
        }
        // Only rounding leads here.
        candidates.last().expect("the most probable token is never cut").token
    }
}

/// Tokens that may be drawn, with shares relative to the most probable one (whose share is 1).
fn candidates(sampling: &Sampling, logits: &[f32]) -> Vec<Candidate> {
    let Sampling { temperature, top_p, top_k, min_p, .. } = *sampling;
    let most = f64::from(logits[argmax(logits) as usize]);
    let share = |logit: f32| ((f64::from(logit) - most) / f64::from(temperature)).exp();
    let all = logits.iter().enumerate().map(|(token, &logit)| Candidate { token: token as u32, share: share(logit) });
    let mut candidates: Vec<Candidate> = all.filter(|candidate| candidate.share > 0.0).collect();
    if top_k > 0 && top_k < candidates.len() {
        candidates.select_nth_unstable_by(top_k - 1, by_share);
        candidates.truncate(top_k);
    }
    if top_p < 1.0 {
        keep_top_p(&mut candidates, f64::from(top_p));
    }
    candidates.retain(|candidate| candidate.share >= f64::from(min_p));
    // One order, whichever cuts were made: a draw walks along it.
    candidates.sort_unstable_by_key(|candidate| candidate.token);
    candidates
}

/// Keeps the fewest most probable candidates whose shares reach `top_p` of the sum.
fn keep_top_p(candidates: &mut Vec<Candidate>, top_p: f64) {
    let sum: f64 = candidates.iter().map(|candidate| candidate.share).sum();
    // All candidates below this together are less than what may be left out, so none of them is needed. This spares
    // sorting a whole vocabulary.
    let least = (1.0 - top_p) * sum / candidates.len() as f64;
    candidates.retain(|candidate| candidate.share >= least);
    candidates.sort_unstable_by(by_share);
    let mut reached = 0.0;
    let needed = candidates.iter().position(|candidate| {
        reached += candidate.share;
        reached >= top_p * sum
    });
    if let Some(last) = needed {
        candidates.truncate(last + 1);
    }
}

/// Most probable first, the lower id first on a tie.
fn by_share(a: &Candidate, b: &Candidate) -> Ordering {
    b.share.total_cmp(&a.share).then(a.token.cmp(&b.token))
}

/// The highest logit, the lowest id on a tie.
pub(crate) fn argmax(logits: &[f32]) -> u32 {
    let (chunks, rest) = logits.as_chunks::<LANES>();
    let mut most = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (most, logit) in most.iter_mut().zip(chunk) {
            *most = if *logit > *most { *logit } else { *most };
        }
    }
    let most = most.iter().chain(rest).fold(f32::NEG_INFINITY, |most, logit| if *logit > most { *logit } else { most });
    logits.iter().position(|logit| *logit == most).unwrap_or(0) as u32
}

/// The first logit that is not finite.
pub(crate) fn not_finite(logits: &[f32]) -> Option<usize> {
    // A number that is not finite makes a sum with 0 times itself NaN.
    let (chunks, rest) = logits.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, logit)| *sum += logit * 0.0);
    }
    let sum: f32 = sums.iter().sum::<f32>() + rest.iter().map(|logit| logit * 0.0).sum::<f32>();
    if sum == 0.0 { None } else { logits.iter().position(|logit| !logit.is_finite()) }
}

/// The `count` most probable tokens, best first, and `chosen`, with natural logarithms of their probabilities.
pub(crate) fn log_probabilities(logits: &[f32], chosen: u32, count: usize) -> (f32, Vec<(u32, f32)>) {
    let most = f64::from(logits[argmax(logits) as usize]);
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - most).exp()).sum();
    let log_probability = |token: u32| (f64::from(logits[token as usize]) - most - sum.ln()) as f32;
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let count = count.min(order.len());
    if count > 0 {
        order.select_nth_unstable_by(count - 1, by_logit);
    }
    order.truncate(count);
    order.sort_unstable_by(by_logit);
    (log_probability(chosen), order.into_iter().map(|token| (token, log_probability(token))).collect())
}

#[cfg(test)]
mod tests;
