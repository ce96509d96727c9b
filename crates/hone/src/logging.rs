//! Logs: to stderr, at the level of `HONE_LOG` (default `info` for roles, `warn` for other verbs).

use tracing_subscriber::EnvFilter;

/// Starts logging for this process.
pub fn start(default_level: &str) {
    let filter = EnvFilter::try_from_env("HONE_LOG").unwrap_or_else(|_| EnvFilter::new(default_level));
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}
