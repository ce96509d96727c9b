//! Fuzzes the gates over files that end in `.jsonl`.

#![no_main]

mod common;

libfuzzer_sys::fuzz_target!(|data: &[u8]| common::check("jsonl", "chat_sft_v1", data));
