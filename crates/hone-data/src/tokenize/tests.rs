//! Tests of `tokenize`.

use super::*;
use crate::pack::pack;
use crate::tiny;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Qwen3's template in what matters here: an empty think block in the last turn only.
const THINKING: &str = "{%- for message in messages %}\
{{- '<|im_start|>' + message.role + '\\n' }}\
{%- if message.role == 'assistant' and loop.last %}{{- '<think>\\n' + (message.reasoning_content or '') + '\\n</think>\\n\\n' }}{%- endif %}\
{{- message.content + '<|im_end|>\\n' }}\
{%- endfor %}\
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}\
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}\
{%- endif %}";

fn context(template: &str) -> ChatContext {
    let texts =
        ["user assistant system hello there how are you", "<think></think> the answer is ⓪ ①"].map(String::from);
    let json = tiny::build_tokenizer(texts.into_iter().cycle().take(40), 330).unwrap();
    ChatContext {
        template: Some(ChatTemplate::from_source(template, None, Some("<|im_end|>")).unwrap()),
        tokenizer: Tokenizer::from_json(&json.to_string(), &[2, 0], None).unwrap(),
        profile: crate::profile::find(&Default::default()).unwrap(),
        kwargs: Map::new(),
    }
}

fn chat(messages: &[(&str, &str)]) -> Row {
    let messages = messages.iter().map(|(role, content)| Message::new(role, *content)).collect();
    Row { line: 3, id: RowId(9), example: Example::Chat { messages, tools: None } }
}

/// The text of a row with its trained parts in brackets.
fn marked(ctx: &ChatContext, row: &TokenRow) -> String {
    let mut out = String::new();
    let mut start = 0;
    while start < row.ids.len() {
        let end = (start..row.ids.len()).find(|i| row.mask[*i] != row.mask[start]).unwrap_or(row.ids.len());
        let text = ctx.tokenizer.decode(&row.ids[start..end], false).unwrap();
        out.push_str(&if row.mask[start] { format!("[{text}]") } else { text });
        start = end;
    }
    out
}

#[track_caller]
fn check(ctx: &ChatContext, row: &Row, expected: &[&str]) {
    let rows = tokenize(ctx, row).unwrap();
    assert_eq!(rows.iter().map(|r| marked(ctx, r)).collect::<Vec<_>>(), expected);
}

#[test]
fn every_assistant_turn_is_trained_with_its_end_token_and_nothing_else() {
    let ctx = context(tiny::TINY_CHAT_TEMPLATE);
    check(
        &ctx,
        &chat(&[
            ("system", "be kind"),
            ("user", "hello"),
            ("assistant", "hi 🙂"),
            ("user", "bye"),
            ("assistant", "שלום"),
        ]),
        &[
            "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n[hi 🙂<|im_end|>]\n<|im_start|>user\nbye<|im_end|>\n<|im_start|>assistant\n[שלום<|im_end|>]\n",
        ],
    );
}

#[test]
fn a_template_that_prints_the_last_turn_apart_gives_one_example_per_turn_as_the_server_meets_it() {
    check(
        &context(THINKING),
        &chat(&[("user", "hello"), ("assistant", "hi"), ("user", "bye"), ("assistant", "see you")]),
        &[
            "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n[hi<|im_end|>]\n",
            "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\nhi<|im_end|>\n<|im_start|>user\nbye<|im_end|>\n<|im_start|>assistant\n[see you<|im_end|>]\n",
        ],
    );
}

#[test]
fn reasoning_of_the_data_is_trained() {
    let mut row = chat(&[("user", "hello"), ("assistant", "hi")]);
    let Example::Chat { messages, .. } = &mut row.example else { unreachable!() };
    messages[1].extra.insert("reasoning".to_string(), "short".into());
    check(
        &context(THINKING),
        &row,
        &["<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n[<think>\nshort\n</think>\n\nhi<|im_end|>]\n"],
    );
}

#[test]
fn without_thinking_the_empty_block_is_part_of_the_prompt_and_reasoning_is_left_out() {
    let mut ctx = context(THINKING);
    ctx.kwargs = Map::from_iter([("enable_thinking".to_string(), false.into())]);
    let expected = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n[hi<|im_end|>]\n";
    let mut row = chat(&[("user", "hello"), ("assistant", "hi")]);
    check(&ctx, &row, &[expected]);
    let Example::Chat { messages, .. } = &mut row.example else { unreachable!() };
    messages[1].extra.insert("reasoning".to_string(), "short".into());
    check(&ctx, &row, &[expected]);
}

#[test]
fn the_end_of_the_whole_after_the_end_of_the_turn_is_not_trained() {
    let template = "{% for m in messages %}{{ m.role + ':' + m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}assistant:{% else %}<|endoftext|>{% endif %}";
    check(
        &context(template),
        &chat(&[("user", "hello"), ("assistant", "hi")]),
        &["user:hello<|im_end|>\nassistant:[hi<|im_end|>]\n<|endoftext|>"],
    );
}

