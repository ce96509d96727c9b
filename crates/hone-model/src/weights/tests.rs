//! Reading refuses what is broken, by name; writing and reading give the same numbers.

use super::*;
use serde_json::json;
use std::path::PathBuf;

/// A tiny model folder in a directory that goes away.
struct Folder {
    dir: tempfile::TempDir,
    config: Config,
    weights: HostWeights,
}

impl Folder {
    fn new() -> Folder {
        let config = Config::from_json(&json!({
            "model_type": "qwen3", "vocab_size": 20, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 6, "max_position_embeddings": 64,
            "tie_word_embeddings": true,
        }))
        .unwrap();
        let weights = HostWeights::random(&config, 7);
        let folder = Folder { dir: tempfile::tempdir().unwrap(), config, weights };
        folder.put(SINGLE, &folder.bytes(Dtype::F32));
        folder
    }

    fn bytes(&self, dtype: Dtype) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.weights.write(&self.config, dtype, &mut bytes).unwrap();
        bytes
    }

    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Writes tensors as the `safetensors` crate writes them.
    fn put_tensors(&self, file: &str, tensors: &[(&str, Vec<usize>, &[f32])]) {
        let bytes: Vec<Vec<u8>> =
            tensors.iter().map(|(_, _, values)| values.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
        let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
            (*name, TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
        });
        self.put(file, &safetensors::serialize(views, None).unwrap());
    }

    /// All tensors, to be changed and written again.
    fn tensors(&self) -> Vec<(&str, Vec<usize>, &[f32])> {
        let specs = self.config.parameters();
        self.weights
            .tensors
            .iter()
            .zip(specs)
            .map(|((name, values), spec)| (name.as_str(), spec.shape, values.as_slice()))
            .collect()
    }

    fn load(&self) -> Result<HostWeights> {
        HostWeights::load(self.dir.path(), &self.config)
    }

    #[track_caller]
    fn refused(&self, parts: &[&str]) {
        let error = format!("{:#}", self.load().unwrap_err());
        for part in parts {
            assert!(error.contains(part), "{error:?} names {part:?}");
        }
    }
}

#[test]
fn what_is_written_is_read() {
    let mut folder = Folder::new();
    assert_eq!(folder.load().unwrap(), folder.weights);
    for (dtype, tolerance) in [(Dtype::Bf16, 1.0 / 256.0), (Dtype::F16, 1.0 / 2048.0)] {
        folder.put(SINGLE, &folder.bytes(dtype));
        let read = folder.load().unwrap();
        assert_eq!(read.dtype, dtype);
        for ((name, values), (_, original)) in read.tensors.iter().zip(&folder.weights.tensors) {
            let near = |(a, b): (&f32, &f32)| (a - b).abs() <= tolerance * b.abs() + 1e-6;
            assert!(values.iter().zip(original).all(near), "{name} as {}", dtype.name());
        }
        // Numbers that the type holds exactly come through exactly.
        folder.weights = read.clone();
        folder.put(SINGLE, &folder.bytes(dtype));
        assert_eq!(folder.load().unwrap(), read);
    }
}

#[test]
fn the_file_is_one_that_the_safetensors_crate_reads() {
    let folder = Folder::new();
    let bytes = folder.bytes(Dtype::Bf16);
    assert_eq!(u64::from_le_bytes(bytes[..8].try_into().unwrap()) % 8, 0);
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.len(), folder.config.parameters().len());
    assert_eq!(tensors.tensor("model.layers.0.self_attn.q_proj.weight").unwrap().shape(), [12, 8]);
}

#[test]
fn shards_are_read_by_their_index() {
    let folder = Folder::new();
    std::fs::remove_file(folder.dir.path().join(SINGLE)).unwrap();
    let tensors = folder.tensors();
    let (first, second) = tensors.split_at(4);
    folder.put_tensors("a.safetensors", first);
    folder.put_tensors("b.safetensors", second);
    let place = |i: usize| if i < 4 { "a.safetensors" } else { "b.safetensors" };
    let map: serde_json::Map<String, Value> =
        tensors.iter().enumerate().map(|(i, (name, ..))| ((*name).to_owned(), json!(place(i)))).collect();
    folder.put(INDEX, json!({"weight_map": map}).to_string().as_bytes());
    assert_eq!(folder.load().unwrap(), folder.weights);

    let mut wrong = map.clone();
    wrong["model.norm.weight"] = json!("a.safetensors");
    folder.put(INDEX, json!({"weight_map": wrong}).to_string().as_bytes());
    folder.refused(&["model.safetensors.index.json", "model.norm.weight", "a.safetensors"]);

    wrong["model.norm.weight"] = json!("../b.safetensors");
    folder.put(INDEX, json!({"weight_map": wrong}).to_string().as_bytes());
    folder.refused(&["outside the folder", "../b.safetensors"]);

    folder.put(INDEX, json!({"weight_map": map}).to_string().as_bytes());
    std::fs::remove_file(folder.dir.path().join("b.safetensors")).unwrap();
    folder.refused(&["b.safetensors", "No such file"]);
    folder.put(INDEX, b"{");
    folder.refused(&["parse", INDEX]);
}

