//! LoRA jobs, changes of what is trained, and sizes of micro-batches.

use super::*;
use hone_model::Adapter;
use hone_pipeline::config::LoraSettings;
use std::path::Path;

fn lora(rank: usize, targets: &[&str]) -> Option<LoraSettings> {
    let targets = targets.iter().map(|name| (*name).to_string()).collect();
    Some(LoraSettings { rank, alpha: 16.0, dropout: 0.1, targets })
}

fn lora_job(dtype: Dtype) -> (Workspace, TrainRequest) {
    let (workspace, mut request) = job(dtype);
    request.settings.lora = lora(4, &["all-linear"]);
    (workspace, request)
}

/// The job after `done`, from its last checkpoint.
fn next_job(workspace: &Workspace, before: &TrainRequest, last: CheckpointId) -> TrainRequest {
    TrainRequest {
        job: JobId(before.job.0 + 1),
        parent: last,
        model_dir: workspace.root().join(last.to_string()),
        resume_dir: Some(workspace.root().join(format!("resume-{}", last.0))),
        run_dir: workspace.root().join(format!("run-of-{last}")),
        ..before.clone()
    }
}

fn published(workspace: &Workspace, folder: impl AsRef<Path>) -> HostWeights {
    let config = Config::from_dir(&workspace.base()).unwrap();
    HostWeights::load(&workspace.root().join(folder), &config).unwrap()
}

#[test]
fn slices_of_a_lora_job_equal_one_run_bit_for_bit() {
    let (whole, request) = lora_job(Dtype::Bf16);
    let expected = whole.finish(request, false).unwrap();
    assert!(expected.losses()[8] < expected.losses()[0], "{:?}", expected.losses());
    let (parts, mut request) = lora_job(Dtype::Bf16);
    request.settings.save_steps = 2;
    let done = parts.finish(request, false).unwrap();
    assert_eq!((done.staged.len(), done.losses()), (5, expected.losses()), "every loss, to the last bit");
    for folder in ["resume-9/base", "resume-9/first_moment", "resume-9/second_moment"] {
        assert!(bytes(&parts, folder) == bytes(&whole, folder), "{folder} differs");
    }
    for name in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
        let read = |workspace: &Workspace| std::fs::read(workspace.root().join("checkpoint-9").join(name)).unwrap();
        assert!(read(&parts) == read(&whole), "{name} differs");
    }
    let adapter = "checkpoint-9/adapter/adapter_model.safetensors";
    let read = |workspace: &Workspace| std::fs::read(workspace.root().join(adapter)).unwrap();
    assert!(read(&parts) == read(&whole));
}

#[test]
fn a_lora_checkpoint_is_the_base_with_the_adapter_that_lies_beside_it() {
    let (workspace, request) = lora_job(Dtype::F32);
    let done = workspace.finish(request, false).unwrap();
    let config = Config::from_dir(&workspace.base()).unwrap();
    let dir = workspace.root().join("checkpoint-9");
    let adapter = Adapter::load(&dir.join("adapter"), &config).unwrap();
    assert_eq!((adapter.lora.rank, adapter.lora.targets.len()), (4, 7));
    let base = published(&workspace, "base");
    let mut merged = base.clone();
    adapter.merge_into(&config, &mut merged);
    assert_ne!(merged, base);
    assert_eq!(merged, published(&workspace, "checkpoint-9"));
    assert_eq!(published(&workspace, "resume-9/base"), base, "the model under the adapter stays as it was");
    assert!(!workspace.root().join("resume-9/masters").exists());
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.join("adapter/adapter_config.json")).unwrap()).unwrap();
    assert_eq!(json["base_model_name_or_path"], workspace.base().display().to_string());
    manifest::verify(&dir, Some(&done.staged[0].manifest_hash)).unwrap();
}

#[test]
fn the_next_lora_job_goes_on_with_the_same_adapter() {
    let (workspace, request) = lora_job(Dtype::F32);
    workspace.finish(request.clone(), false).unwrap();
    let mut next = next_job(&workspace, &request, CheckpointId(9));
    next.settings.epochs = 1;
    let messages = run(&next, &YieldFlag::default()).unwrap();
    assert!(warnings(&messages).is_empty(), "{:?}", warnings(&messages));
    let state = resume::read_state(&workspace.root().join("resume-staging"), CheckpointId(12)).unwrap();
    assert_eq!((state.optimizer_step, state.trained_tensors), (12, 28));
    let base = published(&workspace, "resume-staging/base");
    assert_eq!(base, published(&workspace, "base"), "still over the first model");
}

