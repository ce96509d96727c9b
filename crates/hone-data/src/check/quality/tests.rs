//! Tests of `quality`.

use super::*;

#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let mut found = Vec::new();
    problems(text, &Words::of(text), &mut found);
    assert_eq!(found.iter().map(|(problem, _)| problem.code).collect::<Vec<_>>(), expected, "{text}");
}

#[test]
fn degenerate_answers_are_told_from_good_ones() {
    check(&"I am happy to help you. ".repeat(20), &["text_repetitive"]);
    check(&"ha".repeat(10), &[]);
    check(&"!".repeat(100), &["text_repetitive"]);
    check(&"-".repeat(100), &[]);
    check("As an AI language model, I have no opinion.", &["text_refusal"]);
    check("I’m sorry, but I can’t do that.", &["text_refusal"]);
    check("Sorry, we are closed on Mondays.", &[]);
    let story = "one two three four five six seven eight nine ten eleven twelve the cat sat on the mat and looked at \
                 every bird that flew over the river while the sun went down behind hills nobody had ever climbed \
                 because they were too steep and far away";
    check(story, &[]);
}

#[test]
fn broken_encodings_are_told_from_accents() {
    for broken in ["cafÃ©", "itâ€™s", "a\u{fffd}b", "schÃ¶n"] {
        assert!(mojibake(broken).is_some(), "{broken}");
    }
    for fine in ["café", "it’s", "schön", "São Paulo", "Ünïcödé", "â", "naïve", "ÃO", "\u{feff}x"] {
        assert!(mojibake(fine).is_none(), "{fine}");
    }
}
