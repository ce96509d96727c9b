//! The numeric suite: every device against values from PyTorch, and rules that hold whatever the numbers are.

mod common;
mod curves;
mod lora;
mod reference;
mod smollm2;
mod training;
