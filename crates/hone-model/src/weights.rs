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

mod tied;
mod write;

pub(crate) use write::write_tensors;
pub use write::{INDEX_FILE, Shards};

/// Name of the file of a model that is not sharded.
const SINGLE: &str = "model.safetensors";
/// Name of the file that says in which shard each tensor is.
const INDEX: &str = "model.safetensors.index.json";
/// Numbers converted and written at once.
const WRITE_CHUNK: usize = 1 << 16;
/// Numbers converted and given on at once.
const READ_CHUNK: usize = 1 << 16;

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

    fn of(stored: safetensors::Dtype) -> Option<Dtype> {
        match stored {
            safetensors::Dtype::F32 => Some(Dtype::F32),
            safetensors::Dtype::BF16 => Some(Dtype::Bf16),
            safetensors::Dtype::F16 => Some(Dtype::F16),
            _ => None,
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
        let mut all = Collected::new(config);
        let dtype = read_parameters(dir, config, &mut |index, numbers| all.take(index, numbers))?;
        Ok(all.weights(dtype))
    }

    /// Reads the bytes of one whole safetensors file.
    ///
    /// # Errors
    /// As [`HostWeights::load`].
    pub fn from_bytes(bytes: &[u8], config: &Config) -> Result<HostWeights> {
        let mut all = Collected::new(config);
        let mut found = Found::new(config);
        found.take(SINGLE, bytes, &[], &mut |index, numbers| all.take(index, numbers), &mut |_| ())?;
        Ok(all.weights(found.complete(SINGLE)?))
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

/// Gets the index of a parameter in [`Config::parameters`] and its next numbers, in order.
pub(crate) type TakeNumbers<'a> = &'a mut dyn FnMut(usize, &[f32]) -> Result<()>;

/// Reads a folder as [`HostWeights::load`] does, a few numbers at a time: no tensor is ever in memory as a whole, nor the
/// file. Every parameter has come when this returns; answers how they were stored.
///
/// # Errors
/// As there, and what `work` answers.
pub(crate) fn read_parameters(dir: &Path, config: &Config, work: TakeNumbers<'_>) -> Result<Dtype> {
    let mut found = Found::new(config);
    for (file, named) in files_of(dir)? {
        let path = dir.join(&file);
        let map = map(&path).with_context(|| format!("open {}", path.display()))?;
        let mut done = |bytes: &[u8]| forget(&map, bytes);
        found.take(&file, &map, &named, work, &mut done).with_context(|| format!("read {}", path.display()))?;
    }
    let dtype = found.complete(&dir.display().to_string())?;
    for file in &found.heads {
        let is_equal = tied::is_embedding_of_other_file(dir, file, &found.embedding)?;
        ensure!(is_equal, no_parameter(file, tied::HEAD));
    }
    Ok(dtype)
}

/// Reads these tensors of a folder, a few numbers at a time; `work` gets the index in `specs`.
///
/// # Errors
/// A tensor that is missing or misshaped, and as [`read_parameters`].
pub(crate) fn read_tensors_of(dir: &Path, specs: &[ParameterSpec], work: TakeNumbers<'_>) -> Result<()> {
    let mut is_read = vec![false; specs.len()];
    for file in files_of(dir)?.into_keys() {
        let path = dir.join(&file);
        let map = map(&path).with_context(|| format!("open {}", path.display()))?;
        let tensors = parse(&file, &map)?;
        for (index, spec) in specs.iter().enumerate() {
            let Ok(view) = tensors.tensor(&spec.name) else { continue };
            ensure!(view.shape() == spec.shape, "{file}: tensor `{}` has shape {:?}", spec.name, view.shape());
            read_numbers(&file, &spec.name, &view, &mut |numbers, bytes| {
                forget(&map, bytes);
                work(index, numbers)
            })?;
            is_read[index] = true;
        }
    }
    match is_read.iter().position(|is_read| !is_read) {
        Some(missing) => bail!("{} lacks tensor `{}`", dir.display(), specs[missing].name),
        None => Ok(()),
    }
}

fn parse<'a>(file: &str, bytes: &'a [u8]) -> Result<SafeTensors<'a>> {
    SafeTensors::deserialize(bytes).map_err(|e| anyhow::anyhow!("{file} is not a whole safetensors file: {e}"))
}

