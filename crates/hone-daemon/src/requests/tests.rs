//! Tests of `requests`.

use super::*;
use hone_pipeline::ids::DatasetId;
use hone_pipeline::state::{Change, DatasetState, Priority};

fn dataset(flag: Option<&str>) -> Dataset {
    Dataset {
        id: DatasetId(1),
        file_name: "a.jsonl".to_string(),
        inbox_path: "a.jsonl".to_string(),
        priority: Priority::Normal,
        schema_flag: flag.map(str::to_string),
        state: DatasetState::Checking,
        arrived_ms: 0,
        schema_id: None,
        blake3: None,
        rows: 0,
        provenance: None,
        keep_back: None,
        check_started: true,
        check_tries: 0,
        deep_check: Default::default(),
        filed: false,
        gone: None,
        set_aside: None,
    }
}

#[test]
fn the_schema_comes_from_flag_sidecar_configuration_default_in_this_order() {
    let layout = Layout::new(Path::new("/workspace"));
    let sidecar = Sidecar { schema_id: Some("of sidecar".to_string()), ..Sidecar::default() };
    let configured = LoopConfig { schema_id: Some("of config".to_string()), ..LoopConfig::default() };
    let origin = |flag, sidecar: &Sidecar, config: &LoopConfig| {
        let request = check(&layout, &State::default(), config, &dataset(flag), sidecar);
        (request.schema_id, request.schema_origin)
    };
    let none = Sidecar::default();
    assert_eq!(origin(Some("of flag"), &sidecar, &configured), ("of flag".to_string(), SchemaOrigin::Flag));
    assert_eq!(origin(None, &sidecar, &configured), ("of sidecar".to_string(), SchemaOrigin::Sidecar));
    assert_eq!(origin(None, &none, &configured), ("of config".to_string(), SchemaOrigin::Config));
    assert_eq!(origin(None, &none, &LoopConfig::default()), ("chat_sft_v1".to_string(), SchemaOrigin::Default));
}

#[test]
fn suites_are_the_jsonl_files_of_the_validation_folder_by_name() {
    let root = tempfile::tempdir().unwrap();
    let layout = Layout::new(root.path());
    std::fs::create_dir_all(layout.validation()).unwrap();
    let chat = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#;
    for (name, text) in [
        ("b.jsonl", chat),
        ("a.jsonl", "\n{\"prompt\":\"x\",\"completion\":\"y\"}\n"),
        ("c.jsonl", chat),
        ("c.jsonl.meta.json", "{\"schema_id\":\"of_sidecar\"}"),
        ("notes.txt", "x"),
        (".hidden.jsonl", chat),
    ] {
        std::fs::write(layout.validation().join(name), text).unwrap();
    }
    let found = suites(&layout, &LoopConfig::default()).unwrap();
    let listed: Vec<_> = found.iter().map(|suite| (suite.name.as_str(), suite.schema_id.as_str())).collect();
    assert_eq!(listed, [("a.jsonl", "completion_v1"), ("b.jsonl", "chat_sft_v1"), ("c.jsonl", "of_sidecar")]);
}

#[test]
fn few_rows_that_are_kept_back_are_asked_only_where_there_is_nothing_else() {
    let keep = hone_pipeline::config::KeepBack { share: 0.05, max_rows: 200 };
    let accepted = |id: u64, rows: u64| Dataset {
        id: DatasetId(id),
        state: DatasetState::Accepted,
        rows,
        keep_back: Some(keep),
        ..dataset(None)
    };
    let mut state = State::default();
    let asked = |state: &State, alone: bool| evaluated_rows(state, &LoopConfig::default(), alone).len();
    // 15 rows of 300.
    state.apply(&Change::PutDataset(accepted(1, 300)));
    assert_eq!((asked(&state, true), asked(&state, false)), (1, 0));
    // And 5 of 119.
    state.apply(&Change::PutDataset(accepted(2, 119)));
    assert_eq!((asked(&state, true), asked(&state, false)), (2, 2));
}

#[test]
fn a_row_is_no_longer_than_the_context_of_the_model() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!((longest_row(1024, None), longest_row(1024, Some(dir.path()))), (1024, 1024));
    hone_disk::write_json(&dir.path().join("config.json"), &serde_json::json!({"max_position_embeddings": 128}))
        .unwrap();
    assert_eq!((longest_row(1024, Some(dir.path())), longest_row(64, Some(dir.path()))), (128, 64));
}