#[test]
fn another_way_of_training_starts_new_optimizer_state_and_says_so() {
    let (workspace, request) = job(Dtype::F32);
    workspace.finish(request.clone(), false).unwrap();
    let mut next = next_job(&workspace, &request, CheckpointId(9));
    next.settings.lora = lora(4, &["q_proj", "v_proj"]);
    let messages = run(&next, &YieldFlag::default()).unwrap();
    let told = warnings(&messages);
    assert_eq!(told[0].0, "optimizer_reset");
    let expected = "this job asks for LoRA of rank 4 and alpha 16 on q_proj, v_proj, the steps before it were full \
                    fine-tuning: training starts from the published weights of checkpoint-9 with new optimizer state";
    assert_eq!(told[0].1, expected);
    let state = resume::read_state(&workspace.root().join("resume-staging"), CheckpointId(18)).unwrap();
    assert_eq!((state.optimizer_step, state.steps_from_base, state.trained_tensors), (9, 18, 8));

    let mut back = next_job(&workspace, &next, CheckpointId(18));
    workspace.publish(&mut next, &staged(&messages));
    back.settings.lora = None;
    let messages = run(&back, &YieldFlag::default()).unwrap();
    assert!(warnings(&messages)[0].1.contains("asks for full fine-tuning, the steps before it were LoRA of rank 4"));

    let mut frozen = next_job(&workspace, &request, CheckpointId(9));
    frozen.settings.freeze = vec!["model.embed_tokens.weight".to_string()];
    let messages = run(&frozen, &YieldFlag::default()).unwrap();
    assert!(warnings(&messages)[0].1.contains("freezes [model.embed_tokens.weight], the steps before it froze []"));
    let embedding = |weights: HostWeights| weights.tensors.into_iter().next().unwrap();
    assert_eq!(embedding(published(&workspace, "staging")), embedding(published(&workspace, "checkpoint-9")));
}

#[test]
fn a_checkpoint_without_its_optimizer_state_is_gone_on_from_and_it_is_said() {
    let (workspace, request) = job(Dtype::F32);
    workspace.finish(request.clone(), false).unwrap();
    let next = TrainRequest { resume_dir: None, ..next_job(&workspace, &request, CheckpointId(9)) };
    let told = warnings(&run(&next, &YieldFlag::default()).unwrap());
    let expected = "the optimizer state of checkpoint-9 is not here any more: training goes on from its published weights \
                    with a new one";
    assert_eq!(told, [("optimizer_reset".to_string(), expected.to_string())]);
    let state = resume::read_state(&workspace.root().join("resume-staging"), CheckpointId(18)).unwrap();
    assert_eq!((state.optimizer_step, state.steps_from_base), (9, 18));
}

#[test]
fn a_job_does_not_change_its_way_of_training_half_way() {
    let (workspace, mut request) = lora_job(Dtype::F32);
    request.settings.save_steps = 3;
    let first = staged(&run(&request, &YieldFlag::default()).unwrap());
    workspace.publish(&mut request, &first);
    request.settings.lora = lora(8, &["all-linear"]);
    let error = run(&request, &YieldFlag::default()).unwrap_err();
    assert!(
        error.downcast_ref::<Refusal>().is_some_and(|r| r.0.contains("cannot go on: this job asks for LoRA of rank 8"))
    );
}

#[test]
fn smaller_micro_batches_keep_the_steps_and_nearly_the_losses() {
    let (large, request) = job(Dtype::F32);
    let expected = large.finish(request, false).unwrap();
    let (small, mut request) = job(Dtype::F32);
    request.settings.micro_batch = 3;
    let done = small.finish(request, false).unwrap();
    assert_eq!(done.staged[0].rows_digest, expected.staged[0].rows_digest);
    assert!((done.losses()[0] - expected.losses()[0]).abs() < 1e-5);
    for (a, b) in done.losses().iter().zip(expected.losses()) {
        assert!((a - b).abs() < 1e-3 * b, "{a} and {b}");
    }
}

#[test]
fn auto_takes_the_largest_micro_batch_that_fits() {
    let train = |limit: u64| {
        let (workspace, mut request) = job(Dtype::F32);
        (request.settings.auto_batch, request.settings.max_memory_bytes) = (true, limit);
        request.settings.batch_size = 8;
        let messages = run(&request, &YieldFlag::default());
        messages
            .map(|_| resume::read_state(&workspace.root().join("resume-staging"), CheckpointId(6)).unwrap().micro_batch)
    };
    assert_eq!(train(1 << 40).unwrap(), 8);
    let error = train(1 << 20).unwrap_err().to_string();
    assert!(error.contains("one row at a time needs") && error.contains("limits.max_memory_gb"), "{error}");
}

#[test]
fn large_weights_are_written_as_shards_that_load_again() {
    let (whole, request) = job(Dtype::F32);
    whole.finish(request, false).unwrap();
    let (parts, mut request) = job(Dtype::F32);
    request.settings.max_shard_bytes = 20_000;
    parts.finish(request, false).unwrap();
    let dir = parts.root().join("checkpoint-9");
    assert!(!dir.join("model.safetensors").exists() && dir.join("model.safetensors.index.json").exists());
    assert!(dir.join("model-00006-of-00006.safetensors").exists());
    assert_eq!(published(&parts, "checkpoint-9"), published(&whole, "checkpoint-9"));
}

#[test]
fn parameters_that_training_leaves_alone_keep_their_file_from_checkpoint_to_checkpoint() {
    let (workspace, mut request) = lora_job(Dtype::Bf16);
    request.settings.save_steps = 4;
    workspace.finish(request, false).unwrap();
    let file = |folder: &str, name: &str| std::fs::read(workspace.root().join(folder).join(name)).unwrap();
    let (same, changed) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    assert!(file("checkpoint-4", same) == file("checkpoint-8", same));
    assert!(file("checkpoint-4", changed) != file("checkpoint-8", changed));
    // What stands in the first file is the base's, and what is the base's stands there.
    let header = String::from_utf8_lossy(&file("checkpoint-8", same)).into_owned();
    let (trained, base) = (published(&workspace, "checkpoint-8"), published(&workspace, "base"));
    for ((name, values), (_, of_base)) in trained.tensors.iter().zip(&base.tensors) {
        assert_eq!(header.contains(&format!("\"{name}\"")), values == of_base, "{name}");
    }
}
