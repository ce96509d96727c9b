//! Slices: learning, exact resume, yielding, numbers that are not finite.

use super::*;
use crate::testing::{PAIRS, Workspace, run, settings, staged, warnings};
use crate::{Refusal, resume, rows};
use hone_disk::manifest;
use hone_model::{HostWeights, Method};
use hone_pipeline::config::TrainSettings;
use hone_pipeline::ids::{CheckpointId, JobId};
use hone_pipeline::state::Position;
use std::panic::{AssertUnwindSafe, catch_unwind};

mod lora;

/// 10 rows in steps of 4 over 3 epochs: 9 steps.
fn job(dtype: Dtype) -> (Workspace, TrainRequest) {
    let workspace = Workspace::new(dtype);
    let files = [workspace.chat_file("dataset-1", &PAIRS[..6]), workspace.chat_file("dataset-2", &PAIRS[6..])];
    let request = workspace.request(&files, TrainSettings { epochs: 3, ..settings() });
    (workspace, request)
}

fn bytes(workspace: &Workspace, folder: &str) -> Vec<u8> {
    std::fs::read(workspace.root().join(folder).join("model.safetensors")).unwrap()
}

#[test]
fn overfits_one_batch() {
    let workspace = Workspace::new(Dtype::F32);
    let file = workspace.chat_file("dataset-1", &PAIRS[..4]);
    let request = workspace.request(&[file], TrainSettings { epochs: 60, ..settings() });
    let done = workspace.finish(request, false).unwrap();
    let losses = done.losses();
    assert_eq!(losses.len(), 60);
    assert!(losses[0] > 4.0, "a random model knows nothing: {}", losses[0]);
    assert!(losses[59] < 0.05, "{losses:?}");
    assert_eq!(done.staged[0].train_loss, losses[59]);
}

#[test]
fn slices_and_yields_equal_one_run_bit_for_bit() {
    // (number type, save_steps, asked to yield at every step, slices)
    let cases = [(Dtype::F32, 4, false, 3), (Dtype::F32, 0, true, 9), (Dtype::Bf16, 2, false, 5)];
    let whole = [Dtype::F32, Dtype::Bf16].map(|dtype| {
        let (workspace, request) = job(dtype);
        let done = workspace.finish(request, false).unwrap();
        assert_eq!(done.staged.len(), 1);
        (dtype, workspace, done)
    });
    for (dtype, save_steps, yields, slices) in cases {
        let (_, whole, whole_done) = whole.iter().find(|(of, ..)| *of == dtype).unwrap();
        let (parts, mut request) = job(dtype);
        request.settings.save_steps = save_steps;
        let done = parts.finish(request, yields).unwrap();
        assert_eq!(done.staged.len(), slices, "save_steps {save_steps}");
        let last = done.staged.last().unwrap();
        assert_eq!(last.checkpoint, CheckpointId(9));
        assert_eq!(last.rows_digest, whole_done.staged[0].rows_digest);
        assert_eq!(last.position, whole_done.staged[0].position);
        assert_eq!(done.losses(), whole_done.losses(), "every loss, to the last bit");
        for folder in ["checkpoint-9", "resume-9/masters", "resume-9/first_moment", "resume-9/second_moment"] {
            assert!(bytes(&parts, folder) == bytes(whole, folder), "{folder} differs, save_steps {save_steps}");
        }
    }
}

#[test]
fn a_slice_that_dies_is_done_again_from_the_last_checkpoint() {
    let (whole, request) = job(Dtype::F32);
    let expected = whole.finish(request, false).unwrap();

    let (workspace, mut request) = job(Dtype::F32);
    request.settings.save_steps = 3;
    let first = staged(&run(&request, &YieldFlag::default()).unwrap());
    workspace.publish(&mut request, &first);
    let died = catch_unwind(AssertUnwindSafe(|| {
        let die = |message| assert!(!matches!(message, WorkerMessage::Step(_)), "killed at a step");
        train_slice(&request, &mut { die }, &YieldFlag::default())
    }));
    assert!(died.is_err());
    request.token.0 += 1;
    request.run_dir = workspace.root().join("run-again");
    let done = workspace.finish(request, false).unwrap();
    assert_eq!(done.staged.last().unwrap().rows_digest, expected.staged[0].rows_digest);
    assert_eq!(done.losses(), expected.losses()[3..]);
    assert!(bytes(&workspace, "checkpoint-9") == bytes(&whole, "checkpoint-9"));
}

