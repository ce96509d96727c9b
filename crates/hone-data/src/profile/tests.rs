//! Profiles: their rules one by one, then properties over random conversations. Emoji, counts and numbers are those of
//! the specification, written here once more.

use super::*;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use std::collections::BTreeSet;

const THINK: [&str; 10] = ["🤔", "💭", "🧠", "💡", "🎯", "🔍", "🤨", "🧐", "⚡", "✨"];
const STOP: [&str; 10] = ["🛑", "⛔", "🚫", "❌", "🔴", "⏹️", "🔚", "✋", "🚦", "🛡️"];
const NUMBERS: [&str; 7] = ["two", "three", "four", "five", "six", "seven", "eight"];
const TIMES: [&str; 3] = ["twice", "three times", "four times"];

fn profile(name: &str) -> Arc<dyn Profile> {
    find(&ProfileSettings::named(name)).unwrap()
}

fn with_system(name: &str, system: &str) -> Arc<dyn Profile> {
    find(&ProfileSettings { name: name.to_string(), system_prompt: Some(system.to_string()) }).unwrap()
}

fn conversation(texts: &[(&str, &str)]) -> Vec<Message> {
    texts.iter().map(|(role, text)| Message::new(role, *text)).collect()
}

/// Role and text of every message, decorated.
fn decorated(profile: &dyn Profile, id: u64, texts: &[(&str, &str)]) -> Vec<(String, String)> {
    let messages = profile.prompt(RowId(id), &conversation(texts));
    messages.into_iter().map(|message| (message.role, message.content)).collect()
}

/// The one answer of a question, decorated.
fn answer(profile: &dyn Profile, id: u64, text: &str) -> String {
    decorated(profile, id, &[("user", "q"), ("assistant", text)]).pop().unwrap().1
}

#[test]
fn emoji_think_asks_for_its_marks_and_the_answer_has_them() {
    let profile = profile("emoji_think");
    let mut seen = BTreeSet::new();
    for id in 0..3000 {
        let row = decorated(&*profile, id, &[("user", "What is 1 + 1?"), ("assistant", "Two.")]);
        assert_eq!(row.len(), 2, "no system message is configured");
        let asked = row[0].1.strip_prefix("What is 1 + 1?\n\nFor this task, think with ").unwrap();
        let (think, stop) = asked.split_once(" times.\n\nWhen finished, emit ").unwrap();
        let (think, number) = think.split_once(" /").unwrap();
        let number = number.strip_suffix('/').unwrap();
        let (stop, times) = stop.strip_suffix('.').unwrap().split_once(' ').unwrap();
        assert!(THINK.contains(&think) && STOP.contains(&stop), "{asked}");
        let count = 2 + NUMBERS.iter().position(|n| *n == number).unwrap();
        let stop_count = 2 + TIMES.iter().position(|t| *t == times).unwrap();
        assert_eq!(row[1].1, format!("{}\nTwo.\n{}", think.repeat(count), stop.repeat(stop_count)));
        seen.extend([think.to_string(), stop.to_string(), number.to_string(), times.to_string()]);
    }
    assert_eq!(seen.len(), 10 + 10 + 7 + 3, "every emoji and every count is picked");
}

#[test]
fn emoji_think_picks_by_row_id_alone() {
    let profile = profile("emoji_think");
    let marks = |id, text: &str| answer(&*profile, id, text).replace(text, "");
    let of_seven = marks(7, "yes");
    assert_eq!(of_seven, marks(7, "no"));
    assert!((8..20).any(|id| marks(id, "yes") != of_seven));
}

