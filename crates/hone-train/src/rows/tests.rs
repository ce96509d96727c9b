//! What is left out of a job, and what stops it.

use super::*;
use crate::testing::{PAIRS, Workspace, warnings};
use hone_model::Dtype;
use serde_json::{Map, json};

fn load_with(workspace: &Workspace, files: &[TrainFile], limits: Limits) -> (Result<Examples>, Vec<WorkerMessage>) {
    let ctx = ChatContext::from_dir(&workspace.base(), &Default::default(), &Map::new()).unwrap();
    let mut messages = Vec::new();
    let examples = load(&ctx, files, limits, &mut |message| messages.push(message));
    (examples, messages)
}

/// Three rows, the second with a long question, the third with a long answer.
fn long_rows(workspace: &Workspace) -> TrainFile {
    let long = "why ".repeat(40);
    workspace.chat_file("dataset-1", &[PAIRS[0], (&long, "Because."), ("Why?", &long)])
}

#[test]
fn overlong_rows_are_skipped_counted_and_named() {
    let workspace = Workspace::new(Dtype::F32);
    let file = long_rows(&workspace);
    let limits = Limits { max_length: 60, overlong: Overlong::Skip };
    let (examples, messages) = load_with(&workspace, &[file], limits);
    let examples = examples.unwrap();
    assert_eq!((examples.rows, examples.rows_overlong, examples.list.len()), (3, 2, 1));
    assert_eq!(examples.name(0), "dataset-1:1");
    let expected = "2 of 3 rows are longer than 60 tokens and are not trained: dataset-1:2, dataset-1:3";
    assert_eq!(warnings(&messages), [("rows_overlong".to_string(), expected.to_string())]);
}

#[test]
fn overlong_rows_can_refuse_the_job() {
    let workspace = Workspace::new(Dtype::F32);
    let file = long_rows(&workspace);
    let (examples, _) = load_with(&workspace, &[file], Limits { max_length: 60, overlong: Overlong::Reject });
    let error = examples.unwrap_err();
    assert!(format!("{error:#}").contains("dataset-1:2 is longer than 60 tokens"), "{error:#}");
    assert!(error.chain().any(|cause| cause.is::<Refusal>()));
}

#[test]
fn truncating_cuts_prompts_and_never_answers() {
    let workspace = Workspace::new(Dtype::F32);
    let file = long_rows(&workspace);
    let limits = Limits { max_length: 60, overlong: Overlong::TruncatePrompt };
    let (examples, _) = load_with(&workspace, &[file], limits);
    let examples = examples.unwrap();
    assert_eq!((examples.list.len(), examples.rows_overlong), (2, 1), "the long answer is left out, not cut");
    assert_eq!(examples.list[1].tokens.ids.len(), 60);
}

#[test]
fn a_bad_row_refuses_the_job_by_file_and_line() {
    let workspace = Workspace::new(Dtype::F32);
    let good = json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]});
    let file = workspace.file("dataset-9", &format!("{good}\n{{\"messages\": 3}}\n"));
    let (examples, _) = load_with(&workspace, &[file], Limits { max_length: 60, overlong: Overlong::Skip });
    let error = examples.unwrap_err();
    assert!(error.is::<Refusal>(), "trying again cannot help: {error:#}");
    let text = format!("{error:#}");
    assert!(text.contains("dataset-9") && text.contains("line 2"), "{text}");
}

#[test]
fn a_missing_file_is_worth_another_try() {
    let workspace = Workspace::new(Dtype::F32);
    let mut file = long_rows(&workspace);
    file.path.push("absent");
    let (examples, _) = load_with(&workspace, &[file], Limits { max_length: 60, overlong: Overlong::Skip });
    assert!(!examples.unwrap_err().chain().any(|cause| cause.is::<Refusal>()));
}
