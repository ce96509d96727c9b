//! What a checkpoint folder holds.

use crate::testing::{PAIRS, Workspace, run, settings, staged};
use crate::{Refusal, YieldFlag};
use hone_disk::manifest;
use hone_model::Dtype;
use serde_json::{Value, json};

fn json_file(workspace: &Workspace, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(workspace.root().join("staging").join(name)).unwrap()).unwrap()
}

#[test]
fn a_checkpoint_is_a_whole_model_folder_with_its_lineage() {
    let workspace = Workspace::new(Dtype::Bf16);
    std::fs::write(workspace.base().join("optimizer.bin"), "not part of a model").unwrap();
    let files = [workspace.chat_file("dataset-1", &PAIRS[..6]), workspace.chat_file("dataset-2", &PAIRS[6..])];
    let request = workspace.request(&files, settings());
    let staged = staged(&run(&request, &YieldFlag::default()).unwrap());
    let manifest = manifest::verify(&workspace.root().join("staging"), Some(&staged.manifest_hash)).unwrap();
    let names: Vec<&str> = manifest.files.iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(
        names,
        [
            "config.json",
            "generation_config.json",
            "lineage.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "trainer_state.json"
        ]
    );
    let lineage = json_file(&workspace, "lineage.json");
    assert_eq!(lineage["lineage_number"], 1, "the request's own lineage is kept");
    assert_eq!(lineage["parent"], 0);
    assert_eq!(lineage["checkpoint"], 3);
    assert_eq!(lineage["rows_digest"], json!(staged.rows_digest));
    assert_eq!(lineage["slice"], json!({"job_steps": [1, 3], "rows_in_order": [0, 10]}));
    assert_eq!(lineage["files"][1]["trained_in_slice"], 4);
    let state = json_file(&workspace, "trainer_state.json");
    assert_eq!(state["global_step"], 3);
    assert_eq!(state["log_history"].as_array().unwrap().len(), 3);
    assert_eq!(state["epoch"], 1.0);
}

#[test]
fn leftovers_of_a_killed_slice_do_not_reach_the_next_checkpoint() {
    let workspace = Workspace::new(Dtype::F32);
    std::fs::create_dir_all(workspace.root().join("staging/deep")).unwrap();
    std::fs::write(workspace.root().join("staging/deep/leftover"), "x").unwrap();
    let request = workspace.request(&[workspace.chat_file("dataset-1", &PAIRS)], settings());
    run(&request, &YieldFlag::default()).unwrap();
    assert!(!workspace.root().join("staging/deep").exists());
}

#[test]
fn a_request_of_another_format_is_refused() {
    let workspace = Workspace::new(Dtype::F32);
    let mut request = workspace.request(&[workspace.chat_file("dataset-1", &PAIRS)], settings());
    request.format_version = 2;
    assert!(run(&request, &YieldFlag::default()).unwrap_err().is::<Refusal>());
}