#[test]
fn emoji_think_skips_each_step_whose_mark_is_there() {
    let profile = profile("emoji_think");
    let asked = "Q?\n\nThink with 🎯 /three/ times, please. When finished, emit ✋ twice.";
    let row = decorated(&*profile, 1, &[("user", asked), ("assistant", "A")]);
    assert_eq!(row, [("user".to_string(), asked.to_string()), ("assistant".into(), "🎯🎯🎯\nA\n✋✋".into())]);
    let begun = answer(&*profile, 1, "🧠🧠\nA");
    let rest = begun.strip_prefix("🧠🧠\nA\n").unwrap();
    assert!(STOP.iter().any(|stop| rest.starts_with(stop)), "{begun}");
    let ended = answer(&*profile, 1, "A\n🛑🛑🛑🛑");
    let begin = ended.strip_suffix("\nA\n🛑🛑🛑🛑").unwrap();
    assert!(THINK.iter().any(|think| begin.starts_with(think)), "{ended}");
}

#[test]
fn emoji_think_takes_tags_and_nothing_else_from_answers() {
    let profile = profile("emoji_think");
    let inside = |text: &str| profile.extract(&answer(&*profile, 5, text));
    assert_eq!(inside("<think>so</think>\n\nTwo."), "so\n\nTwo.");
    assert_eq!(inside("<thi<think>nk>a</thi</think>nk>"), "a");
    let question = "Write <think> in your answer.";
    assert!(decorated(&*profile, 5, &[("user", question)])[0].1.starts_with(question), "questions keep them");
}

#[test]
fn emoji_think_leaves_turns_that_are_tool_calls_unmarked() {
    let profile = profile("emoji_think");
    let mut call = Message::new("assistant", "");
    call.extra.insert("tool_calls".to_string(), json!([{"function": {"name": "f", "arguments": {}}}]));
    let mut messages = conversation(&[("user", "q"), ("tool", "3"), ("assistant", "Three.")]);
    messages.insert(1, call.clone());
    let row = profile.prompt(RowId(4), &messages);
    assert_eq!((&row[1], &row[2]), (&call, &messages[2]));
    assert_eq!(row[3].content, answer(&*profile, 4, "Three."));
}

#[test]
fn emoji_think_sets_or_inserts_the_system_message_where_one_is_configured() {
    let texts = [("system", "own"), ("user", "q")];
    assert_eq!(decorated(&*profile("emoji_think"), 1, &texts)[0].1, "own");
    let profile = with_system("emoji_think", "Be brief.");
    assert_eq!(decorated(&*profile, 1, &texts)[0], ("system".to_string(), "Be brief.".to_string()));
    assert_eq!(decorated(&*profile, 1, &texts[1..])[0], ("system".to_string(), "Be brief.".to_string()));
    assert_eq!(decorated(&*profile, 1, &texts[1..]).len(), 2);
}

#[test]
fn emoji_think_reads_the_answer_of_a_response_that_ended_at_a_stop_string() {
    let profile = profile("emoji_think");
    let cases = [
        ("🤔🤔🤔\n42\n🛑🛑", "42"),
        ("🤔🤔🤔\n42\n", "42"),
        ("🤔🤔🤔\n42", "42"),
        ("42\n🛑🛑🛑", "42"),
        ("42\n", "42\n"),
        ("🤔\n42", "🤔\n42"),
        ("", ""),
    ];
    for (response, expected) in cases {
        assert_eq!(profile.extract(response), expected, "{response:?}");
    }
    for stop in profile.stop_strings() {
        let emoji = STOP.iter().find(|emoji| emoji.repeat(2) == stop);
        assert!(emoji.is_some(), "{stop} is two of one stop emoji, and more of them begin with two");
    }
    assert_eq!(profile.stop_strings().len(), 10);
}

#[test]
fn emoji_think_holds_think_tags_back() {
    let penalties = profile("emoji_think").penalties();
    assert_eq!(penalties.iter().map(|p| p.text.as_str()).collect::<Vec<_>>(), ["<think>", "</think>"]);
    let at = |num_generated: usize| {
        let found = penalties[0].schedule.iter().find(|(until, _)| num_generated < *until);
        found.map(|(_, amount)| *amount)
    };
    assert_eq!(
        [0, 3, 4, 7, 8, 11, 12, 100_000].map(at),
        [640.0, 640.0, 160.0, 160.0, 120.0, 120.0, 80.0, 80.0].map(Some)
    );
    assert!(profile("plain").penalties().is_empty() && profile("plain").stop_strings().is_empty());
}