#[test]
fn in_an_example_of_one_turn_no_token_crosses_the_border() {
    let template = "{% for m in messages %}{{ m.role + ' ' + m.content + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant ' }}{% else %}<|endoftext|>{% endif %}";
    let json = tiny::build_tokenizer((0..50).map(|i| format!("a   b{i}   c")), 300).unwrap();
    let ctx =
        ChatContext { tokenizer: Tokenizer::from_json(&json.to_string(), &[2, 0], None).unwrap(), ..context(template) };
    let row = chat(&[("user", "x"), ("assistant", "  hi"), ("user", "x"), ("assistant", "y")]);
    let rows = tokenize(&ctx, &row).unwrap();
    let Example::Chat { messages, .. } = &row.example else { unreachable!() };
    assert_eq!(marked(&ctx, &rows[0]), "user x<|im_end|>assistant [  hi<|im_end|>]<|endoftext|>");
    assert!(rows[0].ids.starts_with(&prompt_ids(&ctx, &messages[..1], None, None).unwrap()));
}

#[test]
fn the_prompt_of_a_turn_is_what_the_server_sees() {
    let mut ctx = context(THINKING);
    for kwargs in [Map::new(), Map::from_iter([("enable_thinking".to_string(), false.into())])] {
        ctx.kwargs = kwargs;
        let row = chat(&[("user", "hello"), ("assistant", "hi"), ("user", "bye"), ("assistant", "ciao")]);
        let Example::Chat { messages, .. } = &row.example else { unreachable!() };
        let rows = tokenize(&ctx, &row).unwrap();
        for (row, turn) in rows.iter().zip([1, 3]) {
            let prompt = prompt_ids(&ctx, &messages[..turn], None, None).unwrap();
            assert_eq!(row.ids[..prompt.len()], prompt, "{}", marked(&ctx, row));
            assert!(row.mask[..prompt.len()].iter().all(|trained| !trained));
        }
    }
}

#[test]
fn kwargs_of_a_request_win_over_the_configured_ones() {
    let mut ctx = context(THINKING);
    let messages = [Message::new("user", "hello")];
    let thinking = prompt_ids(&ctx, &messages, None, None).unwrap();
    ctx.kwargs.insert("enable_thinking".to_string(), false.into());
    assert_ne!(prompt_ids(&ctx, &messages, None, None).unwrap(), thinking);
    let request = Map::from_iter([("enable_thinking".to_string(), true.into())]);
    assert_eq!(prompt_ids(&ctx, &messages, None, Some(&request)).unwrap(), thinking);
}

#[test]
fn rows_that_cannot_be_masked_are_refused_by_name() {
    let row = chat(&[("user", "hello"), ("assistant", "hi")]);
    let code = |template: &str, row: &Row| tokenize(&context(template), row).unwrap_err().kind.code();
    let no_end = "{% for m in messages %}{{ m.role + ':' + m.content + ' ' }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
    assert_eq!(code(no_end, &row), "mask_no_end_token");
    let inside = chat(&[("user", "hello"), ("assistant", "<|im_end|>hi")]);
    assert_eq!(code(no_end, &inside), "mask_no_end_token", "an end token inside the answer is not its end");
    let other_header = "{% for m in messages %}{{ m.content + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
    assert_eq!(code(other_header, &row), "mask_prompt_not_prefix");
    assert_eq!(code(tiny::TINY_CHAT_TEMPLATE, &chat(&[("user", "hello")])), "mask_nothing_trained");
    let unknown = chat(&[("alien", "hello"), ("assistant", "hi")]);
    let error = tokenize(&context(tiny::TINY_CHAT_TEMPLATE), &unknown).unwrap_err();
    assert_eq!(error.to_string(), "line 3: the model's chat template refuses the conversation: unknown role alien");
    let ctx = ChatContext { template: None, ..context(THINKING) };
    assert_eq!(tokenize(&ctx, &row).unwrap_err().kind, RowErrorKind::NoTemplate);
}

#[test]
fn a_token_across_the_border_is_not_trained() {
    // Prompt "assistant " and answer " hi": the two spaces may be one token, which holds prompt text.
    let template = "{% for m in messages %}{{ m.role + ' ' + m.content + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}";
    let json = tiny::build_tokenizer((0..50).map(|i| format!("a   b{i}   c")), 300).unwrap();
    let tokenizer = Tokenizer::from_json(&json.to_string(), &[2], None).unwrap();
    assert_eq!(tokenizer.encode("a   ").unwrap().len(), 3, "two of the spaces are one token");
    let ctx = ChatContext { tokenizer, ..context(template) };
    let rows = tokenize(&ctx, &chat(&[("user", "x"), ("assistant", "  hi")])).unwrap();
    assert_eq!(marked(&ctx, &rows[0]), "user x<|im_end|>assistant  [ hi<|im_end|>]");
}

