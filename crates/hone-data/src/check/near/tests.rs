//! Tests of `near`.

use super::*;

fn run(texts: &[&str], threshold: f64) -> Vec<(u64, u64)> {
    let words: Vec<Words> = texts.iter().map(|text| Words::of(text)).collect();
    let rows: Vec<Keys> = (1..).zip(&words).filter_map(|(line, words)| keys(line, words, &[0; 9])).collect();
    let mut confirm = Confirm::new(candidates(&rows), threshold);
    for (line, words) in (1..).zip(&words) {
        if confirm.is_named(line) {
            confirm.row(line, words, &|| "x".to_string());
        }
    }
    assert_eq!(confirm.num_not_compared, 0);
    confirm.found.iter().map(|found| (found.line, found.of)).collect()
}

fn text(seed: u64, len: usize) -> Vec<String> {
    (0..len as u64)
        .map(|i| {
            format!(
                "w{}",
                char::from(b'a' + (mix((seed * 1000 + i) as u32) % 26) as u8)
                    .to_string()
                    .repeat(1 + (mix((seed * 77 + i) as u32) % 9) as usize)
            )
        })
        .collect()
}

#[test]
fn a_changed_word_in_a_long_text_is_a_near_duplicate_and_a_changed_number_is_not() {
    let one = text(1, 80);
    let mut changed = one.clone();
    changed[40] = "other".to_string();
    let mut numbered = one.clone();
    numbered[40] = "17".to_string();
    let mut numbered_too = one.clone();
    numbered_too[40] = "18".to_string();
    let texts: Vec<String> = [one, changed, numbered, numbered_too, text(2, 80)].map(|words| words.join(" ")).into();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    assert_eq!(run(&texts, 0.8), [(2, 1)]);
}

/// Each text differs from the one before by little, from the first by much: the chain is cut.
#[test]
fn clusters_do_not_chain() {
    let mut texts = vec![text(3, 100)];
    for step in 0..8 {
        let mut next = texts[step].clone();
        next[step * 12] = format!("x{}", "y".repeat(step + 1));
        texts.push(next);
    }
    let texts: Vec<String> = texts.into_iter().map(|words| words.join(" ")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let found = run(&texts, 0.8);
    // 96 shingles; a changed word takes 5 of them (1 at the border): similarity of two steps is 86/106 = 0.81,
    // of three 81/111 = 0.73.
    for (line, of) in &found {
        assert!(line - of <= 3, "{found:?}");
    }
    let firsts: Vec<u64> = (1..=9).filter(|line| !found.iter().any(|(near, _)| near == line)).collect();
    assert!(firsts.len() >= 3, "{found:?}");
    assert!(found.len() >= 4, "{found:?}");
}

#[test]
fn texts_shorter_than_some_shingles_have_no_near_duplicates() {
    assert!(run(&["a b c d e f g", "a b c d e f g", "x y z", "x y z"], 0.1).is_empty());
}

#[test]
fn similarity_is_that_of_sets() {
    assert_eq!(jaccard(&[1, 2, 3], &[2, 3, 4]), 0.5);
    assert_eq!(jaccard(&[], &[]), 0.0);
    assert_eq!(shingles(&[1, 1, 1, 1, 1, 1, 1]).len(), 1);
}
