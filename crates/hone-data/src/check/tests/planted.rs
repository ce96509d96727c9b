//! Planted leaks, copies and look-alikes: how many are found, and how many are found that were not planted.

use super::*;
use hone_pipeline::content::{CompareFile, CompareRole};
use rand::seq::SliceRandom as _;

/// Words that look like a language's: frequent ones short, rare ones long.
fn sentence(rng: &mut ChaCha8Rng, num_words: usize) -> String {
    const SYLLABLES: [&str; 20] = [
        "ka", "re", "to", "mi", "na", "so", "lu", "ve", "di", "pa", "chi", "bra", "ste", "gol", "fen", "wor", "tis",
        "al", "en", "or",
    ];
    const FREQUENT: [&str; 12] = ["the", "a", "of", "and", "to", "in", "is", "that", "for", "it", "with", "as"];
    let mut words = Vec::new();
    for _ in 0..num_words {
        if rng.random_range(0..10) < 4 {
            words.push(FREQUENT[rng.random_range(0..FREQUENT.len())].to_string());
        } else {
            words.push((0..rng.random_range(2..4)).map(|_| SYLLABLES[rng.random_range(0..SYLLABLES.len())]).collect());
        }
    }
    let mut text = String::new();
    for (i, word) in words.iter().enumerate() {
        let ends = i % 11 == 10 || i + 1 == words.len();
        text.push_str(word);
        text.push_str(if ends {
            ". "
        } else if i % 7 == 6 {
            ", "
        } else {
            " "
        });
    }
    text.trim().to_string()
}

fn chat(prompt: &str, answer: &str) -> String {
    let messages = [("user", prompt), ("assistant", answer)];
    let messages = messages.map(|(role, content)| serde_json::json!({"role": role, "content": content}));
    serde_json::json!({"messages": messages}).to_string()
}

fn rows(rng: &mut ChaCha8Rng, num: usize) -> Vec<(String, String)> {
    let row = |rng: &mut ChaCha8Rng| {
        let (prompt, answer) = (rng.random_range(25..80), rng.random_range(20..50));
        (sentence(rng, prompt), sentence(rng, answer))
    };
    (0..num).map(|_| row(rng)).collect()
}

fn join(rows: &[(String, String)]) -> String {
    rows.iter().map(|(prompt, answer)| chat(prompt, answer)).collect::<Vec<_>>().join("\n")
}

fn deep(folder: &Folder, data: &str, validation: Option<&str>) -> Report {
    let file = folder.file("data.jsonl", data);
    let compare = validation.map(|text| CompareFile {
        name: "v.jsonl".to_string(),
        path: folder.file("v.jsonl", text),
        schema_id: "chat_sft_v1".to_string(),
        role: CompareRole::Validation,
    });
    let request = CheckRequest { level: Level::Deep, compare: compare.into_iter().collect(), ..request(&file) };
    check_file(&request, &|_| {})
}

fn count(report: &Report, code: &str) -> u64 {
    report.findings.iter().filter(|f| f.code == code).map(|f| f.count).sum()
}

fn wrapped(text: &str) -> String {
    let words: Vec<&str> = text.split(' ').collect();
    words.chunks(8).map(|line| line.join(" ")).collect::<Vec<_>>().join("\n")
}

fn other_case_and_punctuation(text: &str) -> String {
    text.to_uppercase().replace(". ", " - ").replace(", ", "; ").replace('.', "!")
}

fn reordered(rng: &mut ChaCha8Rng, text: &str) -> String {
    let mut words: Vec<&str> = text.split(' ').collect();
    words.shuffle(rng);
    words.join(" ")
}

const PLANTED: usize = 200;

