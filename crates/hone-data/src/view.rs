//! One row as the trainer sees it, for people and pages: the pieces of its text with their ids, and which are trained.

use crate::example::Row;
use crate::tokenize::{ChatContext, TokenRow, tokenize};
use serde::Serialize;

/// A row, decorated by the profile and rendered by the template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RowView {
    /// Its number, as findings name it.
    pub line: u64,
    /// Its name, `row-…`.
    pub row: String,
    /// One, or one per assistant turn where the template needs that; none where the row is refused.
    pub examples: Vec<ExampleView>,
    /// Why it is not trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<RefusedView>,
}

/// Why a row is not trained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefusedView {
    /// Stable name, as in findings.
    pub code: String,
    /// A plain sentence.
    pub message: String,
}

/// What is trained at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExampleView {
    /// Tokens that carry loss.
    pub num_trained: usize,
    /// All tokens in order; their texts, joined, are what the template printed.
    pub tokens: Vec<TokenView>,
}

/// One token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenView {
    /// Its id.
    pub id: u32,
    /// The text that is complete with it; empty for all but the last of several tokens that share a character.
    pub text: String,
    /// Whether it carries loss.
    pub trained: bool,
}

/// A row as it is trained. A row that cannot be is a view too, and says why. Pure.
#[must_use]
pub fn view(ctx: &ChatContext, row: &Row) -> RowView {
    let (examples, refused) = match tokenize(ctx, row) {
        Ok(parts) => (parts.iter().map(|part| example(ctx, part)).collect(), None),
        Err(error) => {
            let (code, message) = (error.kind.code().to_string(), error.kind.to_string());
            (Vec::new(), Some(RefusedView { code, message }))
        }
    };
    RowView { line: row.line, row: row.id.to_string(), examples, refused }
}

fn example(ctx: &ChatContext, part: &TokenRow) -> ExampleView {
    let mut stream = ctx.tokenizer.stream(false);
    let token = |(id, trained): (&u32, &bool)| {
        let text = stream.push(*id).unwrap_or_default();
        TokenView { id: *id, text, trained: *trained }
    };
    let mut tokens: Vec<TokenView> = part.ids.iter().zip(&part.mask).map(token).collect();
    if let (Some(last), Some(rest)) = (tokens.last_mut(), stream.finish()) {
        last.text.push_str(&rest);
    }
    ExampleView { num_trained: part.num_trained(), tokens }
}

#[cfg(test)]
mod tests;