#[test]
fn a_completion_is_trained_after_its_prompt_and_ends() {
    let ctx = context(THINKING);
    let row = |prompt: Option<&str>| Row {
        line: 1,
        id: RowId(1),
        example: Example::Completion { prompt: prompt.map(String::from), completion: "the answer".to_string() },
    };
    check(&ctx, &row(Some("hello ")), &["hello [the answer<|im_end|>]"]);
    let rows = tokenize(&ctx, &row(None)).unwrap();
    assert!(!rows[0].mask[0], "nothing predicts the first token");
    assert!(rows[0].mask[1..].iter().all(|trained| *trained));
    let prompt = completion_prompt_ids(&ctx, "hello ").unwrap();
    assert_eq!(tokenize(&ctx, &row(Some("hello "))).unwrap()[0].ids[..prompt.len()], prompt);
}

#[test]
fn an_answer_is_never_cut() {
    let row = TokenRow { row: RowId(1), line: 1, ids: (0..10).collect(), mask: (0..10).map(|i| i >= 4).collect() };
    let fitted = |max| fit(row.clone(), max, Overlong::TruncatePrompt);
    assert_eq!(fitted(10).unwrap(), row);
    let cut = fitted(7).unwrap();
    assert_eq!((cut.ids.as_slice(), cut.num_trained()), ([3, 4, 5, 6, 7, 8, 9].as_slice(), 6));
    assert_eq!(fitted(6), None, "only the answer would be left, without the token that predicts its first");
    assert_eq!(fit(row.clone(), 9, Overlong::Skip), None);
}

fn random_text(rng: &mut ChaCha8Rng) -> String {
    const PARTS: [&str; 14] =
        ["a", "Hello", " world", "\n", "\n\n", "  ", "🙂", "שלום", "日本", "⓪①", "e\u{301}", ".", "'s", "42"];
    let mut text = ["x", "ü", "⓪", "🙂"][rng.random_range(0..4)].to_string();
    for _ in 0..rng.random_range(0..12) {
        text.push_str(PARTS[rng.random_range(0..PARTS.len())]);
    }
    text
}

fn random_chat(rng: &mut ChaCha8Rng) -> Vec<Message> {
    let mut messages = Vec::new();
    if rng.random_bool(0.4) {
        messages.push(Message::new("system", random_text(rng)));
    }
    for _ in 0..rng.random_range(1..4) {
        messages.push(Message::new("user", random_text(rng)));
        if rng.random_bool(0.2) {
            messages.push(Message::new("assistant", random_text(rng)));
            messages.push(Message::new("tool", random_text(rng)));
        }
        messages.push(Message::new("assistant", random_text(rng)));
    }
    messages
}

/// I5 over random conversations, under a template with true prefixes and one without: the trained tokens
/// are exactly the assistants' contents with their end tokens; ids are the rendered whole tokenized once;
/// packing keeps every mask.
#[test]
fn only_what_the_assistant_says_is_trained() {
    for (template, whole) in [(tiny::TINY_CHAT_TEMPLATE, true), (THINKING, false)] {
        let ctx = context(template);
        let mut all = Vec::new();
        for seed in 0..150 {
            let messages = random_chat(&mut ChaCha8Rng::seed_from_u64(seed));
            let expected: Vec<String> =
                messages.iter().filter(|m| m.role == "assistant").map(|m| format!("{}<|im_end|>", m.content)).collect();
            let row =
                Row { line: 1, id: RowId(seed), example: Example::Chat { messages: messages.clone(), tools: None } };
            let rows = tokenize(&ctx, &row).unwrap();
            let trained = |r: &TokenRow| {
                let ids: Vec<u32> =
                    r.ids.iter().zip(&r.mask).filter(|(_, trained)| **trained).map(|(id, _)| *id).collect();
                ctx.tokenizer.decode(&ids, false).unwrap()
            };
            if whole {
                assert_eq!(rows.len(), 1, "seed {seed}");
                assert_eq!(trained(&rows[0]), expected.concat(), "seed {seed}");
                let input =
                    RenderInput { messages: &messages, tools: None, add_generation_prompt: false, kwargs: &Map::new() };
                let text = ctx.template.as_ref().unwrap().render(&input).unwrap();
                assert_eq!(rows[0].ids, ctx.tokenizer.encode(&text).unwrap(), "seed {seed}");
            } else {
                assert_eq!(rows.iter().map(trained).collect::<Vec<_>>(), expected, "seed {seed}");
            }
            all.extend(rows);
        }
        for chunk in all.chunks(7) {
            let batch = pack(&chunk.iter().collect::<Vec<_>>());
            let targets: Vec<i32> = batch.targets.iter().copied().filter(|t| *t >= 0).collect();
            let trained: Vec<i32> = chunk
                .iter()
                .flat_map(|r| r.ids.iter().zip(&r.mask).filter(|(_, trained)| **trained).map(|(id, _)| *id as i32))
                .collect();
            assert_eq!(targets, trained);
            assert_eq!(batch.trained_tokens as usize, trained.len());
            assert_eq!(batch.segments.iter().sum::<usize>(), batch.ids.len());
        }
    }
}