/// Train rows made from validation rows in six ways, among twice as many others.
#[test]
fn rows_of_validation_files_are_found_in_all_disguises() {
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    let folder = Folder::new();
    let validation = rows(rng, PLANTED);
    let validation_text = join(&validation);
    let clean = rows(rng, 2 * PLANTED);
    let report = deep(&folder, &join(&clean), Some(&validation_text));
    assert_eq!(count(&report, "overlap_validation"), 0, "{:#?}", report.findings);
    type Disguise = fn(&mut ChaCha8Rng, &(String, String)) -> (String, String);
    let disguises: [(&str, f64, Disguise); 6] = [
        ("verbatim", 0.95, |_, (p, a)| (p.clone(), a.clone())),
        ("wrapped", 0.95, |_, (p, a)| (wrapped(p), wrapped(a))),
        ("case", 0.95, |_, (p, a)| (other_case_and_punctuation(p), other_case_and_punctuation(a))),
        ("embedded", 0.9, |rng, (p, _)| {
            (format!("{} {p} {}", sentence(rng, 30), sentence(rng, 30)), sentence(rng, 20))
        }),
        ("answer", 0.9, |rng, (_, a)| (sentence(rng, 30), format!("{} {a}", sentence(rng, 10)))),
        ("reordered", 0.9, |rng, (p, _)| (reordered(rng, p), sentence(rng, 20))),
    ];
    for (name, bound, disguise) in disguises {
        let mut planted = clean.clone();
        planted.extend(validation.iter().map(|row| disguise(rng, row)));
        let report = deep(&folder, &join(&planted), Some(&validation_text));
        let found = count(&report, "overlap_validation") as f64 / PLANTED as f64;
        assert!((bound..=1.0).contains(&found), "{name}: {found}");
        let finding = report.findings.iter().find(|f| f.code == "overlap_validation").unwrap();
        assert!(finding.lines.iter().all(|line| *line > 2 * PLANTED as u64), "{name}: {:?}", finding.lines);
        assert!(finding.evidence.as_ref().unwrap().contains("v.jsonl line "), "{finding:?}");
        assert!(!report.is_accepted(), "a third of the rows is more than one percent");
    }
}

#[test]
fn answers_in_their_prompts_are_found_in_all_disguises() {
    let rng = &mut ChaCha8Rng::seed_from_u64(2);
    let folder = Folder::new();
    let clean = rows(rng, 2 * PLANTED);
    assert_eq!(count(&deep(&folder, &join(&clean), None), "answer_in_prompt"), 0);
    type Disguise = fn(&mut ChaCha8Rng, &str) -> String;
    let disguises: [(&str, f64, Disguise); 4] = [
        ("verbatim", 0.95, |_, a| a.to_string()),
        ("wrapped", 0.95, |_, a| wrapped(a)),
        ("case", 0.95, |_, a| other_case_and_punctuation(a)),
        ("reordered", 0.9, reordered),
    ];
    for (name, bound, disguise) in disguises {
        let planted: Vec<_> = clean
            .iter()
            .take(PLANTED)
            .map(|(p, a)| (format!("{p} {} {}", disguise(rng, a), sentence(rng, 20)), a.clone()))
            .collect();
        let report = deep(&folder, &join(&planted), None);
        let found = count(&report, "answer_in_prompt") as f64 / PLANTED as f64;
        assert!((bound..=1.0).contains(&found), "{name}: {found}");
    }
}

/// 10,000 puzzles that differ in one number, half of them in the validation file: none is a leak, a copy or a
/// near-duplicate of another.
#[test]
fn templated_puzzles_that_differ_in_one_number_are_different_puzzles() {
    let folder = Folder::new();
    let puzzle = |n: u32| {
        let prompt = format!(
            "A farmer keeps {n} hens on his farm by the river. Every hen lays two eggs a day, and he sells all of them \
             on the market in town except for six, which his family eats for breakfast. How many eggs does he sell?"
        );
        (prompt, format!("Each day there are {} eggs. He keeps six of them. So he sells {} eggs.", 2 * n, 2 * n - 6))
    };
    let (validation, train): (Vec<u32>, Vec<u32>) = (10..10_010).partition(|n| n % 2 == 0);
    let text = |numbers: &[u32]| join(&numbers.iter().map(|n| puzzle(*n)).collect::<Vec<_>>());
    let report = deep(&folder, &text(&train), Some(&text(&validation)));
    for code in ["overlap_validation", "row_near_duplicate", "row_duplicate", "answer_in_prompt", "answer_contradicts"]
    {
        assert!(count(&report, code) < 5, "{code}: {:#?}", report.findings);
    }
    assert!(report.is_accepted());
}

