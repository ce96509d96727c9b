//! Weights on the host: read from and written to safetensors, single or sharded.
//!
//! Reading is strict: a missing, an extra, a misshaped tensor or a broken file is refused by its name.
//! The format is the one of the `safetensors` project: 8 bytes of header length (little endian), a JSON header,
//! then the tensors' bytes.

use crate::config::{Config, ParameterSpec};
use anyhow::{Context, Result, bail, ensure};
use half::{bf16, f16};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

mod write;

pub(crate) use write::write_tensors;
pub use write::{INDEX_FILE, Shards};

/// Name of the file of a model that is not sharded.
const SINGLE: &str = "model.safetensors";
/// Name of the file that says in which shard each tensor is.
const INDEX: &str = "model.safetensors.index.json";
/// Numbers converted and written at once.
const WRITE_CHUNK: usize = 1 << 16;

/// How numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 32 bits.
    F32,
    /// The upper half of 32 bits.
    Bf16,
    /// IEEE half precision.
    F16,
}

/// All parameters of a model as f32.
#[derive(Clone, Debug, PartialEq)]
pub struct HostWeights {
    /// Name and numbers, in the order of [`Config::parameters`].
    pub tensors: Vec<(String, Vec<f32>)>,
    /// How they were stored.
    pub dtype: Dtype,
}

impl Dtype {
    /// Bytes of one number.
    pub fn size_bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::Bf16 | Dtype::F16 => 2,
        }
    }

    /// Its name in `config.json` (`dtype`): `float32`, `bfloat16` or `float16`.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "float32",
            Dtype::Bf16 => "bfloat16",
            Dtype::F16 => "float16",
        }
    }

    fn safetensors_name(self) -> &'static str {
        match self {
            Dtype::F32 => "F32",
            Dtype::Bf16 => "BF16",
            Dtype::F16 => "F16",
        }
    }
}

impl HostWeights {
    /// Reads `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// A file that is absent, cut short or not safetensors; a tensor that is missing, unknown, misshaped, stored in
    /// another type than f32, bf16 or f16, or holds a number that is not finite. Each is named.
    pub fn load(dir: &Path, config: &Config) -> Result<HostWeights> {
        let mut found = Found::default();
        for (file, named) in files_of(dir)? {
            let path = dir.join(&file);
            let bytes = map(&path).with_context(|| format!("open {}", path.display()))?;
            found.take(&file, &bytes, &named, config).with_context(|| format!("read {}", path.display()))?;
        }
        found.in_order(config, &dir.display().to_string())
    }

    /// Reads the bytes of one whole safetensors file.
    ///
    /// # Errors
    /// As [`HostWeights::load`].
    pub fn from_bytes(bytes: &[u8], config: &Config) -> Result<HostWeights> {
        let mut found = Found::default();
        found.take(SINGLE, bytes, &[], config)?;
        found.in_order(config, SINGLE)
    }

    /// A new model: normal numbers of standard deviation 0.02 for matrices, 1 for norms, 0 for biases. Equal seeds
    /// give equal weights on every machine.
    pub fn random(config: &Config, seed: u64) -> HostWeights {
        let mut normal = Normal(Uniform::new(seed));
        let tensors = config
            .parameters()
            .into_iter()
            .map(|spec| {
                let values = if spec.decay {
                    (0..spec.len()).map(|_| 0.02 * normal.next()).collect()
                } else {
                    vec![if spec.name.ends_with(".bias") { 0.0 } else { 1.0 }; spec.len()]
                };
                (spec.name, values)
            })
            .collect();
        HostWeights { tensors, dtype: Dtype::F32 }
    }

    /// Writes one safetensors file in `dtype` (rounded to nearest, ties to even).
    ///
    /// # Errors
    /// What `out` answers.
    ///
    /// # Panics
    /// When the tensors are not those of `config`.
    pub fn write(&self, config: &Config, dtype: Dtype, out: &mut dyn Write) -> Result<()> {
        let parameters = config.parameters();
        assert_eq!(parameters.len(), self.tensors.len(), "weights belong to this configuration");
        for (spec, (name, _)) in parameters.iter().zip(&self.tensors) {
            assert!(spec.name == *name, "`{name}` belongs to this configuration");
        }
        write_tensors(&parameters, dtype, &mut |index| Ok(self.tensors[index].1.as_slice().into()), out)
    }

