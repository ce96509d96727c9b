//! Which rows are kept back, and that they are nowhere trained.

use super::*;
use crate::rows::{self, Limits, Selection};
use crate::testing::{Workspace, settings};
use hone_data::ChatContext;
use hone_model::Dtype;
use hone_pipeline::config::{KeepBack, Overlong};
use hone_pipeline::wire::TrainFile;
use std::collections::BTreeSet;

fn questions(numbers: impl Iterator<Item = u64>) -> String {
    let row = |n: u64| {
        format!(
            "{{\"messages\":[{{\"role\":\"user\",\"content\":\"{n}?\"}},{{\"role\":\"assistant\",\"content\":\"{n}\"}}]}}\n"
        )
    };
    numbers.map(row).collect()
}

fn with(file: &TrainFile, share: f64, max_rows: usize) -> KeptBack {
    KeptBack { file: file.clone(), keep: KeepBack { share, max_rows } }
}

fn keys_of(from: &KeptBack) -> BTreeSet<Key> {
    choose(from, &mut || {}).unwrap().into_keys().collect()
}

#[test]
fn a_share_rounded_down_and_at_most_so_many() {
    let workspace = Workspace::new(Dtype::F32);
    let file = workspace.file("data", &questions(0..59));
    let count = |share, max_rows| choose(&with(&file, share, max_rows), &mut || {}).unwrap().len();
    assert_eq!([count(0.05, 200), count(0.5, 200), count(0.5, 7), count(0.01, 200), count(0.0, 200)], [2, 29, 7, 0, 0]);
}

#[test]
fn the_choice_follows_what_rows_say_not_where_they_stand() {
    let workspace = Workspace::new(Dtype::F32);
    let forward = workspace.file("forward", &questions(0..100));
    let backward = workspace.file("backward", &format!("\n{}", questions((0..100).rev())));
    let doubled = workspace.file("doubled", &questions((0..100).chain(0..100)));
    let chosen = keys_of(&with(&forward, 0.2, 20));
    assert_eq!(chosen, keys_of(&with(&backward, 0.2, 20)));
    assert_eq!(chosen, keys_of(&with(&doubled, 0.2, 20)), "rows that say the same are one");
    let lines = choose(&with(&forward, 0.2, 20), &mut || {}).unwrap().into_values().collect::<BTreeSet<_>>();
    assert!(lines.len() == 20 && lines != (1..=20).collect(), "spread over the file: {lines:?}");
}

#[test]
fn what_is_kept_back_is_trained_from_no_file() {
    let workspace = Workspace::new(Dtype::F32);
    let own = workspace.file("own", &questions(0..100));
    let later = workspace.file("later", &questions(50..150));
    let ctx = ChatContext::from_dir(&workspace.base(), &Default::default(), &serde_json::Map::new()).unwrap();
    let limits = Limits { max_length: 64, overlong: Overlong::Skip };
    let kept_back = [with(&own, 0.3, 30)];
    let selection = Selection { kept_back: &kept_back, ..Selection::default() };
    let files = [own.clone(), later.clone()];
    let examples = rows::load_with(&ctx, &files, limits, selection, &mut |_| {}).unwrap();
    let chosen = keys_of(&kept_back[0]);
    let rows = |file: &TrainFile| hone_data::rows(&file.path, &file.schema_id).unwrap().map(Result::unwrap);
    let named = |file: &TrainFile| {
        let name = file.name.clone();
        rows(file).map(move |row| (format!("{name}:{}", row.line), key(&row))).collect::<Vec<_>>()
    };
    let expected: Vec<String> =
        files.iter().flat_map(named).filter(|(_, key)| !chosen.contains(key)).map(|(name, _)| name).collect();
    let trained: Vec<String> = (0..examples.list.len()).map(|index| examples.name(index)).collect();
    assert_eq!(trained, expected);
    let repeated = rows(&later).filter(|row| chosen.contains(&key(row))).count() as u64;
    assert!(repeated > 0, "some stand in both files");
    assert_eq!((examples.rows, examples.rows_kept_back), (170 - repeated, 30 + repeated));
}

#[test]
fn they_are_one_suite_of_an_evaluation() {
    let workspace = Workspace::new(Dtype::F32);
    let (one, two) = (workspace.file("one", &questions(0..40)), workspace.file("two", &questions(40..60)));
    let kept_back = vec![with(&one, 0.1, 200), with(&two, 0.1, 200)];
    let chosen = kept_back.iter().flat_map(keys_of).collect::<BTreeSet<_>>();
    let rows = [&one, &two].into_iter().flat_map(|file| hone_data::rows(&file.path, &file.schema_id).unwrap());
    let text = rows.map(Result::unwrap).filter(|row| chosen.contains(&key(row))).map(|row| match row.example {
        Example::Chat { messages, .. } => questions(std::iter::once(messages[1].content.parse().unwrap())),
        Example::Completion { .. } => unreachable!("the files hold conversations"),
    });
    let same_rows = workspace.file("same-rows", &text.collect::<String>());
    let request = crate::evaluate::tests::request(&workspace, vec![same_rows]);
    let request = hone_pipeline::wire::EvalRequest { kept_back, settings: settings(), ..request };
    let message = crate::evaluate::evaluate(&request, &mut |_| {}).unwrap();
    let hone_pipeline::wire::WorkerMessage::Evaluated { suites, .. } = message else { panic!("{message:?}") };
    assert_eq!(suites.iter().map(|s| (s.suite.as_str(), s.rows)).collect::<Vec<_>>(), [("same-rows", 6), (SUITE, 6)]);
    assert_eq!(suites[0].row_nll, suites[1].row_nll, "the same rows in the same order");
    assert_ne!(suites[0].suite_hash, suites[1].suite_hash);
}
