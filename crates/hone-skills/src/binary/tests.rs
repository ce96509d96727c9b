//! Tests of `binary`.

use super::draw::{self, Choice, Place};
use super::phrasing::NUM_PHRASINGS;
use super::problem::Problem;
use super::*;
use crate::{Sample, Split};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

fn generate(level: u32, count: usize, seed: u64, split: Split) -> Batch {
    Binary.generate(&GenerateRequest { level, count, seed, split, steps: false }).unwrap()
}

/// 1 and 0 in place of ① and ⓪, so that a person can read a test.
fn digits(text: &str) -> String {
    text.replace('1', "①").replace('0', "⓪")
}

/// Holds a written problem of a level against the answer that a person worked out.
#[track_caller]
fn check(level: u32, problem: &str, answer: &str) {
    let parsed = Problem::parse(problem).unwrap_or_else(|| panic!("{problem} does not parse"));
    assert_eq!(parsed.answer(), answer, "{problem}");
    assert!(find_level(level).unwrap().contains(&parsed), "{problem} is not of level {level}");
}

#[track_caller]
fn check_bits(level: u32, problem: &str, answer: &str) {
    check(level, &digits(problem), &digits(answer));
}

#[track_caller]
fn verdict(problem: &str, response: &str) -> (bool, bool) {
    let result = check::verify(&Problem::parse(&digits(problem)).unwrap(), &digits(response));
    assert_eq!(result.score, if result.solved { 1.0 } else { 0.0 });
    (result.solved, result.parsed)
}

const SOLVED: (bool, bool) = (true, true);
const WRONG: (bool, bool) = (false, true);
const UNPARSABLE: (bool, bool) = (false, false);

#[test]
fn answers_are_those_worked_out_by_hand() {
    check_bits(1, "add 10 11", "101");
    check_bits(1, "add 1010 1010", "10100");
    check_bits(1, "subtract 1010 11", "111");
    check_bits(1, "subtract 1010 1010", "0");
    check_bits(2, "multiply 10100 10100", "110010000");
    check_bits(2, "subtract 10100 1", "10011");
    check_bits(3, "multiply 1010 1010", "1100100");
    check(3, "tobinary 13", "①①⓪①");
    check(3, "todecimal ①①⓪⓪①⓪⓪", "100");
    check_bits(4, "and 1100 1000000", "0000000");
    check_bits(4, "or 1100 1000000", "1001100");
    check_bits(4, "xor 1100100 1010", "1101110");
    check_bits(4, "not 1010", "0101");
    check_bits(4, "not 111111", "000000");
    check_bits(4, "leftshift 1010 11", "1010000");
    check_bits(4, "rightshift 1100100 100", "110");
    check_bits(4, "rightshift 1010 100", "0");
    check_bits(5, "add 1100100 1111101000", "10001001100");
    check_bits(5, "and 1111101000 111111111", "0111101000");
    check_bits(6, "multiply 1111101000 10011100010000", "100110001001011010000000");
    check_bits(6, "rightshift 10011100010000 10", "100111000100");
    check_bits(7, "subtract 11000011010100000 10011100010000", "10101111110010000");
    check(7, "todecimal ①①⓪⓪⓪⓪①①⓪①⓪①⓪⓪⓪⓪⓪", "100000");
}

#[test]
fn only_canonical_problems_parse() {
    for text in ["", "add", "add ①", "add ① ① ①", "add ⓪① ①", "add 1 1", "Add ① ①", "add  ① ①", "add ① ① ", "not ① ①"]
    {
        assert_eq!(Problem::parse(text), None, "{text:?}");
    }
    assert_eq!(Problem::parse(&format!("add {} ①", "①".repeat(65))), None);
}

#[test]
fn level_1_has_155_problems() {
    let level = find_level(1).unwrap();
    let counts: Vec<u64> = level.operations.iter().map(|&operation| level.range.num_problems(operation)).collect();
    assert_eq!(counts, [100, 55]);
}

#[test]
fn problems_are_numbered_without_gaps_or_doubles() {
    for level in &LEVELS[..4] {
        for &operation in level.operations {
            let count = level.range.num_problems(operation);
            let all: HashSet<String> = (0..count).map(|i| level.range.problem(operation, i).text()).collect();
            assert_eq!(all.len() as u64, count, "{operation:?}");
            for index in 0..count {
                let problem = level.range.problem(operation, index);
                assert!(level.contains(&problem), "{}", problem.text());
                assert_eq!(Problem::parse(&problem.text()), Some(problem));
            }
        }
    }
}

