//! Writing safetensors, tensor by tensor: no more than one tensor is held beside the model, and large models are cut
//! into shards with the index that `transformers` reads.

use super::{Dtype, INDEX, SINGLE, WRITE_CHUNK};
use crate::config::{Config, ParameterSpec};
use anyhow::Result;
use half::{bf16, f16};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::io::Write;

/// The weight files of a model: which parameters each holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shards {
    /// File name, and the indices of [`Config::parameters`] in it.
    pub files: Vec<(String, Vec<usize>)>,
    /// Content of `model.safetensors.index.json`; none for one file.
    pub index: Option<Value>,
}

/// Name of the index file of a sharded model.
pub const INDEX_FILE: &str = INDEX;

impl Shards {
    /// Cuts the parameters, in their order, into files of at most `max_bytes` (0 = no limit) each; a single tensor above
    /// it has a file of its own. Those for which `changes` is false stand in files of their own, the first ones: from one
    /// checkpoint to the next these keep their bytes, so nobody stores or sends them again.
    #[must_use]
    pub fn plan(config: &Config, dtype: Dtype, max_bytes: u64, changes: &dyn Fn(&str) -> bool) -> Shards {
        let parameters = config.parameters();
        let bytes = |spec: &ParameterSpec| (spec.len() * dtype.size_bytes()) as u64;
        let (changed, same): (Vec<usize>, Vec<usize>) =
            (0..parameters.len()).partition(|i| changes(&parameters[*i].name));
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for list in [same, changed] {
            let mut filled = u64::MAX;
            for i in list {
                let size = bytes(&parameters[i]);
                match groups.last_mut() {
                    Some(group) if filled != u64::MAX && (max_bytes == 0 || filled + size <= max_bytes) => {
                        group.push(i)
                    }
                    _ => {
                        groups.push(vec![i]);
                        filled = 0;
                    }
                }
                filled += size;
            }
        }
        if groups.len() == 1 {
            return Shards { files: vec![(SINGLE.to_owned(), groups.remove(0))], index: None };
        }
        let count = groups.len();
        let name = |i: usize| format!("model-{:05}-of-{count:05}.safetensors", i + 1);
        let files: Vec<_> = groups.into_iter().enumerate().map(|(i, group)| (name(i), group)).collect();
        let mut map = Map::new();
        for (file, group) in &files {
            for i in group {
                map.insert(parameters[*i].name.clone(), Value::String(file.clone()));
            }
        }
        let total: u64 = parameters.iter().map(bytes).sum();
        Shards { files, index: Some(json!({"metadata": {"total_size": total}, "weight_map": map})) }
    }
}

/// Writes one safetensors file in `dtype` (rounded to nearest, ties to even); `values` gives the numbers of each of
/// `specs`.
///
/// # Errors
/// What `values` or `out` answer.
///
/// # Panics
/// When a tensor has another length than its shape.
pub(crate) fn write_tensors<'a>(
    specs: &[ParameterSpec],
    dtype: Dtype,
    values: &mut dyn FnMut(usize) -> Result<Cow<'a, [f32]>>,
    out: &mut dyn Write,
) -> Result<()> {
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut offset = 0;
    for spec in specs {
        let end = offset + spec.len() * dtype.size_bytes();
        let entry = json!({"dtype": dtype.safetensors_name(), "shape": spec.shape, "data_offsets": [offset, end]});
        header.insert(spec.name.clone(), entry);
        offset = end;
    }
    let mut header = serde_json::to_vec(&Value::Object(header))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    let mut bytes = Vec::with_capacity(WRITE_CHUNK * dtype.size_bytes());
    for (index, spec) in specs.iter().enumerate() {
        let values = values(index)?;
        assert_eq!(values.len(), spec.len(), "`{}` has the length of its shape", spec.name);
        for chunk in values.chunks(WRITE_CHUNK) {
            bytes.clear();
            match dtype {
                Dtype::F32 => chunk.iter().for_each(|x| bytes.extend(x.to_le_bytes())),
                Dtype::Bf16 => chunk.iter().for_each(|x| bytes.extend(bf16::from_f32(*x).to_le_bytes())),
                Dtype::F16 => chunk.iter().for_each(|x| bytes.extend(f16::from_f32(*x).to_le_bytes())),
            }
            out.write_all(&bytes)?;
        }
    }
    Ok(())
}
