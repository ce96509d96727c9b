//! Losses are those that a scorer gives for the same weights.

use super::*;
use crate::{Batch, HostWeights, Scorer, TrainerOptions, device};
use std::path::PathBuf;

#[test]
fn losses_are_those_of_the_whole_model_in_either_format() {
    for name in ["llama_tied", "qwen2", "qwen3_untied"] {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/reference").join(name).join("model");
        let config = Config::from_dir(&dir).unwrap();
        let ids: Vec<u32> = (0..50).map(|at| at * 13 % config.vocab_size as u32).collect();
        let open = || device::open("cpu", 1);
        for format in WeightFormat::ALL {
            let found = FormatLoss::measure(&dir, &config, format, &ids, &open).unwrap();
            assert_eq!(found.tokens, 49);
            let mut weights = HostWeights::load(&dir, &config).unwrap();
            let stored = scored(&config, &weights, &ids);
            for (spec, (_, values)) in config.parameters().iter().zip(&mut weights.tensors) {
                if let Some(&cols) = spec.shape.get(1) {
                    values.chunks_exact_mut(cols).for_each(|row| format.round(row));
                }
            }
            let held = scored(&config, &weights, &ids);
            assert!((found.nll_stored - stored).abs() < 1e-5, "{name}: {found:?}, {stored}");
            assert!((found.nll_held - held).abs() < 1e-5, "{name} {format:?}: {found:?}, {held}");
            if format == WeightFormat::F32 {
                assert_eq!(found.difference(), 0.0, "{name}");
            }
        }
    }
}

#[test]
fn a_passage_without_a_prediction_is_refused() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/reference/qwen2/model");
    let config = Config::from_dir(&dir).unwrap();
    let open = || device::open("cpu", 1);
    let error = FormatLoss::measure(&dir, &config, WeightFormat::Int8, &[1], &open).unwrap_err();
    assert_eq!(error.to_string(), "a passage needs two tokens");
}

fn scored(config: &Config, weights: &HostWeights, ids: &[u32]) -> f64 {
    let options = TrainerOptions::full(ids.len(), ids.len());
    let mut scorer = Scorer::new(device::open("cpu", 1).unwrap(), config, weights, &options).unwrap();
    let targets = ids[1..].iter().map(|id| *id as i32).chain([-1]).collect();
    let batch = Batch { ids: ids.to_vec(), targets, segments: vec![ids.len()] };
    let score = scorer.score(&batch).unwrap()[0];
    score.nll_sum / score.tokens as f64
}
