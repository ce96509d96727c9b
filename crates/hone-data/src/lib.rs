//! From text to token batches: readers, checks, profiles, chat template, tokens with their loss mask, packing.
//!
//! Training, preview, evaluation and serving all render conversations through [`ChatTemplate`] and make
//! token ids through [`Tokenizer`]; the loss mask of a row is born in [`tokenize`] together with its ids.
//! Nothing here writes a file, knows a tensor, or talks to a network.

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "tests write fixtures"))]

pub mod check;
pub mod example;
pub mod pack;
pub mod profile;
pub mod reader;
pub mod template;
pub mod tiny;
pub mod tokenize;
pub mod tokenizer;
pub mod view;

pub use example::{Example, Message, Row, RowId};
pub use profile::Profile;
pub use reader::{row_at, rows};
pub use template::{ChatTemplate, RenderInput};
pub use tokenize::{ChatContext, RowError, TokenRow};
pub use tokenizer::{DecodeStream, Tokenizer};