/// How the weights of a folder are stored, read from the headers of its files alone; the widest type where they differ.
///
/// # Errors
/// A file that is absent, cut short or not safetensors, or has no tensor of a type that is read.
pub(crate) fn stored_dtype(dir: &Path) -> Result<Dtype> {
    let mut widest = None;
    for file in files_of(dir)?.into_keys() {
        let path = dir.join(&file);
        let map = map(&path).with_context(|| format!("open {}", path.display()))?;
        let tensors = parse(&file, &map)?;
        for (_, view) in tensors.iter() {
            let Some(dtype) = Dtype::of(view.dtype()) else { continue };
            widest = match widest {
                None => Some(dtype),
                Some(before) if before == dtype => widest,
                Some(_) => Some(Dtype::F32),
            };
        }
    }
    widest.with_context(|| format!("{} holds no weights", dir.display()))
}

/// Parameters read as a whole.
struct Collected {
    tensors: Vec<(String, Vec<f32>)>,
}

impl Collected {
    fn new(config: &Config) -> Collected {
        let empty = |spec: ParameterSpec| (spec.name.clone(), Vec::with_capacity(spec.len()));
        Collected { tensors: config.parameters().into_iter().map(empty).collect() }
    }

    fn take(&mut self, index: usize, numbers: &[f32]) -> Result<()> {
        self.tensors[index].1.extend_from_slice(numbers);
        Ok(())
    }

    fn weights(self, dtype: Dtype) -> HostWeights {
        HostWeights { tensors: self.tensors, dtype }
    }
}

/// What was read so far.
struct Found<'a> {
    config: &'a Config,
    parameters: Vec<ParameterSpec>,
    /// By parameter.
    is_read: Vec<bool>,
    dtypes: BTreeSet<&'static str>,
    /// The file of the embedding, once it was read.
    embedding: String,
    /// Files with a head of a tied model, but not the embedding that it must be equal to.
    heads: Vec<String>,
}

