//! Which of two checkpoints is better, and by what evidence. Pure.
