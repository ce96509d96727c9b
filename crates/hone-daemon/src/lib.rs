//! The loop that owns the state, and the effects at its rim.
