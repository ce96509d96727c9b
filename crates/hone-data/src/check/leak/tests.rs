//! Tests of `leak`.

use super::*;

#[track_caller]
fn check(prompt: &str, answer: &str, leaks: bool) {
    let (p, a) = (Words::of(prompt), Words::of(answer));
    let found = find(&p, prompt, &a, answer, 24);
    assert_eq!(found.is_some(), leaks, "{found:?}");
}

const ANSWER: &str = "The treaty was signed in the old town hall by both of the brothers.";

#[test]
fn an_answer_in_its_prompt_is_found_however_it_is_written() {
    check(&format!("Read: {ANSWER} Now say where it was signed."), ANSWER, true);
    check(&format!("Read: {} ok?", ANSWER.to_uppercase().replace(' ', "\n")), ANSWER, true);
    check("by both of the brothers the treaty was signed in the old town hall: where?", ANSWER, true);
    check("Where was the treaty signed?", ANSWER, false);
}

#[test]
fn half_of_a_long_answer_is_distinctive() {
    let long = format!("{ANSWER} Nobody who was there that day could later say what the weather had been like.");
    check(&format!("Hint: {long}"), &format!("{long} And more was said."), true);
    check("Nobody who was there", &long, false);
}

#[test]
fn short_answers_numbers_and_options_are_not_leaks() {
    check("Is it yes or no? Answer yes or no.", "yes", false);
    check("In which year, 1492 or 1789?", "1789", false);
    check("1 2 3 4 5 6 7 8 9 10 11 12 13 14", "1 2 3 4 5 6 7 8 9 10 11 12 13", false);
    check(
        "Which?\nA) the left bank of the river\nB) the right bank of the river\nC) neither",
        "The right bank of the river",
        false,
    );
    check("Which?\n- it was the older brother\n- it was the younger brother", "It was the younger brother.", false);
    check("Note:\nA) it was the younger brother who did it\nWho?", "It was the younger brother who did it", true);
}