#[test]
fn short_answers_are_no_leaks() {
    let rng = &mut ChaCha8Rng::seed_from_u64(3);
    let folder = Folder::new();
    let row = |rng: &mut ChaCha8Rng| {
        let answers = [
            "yes".to_string(),
            "No.".to_string(),
            rng.random_range(0..10).to_string(),
            rng.random_range(1500..2030).to_string(),
        ];
        let answer = answers[rng.random_range(0..4)].clone();
        (format!("{} Is it yes, no, or {answer}? {}", sentence(rng, 20), sentence(rng, 5)), answer)
    };
    let (train, validation): (Vec<_>, Vec<_>) =
        ((0..1000).map(|_| row(rng)).collect(), (0..1000).map(|_| row(rng)).collect());
    let report = deep(&folder, &join(&train), Some(&join(&validation)));
    for code in ["overlap_validation", "row_near_duplicate", "answer_in_prompt", "answer_contradicts"] {
        assert_eq!(count(&report, code), 0, "{code}: {:#?}", report.findings);
    }
}

#[test]
fn copies_near_copies_and_contradictions_are_told_apart() {
    let rng = &mut ChaCha8Rng::seed_from_u64(4);
    let folder = Folder::new();
    let mut all = rows(rng, 300);
    for i in 0..50 {
        all.push(all[i].clone());
    }
    for i in 50..100 {
        let (prompt, answer) = all[i].clone();
        let mut words: Vec<&str> = prompt.split(' ').collect();
        words[3] = "changed";
        all.push((words.join(" "), answer));
    }
    for i in 100..150 {
        all.push((all[i].0.clone(), sentence(rng, 40)));
    }
    let report = deep(&folder, &join(&all), None);
    assert_eq!(count(&report, "row_duplicate"), 50);
    assert_eq!(count(&report, "answer_contradicts"), 50);
    let near = count(&report, "row_near_duplicate");
    assert!((48..=50).contains(&near), "{near}");
    let finding = report.findings.iter().find(|f| f.code == "row_near_duplicate").unwrap();
    assert!(finding.evidence.as_ref().unwrap().starts_with("line 351: \""), "{finding:?}");
    assert!(finding.lines.iter().all(|line| (351..=400).contains(line)));
}

#[test]
fn another_operator_makes_another_question_and_no_contradiction() {
    let folder = Folder::new();
    let contradictions = |rows: [(&str, &str); 2]| {
        let rows = rows.map(|(prompt, answer)| chat(prompt, answer));
        count(&deep(&folder, &rows.join("\n"), None), "answer_contradicts")
    };
    assert_eq!(contradictions([("20 + 3 = ?", "23"), ("20 * 3 = ?", "60")]), 0);
    assert_eq!(contradictions([("a + b = ?", "c"), ("a * b = ?", "d")]), 0);
    assert_eq!(contradictions([("20 + 3 = ?", "23"), ("20+3=?", "24")]), 1);
    assert_eq!(contradictions([("20 - 3 = ?", "17"), ("20-3 = ?", "18")]), 1);
    assert_eq!(contradictions([("20 + 3 = ?", "23"), ("20 - 3 = ?", "17")]), 0);
    assert_eq!(contradictions([("How much is left?", "It is 3/4"), ("How much is left?", "It is 3 / 4")]), 0);
}