/// All samples of a split of level 1 or 2, made once for all tests.
fn whole(level: u32, split: Split) -> &'static Batch {
    static LEVELS: [[LazyLock<Batch>; 2]; 2] = [
        [LazyLock::new(|| all_of(1, Split::Train)), LazyLock::new(|| all_of(1, Split::Eval))],
        [LazyLock::new(|| all_of(2, Split::Train)), LazyLock::new(|| all_of(2, Split::Eval))],
    ];
    &LEVELS[level as usize - 1][usize::from(split == Split::Eval)]
}

fn all_of(level: u32, split: Split) -> Batch {
    let more_than_all = if level == 1 { 1_600 } else { 9_000 };
    let mut batch = generate(level, more_than_all, 1, split);
    assert!(batch.repeated);
    batch.samples.truncate(batch.distinct);
    batch
}

fn question(sample: &Sample) -> &str {
    &sample.messages[0].content
}

#[test]
fn splits_share_nothing_and_make_up_the_level() {
    let level_1 = (whole(1, Split::Train), whole(1, Split::Eval));
    assert_eq!(level_1.0.distinct + level_1.1.distinct, 155 * NUM_PHRASINGS as usize);
    let mut trained: BTreeMap<String, u32> = BTreeMap::new();
    let mut evaluated = trained.clone();
    for level in [1, 2] {
        trained.extend(whole(level, Split::Train).samples.iter().map(|s| (question(s).to_string(), level)));
        evaluated.extend(whole(level, Split::Eval).samples.iter().map(|s| (question(s).to_string(), level)));
    }
    let shared: Vec<_> = trained.keys().filter(|text| evaluated.contains_key(*text)).collect();
    assert!(shared.is_empty(), "{shared:?}");
    // No two samples of a level have the same text: as many texts as samples.
    assert_eq!(trained.len() + evaluated.len(), 1010 * NUM_PHRASINGS as usize);
}

#[test]
fn split_sizes_are_near_their_shares() {
    let eval = whole(2, Split::Eval);
    // Of 10,100 samples 4 % held out and 20 % of the rest: 0.232; three standard deviations of the first term are 0.018.
    let share = eval.distinct as f64 / 10_100.0;
    assert!((0.205..0.26).contains(&share), "{share}");
    // Level 1 must offer an evaluation's 300 fresh questions and enough problems to tell about unseen ones.
    let eval = whole(1, Split::Eval);
    assert!(eval.distinct >= EVAL_SAMPLES as usize, "{}", eval.distinct);
    assert!((3..=12).contains(&unseen_problems(&eval.samples).len()));
}

fn unseen_problems(samples: &[Sample]) -> BTreeSet<&str> {
    let unseen = samples.iter().filter(|s| s.metadata.get("unseen_problem") == Some(&Value::Bool(true)));
    unseen.map(|s| s.metadata["problem"].as_str().unwrap()).collect()
}

#[test]
fn unseen_problems_occur_in_no_training_sample() {
    for level in [1, 2] {
        let (train, eval) = (whole(level, Split::Train), whole(level, Split::Eval));
        let trained: BTreeSet<&str> = train.samples.iter().map(|s| s.metadata["problem"].as_str().unwrap()).collect();
        let evaluated: BTreeSet<&str> = eval.samples.iter().map(|s| s.metadata["problem"].as_str().unwrap()).collect();
        let never_trained: BTreeSet<&str> = evaluated.difference(&trained).copied().collect();
        assert_eq!(unseen_problems(&eval.samples), never_trained);
        assert!(unseen_problems(&train.samples).is_empty());
    }
}

#[test]
fn unseen_problems_keep_their_natural_share_in_a_batch() {
    let samples = generate(2, 1_500, 3, Split::Eval).samples;
    let unseen = samples.iter().filter(|s| s.metadata.get("unseen_problem").is_some()).count() as f64;
    let share = unseen / samples.len() as f64;
    assert!((0.02..0.07).contains(&share), "{share}");
}

#[test]
fn no_duplicates_while_there_are_enough() {
    for level in 1..=7 {
        for split in [Split::Train, Split::Eval] {
            let count = if level == 1 { 300 } else { 2_000 };
            let batch = generate(level, count, 11, split);
            let ids: HashSet<&str> = batch.samples.iter().map(|s| s.id.as_str()).collect();
            let texts: HashSet<&str> = batch.samples.iter().map(question).collect();
            assert_eq!((ids.len(), texts.len()), (count, count), "level {level} {split:?}");
            assert_eq!((batch.distinct, batch.repeated), (count, false));
        }
    }
}

