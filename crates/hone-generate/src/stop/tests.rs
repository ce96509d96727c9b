//! Tests of `stop`.

use super::*;

/// The answer, and whether it was stopped.
fn scan(stops: &[&str], pieces: &[&str]) -> (String, bool) {
    let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
    let mut scanner = StopScanner::new(&stops);
    let mut answer = String::new();
    for piece in pieces {
        let scanned = scanner.push(piece);
        answer += &scanned.text;
        if scanned.stopped {
            return (answer, true);
        }
    }
    (answer + &scanner.finish(), false)
}

/// Cuts `text` in every way into pieces: the result must always be the same.
#[track_caller]
fn check(stops: &[&str], text: &str, answer: &str, stopped: bool) {
    let chars: Vec<(usize, char)> = text.char_indices().collect();
    let cuts = chars.len().saturating_sub(1);
    assert!(cuts < 16, "too many ways to cut");
    for mask in 0..1_u32 << cuts {
        let (mut pieces, mut start) = (Vec::new(), 0);
        for cut in 0..cuts {
            if mask >> cut & 1 == 1 {
                pieces.push(&text[start..chars[cut + 1].0]);
                start = chars[cut + 1].0;
            }
        }
        pieces.push(&text[start..]);
        assert_eq!(scan(stops, &pieces), (answer.to_owned(), stopped), "{pieces:?}");
    }
}

#[test]
fn stop_strings_are_found_across_all_borders() {
    check(&["END"], "one END two", "one ", true);
    check(&["END"], "one EN D", "one EN D", false);
    check(&["END"], "EENDD", "E", true);
    check(&["aab"], "aaaab", "aa", true);
    check(&["\n\n", "###"], "a\nb\n\nc###", "a\nb", true);
    check(&[], "anything", "anything", false);
}

#[test]
fn the_first_complete_stop_string_counts() {
    // "b" is complete before "abc".
    check(&["abc", "b"], "xabcx", "xa", true);
    // Both end together: the longer one.
    check(&["c", "bc"], "abcd", "a", true);
}

#[test]
fn characters_are_never_cut() {
    check(&["🛑🛑"], "ok🛑no🛑🛑z", "ok🛑no", true);
    // é and è share their first byte.
    check(&["é!"], "è é?é!", "è é?", true);
}

#[test]
fn only_what_may_become_a_stop_string_is_held_back() {
    let mut scanner = StopScanner::new(&["STOP".to_owned()]);
    let text = |text: &str| Scanned { text: text.to_owned(), stopped: false };
    assert_eq!(scanner.push("go S"), text("go "));
    assert_eq!(scanner.push("T"), text(""));
    assert_eq!(scanner.push("S"), text("ST"));
    assert_eq!(scanner.finish(), "S");
}
