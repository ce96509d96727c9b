//! What is trained of a conversation, under 15 chat templates and for 50 conversations each, against ids of
//! `transformers` and masks found another way. Expected values: `testdata/labels/*.json`, made by
//! `scripts/make_label_goldens.py`, which names the sources and licences of the templates. Needs no download.

#![expect(clippy::disallowed_methods, reason = "tests write fixtures")]

use hone_data::tokenize::{TokenRow, prompt_ids, tokenize};
use hone_data::{ChatContext, Example, Message, Row, RowId};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
struct Conversation {
    name: String,
    messages: Vec<Message>,
    tools: Option<Value>,
}

#[derive(Deserialize)]
struct Golden {
    template: String,
    bos_token: Option<String>,
    eos_token: String,
    pad_token: String,
    end_of_turn: String,
    kwargs: Map<String, Value>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    /// The reference refuses the conversation.
    error: Option<String>,
    #[serde(default)]
    examples: Vec<Labels>,
}

#[derive(Deserialize, Debug, PartialEq)]
struct Labels {
    ids: Vec<u32>,
    /// Half-open ranges of trained tokens.
    trained: Vec<(usize, usize)>,
}

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/labels")
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn goldens() -> BTreeMap<String, Golden> {
    let mut goldens = BTreeMap::new();
    for entry in std::fs::read_dir(testdata()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if path.extension().is_some_and(|e| e == "json") && !["conversations", "tokenizer"].contains(&name.as_str()) {
            goldens.insert(name, read(&path));
        }
    }
    goldens
}

/// A model folder with the golden's template and the small tokenizer, read as any model folder is.
fn context(golden: &Golden) -> ChatContext {
    let dir = tempfile::tempdir().unwrap();
    let template = std::fs::read_to_string(testdata().join(format!("templates/{}.jinja", golden.template))).unwrap();
    std::fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
    std::fs::copy(testdata().join("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    let config = json!({"bos_token": golden.bos_token, "eos_token": golden.eos_token, "pad_token": golden.pad_token});
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    ChatContext::from_dir(dir.path(), &Default::default(), &golden.kwargs).unwrap()
}

fn labels(row: &TokenRow) -> Labels {
    let mut trained: Vec<(usize, usize)> = Vec::new();
    for (i, _) in row.mask.iter().enumerate().filter(|(_, trained)| **trained) {
        match trained.last_mut() {
            Some((_, end)) if *end == i => *end += 1,
            _ => trained.push((i, i + 1)),
        }
    }
    Labels { ids: row.ids.clone(), trained }
}

#[test]
fn ids_and_masks_equal_those_of_the_reference() {
    let conversations: Vec<Conversation> = read(&testdata().join("conversations.json"));
    assert!(conversations.len() >= 50);
    let goldens = goldens();
    assert!(goldens.len() >= 15, "only {} templates", goldens.len());
    let (mut num_equal, mut different) = (0, Vec::new());
    for (template, golden) in &goldens {
        let ctx = context(golden);
        assert_eq!(golden.cases.len(), conversations.len(), "{template}");
        for (case, conversation) in golden.cases.iter().zip(&conversations) {
            assert_eq!(case.name, conversation.name);
            let Conversation { messages, tools, .. } = conversation;
            let example = Example::Chat { messages: messages.clone(), tools: tools.clone() };
            let rows = tokenize(&ctx, &Row { line: 1, id: RowId(1), example });
            match (rows, &case.error) {
                (Err(_), Some(_)) => {}
                (Ok(rows), None) if rows.iter().map(labels).collect::<Vec<_>>() == case.examples => {
                    num_equal += 1;
                    check_properties(&ctx, golden, conversation, &rows);
                }
                (ours, theirs) => different.push(format!(
                    "{template} {}:\n  ours   {:?}\n  theirs {theirs:?} {:?}",
                    case.name,
                    ours.map(|rows| rows.iter().map(labels).collect::<Vec<_>>()),
                    case.examples
                )),
            }
        }
    }
    assert!(different.is_empty(), "{} differ:\n{}", different.len(), different.join("\n"));
    assert!(num_equal >= 650, "only {num_equal} conversations");
}

/// Every stretch of trained tokens ends the turn, once; nothing of a server's prompt is trained, and where each
/// turn has an example of its own, that prompt is how it begins.
fn check_properties(ctx: &ChatContext, golden: &Golden, conversation: &Conversation, rows: &[TokenRow]) {
    let (name, messages) = (&conversation.name, &conversation.messages);
    let end = ctx.tokenizer.token_id(&golden.end_of_turn).unwrap();
    let turns: Vec<usize> = (0..messages.len()).filter(|i| messages[*i].role == "assistant").collect();
    for row in rows {
        for (start, stop) in labels(row).trained {
            assert!(start > 0, "{name}");
            assert_eq!(row.ids[stop - 1], end, "{name}: the last trained token ends the turn");
        }
    }
    let prompts = turns.iter().map(|i| prompt_ids(ctx, &messages[..*i], conversation.tools.as_ref(), None).unwrap());
    if rows.len() > 1 || turns.len() == 1 {
        assert_eq!(rows.len(), turns.len(), "{name}: an example for each turn");
        for (row, prompt) in rows.iter().zip(prompts) {
            // A token may straddle the border only in a whole conversation.
            let straddles = !row.ids.starts_with(&prompt);
            assert!(!straddles || turns.len() == 1, "{name}: the example begins with what the server sees");
            let first = row.mask.iter().position(|trained| *trained).unwrap();
            assert!(straddles || first == prompt.len(), "{name}: training begins where the prompt ends");
        }
    }
}

/// `decode(trained tokens)` is the answer as the template prints it, then the end of the turn.
#[test]
fn trained_tokens_decode_to_the_rendered_answers() {
    let conversations: Vec<Conversation> = read(&testdata().join("conversations.json"));
    let names = ["sentence", "emoji", "hebrew", "mixed_direction", "three_turns", "twelve_turns", "same_answers"];
    for (template, golden) in &goldens() {
        let ctx = context(golden);
        let space = if ["llama2", "mistral", "no_system"].contains(&template.as_str()) { " " } else { "" };
        let after = if template == "llama2" { " " } else { "" };
        for conversation in conversations.iter().filter(|c| names.contains(&c.name.as_str())) {
            let example = Example::Chat { messages: conversation.messages.clone(), tools: None };
            let Ok(rows) = tokenize(&ctx, &Row { line: 1, id: RowId(1), example }) else { continue };
            let trained: Vec<u32> =
                rows.iter().flat_map(|r| r.ids.iter().zip(&r.mask).filter(|(_, t)| **t).map(|(id, _)| *id)).collect();
            let answers = conversation.messages.iter().filter(|m| m.role == "assistant");
            let expected: String =
                answers.map(|m| format!("{space}{}{after}{}", m.content, golden.end_of_turn)).collect();
            assert_eq!(ctx.tokenizer.decode(&trained, false).unwrap(), expected, "{template} {}", conversation.name);
        }
    }
}