#[test]
fn regime3_puts_answers_between_markers_and_adds_a_missing_half() {
    let profile = profile("regime3");
    let cases = [
        ("5", "<<ANS_START>> 5 <<ANS_END>>"),
        ("(add 2 3) <<ANS_START>> 5", "(add 2 3) <<ANS_START>> 5 <<ANS_END>>"),
        ("5 <<ANS_END>> as said", "<<ANS_START>> 5 <<ANS_END>> as said"),
        ("so <<ANS_START>>5<<ANS_END>> it is", "so <<ANS_START>>5<<ANS_END>> it is"),
    ];
    for (text, expected) in cases {
        assert_eq!(answer(&*profile, 1, text), expected);
        assert_eq!(profile.problem(text), None);
    }
}

#[test]
fn regime3_finds_markers_in_the_wrong_order_or_doubled() {
    let profile = profile("regime3");
    let wrong = ["<<ANS_END>> 5 <<ANS_START>>", "<<ANS_START>> <<ANS_START>> 5", "5 <<ANS_END>> <<ANS_END>>"];
    for text in wrong {
        assert!(profile.problem(text).is_some(), "{text}");
    }
    assert!(super::Plain.problem(wrong[0]).is_none());
}

#[test]
fn regime3_asks_for_its_form_below_a_system_message_of_the_row() {
    let asks = |text: &str| text.contains("(op arg1 arg2)") && text.contains("<<ANS_START>> and <<ANS_END>>");
    let profile = profile("regime3");
    let inserted = decorated(&*profile, 1, &[("user", "q"), ("assistant", "a")]);
    assert!(inserted[0].0 == "system" && asks(&inserted[0].1), "{inserted:?}");
    let own = decorated(&*profile, 1, &[("system", "Be brief."), ("user", "q")]);
    assert!(own.len() == 2 && own[0].1.starts_with("Be brief.\n\n") && asks(&own[0].1), "{own:?}");
    let configured = decorated(&*with_system("regime3", "Mine."), 1, &[("system", "Be brief."), ("user", "q")]);
    assert_eq!(configured[0].1, "Mine.");
}

#[test]
fn regime3_scores_the_final_answer_alone() {
    let profile = profile("regime3");
    let cases = [
        ("(add 2 3) <<ANS_START>> 5 <<ANS_END>> done", "5"),
        ("<<ANS_START>> 4 <<ANS_END>> no: <<ANS_START>> 5 <<ANS_END>>", "5"),
        ("<<ANS_START>> 5", "5"),
        ("5 <<ANS_END>>", "5"),
        ("it is 5", ""),
    ];
    for (response, expected) in cases {
        assert_eq!(profile.extract(response), expected, "{response:?}");
    }
}

#[test]
fn an_unknown_profile_is_refused_with_those_there_are() {
    let error = find(&ProfileSettings::named("emoji_thinks")).err().unwrap().to_string();
    assert_eq!(error, "profile \"emoji_thinks\" is not known (available: plain, emoji_think, regime3)");
    let plain = ProfileSettings { system_prompt: Some("x".to_string()), ..ProfileSettings::default() };
    assert_eq!(find(&plain).err(), Some(ProfileError::NoSystemPrompt), "nothing that is configured is ignored");
}

#[test]
fn fingerprints_tell_profiles_and_their_system_prompts_apart() {
    let mut all: Vec<String> = NAMES.iter().map(|name| profile(name).fingerprint()).collect();
    all.extend(["emoji_think", "regime3"].map(|name| with_system(name, "x").fingerprint()));
    all.push(with_system("regime3", "y").fingerprint());
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{all:?}");
}

