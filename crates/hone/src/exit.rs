//! Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.

use crate::config::ConfigError;
use crate::output;
use std::fmt;
use std::process::ExitCode;

/// The command was used wrongly; exit code 2.
#[derive(Debug)]
pub struct UsageError(pub String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// Something was refused and has been reported already; exit code 1 without another message.
#[derive(Debug)]
pub struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("refused")
    }
}

impl std::error::Error for Refused {}

/// Prints the error once and chooses the code.
pub fn code_of(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    if error.is::<Refused>() {
        return ExitCode::from(1);
    }
    output::error(&format!("failed to {error:#}"));
    if error.is::<ConfigError>() || error.is::<UsageError>() { ExitCode::from(2) } else { ExitCode::from(1) }
}
