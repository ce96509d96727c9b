//! Fuzzes the gates over files that end in `.csv`.

#![no_main]

mod common;

libfuzzer_sys::fuzz_target!(|data: &[u8]| common::check("csv", "chat_sft_v1", data));
