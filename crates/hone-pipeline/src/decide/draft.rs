//! A decision in the making: the state as it will be, the changes that lead there, the effects to start.

use crate::config::Settings;
use crate::event::{Decision, Effect};
use crate::state::{Change, Counters, Job, LogEntry, LogSeverity, State, TimeMs};
use std::borrow::Cow;
use std::fmt::Display;

/// See the module. The state is copied at the first change only.
pub(super) struct Draft<'a> {
    state: Cow<'a, State>,
    pub settings: &'a Settings,
    pub now: TimeMs,
    decision: Decision,
}

impl<'a> Draft<'a> {
    pub fn new(state: &'a State, settings: &'a Settings, now: TimeMs) -> Draft<'a> {
        Draft { state: Cow::Borrowed(state), settings, now, decision: Decision::default() }
    }

    /// The state with all changes so far.
    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn finish(self) -> Decision {
        self.decision
    }

    pub fn put(&mut self, change: Change) {
        self.state.to_mut().apply(&change);
        self.decision.changes.push(change);
    }

    pub fn put_job(&mut self, job: Job) {
        self.put(Change::PutJob(job));
    }

    pub fn effect(&mut self, effect: Effect) {
        self.decision.effects.push(effect);
    }

    pub fn reply(&mut self, reply: Result<String, String>) {
        self.decision.reply = Some(reply);
    }

    pub fn info(&mut self, kind: &str, subject: impl Display, message: impl Into<String>) {
        self.log(LogSeverity::Info, kind, subject, message.into());
    }

    pub fn warning(&mut self, kind: &str, subject: impl Display, message: impl Into<String>) {
        self.log(LogSeverity::Warning, kind, subject, message.into());
    }

    pub fn error(&mut self, kind: &str, subject: impl Display, message: impl Into<String>) {
        self.log(LogSeverity::Error, kind, subject, message.into());
    }

    /// Advances one counter and returns its new value.
    pub fn next(&mut self, counter: fn(&mut Counters) -> &mut u64) -> u64 {
        let mut counters = self.state.counters.clone();
        *counter(&mut counters) += 1;
        let number = *counter(&mut counters);
        self.put(Change::SetCounters(counters));
        number
    }

    /// When the next try may start after `tries` failed ones (at least one).
    pub fn retry_at(&self, tries: u32) -> TimeMs {
        let factor = 1u64 << (tries.max(1) - 1).min(20);
        self.now + self.settings.retry_backoff_ms.saturating_mul(factor).min(super::MAX_BACKOFF_MS)
    }

    fn log(&mut self, severity: LogSeverity, kind: &str, subject: impl Display, message: String) {
        let subject = subject.to_string();
        self.put(Change::Log(LogEntry { at_ms: self.now, severity, kind: kind.to_string(), subject, message }));
    }
}
