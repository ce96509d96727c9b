//! The one binary of hone: command line, configuration and wiring. What it wires lives in the other crates.

mod chat;
mod cli;
mod client;
mod commands;
mod config;
mod demo;
mod exit;
mod logging;
mod output;
mod tiny;
mod workspace;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
