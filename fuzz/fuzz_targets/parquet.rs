//! Fuzzes the gates over files that end in `.parquet`.

#![no_main]

mod common;

libfuzzer_sys::fuzz_target!(|data: &[u8]| common::check("parquet", "alpaca_v1", data));
