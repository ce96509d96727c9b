//! Losses held against whole logits; limits of an evaluation.

use super::*;
use crate::testing::{PAIRS, Workspace, settings};
use hone_model::Dtype;
use hone_pipeline::config::ProfileSettings;
use hone_pipeline::ids::{CheckpointId, LeaseToken};
use serde_json::{Map, json};
use std::collections::BTreeSet;

pub(crate) fn request(workspace: &Workspace, suites: Vec<TrainFile>) -> EvalRequest {
    EvalRequest {
        format_version: WIRE_FORMAT_VERSION,
        checkpoint: CheckpointId(0),
        manifest_hash: "abc".to_string(),
        token: LeaseToken(5),
        run_dir: workspace.root().join("run"),
        model_dir: workspace.base(),
        suites,
        kept_back: Vec::new(),
        settings: settings(),
        questions: Vec::new(),
        max_answer_tokens: 8,
        max_ms: 600_000,
        keep_dir: None,
    }
}

/// Sum of -log p and number of right argmaxes of one row alone, from whole logits, in f64.
fn by_hand(scorer: &mut Scorer, row: &TokenRow, vocab: usize) -> (f64, u64) {
    let logits = scorer.logits(&Batch::plain(&row.ids)).unwrap();
    let (mut nll, mut correct) = (0.0, 0);
    for t in (1..row.ids.len()).filter(|t| row.mask[*t]) {
        let line = &logits[(t - 1) * vocab..t * vocab];
        let target = f64::from(line[row.ids[t] as usize]);
        let sum: f64 = line.iter().map(|x| f64::from(*x).exp()).sum();
        nll += sum.ln() - target;
        correct += u64::from(line.iter().all(|x| f64::from(*x) <= target));
    }
    (nll, correct)
}

#[test]
fn a_suite_scores_what_whole_logits_say() {
    let workspace = Workspace::new(Dtype::F32);
    let file = workspace.chat_file("validation", &PAIRS);
    let result = evaluate_file(&workspace.base(), &file.path, "chat_sft_v1", &settings()).unwrap();

    let config = Config::from_dir(&workspace.base()).unwrap();
    let weights = HostWeights::load(&workspace.base(), &config).unwrap();
    let options = TrainerOptions::full(128, 128);
    let device = device::open(&settings().device, 1).unwrap();
    let mut scorer = Scorer::new(device, &config, &weights, &options).unwrap();
    let ctx = ChatContext::from_dir(&workspace.base(), &Default::default(), &Map::new()).unwrap();
    let (mut nll, mut correct, mut tokens) = (0.0, 0, 0);
    for (row, scored) in hone_data::rows(&file.path, "chat_sft_v1").unwrap().zip(&result.row_nll) {
        let part = tokenize(&ctx, &row.unwrap()).unwrap().remove(0);
        let (row_nll, row_correct) = by_hand(&mut scorer, &part, config.vocab_size);
        assert!((scored.0 - row_nll).abs() < 1e-4 * row_nll, "{scored:?} and {row_nll}");
        assert_eq!(scored.1 as usize, part.num_trained());
        nll += row_nll;
        correct += row_correct;
        tokens += part.num_trained() as u64;
    }
    assert_eq!((result.rows, result.rows_skipped, result.trained_tokens), (10, 0, tokens));
    assert!((result.mean_nll - nll / tokens as f64).abs() < 1e-5 * result.mean_nll);
    assert_eq!(result.token_accuracy, correct as f64 / tokens as f64);
    assert_eq!(result.suite, "validation.jsonl");
    assert_eq!(result.suite_hash, blake3::hash(&std::fs::read(&file.path).unwrap()).to_hex().to_string());
}

#[test]
fn rows_beyond_the_context_are_skipped_and_counted() {
    let workspace = Workspace::new(Dtype::F32);
    let long = "long ".repeat(100);
    let file = workspace.chat_file("validation", &[PAIRS[0], (&long, "x"), PAIRS[1]]);
    let mut short = settings();
    short.max_length = 4;
    let result = evaluate_file(&workspace.base(), &file.path, "chat_sft_v1", &short).unwrap();
    assert_eq!((result.rows, result.rows_skipped), (2, 1), "max_length of training does not matter");
    let only = workspace.chat_file("only", &[(&long, "x")]);
    let error = evaluate_file(&workspace.base(), &only.path, "chat_sft_v1", &settings()).unwrap_err();
    assert!(error.to_string().contains("no row of it fits"), "{error:#}");
}

