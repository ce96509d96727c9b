//! The error budget of a champion's tenure: how much of the accepted chance of a wrong promotion each look may use.
//!
//! Every judgement against one champion is a look. The k-th look may use 1/(k+1) of what is left, so that of the
//! whole 1/2, 1/6, 1/12, … are used and 1/(k+1) is left after k looks. Whatever the looks have in common, the chance
//! that any of them calls an equal or worse challenger better is at most their sum: the budget. A look's share is
//! split evenly over the suites. A new champion begins with a whole budget.

use crate::ids::CheckpointId;
use crate::state::{Budget, Judgement};

/// What the next look at this champion may use. `past` are all judgements so far.
#[must_use]
pub fn next_look<'a>(total: f64, champion: CheckpointId, past: impl IntoIterator<Item = &'a Judgement>) -> Budget {
    let of_tenure = past.into_iter().filter(|judgement| judgement.champion == Some(champion));
    let (mut looks, mut spent) = (0, 0.0);
    for budget in of_tenure.filter_map(|judgement| judgement.budget.as_ref()) {
        looks += 1;
        spent += budget.spent;
    }
    let left_before = (total - spent).max(0.0);
    let look = looks + 1;
    let spent = left_before / (f64::from(look) + 1.0);
    Budget { total, look, spent, left: left_before - spent }
}