    /// The numbers of one parameter.
    pub fn tensor(&self, name: &str) -> Option<&[f32]> {
        self.tensors.iter().find(|(n, _)| n == name).map(|(_, values)| values.as_slice())
    }
}

/// Tensors read so far.
#[derive(Default)]
struct Found {
    tensors: BTreeMap<String, Vec<f32>>,
    dtypes: BTreeSet<&'static str>,
}

impl Found {
    /// Takes the tensors of one file, which must hold all of `named`.
    fn take(&mut self, file: &str, bytes: &[u8], named: &[String], config: &Config) -> Result<()> {
        let parameters = config.parameters();
        let tensors = SafeTensors::deserialize(bytes)
            .map_err(|e| anyhow::anyhow!("{file} is not a whole safetensors file: {e}"))?;
        if let Some(name) = named.iter().find(|name| tensors.tensor(name).is_err()) {
            bail!("{INDEX} places tensor `{name}` in {file}, which does not hold it");
        }
        for (name, view) in tensors.iter() {
            if is_derived(name) || (config.tied && name == "lm_head.weight" && equals_embedding(&tensors, &view)) {
                continue;
            }
            let Some(spec) = parameters.iter().find(|spec| spec.name == name) else {
                bail!("{file} holds tensor `{name}`, which is no parameter of this model");
            };
            let (dtype, values) = read_tensor(file, spec, &view)?;
            self.dtypes.insert(dtype.safetensors_name());
            ensure!(self.tensors.insert(spec.name.clone(), values).is_none(), "tensor `{name}` stands in two files");
        }
        Ok(())
    }

    fn in_order(mut self, config: &Config, place: &str) -> Result<HostWeights> {
        let mut tensors = Vec::new();
        for spec in config.parameters() {
            let values = self.tensors.remove(&spec.name);
            let values = values.with_context(|| format!("{place} lacks tensor `{}`", spec.name))?;
            tensors.push((spec.name, values));
        }
        // Mixed files are read as the widest type, so that writing them again loses nothing.
        let has = |name: &str| self.dtypes.contains(name);
        let dtype = match (has("F32"), has("BF16"), has("F16")) {
            (false, true, false) => Dtype::Bf16,
            (false, false, true) => Dtype::F16,
            _ => Dtype::F32,
        };
        Ok(HostWeights { tensors, dtype })
    }
}

/// The weight files of a folder, each with the tensors that the index places there (none without an index).
fn files_of(dir: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let index = dir.join(INDEX);
    if dir.join(SINGLE).exists() || !index.exists() {
        return Ok(BTreeMap::from([(SINGLE.to_owned(), Vec::new())]));
    }
    let text = std::fs::read_to_string(&index).with_context(|| format!("read {}", index.display()))?;
    let value: Value = serde_json::from_str(&text).with_context(|| format!("parse {}", index.display()))?;
    let map = value["weight_map"].as_object().with_context(|| format!("{INDEX} lacks `weight_map`"))?;
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, file) in map {
        let file = file.as_str().with_context(|| format!("{INDEX}: the file of `{name}` is not a string"))?;
        ensure!(!file.contains(['/', '\\']), "{INDEX}: the file of `{name}` is outside the folder: {file}");
        files.entry(file.to_owned()).or_default().push(name.clone());
    }
    ensure!(!files.is_empty(), "{INDEX} names no file");
    Ok(files)
}

#[expect(unsafe_code, reason = "weights are mapped, not copied")]
fn map(path: &Path) -> std::io::Result<memmap2::Mmap> {
    let file = std::fs::File::open(path)?;
    // SAFETY: the map is read-only and lives only while tensors are copied out of it. Files of a model folder are
    // written once and renamed into place, so nothing truncates one under the map; a foreign program that does so
    // ends the process by a signal, it cannot corrupt it.
    unsafe { memmap2::Mmap::map(&file) }
}

