//! Chat templates and token ids against `transformers`. Expected values: `testdata/chat/*.json`, made by
//! `scripts/make_chat_goldens.py`, which names the sources and licences of the templates.
//!
//! Always on: rendered texts. With `HONE_SMOLLM2_DIR` or `HONE_QWEN3_TOKENIZER_DIR` naming the model
//! folders that the script used: their token ids and masks too. With `HONE_CHAT_GOLDENS` naming a folder of
//! further files of the script: their texts.

use hone_data::tokenize::{prompt_ids, tokenize};
use hone_data::{ChatContext, ChatTemplate, Example, Message, RenderInput, Row, RowId, Tokenizer, tiny};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

struct Case {
    name: String,
    messages: Vec<Message>,
    tools: Option<Value>,
    add_generation_prompt: bool,
    kwargs: Map<String, Value>,
    /// The rendered text, or the error of the reference.
    text: Result<String, String>,
    ids: Vec<u32>,
}

struct Golden {
    template: String,
    bos: Option<String>,
    eos: Option<String>,
    cases: Vec<Case>,
}

fn read(path: &Path) -> Golden {
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let text = |value: &Value| value.as_str().map(String::from);
    let case = |case: &Value| Case {
        name: text(&case["name"]).unwrap(),
        messages: serde_json::from_value(case["messages"].clone()).unwrap(),
        tools: Some(case["tools"].clone()).filter(|tools| !tools.is_null()),
        add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
        kwargs: case["kwargs"].as_object().unwrap().clone(),
        text: text(&case["text"]).ok_or_else(|| text(&case["error"]).unwrap()),
        ids: serde_json::from_value(case["ids"].clone()).unwrap_or_default(),
    };
    Golden {
        template: text(&file["template"]).unwrap(),
        bos: text(&file["bos_token"]),
        eos: text(&file["eos_token"]),
        cases: file["cases"].as_array().unwrap().iter().map(case).collect(),
    }
}

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/chat")
}

/// What differs in a folder of golden files, and how many texts were compared.
fn compare_texts(dir: &Path) -> (Vec<String>, usize) {
    let (mut different, mut num_compared) = (Vec::new(), 0);
    let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let golden = read(&path);
        let template = ChatTemplate::from_source(&golden.template, golden.bos.as_deref(), golden.eos.as_deref());
        let template = match template {
            Ok(template) => template,
            Err(e) => {
                different.push(format!("{}: {e:#}", path.display()));
                continue;
            }
        };
        for case in golden.cases {
            num_compared += 1;
            let ours = template.render(&RenderInput {
                messages: &case.messages,
                tools: case.tools.as_ref(),
                add_generation_prompt: case.add_generation_prompt,
                kwargs: &case.kwargs,
            });
            let ours = ours.map_err(|e| format!("{e:#}"));
            let same = match (&ours, &case.text) {
                (Ok(ours), Ok(theirs)) => ours == theirs,
                (Err(_), Err(_)) => true,
                _ => false,
            };
            if !same {
                different.push(format!(
                    "{} {}:\n  ours   {ours:?}\n  theirs {:?}",
                    path.display(),
                    case.name,
                    case.text
                ));
            }
        }
    }
    (different, num_compared)
}

#[test]
fn texts_equal_those_of_transformers() {
    let (different, num_compared) = compare_texts(&testdata());
    assert!(different.is_empty(), "{}", different.join("\n"));
    assert!(num_compared >= 200, "only {num_compared} texts");
}

#[test]
fn texts_of_further_templates_equal_those_of_transformers() {
    let Some(dir) = std::env::var_os("HONE_CHAT_GOLDENS") else { return };
    let (different, num_compared) = compare_texts(Path::new(&dir));
    assert!(different.is_empty(), "{} of {num_compared} differ:\n{}", different.len(), different.join("\n"));
}

#[test]
fn a_refusal_has_the_words_of_the_template() {
    let golden = read(&testdata().join("gemma.json"));
    let template = ChatTemplate::from_source(&golden.template, None, None).unwrap();
    let case = golden.cases.iter().find(|case| case.name == "system").unwrap();
    let input =
        RenderInput { messages: &case.messages, tools: None, add_generation_prompt: false, kwargs: &case.kwargs };
    assert_eq!(Err(template.render(&input).unwrap_err().to_string()), case.text);
}

/// A rendered conversation as it is trained where the server's prompt ends before the block.
fn without_empty_block(text: &str) -> String {
    text.replace("<think>\n\n</think>\n\n", "")
}