#[test]
fn previews_change_nothing() {
    let (without, request) = job(Dtype::F32);
    without.finish(request, false).unwrap();
    let (with, mut request) = job(Dtype::F32);
    request.settings.preview_steps = 2;
    request.preview_files = vec![with.chat_file("validation", &PAIRS[3..7])];
    let done = with.finish(request, false).unwrap();
    let sources: Vec<(u64, String)> = done
        .messages
        .iter()
        .filter_map(|message| match message {
            WorkerMessage::Preview { step, source, prompt, expected, .. } => {
                assert!(PAIRS.contains(&(prompt.as_str(), expected.as_str())));
                Some((*step, source.clone()))
            }
            _ => None,
        })
        .collect();
    let expected = [2, 4, 6, 8].map(|step| [(step, "validation:1".to_string()), (step, "validation:2".to_string())]);
    assert_eq!(sources, expected.concat());
    assert!(bytes(&with, "checkpoint-9") == bytes(&without, "checkpoint-9"));
}

#[test]
fn yields_at_the_next_step_with_a_checkpoint() {
    let (workspace, request) = job(Dtype::F32);
    let flag = YieldFlag::default();
    let mut messages = Vec::new();
    let report = &mut |message| {
        if matches!(message, WorkerMessage::Step(_)) {
            flag.set();
        }
        messages.push(message);
    };
    train_slice(&request, report, &flag).unwrap();
    let staged = staged(&messages);
    assert!(staged.yielded && !staged.ends_job);
    assert_eq!(staged.position, Position { job_step: 2, rows_trained: 8, total_steps: 9 });
    manifest::verify(&workspace.root().join("staging"), Some(&staged.manifest_hash)).unwrap();
    manifest::verify(&workspace.root().join("resume-staging"), None).unwrap();
}

#[test]
fn accumulation_equals_one_large_batch() {
    let (large, request) = job(Dtype::F32);
    let large_done = large.finish(request, false).unwrap();
    let (small, mut request) = job(Dtype::F32);
    request.settings.batch_size = 1;
    request.settings.gradient_accumulation = 4;
    let done = small.finish(request, false).unwrap();
    assert_eq!(done.staged[0].rows_digest, large_done.staged[0].rows_digest);
    // Nine steps at 1e-2: rounding in the gradients grows a little from step to step.
    for (a, b) in done.losses().iter().zip(large_done.losses()) {
        assert!((a - b).abs() < 1e-3 * b, "{a} and {b}");
    }
    assert!((done.losses()[0] - large_done.losses()[0]).abs() < 1e-5);
}

#[test]
fn a_nonfinite_update_is_refused_and_three_in_a_row_fail() {
    let (workspace, mut request) = job(Dtype::F32);
    request.settings.learning_rate = 1e30;
    let mut messages = Vec::new();
    let error = train_slice(&request, &mut |m| messages.push(m), &YieldFlag::default()).unwrap_err();
    let refusal = error.downcast_ref::<Refusal>().expect("it is deterministic").to_string();
    assert!(refusal.contains("3 in a row") && refusal.contains("step 4"), "{refusal}");
    let warnings = warnings(&messages);
    assert_eq!(warnings.iter().map(|(code, _)| code.as_str()).collect::<Vec<_>>(), ["nonfinite_update"; 3]);
    assert!(warnings[0].1.contains("dataset-1:") || warnings[0].1.contains("dataset-2:"), "{}", warnings[0].1);
    assert!(!workspace.root().join("staging").exists());
}

#[test]
fn weights_that_are_not_finite_are_never_published() {
    let (workspace, mut request) = job(Dtype::F32);
    request.settings = TrainSettings { epochs: 1, batch_size: 10, learning_rate: 1e39, ..request.settings };
    let error = run(&request, &YieldFlag::default()).unwrap_err();
    assert!(error.downcast_ref::<Refusal>().is_some_and(|r| r.0.contains("not finite")), "{error:#}");
    assert!(!workspace.root().join("staging").exists());
}

#[test]
fn the_digest_can_be_recomputed_from_the_files() {
    let (workspace, request) = job(Dtype::F32);
    let done = workspace.finish(request.clone(), false).unwrap();
    let mut lines = Vec::new();
    for file in &request.files {
        for row in hone_data::rows(&file.path, &file.schema_id).unwrap() {
            let row = row.unwrap();
            lines.push(format!("{}:{}:{:016x}:0\n", file.name, row.line, row.id.0));
        }
    }
    let order = Order { num_examples: 10, examples_per_step: 4, epochs: 3, seed: 42, job: JobId(3) };
    let text: String = (0..3).flat_map(|epoch| order.epoch(epoch)).map(|index| lines[index].as_str()).collect();
    assert_eq!(done.staged[0].rows_digest, blake3::hash(text.as_bytes()).to_hex().to_string());
}

