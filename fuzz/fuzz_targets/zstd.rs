//! Fuzzes the gates over files that end in `.jsonl.zst`.

#![no_main]

mod common;

libfuzzer_sys::fuzz_target!(|data: &[u8]| common::check("jsonl.zst", "completion_v1", data));