#[test]
fn a_batch_holds_whole_parts_and_at_least_one() {
    let row = |len: usize| TokenRow { row: hone_data::RowId(0), line: 1, ids: vec![0; len], mask: vec![false; len] };
    let rows = [row(3), row(4), row(5)];
    let parts: Vec<(usize, &TokenRow)> = rows.iter().enumerate().collect();
    assert_eq!([2, 7, 11, 12].map(|max| batch_len(&parts, max)), [1, 2, 2, 3]);
}

#[test]
fn an_evaluation_ends_at_its_time_limit_and_says_so() {
    let workspace = Workspace::new(Dtype::F32);
    let suite = workspace.chat_file("validation", &PAIRS);
    let mut request = request(&workspace, vec![suite]);
    request.max_ms = 0;
    std::thread::sleep(Duration::from_millis(1));
    let error = evaluate(&request, &mut |_| {}).unwrap_err();
    assert!(error.chain().any(|cause| cause.is::<Refusal>()));
    assert!(format!("{error:#}").contains("more than its 0 s"), "{error:#}");
    assert!(format!("{error:#}").contains("evaluation.max_minutes"), "{error:#}");
    assert_eq!([600_000, 90_000, 30_000].map(limit_in_words), ["10 min", "1.5 min", "30 s"]);
}

#[test]
fn results_name_checkpoint_suite_and_template_by_hash() {
    let workspace = Workspace::new(Dtype::F32);
    let suites = vec![workspace.chat_file("b", &PAIRS[..3]), workspace.chat_file("a", &PAIRS[3..])];
    let mut request = request(&workspace, suites);
    let question =
        |id: &str, text: &str| Question { id: id.to_string(), messages: json!([{"role": "user", "content": text}]) };
    request.questions = vec![question("q1", "Say hello."), question("q2", "Count to three.")];
    let message = evaluate(&request, &mut |_| {}).unwrap();
    let WorkerMessage::Evaluated { manifest_hash, template_hash, dtype, engine, suites, answers, speed } = message
    else {
        panic!("{message:?}");
    };
    assert_eq!((manifest_hash.as_str(), dtype.as_str()), ("abc", "f32"));
    assert_eq!(engine, format!("{} cpu", env!("CARGO_PKG_VERSION")));
    assert_eq!(template_hash, blake3::hash(hone_data::tiny::TINY_CHAT_TEMPLATE.as_bytes()).to_hex().to_string());
    assert_eq!(suites.iter().map(|s| s.suite.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    assert_eq!(answers.iter().map(|a| a.id.as_str()).collect::<Vec<_>>(), ["q1", "q2"]);
    assert!(answers.iter().all(|a| (1..=8).contains(&a.num_tokens)));
    let speed = speed.expect("what it took is told");
    assert!(speed.scored_tokens >= suites.iter().map(|suite| suite.trained_tokens).sum(), "{speed:?}");
    let num_tokens: u64 = answers.iter().map(|answer| answer.num_tokens).sum();
    assert_eq!((speed.answers, speed.answer_tokens), (2, num_tokens));
}

#[test]
fn answers_end_where_the_models_context_does() {
    let workspace = Workspace::new(Dtype::F32);
    let mut request = request(&workspace, Vec::new());
    // The model has a context of 128 tokens.
    request.max_answer_tokens = 1_000;
    let question = |id: &str, text: String| {
        let messages = json!([{"role": "user", "content": text}]);
        Question { id: id.to_string(), messages }
    };
    request.questions = vec![question("short", "Say hello.".to_string()), question("long", "hello ".repeat(300))];
    let WorkerMessage::Evaluated { answers, .. } = evaluate(&request, &mut |_| {}).unwrap() else { panic!() };
    let [short, long] = &answers[..] else { panic!("{answers:?}") };
    assert!((1..128).contains(&short.num_tokens), "{short:?}");
    assert_eq!((long.id.as_str(), long.text.as_str(), long.finish_reason.as_str()), ("long", "", "length"));
}

#[test]
fn results_under_another_profile_have_another_fingerprint() {
    let workspace = Workspace::new(Dtype::F32);
    let mut hashes = BTreeSet::new();
    let prompt = |text: &str| Some(text.to_string());
    for (name, system_prompt) in [
        ("plain", None),
        ("emoji_think", None),
        ("emoji_think", prompt("a")),
        ("regime3", None),
        ("regime3", prompt("a")),
    ] {
        let mut request = request(&workspace, Vec::new());
        request.settings.profile = ProfileSettings { name: name.to_string(), system_prompt };
        match evaluate(&request, &mut |_| {}).unwrap() {
            WorkerMessage::Evaluated { template_hash, .. } => hashes.insert(template_hash),
            other => panic!("{other:?}"),
        };
    }
    assert_eq!(hashes.len(), 5);
}

/// What it took is different each time.
fn without_speed(mut message: WorkerMessage) -> WorkerMessage {
    if let WorkerMessage::Evaluated { speed, .. } = &mut message {
        *speed = None;
    }
    message
}

/// How often the work of `request` reports a scored batch or a round of answers.
fn phases(request: &EvalRequest) -> (Vec<String>, WorkerMessage) {
    let mut phases = Vec::new();
    let message = evaluate(request, &mut |message| {
        if let WorkerMessage::Alive { phase } = message {
            phases.push(phase);
        }
    });
    phases.retain(|phase| phase.starts_with("evaluating") || phase.starts_with("answering"));
    (phases, without_speed(message.unwrap()))
}

#[test]
fn a_try_that_is_killed_within_the_questions_loses_only_answers_under_way() {
    let workspace = Workspace::new(Dtype::F32);
    let mut request = request(&workspace, Vec::new());
    // More than are answered side by side: the first ones are complete before the last one begins.
    let messages = json!([{"role": "user", "content": "Say hello."}]);
    let questions = (0..ANSWER_SLOTS + 2).map(|i| Question { id: format!("q{i}"), messages: messages.clone() });
    request.questions = questions.collect();
    let alone = without_speed(evaluate(&request, &mut |_| {}).unwrap());
    request.keep_dir = Some(workspace.root().join("kept"));
    // The parent goes away with the first news of an answer.
    let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut reports = 0;
        evaluate(&request, &mut |message| {
            let WorkerMessage::Alive { phase } = message else { return };
            reports += usize::from(phase.starts_with("answering"));
            assert!(reports < 2 || phase.starts_with("answering: 0"), "killed");
        })
    }));
    assert!(killed.is_err());
    let num_kept = kept_answers(&request).unwrap().len();
    assert!((1..request.questions.len()).contains(&num_kept), "{num_kept}");
    let (phases, again) = phases(&request);
    assert_eq!(phases[0], format!("answering: 0 of {}", request.questions.len() - num_kept));
    assert_eq!(again, alone);
}

