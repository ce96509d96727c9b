//! Tests of `lora`.

use super::*;
use serde_json::{Value, json};
use std::path::PathBuf;

fn reference() -> (Config, PathBuf) {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/reference/qwen3");
    (Config::from_dir(&dir.join("model")).unwrap(), dir.join("adapter"))
}

fn some(rank: usize, targets: &[Target]) -> LoraConfig {
    LoraConfig { rank, alpha: 8.0, dropout: 0.1, targets: targets.to_vec() }
}

/// Writes both files as a checkpoint has them.
fn store(adapter: &Adapter, config: &Config, change: impl Fn(&mut Value)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut json = adapter.config_json("base");
    change(&mut json);
    std::fs::write(dir.path().join("adapter_config.json"), json.to_string()).unwrap();
    let mut bytes = Vec::new();
    adapter.write(config, &mut bytes).unwrap();
    std::fs::write(dir.path().join("adapter_model.safetensors"), bytes).unwrap();
    dir
}

#[test]
fn what_is_written_is_read_again() {
    let (config, _) = reference();
    for targets in [&Target::ALL[..], &[Target::Query, Target::Value], &[Target::Down]] {
        let adapter = Adapter::new(&config, &some(3, targets), 5);
        let dir = store(&adapter, &config, |_| {});
        assert_eq!(Adapter::load(dir.path(), &config).unwrap(), adapter);
    }
}

#[test]
fn a_new_adapter_is_drawn_as_peft_draws_and_changes_nothing() {
    let (config, _) = reference();
    let adapter = Adapter::new(&config, &some(8, &Target::ALL), 5);
    for (name, values) in &adapter.tensors {
        let is_a = name.contains("lora_A");
        let input = values.len() / 8;
        let bound = 1.0 / (input as f32).sqrt();
        let largest = values.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        assert!(if is_a { largest <= bound && largest > 0.9 * bound } else { largest == 0.0 }, "{name}: {largest}");
    }
    let mut weights = HostWeights::random(&config, 1);
    let before = weights.clone();
    adapter.merge_into(&config, &mut weights);
    assert_eq!(weights, before);
}

#[test]
fn merging_adds_the_scaled_product_of_both_matrices() {
    let (config, _) = reference();
    let lora = LoraConfig { rank: 2, alpha: 6.0, dropout: 0.0, targets: vec![Target::Key] };
    let mut adapter = Adapter::new(&config, &lora, 5);
    for (index, (_, values)) in adapter.tensors.iter_mut().enumerate() {
        values.iter_mut().enumerate().for_each(|(i, x)| *x = ((i * 7 + index) % 5) as f32 - 2.0);
    }
    let before = HostWeights::random(&config, 1);
    let mut after = before.clone();
    adapter.merge_into(&config, &mut after);
    let name = "model.layers.1.self_attn.k_proj.weight";
    let (a, b) = (&adapter.tensors[2].1, &adapter.tensors[3].1);
    let width = config.hidden_size;
    for (row, column) in [(0, 0), (3, 17), (63, 63)] {
        let product: f32 = (0..2).map(|k| b[row * 2 + k] * a[k * width + column]).sum();
        let expected = before.tensor(name).unwrap()[row * width + column] + 3.0 * product;
        assert!((after.tensor(name).unwrap()[row * width + column] - expected).abs() < 1e-5);
    }
    let changed = before.tensors.iter().zip(&after.tensors).filter(|(a, b)| a != b);
    assert!(changed.map(|(a, _)| &a.0).all(|name| name.contains("k_proj.weight")));
}

#[test]
fn names_of_targets_are_those_of_peft() {
    assert_eq!(Target::parse_list(&["all-linear"]).unwrap(), Target::ALL);
    assert_eq!(Target::parse_list(&["v_proj", "q_proj", "v_proj"]).unwrap(), [Target::Query, Target::Value]);
    let error = Target::parse_list(&["q_proj", "lm_head"]).unwrap_err().to_string();
    assert!(error.contains("`lm_head` is unknown (known: q_proj, k_proj"), "{error}");
    assert!(Target::parse_list(&[] as &[&str]).is_err());
}

#[test]
fn an_adapter_that_is_more_than_plain_lora_is_refused_by_the_key() {
    let (config, _) = reference();
    let adapter = Adapter::new(&config, &some(3, &Target::ALL), 5);
    for (key, value, expected) in [
        ("use_dora", json!(true), "`use_dora` = true is not supported"),
        ("use_rslora", json!(true), "`use_rslora` = true is not supported"),
        ("rank_pattern", json!({"q_proj": 8}), "`rank_pattern`"),
        ("modules_to_save", json!(["lm_head"]), "`modules_to_save`"),
        ("layers_to_transform", json!([0]), "`layers_to_transform`"),
        ("bias", json!("all"), "`bias` = \"all\" is not supported"),
        ("some_new_key", json!(3), "`some_new_key` = 3 is not supported"),
        ("peft_type", json!("LOHA"), "`peft_type` is \"LOHA\""),
        ("target_modules", json!(["q_proj"]), "name different targets"),
        ("r", json!(4), "has shape [3, 64], rank and model ask for [4, 64]"),
        ("r", json!(0), "LoRA rank 0 is not in"),
        ("lora_alpha", Value::Null, "lacks `lora_alpha`"),
    ] {
        let dir = store(&adapter, &config, |json| json[key] = value.clone());
        let error = format!("{:#}", Adapter::load(dir.path(), &config).unwrap_err());
        assert!(error.contains(expected), "{key}: {error}");
    }
}

#[test]
fn a_pattern_of_target_modules_is_answered_by_the_tensors() {
    let (config, _) = reference();
    let adapter = Adapter::new(&config, &some(3, &[Target::Query, Target::Up]), 5);
    let dir = store(&adapter, &config, |json| json["target_modules"] = json!(".*(q_proj|up_proj)"));
    assert_eq!(Adapter::load(dir.path(), &config).unwrap().lora.targets, [Target::Query, Target::Up]);
}

#[test]
fn an_adapter_of_another_model_is_refused_by_the_tensor() {
    let (config, dir) = reference();
    let deeper = Config { num_layers: 3, ..config.clone() };
    let error = format!("{:#}", Adapter::load(&dir, &deeper).unwrap_err());
    assert!(error.contains("lacks `base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight`"), "{error}");
    let shallower = Config { num_layers: 1, ..config };
    let error = format!("{:#}", Adapter::load(&dir, &shallower).unwrap_err());
    assert!(error.contains("layers.1.") && error.contains("no matrix of this adapter"), "{error}");
}
