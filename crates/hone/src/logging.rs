//! Logs: to stderr, at the level of `HONE_LOG` (default `info` for roles, `warn` for other verbs), in colour on a terminal.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts logging for this process.
pub fn start(default_level: &str) {
    let asked = EnvFilter::try_from_env("HONE_LOG");
    let is_set = std::env::var_os("HONE_LOG").is_some();
    let problem = asked.as_ref().err().filter(|_| is_set).map(ToString::to_string);
    let filter = asked.unwrap_or_else(|_| EnvFilter::new(default_level));
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colored = std::io::stderr().is_terminal() && !is_plain;
    let _ =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colored).with_writer(std::io::stderr).try_init();
    if let Some(problem) = problem {
        tracing::warn!(%problem, level = default_level, "HONE_LOG cannot be read, the default level holds");
    }
}
