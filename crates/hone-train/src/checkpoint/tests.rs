//! What a checkpoint folder holds.

use crate::testing::{PAIRS, Workspace, run, settings, staged};
use crate::{Refusal, YieldFlag};
use hone_disk::faults::{self, Fault};
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
fn a_checkpoint_is_whole_or_has_no_manifest_whichever_operation_fails() {
    // budget: 60 s
    let is_slow = std::env::var("HONE_SLOW").is_ok_and(|slow| slow == "1");
    let workspace = Workspace::new(Dtype::F32);
    let request = workspace.request(&[workspace.chat_file("dataset-1", &PAIRS)], settings());
    let folders = [workspace.root().join("staging"), workspace.root().join("resume-staging")];
    faults::stop();
    let expected = staged(&run(&request, &YieldFlag::default()).unwrap());
    let num_operations = faults::operations().len();
    assert!(num_operations > 60, "{num_operations}");
    for index in (0..num_operations).step_by(if is_slow { 1 } else { 17 }) {
        for fault in Fault::ALL {
            faults::fail_at(fault, index);
            let outcome = run(&request, &YieldFlag::default());
            faults::stop();
            for folder in &folders {
                if folder.join(manifest::FILE).is_file() {
                    manifest::verify(folder, None).unwrap_or_else(|e| panic!("{fault:?} at {index}: {e:#}"));
                }
            }
            if outcome.is_ok() {
                manifest::verify(&folders[0], Some(&expected.manifest_hash)).unwrap();
                manifest::verify(&folders[1], None).unwrap();
            }
        }
    }
    let again = staged(&run(&request, &YieldFlag::default()).unwrap());
    assert_eq!(again, expected, "what earlier tries left does not reach it");
}

#[test]
fn a_request_of_another_format_is_refused() {
    let workspace = Workspace::new(Dtype::F32);
    let mut request = workspace.request(&[workspace.chat_file("dataset-1", &PAIRS)], settings());
    request.format_version = 2;
    assert!(run(&request, &YieldFlag::default()).unwrap_err().is::<Refusal>());
}
