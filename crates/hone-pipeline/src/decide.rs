//! `decide` and `recover`: the only places where the state of a workspace is changed on purpose. Pure.

use crate::config::Settings;
use crate::event::{Decision, Event};
use crate::state::{State, TimeMs};

/// What follows from an event: the changes to commit in one transaction, then the effects to start.
#[must_use]
pub fn decide(_state: &State, _settings: &Settings, _event: &Event, _now: TimeMs) -> Decision {
    Decision::default()
}

/// What a daemon does when it starts on a state that an earlier one left at any instant.
#[must_use]
pub fn recover(_state: &State, _settings: &Settings, _now: TimeMs) -> Decision {
    Decision::default()
}