#[test]
fn a_file_cut_short_is_named() {
    let folder = Folder::new();
    let whole = folder.bytes(Dtype::F32);
    for length in [0, 4, 8, 100, whole.len() / 2, whole.len() - 1] {
        folder.put(SINGLE, &whole[..length]);
        folder.refused(&["model.safetensors"]);
    }
    let mut longer = whole;
    longer.push(0);
    folder.put(SINGLE, &longer);
    folder.refused(&["model.safetensors is not a whole safetensors file"]);
    std::fs::remove_file(folder.dir.path().join(SINGLE)).unwrap();
    folder.refused(&["model.safetensors", "No such file"]);
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let folder = Folder::new();
    let name = "model.layers.0.mlp.up_proj.weight";
    let at = folder.tensors().iter().position(|(n, ..)| *n == name).unwrap();

    let mut tensors = folder.tensors();
    tensors.remove(at);
    folder.put_tensors(SINGLE, &tensors);
    folder.refused(&["lacks tensor `model.layers.0.mlp.up_proj.weight`"]);

    let mut tensors = folder.tensors();
    tensors[at].1 = vec![8, 12];
    folder.put_tensors(SINGLE, &tensors);
    folder.refused(&[name, "has shape [8, 12], config.json asks for [12, 8]"]);

    let mut tensors = folder.tensors();
    tensors.push(("model.layers.1.mlp.up_proj.weight", vec![1], &[1.0]));
    folder.put_tensors(SINGLE, &tensors);
    folder.refused(&["`model.layers.1.mlp.up_proj.weight`, which is no parameter of this model"]);

    let mut tensors = folder.tensors();
    let mut values = tensors[at].2.to_vec();
    values[5] = f32::INFINITY;
    tensors[at].2 = &values;
    folder.put_tensors(SINGLE, &tensors);
    folder.refused(&[name, "holds inf at index 5"]);
}

#[test]
fn other_types_are_refused_by_the_tensor() {
    let folder = Folder::new();
    let spec = &folder.config.parameters()[0];
    let bytes = vec![0; spec.len() * 8];
    let view = TensorView::new(safetensors::Dtype::F64, spec.shape.clone(), &bytes).unwrap();
    folder.put(SINGLE, &safetensors::serialize([(spec.name.as_str(), view)], None).unwrap());
    folder.refused(&["`model.embed_tokens.weight` is stored as F64"]);
}

#[test]
fn a_tied_head_may_stand_in_the_file_only_if_it_is_the_embedding() {
    let folder = Folder::new();
    let mut tensors = folder.tensors();
    tensors.push(("lm_head.weight", vec![20, 8], folder.weights.tensors[0].1.as_slice()));
    folder.put_tensors(SINGLE, &tensors);
    assert_eq!(folder.load().unwrap(), folder.weights);
    let other = vec![0.5; 160];
    tensors.last_mut().unwrap().2 = &other;
    folder.put_tensors(SINGLE, &tensors);
    folder.refused(&["`lm_head.weight`, which is no parameter of this model"]);
}

#[test]
fn a_tied_head_may_stand_in_another_shard_only_if_it_is_the_embedding() {
    let folder = Folder::new();
    std::fs::remove_file(folder.dir.path().join(SINGLE)).unwrap();
    let tensors = folder.tensors();
    assert_eq!(tensors[0].0, tied::EMBEDDING);
    let embedding = tensors[0].2;
    let mut other = embedding.to_vec();
    *other.last_mut().unwrap() += 1.0;
    // Files are read by name: the head before the embedding, and after it.
    for (with_head, without) in [("a.safetensors", "b.safetensors"), ("b.safetensors", "a.safetensors")] {
        let mut map: serde_json::Map<String, Value> =
            tensors.iter().map(|(name, ..)| ((*name).to_owned(), json!(without))).collect();
        map.insert(tied::HEAD.to_owned(), json!(with_head));
        folder.put(INDEX, json!({"weight_map": map}).to_string().as_bytes());
        folder.put_tensors(without, &tensors);
        folder.put_tensors(with_head, &[(tied::HEAD, vec![20, 8], embedding)]);
        assert_eq!(folder.load().unwrap(), folder.weights);
        folder.put_tensors(with_head, &[(tied::HEAD, vec![20, 8], other.as_slice())]);
        folder.refused(&[with_head, "`lm_head.weight`, which is no parameter of this model"]);
        folder.put_tensors(with_head, &[(tied::HEAD, vec![19, 8], &embedding[..152])]);
        folder.refused(&[with_head, "`lm_head.weight`, which is no parameter of this model"]);
    }
}

#[test]
fn random_weights_follow_the_seed_and_are_normal() {
    let folder = Folder::new();
    assert_eq!(HostWeights::random(&folder.config, 7), folder.weights);
    assert_ne!(HostWeights::random(&folder.config, 8), folder.weights);
    let config = Config { vocab_size: 10_000, ..folder.config };
    let weights = HostWeights::random(&config, 1);
    let embedding = weights.tensor("model.embed_tokens.weight").unwrap();
    let mean = embedding.iter().sum::<f32>() / embedding.len() as f32;
    let deviation = (embedding.iter().map(|x| x * x).sum::<f32>() / embedding.len() as f32).sqrt();
    assert!(mean.abs() < 5e-4 && (deviation - 0.02).abs() < 5e-4, "{mean} {deviation}");
    assert!(weights.tensor("model.norm.weight").unwrap().iter().all(|&x| x == 1.0));
}
