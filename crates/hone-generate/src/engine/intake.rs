//! Prompts on their way into the cache: which of them, how much of each in a step, and what waits for another.

use super::{Engine, Running, prefixes, reusable};
use crate::engine::prefixes::num_common;
use crate::request::GenEvent;
use anyhow::{Context, Result};

/// So many prompt tokens enter the cache in one step at most: the rest of a longer prompt, and further requests, wait for the
/// next step, so that long prompts do not keep running answers waiting.
pub(super) const PROMPT_TOKENS_PER_STEP: usize = 512;

impl Engine {
    /// Whether the request in a slot still waits for the end of its prompt. At most one does.
    pub(super) fn takes_in(&self, slot: usize) -> bool {
        self.running[slot].as_ref().is_some_and(|running| self.decoder.length(slot) < running.prompt().len())
    }

    pub(super) fn admit(&mut self, events: &mut Vec<GenEvent>) -> Result<()> {
        let num_free = self.running.len() - self.num_running();
        let is_begun = (0..self.running.len()).any(|slot| self.takes_in(slot));
        if num_free < self.start_together && self.num_running() > 0 && !is_begun {
            return Ok(());
        }
        let mut left = PROMPT_TOKENS_PER_STEP;
        loop {
            let parts = self.next_parts(&mut left)?;
            if parts.is_empty() {
                return Ok(());
            }
            self.take_in(&parts, events)?;
        }
    }

    /// Parts of prompts to take in together: how many tokens of which slot. First the rest of a prompt that began before, then
    /// waiting requests, which get their slots here. `left` is lowered by them; none when nothing more fits this step.
    fn next_parts(&mut self, left: &mut usize) -> Result<Vec<(usize, usize)>> {
        let mut parts = Vec::new();
        if let Some(slot) = (0..self.running.len()).find(|slot| self.takes_in(*slot))
            && !self.add_part(slot, left, &mut parts)
        {
            return Ok(parts);
        }
        while *left > 0 {
            let Some(slot) = self.running.iter().position(Option::is_none) else { break };
            let Some((id, request)) = self.waiting.pop_front() else { break };
            let source = self.longest_prefix(&request.prompt);
            // A prompt that begins like one that is about to be taken in goes after it: it need not compute that beginning.
            let soon = parts
                .iter()
                .map(|(other, _)| num_common(prompt_of(&self.running, *other), &request.prompt))
                .max()
                .unwrap_or(0);
            let waits = self.prefixes.is_some()
                && reusable(soon, &request.prompt) > source.as_ref().map_or(0, |(_, count)| *count);
            let need = request.prompt.len() + request.max_tokens;
            let place = if waits { None } else { self.place(source, request.prompt.len(), need) };
            let Some((region, held)) = place else {
                // In order of arrival: those behind it wait as well.
                self.waiting.push_front((id, request));
                break;
            };
            self.decoder.attach(slot, region.clone(), held);
            self.regions[slot] = Some(region);
            self.running[slot] = Some(Running::new(id, request, &self.tokenizer));
            if !self.add_part(slot, left, &mut parts) {
                break;
            }
        }
        Ok(parts)
    }

    /// Adds as much of a slot's prompt as `left` allows, and whether that is all of it.
    fn add_part(&self, slot: usize, left: &mut usize, parts: &mut Vec<(usize, usize)>) -> bool {
        let held = self.decoder.length(slot);
        let rest = prompt_of(&self.running, slot).len() - held;
        let count = part_of_prompt(held, rest, *left);
        *left -= count;
        if count > 0 {
            parts.push((slot, count));
        } else {
            *left = 0;
        }
        count == rest
    }

    /// Takes in parts of prompts; with the end of a prompt comes its first token.
    fn take_in(&mut self, parts: &[(usize, usize)], events: &mut Vec<GenEvent>) -> Result<()> {
        let part = |&(slot, count)| (slot, &prompt_of(&self.running, slot)[self.decoder.length(slot)..][..count]);
        let tokens: Vec<(usize, &[u32])> = parts.iter().map(part).collect();
        let logits = self.decoder.prefill_all(&tokens).context("take in prompts")?;
        for (&(slot, _), logits) in parts.iter().zip(logits) {
            if !self.takes_in(slot) {
                self.take_logits(slot, logits, events);
            }
        }
        Ok(())
    }
}

/// The prompt of the request in a slot.
fn prompt_of(running: &[Option<Running>], slot: usize) -> &[u32] {
    running[slot].as_ref().expect("only a slot with a request has a prompt").prompt()
}

/// How many of the next `rest` tokens of a prompt, of which `held` are in the cache, to take in with at most `most`. Parts end
/// where sequences may be taken over, and no part is so small that its rows are computed otherwise than in one piece.
pub(super) fn part_of_prompt(held: usize, rest: usize, most: usize) -> usize {
    if rest <= most {
        return rest;
    }
    let end = (held + most).min(held + rest - prefixes::FEWEST_COMPUTED) / prefixes::STEP * prefixes::STEP;
    let count = end.saturating_sub(held);
    if count < prefixes::FEWEST_COMPUTED { 0 } else { count }
}