#[test]
fn a_count_beyond_the_level_says_so_and_repeats_evenly() {
    let distinct = whole(1, Split::Train).distinct;
    let batch = generate(1, 2 * distinct + 5, 4, Split::Train);
    assert_eq!((batch.distinct, batch.repeated), (distinct, true));
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    batch.samples.iter().for_each(|s| *times.entry(&s.id).or_default() += 1);
    assert_eq!(times.len(), distinct);
    assert_eq!(times.values().filter(|&&n| n == 3).count(), 5);
    assert_eq!(times.values().filter(|&&n| n == 2).count(), distinct - 5);
    let cycles: Vec<Vec<&str>> =
        batch.samples.chunks(distinct).map(|cycle| cycle.iter().map(|s| s.id.as_str()).collect()).collect();
    assert_ne!(cycles[0], cycles[1]);
}

#[test]
fn operations_come_equally_often() {
    let batch = generate(7, 5_500, 8, Split::Train);
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    batch.samples.iter().for_each(|s| *times.entry(s.metadata["operation"].as_str().unwrap()).or_default() += 1);
    assert_eq!(times.len(), 11);
    assert!(times.values().all(|n| (400..600).contains(n)), "{times:?}");
}

#[test]
fn same_request_gives_same_bytes_and_another_seed_others() {
    let bytes = |seed, level, split| serde_json::to_string(&generate(level, 50, seed, split)).unwrap();
    for level in 1..=7 {
        assert_eq!(bytes(1, level, Split::Train), bytes(1, level, Split::Train));
        assert_ne!(bytes(1, level, Split::Train), bytes(2, level, Split::Train));
    }
    assert_ne!(generate(1, 50, 1, Split::Train).samples, generate(1, 50, 1, Split::Eval).samples);
}

