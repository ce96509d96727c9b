//! When the loop does what nobody asks for: scans, ticks, the view.

use std::time::{Duration, Instant};

/// Leases and back-off are looked at this often.
const TICK: Duration = Duration::from_secs(1);
/// Live figures are shown this often at most.
const FIGURES_EVERY: Duration = Duration::from_secs(1);
/// Changes of the state are shown this fast, and no faster.
const STATE_EVERY: Duration = Duration::from_millis(100);
/// The view is written at least this often, so that its age tells a dead daemon.
const VIEW_EVERY: Duration = Duration::from_secs(10);
/// The wall clock may differ by so much from the time that passed for processes between two ticks; more is a jump.
const JUMP_MS: u64 = 5_000;
/// The loop looks at its stop flag at least this often.
const MAX_WAIT: Duration = Duration::from_millis(100);

pub(super) struct Timers {
    scan_interval: Duration,
    next_scan: Instant,
    next_tick: Instant,
    view_written: Option<Instant>,
    state_changed: bool,
    figures_changed: bool,
    config_read: Option<Instant>,
    /// The last tick: by the clock that stands while the machine sleeps, and by the wall clock.
    ticked: (Instant, u64),
}

impl Timers {
    pub fn new(now: Instant, wall_ms: u64, scan_interval: Duration) -> Timers {
        Timers {
            scan_interval,
            next_scan: now,
            next_tick: now + TICK,
            view_written: None,
            state_changed: true,
            figures_changed: false,
            config_read: None,
            ticked: (now, wall_ms),
        }
    }

    /// At a tick: by how many milliseconds the wall clock went on while nothing could run (the machine slept, or the clock
    /// was set forward); none where it did not.
    pub fn jump(&mut self, now: Instant, wall_ms: u64) -> Option<u64> {
        let (before, wall_before) = std::mem::replace(&mut self.ticked, (now, wall_ms));
        let passed = u64::try_from(now.duration_since(before).as_millis()).unwrap_or(u64::MAX);
        let beyond = wall_ms.saturating_sub(wall_before).saturating_sub(passed);
        (beyond > JUMP_MS).then_some(beyond)
    }

    /// How long nothing is due.
    pub fn wait(&self, now: Instant) -> Duration {
        let next = self.next_scan.min(self.next_tick).min(self.next_view().unwrap_or(now));
        next.saturating_duration_since(now).clamp(Duration::from_millis(1), MAX_WAIT)
    }

    pub fn scan_now(&mut self) {
        self.next_scan = Instant::now();
    }

    pub fn scan_due(&mut self, now: Instant) -> bool {
        let due = now >= self.next_scan;
        if due {
            self.next_scan = now + self.scan_interval;
        }
        due
    }

    pub fn tick_due(&mut self, now: Instant) -> bool {
        let due = now >= self.next_tick;
        if due {
            self.next_tick = now + TICK;
        }
        due
    }

    pub fn config_due(&mut self, now: Instant, every: Duration) -> bool {
        let due = self.config_read.is_none_or(|read| now >= read + every);
        if due {
            self.config_read = Some(now);
        }
        due
    }

    pub fn state_changed(&mut self) {
        self.state_changed = true;
    }

    pub fn figures_changed(&mut self) {
        self.figures_changed = true;
    }

    pub fn view_due(&mut self, now: Instant) -> bool {
        let due = self.next_view().is_none_or(|at| now >= at);
        if due {
            (self.view_written, self.state_changed, self.figures_changed) = (Some(now), false, false);
        }
        due
    }

    fn next_view(&self) -> Option<Instant> {
        let every = match (self.state_changed, self.figures_changed) {
            (true, _) => STATE_EVERY,
            (false, true) => FIGURES_EVERY,
            (false, false) => VIEW_EVERY,
        };
        self.view_written.map(|written| written + every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_goes_on_while_nothing_can_run_jumps() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut timers = Timers::new(start, 1_000_000, Duration::from_secs(1));
        assert_eq!(timers.jump(after(1_000), 1_001_010), None);
        // A loop that was held up for a minute saw the time pass.
        assert_eq!(timers.jump(after(61_000), 1_061_010), None);
        assert_eq!(timers.jump(after(62_000), 4_662_010), Some(3_600_000));
        // Told once; and a clock that was set back is none.
        assert_eq!(timers.jump(after(63_000), 4_663_010), None);
        assert_eq!(timers.jump(after(64_000), 1_000_000), None);
    }
}
