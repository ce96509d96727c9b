//! Skills as pure functions: generators of tasks and checkers of answers.
