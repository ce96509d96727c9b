//! Tests of `words`.

use super::*;

#[test]
fn case_punctuation_and_line_breaks_do_not_count() {
    let plain = Words::of("The cat, it sat; 3 times.");
    assert_eq!(plain.hashes, Words::of("the  CAT\nit\tsat 3\r\ntimes").hashes);
    assert_eq!(plain.len(), 6);
    assert_eq!(plain.numbers.len(), 1);
    assert_ne!(plain.hashes, Words::of("the cat it sat 4 times").hashes);
    assert_eq!(hash_in_any_order(&plain.hashes), hash_in_any_order(&Words::of("times 3 sat it the cat").hashes));
    assert_ne!(hash_in_order(&plain.hashes), hash_in_order(&Words::of("times 3 sat it the cat").hashes));
}

#[test]
fn words_know_their_bytes_in_every_script() {
    let text = "Grüße, Мир! 猫が好き ①⓪ x";
    let words = Words::of(text);
    let found: Vec<&str> = words.spans.iter().map(|(a, b)| &text[*a as usize..*b as usize]).collect();
    assert_eq!(found, ["Grüße", "Мир", "猫", "が", "好", "き", "①⓪", "x"]);
    assert_eq!(words.numbers.len(), 1, "digits in circles are digits");
    assert_eq!(Words::of("GRÜSSE МИР").hashes[1], words.hashes[1]);
}

#[test]
fn an_excerpt_is_short_and_printable() {
    assert_eq!(excerpt("a\nb c", (0, 3)), "a\\nb");
    assert!(excerpt(&"x".repeat(500), (0, 500)).ends_with("x…"));
}

#[test]
fn signs_of_formulas_are_kept_and_marks_of_prose_are_not() {
    let signs = |text: &str| Words::of(text).operators.into_iter().map(|(_, sign)| sign).collect::<String>();
    for (text, expected) in [
        ("20 + 3", "+"),
        ("**20**+$3 = 23", "+="),
        ("20 × 3 − 4 ÷ 5", "*-/"),
        ("a * b = ?", "*"),
        ("On 2020-01-02, 24/7: I - a fool - said so.", ""),
        ("in 2020, 30 people\n* 40 animals", ""),
        ("**one** + two", ""),
    ] {
        assert_eq!(signs(text), expected, "{text}");
    }
    assert_eq!(Words::of("20+3").hash(), Words::of("20 + 3!").hash());
    assert_ne!(Words::of("20 * 3").hash(), Words::of("20 + 3").hash());
}
