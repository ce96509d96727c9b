//! Tests of `view`.

use super::*;
use crate::example::{Example, Message, RowId};
use crate::template::ChatTemplate;
use crate::{Tokenizer, tiny};
use hone_pipeline::config::ProfileSettings;
use serde_json::{Map, json};

fn context(profile: &str) -> ChatContext {
    let texts = ["user assistant system hello there how are you"].map(String::from);
    let json = tiny::build_tokenizer(texts.into_iter().cycle().take(20), 300).unwrap();
    ChatContext {
        template: Some(ChatTemplate::from_source(tiny::TINY_CHAT_TEMPLATE, None, Some("<|im_end|>")).unwrap()),
        tokenizer: Tokenizer::from_json(&json.to_string(), &[2, 0], None).unwrap(),
        profile: crate::profile::find(&ProfileSettings::named(profile)).unwrap(),
        kwargs: Map::new(),
    }
}

fn chat(question: &str, answer: &str) -> Row {
    let messages = vec![Message::new("user", question), Message::new("assistant", answer)];
    Row { line: 7, id: RowId(9), example: Example::Chat { messages, tools: None } }
}

/// Texts of the tokens that are trained, and of those that are not.
fn texts(view: &RowView) -> (String, String) {
    let of = |trained: bool| {
        view.examples[0].tokens.iter().filter(|t| t.trained == trained).map(|t| t.text.as_str()).collect()
    };
    (of(true), of(false))
}

#[test]
fn a_view_holds_what_the_template_printed_and_marks_what_is_trained() {
    let (ctx, row) = (context("plain"), chat("hello 🙂", "שלום 🙂"));
    let view = view(&ctx, &row);
    let (trained, rest) = texts(&view);
    assert_eq!(trained, "שלום 🙂<|im_end|>");
    assert_eq!(rest, "<|im_start|>user\nhello 🙂<|im_end|>\n<|im_start|>assistant\n\n");
    let part = tokenize(&ctx, &row).unwrap().remove(0);
    let ids: Vec<u32> = view.examples[0].tokens.iter().map(|t| t.id).collect();
    assert_eq!((ids, view.examples[0].num_trained), (part.ids.clone(), part.num_trained()));
    assert!(view.examples[0].tokens.iter().any(|t| t.text.is_empty()), "bytes of a character share its text");
    assert_eq!((view.line, view.row.as_str()), (7, "row-0000000000000009"));
}

#[test]
fn a_view_is_of_the_decorated_row() {
    let (trained, rest) = texts(&view(&context("regime3"), &chat("1 + 1", "2")));
    assert_eq!(trained, "<<ANS_START>> 2 <<ANS_END>><|im_end|>");
    assert!(rest.contains("(op arg1 arg2)"), "{rest}");
}

#[test]
fn a_refused_row_is_a_view_that_says_why() {
    let view = view(&context("regime3"), &chat("1 + 1", "<<ANS_END>> 2 <<ANS_START>>"));
    let json = serde_json::to_value(&view).unwrap();
    assert_eq!((&json["examples"], &json["refused"]["code"]), (&json!([]), &json!("profile_refuses")));
}
