//! How long kernels and products take on the GPU, for those who make them faster.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

static IS_ON: AtomicBool = AtomicBool::new(false);
/// Runs and milliseconds, by name. Shared, because devices belong to whoever opened them.
static TIMES: Mutex<BTreeMap<String, (u64, f64)>> = Mutex::new(BTreeMap::new());

/// From now on (or no longer) the time of each kernel is taken, which slows everything down a little.
pub fn time_kernels(is_on: bool) {
    IS_ON.store(is_on, Ordering::Relaxed);
}

/// Name, number of runs and milliseconds of all that was timed, the longest first; then nothing any more.
#[must_use]
pub fn kernel_times() -> Vec<(String, u64, f64)> {
    let times = std::mem::take(&mut *TIMES.lock().expect("nobody panics while adding"));
    let mut times: Vec<_> = times.into_iter().map(|(name, (runs, ms))| (name, runs, ms)).collect();
    times.sort_by(|a, b| b.2.total_cmp(&a.2));
    times
}

pub(super) fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

pub(super) fn add(name: String, ms: f32) {
    let mut times = TIMES.lock().expect("nobody panics while adding");
    let time = times.entry(name).or_default();
    time.0 += 1;
    time.1 += f64::from(ms);
}
