//! The training loop and the three children: check, train, evaluate.
