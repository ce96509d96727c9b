//! The numeric suite: every device against values from PyTorch, and rules that hold whatever the numbers are.

#![expect(clippy::disallowed_methods, reason = "tests write fixtures")]

mod common;
mod curves;
mod lora;
mod reference;
mod smollm2;
mod training;
