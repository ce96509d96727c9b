//! `system`: `{cpu: {busy, load_1m, cores}, memory: {total_bytes, available_bytes}, disk: {total_bytes,
//! available_bytes}, gpus: [{name, busy, used_bytes, total_bytes, temperature_c}] | null}`. `busy` is the share of all cores since the reading before, none at the first. What
//! a host does not tell is null; so are its GPUs where `nvidia-smi` is absent or does not answer.

mod gpu;

use anyhow::Result;
use gpu::GpuReader;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

pub(super) struct SystemReader {
    root: PathBuf,
    /// Busy and total ticks at the reading before.
    ticks: Option<(u64, u64)>,
    gpus: GpuReader,
}

impl SystemReader {
    pub(super) fn new(root: &Path) -> SystemReader {
        SystemReader { root: root.to_path_buf(), ticks: None, gpus: GpuReader::default() }
    }

    pub(super) fn read(&mut self) -> Result<Value> {
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let ticks = cpu_ticks(&stat);
        let busy = busy_share(self.ticks, ticks);
        self.ticks = ticks;
        Ok(json!({
            "cpu": {
                "busy": busy,
                "load_1m": load.split(' ').next().and_then(|load| load.parse::<f64>().ok()),
                "cores": std::thread::available_parallelism().map_or(0, usize::from),
            },
            "memory": {
                "total_bytes": memory_bytes(&memory, "MemTotal"),
                "available_bytes": memory_bytes(&memory, "MemAvailable"),
            },
            "disk": disk(&self.root),
            "gpus": self.gpus.read(),
        }))
    }
}

/// Busy and total ticks of all cores since the start: the first line of `/proc/stat`,
/// `cpu user nice system idle iowait irq softirq steal guest guest_nice` (guests are counted in user already).
fn cpu_ticks(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|word| word.parse().ok()).collect();
    let total: u64 = ticks.iter().sum();
    let idle = ticks.get(3)? + ticks.get(4).copied().unwrap_or(0);
    Some((total - idle, total))
}

fn busy_share(before: Option<(u64, u64)>, now: Option<(u64, u64)>) -> Option<f64> {
    let ((busy_before, total_before), (busy, total)) = (before?, now?);
    let total = total.checked_sub(total_before).filter(|&total| total > 0)?;
    Some(busy.saturating_sub(busy_before) as f64 / total as f64)
}

/// A line of `/proc/meminfo`, `MemTotal:       16384000 kB`, in bytes.
fn memory_bytes(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Of the file system that holds the workspace, or will.
fn disk(root: &Path) -> Value {
    let existing = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    match rustix::fs::statvfs(existing) {
        Ok(stat) => json!({
            "total_bytes": stat.f_blocks * stat.f_frsize,
            "available_bytes": stat.f_bavail * stat.f_frsize,
        }),
        Err(_) => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let stat = "cpu  100 10 40 800 50 0 0 0 7 7\ncpu0 1 1 1 1\n";
        assert_eq!(cpu_ticks(stat), Some((150, 1000)));
        assert_eq!(cpu_ticks(""), None);
        assert_eq!(busy_share(Some((100, 900)), Some((150, 1000))), Some(0.5));
        assert_eq!(busy_share(Some((150, 1000)), Some((150, 1000))), None);
        assert_eq!(busy_share(None, Some((150, 1000))), None);
        let meminfo = "MemTotal:       16384 kB\nMemFree: 5 kB\nMemAvailable:    8192 kB\n";
        assert_eq!(memory_bytes(meminfo, "MemAvailable"), Some(8192 * 1024));
        assert_eq!(memory_bytes(meminfo, "Mem"), None);
    }
}
