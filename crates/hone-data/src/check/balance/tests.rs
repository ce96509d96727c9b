//! Tests of `balance`.

use super::*;
use hone_pipeline::spec;
use serde_json::json;

fn counter(rows: &[(&str, &str)]) -> Counter {
    counter_of("s", rows)
}

fn counter_of(source: &str, rows: &[(&str, &str)]) -> Counter {
    let mut counter = Counter::default();
    let spec = spec::find("chat_sft_v1").unwrap();
    for (user, assistant) in rows {
        let row = json!({"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}], "metadata": {"source": source}});
        let json = Json::from(&row);
        counter.row(&json, &spec.texts(&json));
    }
    counter
}

#[test]
fn scripts_and_languages_are_told_apart() {
    let script_of = |text: &str| counter(&[(text, text)]).balance(0).scripts.into_keys().next().unwrap();
    for (text, script) in [
        ("What is the time?", "Latin"),
        ("Который час?", "Cyrillic"),
        ("今何時ですか", "Kana"),
        ("现在几点", "Han"),
        ("지금 몇 시", "Hangul"),
        ("ما الوقت", "Arabic"),
        ("מה השעה", "Hebrew"),
        ("123 456", "none"),
    ] {
        assert_eq!(script_of(text), script, "{text}");
    }
    let language_of = |text: &str| counter(&[(text, text)]).balance(0).languages.into_keys().next().unwrap();
    for (text, language) in [
        ("What is the name of the river that you see?", "en"),
        ("Wie ist der Name des Flusses und wo ist das?", "de"),
        ("Quel est le nom de la rivière dans les Alpes pour vous?", "fr"),
        ("Xyzzy plugh", "unknown"),
    ] {
        assert_eq!(language_of(text), language, "{text}");
    }
}

#[test]
fn one_answer_to_everything_is_out_of_balance() {
    let settings = ContentSettings::default();
    let mut rows = vec![("Is it so?", "yes"); 95];
    rows.extend([("Is it so?", "no"); 5]);
    let problems = counter(&rows).problems(&settings);
    assert_eq!(problems[0].message, "95 of 100 short answers are \"yes\"");
    rows.extend([("Is it so?", "no"); 60]);
    assert!(counter(&rows).problems(&settings).is_empty());
    assert_eq!(counter(&rows).balance(0).labels, [("no".to_string(), 65), ("yes".to_string(), 95)].into());
}

#[test]
fn another_language_than_before_is_a_shift() {
    let settings = ContentSettings::default();
    let english = counter(&vec![("What is the time and how do you know?", "It is five, that is all."); 60]);
    let german = counter(&vec![("Wie ist das und was ist der Grund?", "Das ist nicht der Grund."); 60]);
    assert!(
        english
            .shifts(
                &counter(&vec![("What is the time and how do you know?", "It is five, that is all."); 70]),
                &settings
            )
            .is_empty()
    );
    let problems = english.shifts(&german, &settings);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].message.starts_with("the languages differ from those of earlier files (distance 1.00 of 1)"));
}

#[test]
fn other_labels_and_sources_than_before_are_shifts() {
    let settings = ContentSettings::default();
    let rows = |yes: usize, no: usize| [vec![("Is it so?", "yes"); yes], vec![("Is it so?", "no"); no]].concat();
    let messages = |own: &Counter, earlier: &Counter| -> Vec<String> {
        own.shifts(earlier, &settings).into_iter().map(|problem| problem.message).collect()
    };
    let even = counter_of("books", &rows(30, 30));
    assert_eq!(messages(&even, &counter_of("books", &rows(40, 25))), [""; 0]);
    // Half the sum of |95/100 - 1/10| and |5/100 - 9/10| is 0.85.
    let labels = messages(&counter_of("books", &rows(95, 5)), &counter_of("books", &rows(10, 90)));
    let expected = "the labels differ from those of earlier files (distance 0.85 of 1), most in";
    assert!(labels.len() == 1 && labels[0].starts_with(expected), "{labels:?}");
    let sources = messages(&counter_of("web", &rows(30, 30)), &even);
    let expected = "the sources differ from those of earlier files (distance 1.00 of 1), most in";
    assert!(sources.len() == 1 && sources[0].starts_with(expected), "{sources:?}");
    // Numbers are no classes, however short they are.
    let numbers = |from: u32| (from..from + 60).map(|n| n.to_string()).collect::<Vec<_>>();
    let of = |numbers: &[String]| counter(&numbers.iter().map(|n| ("How many?", n.as_str())).collect::<Vec<_>>());
    assert_eq!(messages(&of(&numbers(100)), &of(&numbers(500))), [""; 0]);
}

#[test]
fn rows_of_a_source_with_a_long_name_are_all_counted() {
    let source = "ü".repeat(MAX_NAME_CHARS + 50);
    let mut all = counter_of(&source, &[("Is it so?", "yes"); 3]);
    all.append(counter_of(&source, &[("Is it so?", "no"); 2]));
    assert_eq!(all.balance(0).sources, [("ü".repeat(MAX_NAME_CHARS), 5)].into());
}
