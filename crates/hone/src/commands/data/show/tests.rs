//! What people see of a row.

use super::*;
use expect_test::expect;

fn example() -> ExampleView {
    let token = |(id, (text, trained)): (usize, &(&str, bool))| TokenView {
        id: id as u32,
        text: (*text).to_string(),
        trained: *trained,
    };
    let tokens = [("user\n", false), ("hi", false), ("", true), ("🙂", true), ("\x1b[2J\n", true), ("<end>", true)];
    ExampleView { num_trained: 4, tokens: tokens.iter().enumerate().map(token).collect() }
}

#[test]
fn what_is_trained_stands_between_brackets_and_escapes_are_not_obeyed() {
    expect![[r"
        user
        hi⟦🙂\u{1b}[2J
        <end>⟧"]]
    .assert_eq(&brackets(&example()));
}

#[test]
fn what_is_trained_has_another_colour_than_the_rest() {
    let colored = colors(&example()).replace('\x1b', "^");
    expect![[r"
        ^[37;100muser⏎^[0m
        ^[37;100m^[0m^[37;40mhi^[0m^[30;42m🙂^[0m^[30;102m\u{1b}[2J⏎^[0m
        ^[30;102m^[0m^[30;42m<end>^[0m"]]
    .assert_eq(&colored);
}

#[test]
fn ids_are_listed_with_their_texts() {
    let rows = table(&example().tokens);
    assert_eq!(rows[3], ["3", "3", "yes", "\"🙂\""]);
    assert_eq!(rows[0][2], "");
}