impl<'a> Found<'a> {
    fn new(config: &'a Config) -> Found<'a> {
        let parameters = config.parameters();
        Found {
            config,
            is_read: vec![false; parameters.len()],
            parameters,
            dtypes: BTreeSet::new(),
            embedding: String::new(),
            heads: Vec::new(),
        }
    }

    /// Takes the tensors of one file, which must hold all of `named`; `done` gets bytes that are not read again.
    fn take(
        &mut self,
        file: &str,
        bytes: &[u8],
        named: &[String],
        work: TakeNumbers<'_>,
        done: &mut dyn FnMut(&[u8]),
    ) -> Result<()> {
        let tensors = parse(file, bytes)?;
        if let Some(name) = named.iter().find(|name| tensors.tensor(name).is_err()) {
            bail!("{INDEX} places tensor `{name}` in {file}, which does not hold it");
        }
        for (name, view) in tensors.iter() {
            if is_derived(name) {
                continue;
            }
            if self.config.tied && name == tied::HEAD {
                match tied::is_embedding(&tensors, &view) {
                    Some(is_equal) => ensure!(is_equal, no_parameter(file, name)),
                    None => self.heads.push(file.to_owned()),
                }
                continue;
            }
            let Some(index) = self.parameters.iter().position(|spec| spec.name == name) else {
                bail!(no_parameter(file, name));
            };
            if name == tied::EMBEDDING {
                file.clone_into(&mut self.embedding);
            }
            let spec = &self.parameters[index];
            ensure!(
                view.shape() == spec.shape,
                "{file}: tensor `{name}` has shape {:?}, config.json asks for {:?}",
                view.shape(),
                spec.shape
            );
            ensure!(!self.is_read[index], "tensor `{name}` stands in two files");
            let dtype = read_numbers(file, name, &view, &mut |numbers, bytes| {
                work(index, numbers)?;
                done(bytes);
                Ok(())
            })?;
            self.dtypes.insert(dtype.safetensors_name());
            self.is_read[index] = true;
        }
        Ok(())
    }

    /// How the parameters were stored, all of which must have been read.
    fn complete(&self, place: &str) -> Result<Dtype> {
        if let Some(missing) = self.is_read.iter().position(|is_read| !is_read) {
            bail!("{place} lacks tensor `{}`", self.parameters[missing].name);
        }
        // Mixed files are read as the widest type, so that writing them again loses nothing.
        let has = |name: &str| self.dtypes.contains(name);
        Ok(match (has("F32"), has("BF16"), has("F16")) {
            (false, true, false) => Dtype::Bf16,
            (false, false, true) => Dtype::F16,
            _ => Dtype::F32,
        })
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

/// Lets the system take back the pages of these bytes of the map, and of as many before them, which come back when a
/// neighbour is read: so reading a file takes no memory of its size.
#[expect(unsafe_code, reason = "weights are mapped, not copied")]
fn forget(map: &memmap2::Mmap, bytes: &[u8]) {
    let offset = bytes.as_ptr().addr() - map.as_ptr().addr();
    let (first, len) = (offset.saturating_sub(bytes.len()), bytes.len() + offset.min(bytes.len()));
    // SAFETY: the map is of a file and read-only: what is read again comes from the file again. Only advice: its failure
    // costs nothing but memory.
    #[cfg(target_os = "linux")]
    let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, first, len) };
    #[cfg(not(target_os = "linux"))]
    let _ = (first, len);
}

/// Tensors that old checkpoints carry though they follow from the configuration.
fn is_derived(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq")
}

fn no_parameter(file: &str, name: &str) -> String {
    format!("{file} holds tensor `{name}`, which is no parameter of this model")
}

/// Gets the next numbers of a tensor, and the bytes that they were read from.
type TakeRead<'a> = &'a mut dyn FnMut(&[f32], &[u8]) -> Result<()>;

/// Gives the numbers of a tensor to `work`, some at a time.
fn read_numbers(file: &str, name: &str, view: &TensorView<'_>, work: TakeRead<'_>) -> Result<Dtype> {
    let Some(dtype) = Dtype::of(view.dtype()) else {
        bail!("{file}: tensor `{name}` is stored as {:?}; only F32, BF16 and F16 are read", view.dtype());
    };
    let mut values = Vec::with_capacity(READ_CHUNK);
    for (chunk, bytes) in view.data().chunks(READ_CHUNK * dtype.size_bytes()).enumerate() {
        values.clear();
        match dtype {
            Dtype::F32 => values.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
            Dtype::Bf16 => values.extend(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
            Dtype::F16 => values.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
        }
        if !are_finite(&values) {
            let at = values.iter().position(|x| !x.is_finite()).unwrap_or(0);
            bail!("{file}: tensor `{name}` holds {} at index {}", values[at], chunk * READ_CHUNK + at);
        }
        work(&values, bytes)?;
    }
    Ok(dtype)
}

/// Looks at all numbers, which is faster than stopping at the first that is not finite.
fn are_finite(values: &[f32]) -> bool {
    values.iter().fold(0, |most, x| x.abs().to_bits().max(most)) < f32::INFINITY.to_bits()
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
    let tensors = parse(file, bytes)?;
    for (name, view) in tensors.iter() {
        let mut values = Vec::with_capacity(view.shape().iter().product());
        read_numbers(file, name, &view, &mut |numbers, _| {
            values.extend_from_slice(numbers);
            Ok(())
        })?;
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
