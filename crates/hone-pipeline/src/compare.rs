//! Which of two checkpoints is better, and by what evidence. Pure.

use crate::config::Settings;
use crate::state::{Evaluation, Outcome};

/// Holds a challenger against the champion: the outcome and the sentence that decides.
#[must_use]
pub fn judge(_challenger: &Evaluation, _champion: Option<&Evaluation>, _settings: &Settings) -> (Outcome, String) {
    (Outcome::CannotTell, "not built yet".to_string())
}
