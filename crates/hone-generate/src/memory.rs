//! How much memory is left for a model: on the machine, in its control group, or on its GPU; and what is given back.

use hone_model::device;
use std::path::Path;

/// Share of what is available that may be planned for when no limit is configured.
pub const SHARE_OF_AVAILABLE: f64 = 0.9;
/// Where the control group of this process says what it may use (version 2).
const CONTROL_GROUP: &str = "/sys/fs/cgroup";

/// Bytes that this process could still take: what the system has available, and what the limit of its control group
/// leaves; 0 where the system does not tell.
#[must_use]
pub fn available_bytes() -> u64 {
    let system = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| field(&text, "MemAvailable:"));
    let system = system.map_or(0, |kib| kib * 1024);
    left_in_group(Path::new(CONTROL_GROUP)).map_or(system, |left| system.min(left))
}

/// Bytes that a model on `device` could still take; `None` where nobody tells.
#[must_use]
pub fn free_bytes(device: &str) -> Option<u64> {
    let host = || Some(available_bytes()).filter(|bytes| *bytes > 0);
    if !device::resolve(device).starts_with("cuda") {
        return host();
    }
    // A GPU that cannot be opened says so when a model is loaded.
    device::open(device, 1).ok()?.free_memory().or_else(host)
}

/// Lets the system have what was freed. Without a call the GNU C library keeps most of it for later.
pub(crate) fn give_back() {
    // SAFETY: it may be called at any time, by any thread.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "a function of the C library")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// What the limit of a control group leaves; `None` without a limit. Cached files count as used there, and go when there is need.
fn left_in_group(group: &Path) -> Option<u64> {
    let read = |name: &str| std::fs::read_to_string(group.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let limit = number("memory.max")?;
    let cached = read("memory.stat").and_then(|text| field(&text, "inactive_file")).unwrap_or(0);
    Some(limit.saturating_sub(number("memory.current").unwrap_or(0).saturating_sub(cached)))
}

/// The first number of the line that begins with `name`.
fn field(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().map(str::split_whitespace);
    lines.find_map(|mut words| (words.next() == Some(name)).then(|| words.next()?.parse().ok())?)
}

#[cfg(test)]
mod tests;
