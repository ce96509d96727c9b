//! What the numeric tests share: the recorded values, and how far two rows of numbers are apart.

use hone_model::Batch;
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The recorded models.
pub const FAMILIES: [&str; 7] =
    ["llama_tied", "llama3_rope", "llama_linear_rope", "qwen2", "qwen3", "qwen3_untied", "qwen3_yarn_rope"];

/// Every device that the numbers are met on: with `HONE_TEST_GPU`, the GPU of this machine too.
pub fn devices() -> Vec<&'static str> {
    let gpu = std::env::var_os("HONE_TEST_GPU").map(|_| "cuda-f32");
    ["reference", "cpu"].into_iter().chain(gpu).collect()
}

/// One folder of `testdata/reference`.
pub struct Recorded {
    pub model_dir: PathBuf,
    /// The packed, masked batch.
    pub batch: Batch,
    /// `logits`, `grad.*`, `after.*`.
    pub tensors: BTreeMap<String, Vec<f32>>,
    /// `expect.json`.
    pub json: Value,
}

pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/reference")
}

impl Recorded {
    pub fn load(family: &str) -> Recorded {
        let dir = folder().join(family);
        let bytes = std::fs::read(dir.join("expect.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes)
            .unwrap()
            .iter()
            .map(|(name, view)| {
                let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
                (name.to_owned(), values.collect())
            })
            .collect();
        let json = serde_json::from_str(&std::fs::read_to_string(dir.join("expect.json")).unwrap()).unwrap();
        Recorded { model_dir: dir.join("model"), batch: batch(&dir), tensors, json }
    }

    pub fn number(&self, key: &str) -> f64 {
        self.json[key].as_f64().unwrap()
    }

    pub fn numbers(&self, key: &str) -> Vec<f64> {
        self.json[key].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    }
}

/// Reads `batch.safetensors`: rows one after the other, labels shifted to the token that predicts them.
fn batch(dir: &std::path::Path) -> Batch {
    let bytes = std::fs::read(dir.join("batch.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |name: &str| -> Vec<i64> {
        let view = tensors.tensor(name).unwrap();
        view.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let row_length = tensors.tensor("input_ids").unwrap().shape()[1];
    let (labels, segment_ids) = (numbers("labels"), numbers("segment_ids"));
    let mut batch = Batch::default();
    for (i, id) in numbers("input_ids").into_iter().enumerate() {
        batch.ids.push(id as u32);
        let ends_row = (i + 1) % row_length == 0;
        batch.targets.push(if ends_row || labels[i + 1] == -100 { -1 } else { labels[i + 1] as i32 });
        let begins_segment = i % row_length == 0 || segment_ids[i] != segment_ids[i - 1];
        if begins_segment {
            batch.segments.push(0);
        }
        *batch.segments.last_mut().unwrap() += 1;
    }
    batch
}

/// Norm of the difference over the norm of what is expected.
pub fn distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let difference: f64 = found.iter().zip(expected).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let size: f64 = expected.iter().map(|x| f64::from(*x).powi(2)).sum();
    assert!(difference.is_finite(), "a number is not finite");
    if difference == 0.0 { 0.0 } else { (difference / size).sqrt() }
}

#[track_caller]
pub fn assert_close(what: &str, found: f64, expected: f64, tolerance: f64) {
    let relative = ((found - expected) / expected).abs();
    assert!(relative <= tolerance, "{what}: {found}, expected {expected}, off by {relative:.2e}");
}

#[track_caller]
pub fn assert_near(what: &str, found: &[f32], expected: &[f32], tolerance: f64) {
    let distance = distance(found, expected);
    assert!(distance <= tolerance, "{what}: off by {distance:.2e}, allowed {tolerance:.0e}");
}
