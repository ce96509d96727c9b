//! What must hold before the first step: what would be trained is decoded again and held against the
//! rows, independently of the code that made the mask.

use crate::Refusal;
use crate::rows::Examples;
use anyhow::Result;
use hone_data::tokenize::{ChatContext, TokenRow};
use hone_data::{Example, Row};
use hone_pipeline::config::TrainSettings;

#[cfg(test)]
mod tests;

/// Every row up to here is decoded, then one in [`SAMPLE_EVERY`].
const SAMPLE_FIRST: usize = 200;
const SAMPLE_EVERY: usize = 50;

/// Whether the row with this number in its file is decoded.
#[must_use]
pub fn is_sampled(row_number: usize) -> bool {
    row_number < SAMPLE_FIRST || row_number.is_multiple_of(SAMPLE_EVERY)
}

/// Decodes every trained stretch of a row: it must be text of one of the row's answers (white space and
/// special tokens apart). Rows whose answers carry further keys (tool calls), which templates print in their
/// own way, are only checked for having a trained token.
///
/// # Errors
/// Why the row must not be trained.
pub fn check_row(ctx: &ChatContext, row: &Row, parts: &[TokenRow]) -> Result<(), String> {
    let answers = match answers(ctx, &ctx.profile.apply(row)) {
        Ok(answers) => answers,
        Err(error) => return Err(format!("self-check: {error:#}")),
    };
    for part in parts {
        if part.num_trained() == 0 {
            return Err("self-check: no token would be trained".to_string());
        }
        if part.mask.first() == Some(&true) {
            return Err("self-check: the first token would be trained, and nothing predicts it".to_string());
        }
        let Some(answers) = &answers else { continue };
        for (start, end) in trained_stretches(&part.mask) {
            let text = match ctx.tokenizer.decode(&part.ids[start..end], true) {
                Ok(text) => without_whitespace(&text),
                Err(error) => return Err(format!("self-check: {error:#}")),
            };
            if !answers.iter().any(|answer| answer.contains(&text)) {
                return Err(format!(
                    "self-check: tokens {start} to {end} would be trained and are not text of an answer \
                     (hint: `hone data show` prints what is trained)"
                ));
            }
        }
    }
    Ok(())
}

/// The share of trained tokens must be within the configured bounds.
///
/// # Errors
/// A [`Refusal`] with the numbers.
pub fn check_share(examples: &Examples, settings: &TrainSettings) -> Result<()> {
    let (trained, all) = (examples.num_trained_tokens(), examples.num_tokens());
    if trained == 0 {
        let (rows, overlong, refused) = (examples.rows, examples.rows_overlong, examples.rows_refused);
        return Err(Refusal(format!(
            "self-check: no token would be trained (of {rows} rows, {overlong} are longer than max_length ({}) or the model's \
             context, and {refused} cannot be tokenised with a mask)",
            settings.max_length
        ))
        .into());
    }
    let share = trained as f64 / all as f64;
    let bounds = settings.min_trained_share..=settings.max_trained_share;
    if !bounds.contains(&share) {
        return Err(Refusal(format!(
            "self-check: {trained} of {all} tokens ({share:.4}) would be trained, outside {:.4} to {:.4} \
             (hint: trainer.min_trained_share and trainer.max_trained_share are the bounds)",
            bounds.start(),
            bounds.end()
        ))
        .into());
    }
    Ok(())
}

/// The texts that may be trained, without white space and special tokens, as the tokenizer gives them
/// back; `None` when the row cannot be judged by its texts.
fn answers(ctx: &ChatContext, row: &Row) -> Result<Option<Vec<String>>> {
    let texts: Vec<&str> = match &row.example {
        Example::Chat { messages, .. } => {
            let turns = || messages.iter().filter(|m| m.role == "assistant");
            if turns().any(|m| !m.extra.is_empty()) {
                return Ok(None);
            }
            turns().map(|m| m.content.as_str()).collect()
        }
        Example::Completion { completion, .. } => vec![completion],
    };
    let round_trip = |text: &&str| -> Result<String> {
        Ok(without_whitespace(&ctx.tokenizer.decode(&ctx.tokenizer.encode(text)?, true)?))
    };
    texts.iter().map(round_trip).collect::<Result<Vec<String>>>().map(Some)
}

fn without_whitespace(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

/// Half-open ranges of consecutive trained tokens.
fn trained_stretches(mask: &[bool]) -> Vec<(usize, usize)> {
    let mut stretches: Vec<(usize, usize)> = Vec::new();
    for (index, _) in mask.iter().enumerate().filter(|(_, trained)| **trained) {
        match stretches.last_mut() {
            Some((_, end)) if *end == index => *end += 1,
            _ => stretches.push((index, index + 1)),
        }
    }
    stretches
}