/// Ids of every case, and for those that end with an answer: what is trained of them.
fn compare_ids(variable: &str, name: &str) {
    let Some(dir) = std::env::var_os(variable) else { return };
    let golden = read(&testdata().join(name));
    let mut ctx = ChatContext::from_dir(Path::new(&dir), &Default::default(), &Map::new()).unwrap();
    assert_eq!(ctx.template.as_ref().unwrap().source(), golden.template);
    let eos = golden.eos.unwrap();
    let mut num_rows = 0;
    for case in golden.cases {
        let name = &case.name;
        ctx.kwargs = case.kwargs;
        if case.add_generation_prompt {
            let ids = prompt_ids(&ctx, &case.messages, case.tools.as_ref(), None).unwrap();
            assert_eq!(ids, case.ids, "{name}");
            continue;
        }
        let example = Example::Chat { messages: case.messages.clone(), tools: case.tools };
        let Ok(rows) = tokenize(&ctx, &Row { line: 1, id: RowId(1), example }) else {
            assert_eq!(name, "assistant_first", "an empty conversation has no prompt");
            continue;
        };
        // The last example is the whole conversation, also where each turn has its own, but for an empty think
        // block that the template made and the server does not print.
        let last = rows.last().unwrap();
        let without_block = ctx.tokenizer.encode(&without_empty_block(&case.text.clone().unwrap())).unwrap();
        assert!(last.ids == case.ids || last.ids == without_block, "{name}");
        let trained: Vec<u32> = last.ids.iter().zip(&last.mask).filter(|(_, t)| **t).map(|(id, _)| *id).collect();
        let trained = ctx.tokenizer.decode(&trained, false).unwrap();
        let answer = &case.messages.last().unwrap().content;
        if !["white_space", "reasoning", "think_in_content", "combining"].contains(&name.as_str()) {
            assert!(trained.ends_with(&format!("{answer}{eos}")), "{name}: {trained:?}");
        }
        num_rows += rows.len();
        let mut stream = ctx.tokenizer.stream(false);
        let mut text: String = last.ids.iter().filter_map(|id| stream.push(*id)).collect();
        text.extend(stream.finish());
        assert_eq!(text, ctx.tokenizer.decode(&last.ids, false).unwrap(), "{name}");
    }
    assert!(num_rows >= 18, "only {num_rows} rows");
}

#[test]
fn ids_of_smollm2_equal_those_of_transformers() {
    compare_ids("HONE_SMOLLM2_DIR", "smollm2.json");
}

#[test]
fn ids_of_qwen3_equal_those_of_transformers() {
    compare_ids("HONE_QWEN3_TOKENIZER_DIR", "qwen3.json");
}

/// The real ChatML templates under the tiny tokenizer, which needs no download: the last example is the
/// reference's text without an empty think block that the server does not print, and each assistant turn is
/// trained once.
#[test]
fn masks_under_real_templates_train_each_answer_once() {
    let json = tiny::build_tokenizer(std::iter::empty(), tiny::MIN_VOCAB_SIZE).unwrap();
    let tokenizer = Tokenizer::from_json(&json.to_string(), &[2, 0], None).unwrap();
    for (name, num_examples) in [("smollm2", 1), ("qwen2_5", 1), ("qwen3", 3)] {
        let golden = read(&testdata().join(format!("{name}.json")));
        let template = ChatTemplate::from_source(&golden.template, None, golden.eos.as_deref()).unwrap();
        for case in golden.cases {
            let plain =
                ["one_turn", "system", "three_turns", "emoji", "right_to_left", "chinese", "numbers", "no_thinking"];
            if !plain.contains(&case.name.as_str()) {
                continue;
            }
            let ctx = ChatContext {
                template: Some(template.clone()),
                tokenizer: tokenizer.clone(),
                profile: hone_data::profile::find(&Default::default()).unwrap(),
                kwargs: case.kwargs,
            };
            let example = Example::Chat { messages: case.messages.clone(), tools: None };
            let rows = tokenize(&ctx, &Row { line: 1, id: RowId(1), example }).unwrap();
            let expected = if case.name == "three_turns" { num_examples } else { 1 };
            assert_eq!(rows.len(), expected, "{name} {}", case.name);
            let text = case.text.unwrap();
            let text = if case.name == "no_thinking" { text } else { without_empty_block(&text) };
            assert_eq!(tokenizer.decode(&rows.last().unwrap().ids, false).unwrap(), text, "{name} {}", case.name);
            let trained = rows.iter().flat_map(|r| r.ids.iter().zip(&r.mask).filter(|(_, t)| **t).map(|(id, _)| *id));
            let answers: String = case
                .messages
                .iter()
                .filter(|m| m.role == "assistant")
                .map(|m| format!("{}<|im_end|>", m.content))
                .collect();
            assert_eq!(tokenizer.decode(&trained.collect::<Vec<_>>(), false).unwrap(), answers, "{name} {}", case.name);
        }
    }
}