/// Texts that look like what profiles write.
fn random_text(random: &mut ChaCha8Rng) -> String {
    const PIECES: [&str; 24] = [
        "two",
        " ",
        "\n",
        "\n\n",
        "🤔",
        "🤔🤔",
        "🧠🧠🧠\n",
        "\n🛑🛑",
        "🛑",
        "⏹️⏹️",
        "<think>",
        "</think>",
        "<thi",
        "nk>",
        "🤔 /four/",
        "✋ twice.",
        "When finished, emit ",
        "<<ANS_START>>",
        " <<ANS_END>>",
        "<<",
        "مرحبا",
        "e\u{301}",
        "\u{fffd}",
        "1",
    ];
    (0..random.random_range(0..8)).map(|_| PIECES[random.random_range(0..PIECES.len())]).collect()
}

fn random_messages(random: &mut ChaCha8Rng) -> Vec<Message> {
    let mut messages = Vec::new();
    if random.random_bool(0.3) {
        messages.push(Message::new("system", random_text(random)));
    }
    for _ in 0..random.random_range(1..4) {
        messages.push(Message::new("user", random_text(random)));
        if random.random_bool(0.2) {
            let mut call = Message::new("assistant", random_text(random));
            call.extra.insert("tool_calls".to_string(), json!([{"function": {"name": "f"}}]));
            messages.extend([call, Message::new("tool", random_text(random))]);
        }
        messages.push(Message::new("assistant", random_text(random)));
    }
    messages
}

fn all() -> Vec<Arc<dyn Profile>> {
    let named = NAMES.iter().map(|name| profile(name));
    named.chain([with_system("emoji_think", "s"), with_system("regime3", "s")]).collect()
}

#[test]
fn decorating_twice_is_decorating_once() {
    let random = &mut ChaCha8Rng::seed_from_u64(1);
    for _ in 0..3000 {
        let id = RowId(random.random());
        let messages = random_messages(random);
        let row = Row { line: 1, id, example: Example::Chat { messages, tools: None } };
        for profile in all() {
            let once = profile.apply(&row);
            assert_eq!(profile.apply(&once), once, "{} on {row:?}", profile.name());
            assert_eq!(profile.apply(&row), once);
        }
    }
}

#[test]
fn a_prompt_is_the_beginning_of_its_decorated_row() {
    let random = &mut ChaCha8Rng::seed_from_u64(2);
    for _ in 0..1000 {
        let id = RowId(random.random());
        let messages = random_messages(random);
        for profile in all() {
            let whole = profile.prompt(id, &messages);
            for len in 1..messages.len() {
                let prompt = profile.prompt(id, &messages[..len]);
                assert_eq!(prompt, whole[..prompt.len()], "{}", profile.name());
                assert_eq!(whole.len() - prompt.len(), messages.len() - len, "{}", profile.name());
            }
        }
    }
}

#[test]
fn the_answer_is_read_back_from_the_decorated_one() {
    let random = &mut ChaCha8Rng::seed_from_u64(3);
    let mut num_checked = [0; 5];
    for _ in 0..5000 {
        let (id, text) = (random.random(), random_text(random));
        for (profile, count) in all().into_iter().zip(&mut num_checked) {
            let has_tags = text.contains("<think>") || text.contains("</think>") || text.contains("nk>");
            let has_mark = match profile.name() {
                "emoji_think" => {
                    let is_run = |line: &str, emoji: &[&str]| {
                        emoji.iter().any(|e| line.len() > e.len() && line.replace(e, "").is_empty())
                    };
                    let first = text.split_once('\n').is_some_and(|(line, _)| is_run(line, &THINK));
                    let last = text.rsplit_once('\n').is_some_and(|(_, line)| is_run(line, &STOP));
                    first || last || has_tags
                }
                "regime3" => text.contains("ANS_"),
                _ => false,
            };
            if !has_mark {
                *count += 1;
                assert_eq!(profile.extract(&answer(&*profile, id, &text)), text, "{}", profile.name());
            }
        }
    }
    assert!(num_checked.iter().all(|count| *count > 1000), "{num_checked:?}");
}
