//! How a child that ran out of memory is told from one that crashed otherwise: it says so by its exit code, its allocator
//! says so on stderr, or it was killed while the kernel counted a process that it ended for want of memory.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// Exit code of a child that was refused memory (`hone_train::child` says the same).
const EXIT_OUT_OF_MEMORY: i32 = 76;
const SIGKILL: i32 = 9;
const SIGABRT: i32 = 6;

/// Processes that the kernel has ended for want of memory since it started; 0 where it does not tell.
pub(super) fn kernel_kills() -> u64 {
    let text = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// Whether a child that ended with `status` ran out of memory; `kills_before` is [`kernel_kills`] from before its start.
pub(super) fn ran_out(status: ExitStatus, last_lines: &[String], kills_before: u64) -> bool {
    let said_so = || last_lines.iter().any(|line| line.contains("memory allocation of ") && line.contains(" failed"));
    match (status.code(), status.signal()) {
        (Some(code), _) => code == EXIT_OUT_OF_MEMORY,
        (None, Some(SIGKILL)) => kernel_kills() > kills_before,
        (None, Some(SIGABRT)) => said_so(),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