#[test]
fn a_validation_file_that_cannot_be_read_fails_the_check() {
    let folder = Folder::new();
    let compare = |role| CompareFile {
        name: "v.jsonl".to_string(),
        path: folder.0.path().join("none.jsonl"),
        schema_id: "chat_sft_v1".to_string(),
        role,
    };
    let file = folder.file("a.jsonl", GOOD);
    for (role, expected) in [(CompareRole::Validation, "error"), (CompareRole::Earlier, "warning")] {
        let request = CheckRequest { level: Level::Deep, compare: vec![compare(role)], ..request(&file) };
        let report = check_file(&request, &|_| {});
        assert!(summary(&report).contains(&format!("{expected} compare_failed x1 []")), "{:?}", summary(&report));
    }
}

#[test]
fn rows_that_were_accepted_before_are_told() {
    let folder = Folder::new();
    let rng = &mut ChaCha8Rng::seed_from_u64(5);
    let all = rows(rng, 100);
    let compare = CompareFile {
        name: "dataset-1".to_string(),
        path: folder.file("old.jsonl", join(&all[..60])),
        schema_id: "chat_sft_v1".to_string(),
        role: CompareRole::Earlier,
    };
    let file = folder.file("new.jsonl", join(&all[40..]));
    let report = check_file(&CheckRequest { level: Level::Deep, compare: vec![compare], ..request(&file) }, &|_| {});
    assert_eq!(count(&report, "overlap_earlier"), 20);
    assert!(
        report
            .findings
            .iter()
            .any(|f| f.evidence.as_deref().is_some_and(|e| e.starts_with("line 1 is dataset-1 line 41")))
    );
    assert!(report.is_accepted());
}

/// The budget leaves out earlier files only, wherever in the list they stand.
#[test]
fn what_checkpoints_are_judged_on_is_compared_whatever_the_earlier_files_take() {
    let folder = Folder::new();
    let rng = &mut ChaCha8Rng::seed_from_u64(6);
    let all = rows(rng, 40);
    let file = |name: &str, role, rows: &[(String, String)]| CompareFile {
        name: name.to_string(),
        path: folder.file(name, join(rows)),
        schema_id: "chat_sft_v1".to_string(),
        role,
    };
    let compare = vec![
        file("new.jsonl", CompareRole::Earlier, &all[..10]),
        file("old.jsonl", CompareRole::Earlier, &all[10..20]),
        file("skill.jsonl", CompareRole::SkillEvaluation, &all[20..30]),
        file("v.jsonl", CompareRole::Validation, &all[30..]),
    ];
    let content = ContentSettings { max_compare_bytes: 0, ..ContentSettings::default() };
    let data = folder.file("data.jsonl", join(&all));
    let report = check_file(&CheckRequest { level: Level::Deep, content, compare, ..request(&data) }, &|_| {});
    let counts = ["compare_left_out", "overlap_earlier", "overlap_validation"].map(|code| count(&report, code));
    assert_eq!(counts, [1, 0, 20], "{:#?}", report.findings);
}

/// A skill's own training data is not taken for its evaluation questions, however much their wording is alike; a file
/// that was made of evaluation questions is found.
#[test]
fn training_data_of_a_skill_does_not_overlap_with_its_evaluation_set_and_its_evaluation_data_do() {
    // budget: 60 s
    let slow = std::env::var("HONE_SLOW").is_ok_and(|slow| slow == "1");
    for name in hone_skills::names() {
        let skill = hone_skills::find(&name).unwrap();
        for level in 1..=if slow { skill.info().total_levels } else { 1 } {
            let folder = Folder::new();
            let draw = |seed, count, split| {
                let request = hone_skills::GenerateRequest { level, count, seed, split, steps: false };
                let batch = skill.generate(&request).unwrap();
                batch.samples.iter().map(|sample| format!("{}\n", sample.to_row())).collect::<String>()
            };
            let set = draw(1, 300, hone_skills::Split::Eval);
            let overlap = |data: &str| {
                let report = deep(&folder, data, Some(&set));
                report.findings.into_iter().find(|finding| finding.code == "overlap_validation")
            };
            let alarms = overlap(&draw(2, 500, hone_skills::Split::Train));
            assert!(alarms.as_ref().is_none_or(|f| f.count < 5), "{name} level {level}: {alarms:#?}");
            let of_the_set = set.lines().take(100).collect::<Vec<_>>().join("\n");
            let found = overlap(&of_the_set).map_or(0, |finding| finding.count);
            assert!(found >= 95, "{name} level {level}: {found} of 100");
        }
    }
}