#[test]
fn going_on_with_changed_rows_is_refused() {
    let (workspace, mut request) = job(Dtype::F32);
    request.settings.save_steps = 2;
    let first = staged(&run(&request, &YieldFlag::default()).unwrap());
    workspace.publish(&mut request, &first);
    let mut pairs = PAIRS[..6].to_vec();
    pairs.reverse();
    workspace.chat_file("dataset-1", &pairs);
    let error = run(&request, &YieldFlag::default()).unwrap_err();
    assert!(error.downcast_ref::<Refusal>().is_some_and(|r| r.0.contains("digest")), "{error:#}");
    request.settings.epochs = 4;
    let error = run(&request, &YieldFlag::default()).unwrap_err();
    assert!(error.downcast_ref::<Refusal>().is_some_and(|r| r.0.contains("had 9 steps and now has 12")), "{error:#}");
}

#[test]
fn the_next_job_goes_on_with_optimizer_and_step_number() {
    let (workspace, request) = job(Dtype::F32);
    let mut next = request.clone();
    let done = workspace.finish(request, false).unwrap();
    next.job = JobId(4);
    next.files = vec![workspace.chat_file("dataset-3", &PAIRS[..5])];
    next.settings.epochs = 1;
    next.parent = done.staged[0].checkpoint;
    next.model_dir = workspace.root().join("checkpoint-9");
    next.resume_dir = Some(workspace.root().join("resume-9"));
    let staged = staged(&run(&next, &YieldFlag::default()).unwrap());
    assert_eq!(staged.checkpoint, CheckpointId(11));
    assert_eq!(staged.parent, CheckpointId(9));
    assert_eq!(staged.position, Position { job_step: 2, rows_trained: 5, total_steps: 2 });
    let state = resume::read_state(&workspace.root().join("resume-staging"), CheckpointId(11)).unwrap();
    assert_eq!((state.optimizer_step, state.steps_from_base), (11, 11));
}

#[test]
fn a_resume_folder_of_another_checkpoint_is_refused() {
    let (workspace, mut request) = job(Dtype::F32);
    request.settings.save_steps = 2;
    let first = staged(&run(&request, &YieldFlag::default()).unwrap());
    workspace.publish(&mut request, &first);
    request.parent = CheckpointId(1);
    let error = run(&request, &YieldFlag::default()).unwrap_err();
    assert!(error.downcast_ref::<Refusal>().is_some_and(|r| r.0.contains("belongs to checkpoint-2")), "{error:#}");
}

#[test]
fn published_weights_are_the_masters_rounded_to_the_base_type() {
    let (workspace, request) = job(Dtype::Bf16);
    workspace.finish(request, false).unwrap();
    let config = Config::from_dir(&workspace.base()).unwrap();
    let published = HostWeights::load(&workspace.root().join("checkpoint-9"), &config).unwrap();
    let masters = HostWeights::load(&workspace.root().join("resume-9/masters"), &config).unwrap();
    assert_eq!(published.dtype, Dtype::Bf16);
    assert_ne!(published.tensors, masters.tensors, "the masters keep what rounding drops");
    for ((name, a), (_, b)) in published.tensors.iter().zip(&masters.tensors) {
        let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs() - b.abs() / 256.0).fold(0.0, f32::max);
        assert!(worst <= 0.0, "{name} is off by more than half a bf16 step");
    }
}

#[test]
fn metrics_have_one_line_per_step() {
    let (workspace, request) = job(Dtype::F32);
    let done = workspace.finish(request, false).unwrap();
    let steps: Vec<u64> = done.metrics.iter().map(|line| line["job_step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=9).collect::<Vec<_>>());
    let rows: Vec<u64> = done.metrics.iter().map(|line| line["rows"][1].as_u64().unwrap()).collect();
    assert_eq!(rows, [4, 8, 10, 14, 18, 20, 24, 28, 30], "steps do not cross the border of an epoch");
}

#[test]
fn sizes_hold_every_micro_batch() {
    let (workspace, request) = job(Dtype::F32);
    let ctx = ChatContext::from_dir(&workspace.base(), &Default::default(), &serde_json::Map::new()).unwrap();
    let limits = rows::Limits { max_length: 64, overlong: request.settings.overlong };
    let examples = rows::load(&ctx, &request.files, limits, &mut |_| {}).unwrap();
    let order = job_order(&examples, &request.settings, request.job);
    let options = trainer_options(&order, &examples, request.settings.batch_size, Method::full());
    let length = |i: &usize| examples.list[*i].tokens.ids.len();
    let largest = order.steps_from(0).map(|step| step.iter().map(length).sum::<usize>()).max();
    assert_eq!(Some(options.max_tokens), largest);
    assert_eq!(options.max_segment_tokens, examples.longest());
}