#[test]
fn samples_of_version_1_stay_what_they_are() {
    // A change here changes the bytes of a seed, and so needs a new VERSION.
    let batch = serde_json::to_string(&generate(1, 1, 7, Split::Train)).unwrap();
    expect_test::expect![[r#"{"skill":"binary","version":"1","level":1,"split":"train","seed":7,"distinct":1,"repeated":false,"samples":[{"id":"binary-1-e41eed27fe609fd2","messages":[{"role":"user","content":"Add ①⓪⓪⓪ and ①①."},{"role":"assistant","content":"add ①⓪⓪⓪ ①① = ①⓪①①"}],"metadata":{"id":"binary-1-e41eed27fe609fd2","skill":"binary","version":"1","level":1,"split":"train","operation":"add","operands":["①⓪⓪⓪","①①"],"problem":"add ①⓪⓪⓪ ①①","phrasing":6,"answer":"①⓪①①"}}]}"#]].assert_eq(&batch);
}

#[test]
fn ids_are_the_same_in_every_batch() {
    let text_of = |seed| -> BTreeMap<String, String> {
        generate(1, 900, seed, Split::Train)
            .samples
            .into_iter()
            .map(|s| (s.id.clone(), question(&s).to_string()))
            .collect()
    };
    let (first, second) = (text_of(1), text_of(2));
    let common: Vec<_> = first.keys().filter(|id| second.contains_key(*id)).collect();
    assert!(common.len() > 400);
    assert!(common.iter().all(|id| first[*id] == second[*id]));
}

#[test]
fn questions_are_short() {
    for sample in &whole(1, Split::Train).samples {
        assert!(question(sample).chars().count() <= 40, "{}", question(sample));
    }
}

#[test]
fn own_answers_verify_in_every_level() {
    for level in 1..=7 {
        for split in [Split::Train, Split::Eval] {
            for sample in generate(level, 300, 5, split).samples {
                let result = Binary.verify(level, &sample.metadata, sample.answer()).unwrap();
                assert!(
                    result.solved && result.parsed && result.score == 1.0,
                    "{}: {}",
                    sample.answer(),
                    result.reason
                );
                let bare = Binary.verify(level, &sample.metadata, sample.metadata["answer"].as_str().unwrap()).unwrap();
                assert!(bare.solved, "{}: {}", sample.answer(), bare.reason);
            }
        }
    }
}

/// Damages that leave no right answer behind, each by a random choice.
fn damages(sample: &Sample, rng: &mut ChaCha8Rng) -> Vec<String> {
    let answer = sample.answer();
    let (left, result) = answer.split_once(" = ").unwrap();
    let (operation, operands) = left.split_once(' ').unwrap();
    let chars: Vec<char> = result.chars().collect();
    let place = rng.next_u64() as usize % chars.len();
    let with = |digit: &str| -> String {
        let (before, after) =
            (chars[..place].iter().collect::<String>(), chars[place + 1..].iter().collect::<String>());
        format!("{before}{digit}{after}")
    };
    let other = match chars[place] {
        '①' => "⓪".to_string(),
        '⓪' => "①".to_string(),
        decimal => ((decimal as u8 - b'0' + 1) % 10).to_string(),
    };
    let doubled = chars[place].to_string().repeat(2);
    let swapped = if operation == "add" { "subtract" } else { "add" };
    let (flipped, dropped, grown) = (with(&other), with(""), with(&doubled));
    vec![
        format!("{left} = {flipped}"),
        format!("{left} = {dropped}"),
        format!("{left} = {grown}"),
        flipped,
        dropped,
        grown,
        format!("{swapped} {operands} = {result}"),
        format!("{left}① = {result}"),
        format!("{operation} = {result}"),
        format!("{left} {result}"),
        format!("{left} = {result} ①"),
        format!("{left} = {result} = ①"),
        format!("{left} = "),
        format!("{result} ①"),
        format!("{answer}\n{left} = {result}⓪"),
        left.to_string(),
        String::new(),
    ]
}

#[test]
fn damaged_answers_never_verify() {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    for level in 1..=7 {
        for sample in generate(level, 300, 6, Split::Train).samples {
            for damaged in damages(&sample, &mut rng) {
                let result = Binary.verify(level, &sample.metadata, &damaged).unwrap();
                assert!(!result.solved, "{} taken for {}", damaged, sample.answer());
            }
        }
    }
}

#[test]
fn an_answer_to_one_problem_never_solves_another() {
    let samples = generate(2, 60, 2, Split::Train).samples;
    for (asked, answered) in samples.iter().flat_map(|a| samples.iter().map(move |b| (a, b))) {
        let solved = Binary.verify(2, &asked.metadata, answered.answer()).unwrap().solved;
        assert_eq!(solved, asked.metadata["problem"] == answered.metadata["problem"]);
    }
}

#[test]
fn reads_answers_as_people_and_models_write_them() {
    for response in [
        "add 10 11 = 101",
        "  add 10  11 =101 \n",
        "Add 10 11 = 101.",
        "The answer is: **add 10 11 = 101**",
        "`add 10 11 = 101` is what you want",
        "add 10 11 = 100\nNo: add 10 11 = 101",
        "101",
        "= 101",
        "Let me think.\n101.",
    ] {
        assert_eq!(verdict("add 10 11", response), SOLVED, "{response:?}");
    }
}

#[test]
fn tells_wrong_from_unparsable() {
    let wrong = [
        "add 10 11 = 100",
        "add 10 11 = 0101",
        "100",
        "add 11 10 = 101",
        "multiply 10 11 = 101",
        "add 10 11 = 101\nadd 1 1 = 10",
    ];
    for response in wrong {
        assert_eq!(verdict("add 10 11", response), WRONG, "{response:?}");
    }
    let unparsable =
        ["", "\n", "hello", "add 10 11", "add 10 11 =", "10 + 11 = 101", "101 110", "x101", "101x", "101\nI hope"];
    for response in unparsable {
        assert_eq!(verdict("add 10 11", response), UNPARSABLE, "{response:?}");
    }
    let ascii = check::verify(&Problem::parse("add ①⓪ ①①").unwrap(), "add 10 11 = 101");
    assert!(!ascii.parsed && !ascii.solved);
}

#[test]
fn bitwise_results_keep_the_width() {
    assert_eq!(verdict("not 1010", "not 1010 = 0101"), SOLVED);
    assert_eq!(verdict("not 1010", "not 1010 = 101"), WRONG);
    assert_eq!(verdict("and 1100 1000000", "and 1100 1000000 = 0"), WRONG);
    assert!(check::verify(&Problem::parse("not ①⓪①⓪").unwrap(), "①⓪①").reason.contains("written"));
}

#[test]
fn the_longest_answer_is_bounded() {
    let long = format!("{}\nadd ①⓪ ①① = ①⓪①", " ".repeat(crate::MAX_RESPONSE_BYTES));
    let result = check::verify(&Problem::parse("add ①⓪ ①①").unwrap(), &long);
    assert!(!result.parsed && !result.solved);
}

#[test]
fn unknown_levels_are_errors() {
    for level in [0, 8, u32::MAX] {
        let request = GenerateRequest { level, count: 1, seed: 0, split: Split::Train, steps: false };
        assert!(matches!(Binary.generate(&request), Err(SkillError::UnknownLevel { .. })));
        assert!(matches!(Binary.verify(level, &Value::Null, ""), Err(SkillError::UnknownLevel { .. })));
    }
}

#[test]
fn counts_are_bounded() {
    for count in [0, crate::MAX_COUNT + 1] {
        let request = GenerateRequest { level: 1, count, seed: 0, split: Split::Train, steps: false };
        assert!(matches!(Binary.generate(&request), Err(SkillError::CountInvalid { .. })));
    }
}

#[test]
fn damaged_metadata_is_an_error_and_no_verdict() {
    let sample = generate(2, 1, 0, Split::Train).samples.remove(0);
    let change = |key: &str, value: Value| {
        let mut metadata = sample.metadata.clone();
        metadata[key] = value;
        Binary.verify(2, &metadata, sample.answer())
    };
    for (key, value) in [
        ("answer", Value::Null),
        ("answer", "①①①①①①①①①①".into()),
        ("problem", "add ① ①①①①①①①①".into()),
        ("problem", "not ①".into()),
        ("problem", 3.into()),
        ("level", 1.into()),
        ("skill", "syllo".into()),
    ] {
        assert!(matches!(change(key, value.clone()), Err(SkillError::MetadataInvalid(_))), "{key}: {value}");
    }
    assert!(change("note", "more".into()).unwrap().solved);
}

#[test]
fn place_of_a_held_out_problem_is_the_same_for_all_phrasings() {
    let level = find_level(1).unwrap();
    for &operation in level.operations {
        for index in 0..level.range.num_problems(operation) {
            let problem = level.range.problem(operation, index);
            let places = (0..NUM_PHRASINGS).map(|phrasing| draw::place(&Choice { problem, phrasing }));
            let held_out = places.filter(|place| matches!(place, Place::HeldOut { .. })).count() as u64;
            assert!(held_out == 0 || held_out == NUM_PHRASINGS);
        }
    }
}

/// The steps of a written problem.
#[track_caller]
fn check_steps(problem: &str, steps: &str) {
    assert_eq!(steps::worked(&Problem::parse(&digits(problem)).unwrap()), steps, "{problem}");
}

#[test]
fn worked_steps_lead_to_the_answer() {
    check_steps("add 10 11", "①⓪ is 2, ①① is 3\n2 + 3 is 5\n5 is 4 + 1");
    check_steps("subtract 1010 1010", "①⓪①⓪ is 10, ①⓪①⓪ is 10\n10 - 10 is 0\n0 is 0");
    check_steps("xor 1100100 1010", &format!("{}\none where they differ: ①①⓪①①①⓪", digits("1100100\n0001010")));
    check_steps("not 1010", "①⓪①⓪, each digit flipped: ⓪①⓪①");
    check_steps("leftshift 1010 11", "3 zeros more: ①⓪①⓪⓪⓪⓪");
    check_steps("rightshift 1010 1", "1 digits less: ①⓪①");
    assert_eq!(steps::worked(&Problem::parse("tobinary 13").unwrap()), "13 is 8 + 4 + 1");
}

#[test]
fn worked_steps_change_answers_only_and_verify() {
    for level in 1..=7 {
        let request = GenerateRequest { level, count: 200, seed: 3, split: Split::Train, steps: true };
        let (plain, worked) = (generate(level, 200, 3, Split::Train), Binary.generate(&request).unwrap());
        for (plain, worked) in plain.samples.iter().zip(&worked.samples) {
            assert_eq!((&plain.id, question(plain)), (&worked.id, question(worked)));
            assert!(worked.answer().ends_with(&format!("\n{}", plain.answer())));
            let result = Binary.verify(level, &worked.metadata, worked.answer()).unwrap();
            assert!(result.solved, "{}: {}", worked.answer(), result.reason);
            // The steps alone are no answer, whatever they say.
            let steps = worked.answer().rsplit_once('\n').unwrap().0;
            assert!(!Binary.verify(level, &worked.metadata, steps).unwrap().solved, "{steps}");
        }
    }
}

#[test]
fn ten_thousand_samples_take_under_two_seconds() {
    // budget: 5 s
    if std::env::var_os("HONE_SLOW").is_none() {
        return;
    }
    for level in 1..=7 {
        let start = crate::testing::processor_time();
        assert_eq!(generate(level, 10_000, 1, Split::Eval).samples.len(), 10_000);
        let elapsed = crate::testing::processor_time() - start;
        assert!(elapsed < Duration::from_secs(2), "level {level}: {elapsed:?}");
    }
}