#[test]
fn another_try_goes_on_from_what_is_kept() {
    let workspace = Workspace::new(Dtype::F32);
    let mut request = request(&workspace, vec![workspace.chat_file("validation", &PAIRS)]);
    let messages = json!([{"role": "user", "content": "Say hello."}]);
    request.questions = vec![Question { id: "q1".to_string(), messages }];
    let (_, alone) = phases(&request);
    request.keep_dir = Some(workspace.root().join("kept"));
    let (first, kept) = phases(&request);
    assert_eq!(kept, alone);
    assert_eq!(first, ["evaluating validation: 0 of 10", "answering: 0 of 1"]);
    let (second, again) = phases(&request);
    assert_eq!((second, again), (Vec::new(), alone.clone()), "nothing is computed twice");

    // What is kept is what was answered, and is there without the weights.
    let WorkerMessage::Evaluated { answers, .. } = &alone else { panic!("{alone:?}") };
    let weights = request.model_dir.join("model.safetensors");
    std::fs::rename(&weights, weights.with_extension("away")).unwrap();
    assert_eq!(&kept_answers(&request).unwrap(), answers);
    let other = EvalRequest { max_answer_tokens: request.max_answer_tokens + 1, ..request.clone() };
    assert_eq!(kept_answers(&other).unwrap(), Vec::new(), "under another limit it might have gone on");
    std::fs::rename(weights.with_extension("away"), &weights).unwrap();

    // A torn line is done again; what was appended to it is not misread.
    let losses = || {
        let entries = std::fs::read_dir(workspace.root().join("kept")).unwrap().map(|entry| entry.unwrap().path());
        entries.into_iter().find(|path| path.to_string_lossy().contains("losses-")).unwrap()
    };
    let text = std::fs::read(losses()).unwrap();
    hone_disk::write_atomic(&losses(), &text[..text.len() / 2]).unwrap();
    assert_eq!(phases(&request).0, ["evaluating validation: 0 of 10"]);
    assert_eq!(phases(&request).0, ["evaluating validation: 0 of 10"], "the new line ended in the torn one");
    assert_eq!(phases(&request).0, Vec::<String>::new());

    // Another checkpoint shares nothing.
    request.manifest_hash = "other".to_string();
    assert_eq!(phases(&request).0.len(), 2);
}