fn chat_with_system(system: &str, prompt: &str, answer: &str) -> String {
    let messages = [("system", system), ("user", prompt), ("assistant", answer)];
    let messages = messages.map(|(role, content)| serde_json::json!({"role": role, "content": content}));
    serde_json::json!({"messages": messages}).to_string()
}

/// A system message is prompt as well: an answer or a validation text that stands there is found; one that all rows and
/// the validation file share is no alarm.
#[test]
fn answers_and_validation_texts_in_system_messages_are_found_and_shared_ones_are_no_alarm() {
    let rng = &mut ChaCha8Rng::seed_from_u64(9);
    let folder = Folder::new();
    let (clean, validation) = (rows(rng, PLANTED), rows(rng, PLANTED));
    let usual = sentence(rng, 40);
    let with_usual = |rows: &[(String, String)]| {
        rows.iter().map(|(prompt, answer)| chat_with_system(&usual, prompt, answer)).collect::<Vec<_>>().join("\n")
    };
    let validation_text = with_usual(&validation);
    for some in [10, PLANTED] {
        let report = deep(&folder, &with_usual(&clean[..some]), Some(&validation_text));
        for code in ["answer_in_prompt", "overlap_validation", "overlap_earlier"] {
            assert_eq!(count(&report, code), 0, "{some} rows: {:#?}", report.findings);
        }
    }
    let leaked: Vec<String> = clean
        .iter()
        .map(|(prompt, answer)| chat_with_system(&format!("{} {answer}", sentence(rng, 20)), prompt, answer))
        .collect();
    let found = count(&deep(&folder, &leaked.join("\n"), None), "answer_in_prompt") as f64 / PLANTED as f64;
    assert!(found >= 0.95, "{found}");
    let copied: Vec<String> = clean
        .iter()
        .zip(&validation)
        .map(|((prompt, answer), (text, _))| chat_with_system(&wrapped(text), prompt, answer))
        .collect();
    let report = deep(&folder, &copied.join("\n"), Some(&validation_text));
    let found = count(&report, "overlap_validation") as f64 / PLANTED as f64;
    assert!(found >= 0.95, "{found}");
}

/// A system message that is a column is no message, so its text is not taken for that of message 1.
#[test]
fn a_system_message_that_is_a_column_has_a_name_of_its_own() {
    let folder = Folder::new();
    let answer = "the quick brown fox jumps over the lazy dog today";
    let row = |system: &str, prompt: &str| {
        let messages = [("user", prompt), ("assistant", answer)];
        let messages = messages.map(|(role, content)| serde_json::json!({"role": role, "content": content}));
        serde_json::json!({"system_prompt": system, "messages": messages}).to_string()
    };
    let evidence = |row: String| {
        let report = deep(&folder, &row, None);
        let finding = report.findings.into_iter().find(|finding| finding.code == "answer_in_prompt").unwrap();
        finding.evidence.unwrap()
    };
    let asked = evidence(row("Be brief.", &format!("Repeat after me, please, word by word: {answer}")));
    assert!(asked.ends_with(&format!("stands in message 1, bytes 39-88: \"{answer}\"")), "{asked}");
    let told = evidence(row(&format!("Always say {answer}"), "What do you say?"));
    assert!(told.ends_with(&format!("stands in the system message, bytes 11-60: \"{answer}\"")), "{told}");
}