/// Tensors that old checkpoints carry though they follow from the configuration.
fn is_derived(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq")
}

fn equals_embedding(tensors: &SafeTensors<'_>, head: &TensorView<'_>) -> bool {
    tensors.tensor("model.embed_tokens.weight").is_ok_and(|embedding| embedding.data() == head.data())
}

fn read_tensor(file: &str, spec: &ParameterSpec, view: &TensorView<'_>) -> Result<(Dtype, Vec<f32>)> {
    let name = &spec.name;
    ensure!(
        view.shape() == spec.shape,
        "{file}: tensor `{name}` has shape {:?}, config.json asks for {:?}",
        view.shape(),
        spec.shape
    );
    read_numbers(file, name, view)
}

fn read_numbers(file: &str, name: &str, view: &TensorView<'_>) -> Result<(Dtype, Vec<f32>)> {
    let data = view.data();
    let (dtype, values): (Dtype, Vec<f32>) = match view.dtype() {
        safetensors::Dtype::F32 => {
            (Dtype::F32, data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
        }
        safetensors::Dtype::BF16 => {
            (Dtype::Bf16, data.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect())
        }
        safetensors::Dtype::F16 => {
            (Dtype::F16, data.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect())
        }
        other => bail!("{file}: tensor `{name}` is stored as {other:?}; only F32, BF16 and F16 are read"),
    };
    if let Some(at) = values.iter().position(|x| !x.is_finite()) {
        bail!("{file}: tensor `{name}` holds {} at index {at}", values[at]);
    }
    Ok((dtype, values))
}

/// Name, shape and numbers of a tensor.
pub(crate) type NamedTensor = (String, Vec<usize>, Vec<f32>);

/// Gets the name, the view and the numbers of each tensor.
type Visit<'a> = &'a mut dyn FnMut(&str, &TensorView<'_>, Vec<f32>) -> Result<()>;

/// Every tensor of one safetensors file.
pub(crate) fn read_tensors(file: &str, bytes: &[u8]) -> Result<Vec<NamedTensor>> {
    let mut tensors = Vec::new();
    visit_bytes(file, bytes, &mut |name, view, values| {
        tensors.push((name.to_owned(), view.shape().to_vec(), values));
        Ok(())
    })?;
    Ok(tensors)
}

/// Name and numbers of every tensor of one safetensors file, one at a time.
pub(crate) fn each_tensor(path: &Path, work: &mut dyn FnMut(&str, Vec<f32>) -> Result<()>) -> Result<()> {
    visit(path, &mut |name, _, values| work(name, values))
}

fn visit(path: &Path, work: Visit<'_>) -> Result<()> {
    let bytes = map(path).with_context(|| format!("open {}", path.display()))?;
    let file = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    visit_bytes(&file, &bytes, work)
}

fn visit_bytes(file: &str, bytes: &[u8], work: Visit<'_>) -> Result<()> {
    let tensors =
        SafeTensors::deserialize(bytes).map_err(|e| anyhow::anyhow!("{file} is not a whole safetensors file: {e}"))?;
    for (name, view) in tensors.iter() {
        let (_, values) = read_numbers(file, name, &view)?;
        work(name, &view, values)?;
    }
    Ok(())
}

/// Normal numbers by the Box-Muller transform.
struct Normal(Uniform);

/// Numbers in [0, 1) from SplitMix64.
pub(crate) struct Uniform {
    state: u64,
}

impl Normal {
    fn next(&mut self) -> f32 {
        // 1 - u is in (0, 1], so the logarithm is finite.
        let radius = (-2.0 * (1.0 - self.0.next()).ln()).sqrt();
        (radius * (2.0 * std::f64::consts::PI * self.0.next()).cos()) as f32
    }
}

impl Uniform {
    pub(crate) fn new(seed: u64) -> Uniform {
        Uniform { state: seed }
    }

    pub(crate) fn next(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests;
