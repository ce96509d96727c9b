//! `peft`'s files: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Reading is strict. A key that would change the function in a way that is not computed here (DoRA, rank-stabilised
//! scaling, per-module ranks, other trained modules, …) is refused by its name; so is an unknown key unless it is off.

use super::{Adapter, LoraConfig, PREFIX, Target, known_targets};
use crate::config::{Config, is_off};
use crate::weights::{Dtype, read_tensors, write_tensors};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// Name of the configuration file.
const CONFIG: &str = "adapter_config.json";
/// Name of the file with the numbers.
const MODEL: &str = "adapter_model.safetensors";

/// Keys that may have any value: they describe the file, or matter only before training.
const ANY_VALUE: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "init_lora_weights",
    "loftq_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
];
/// Keys that are read.
const READ: &[&str] = &["peft_type", "r", "lora_alpha", "lora_dropout", "target_modules"];

impl Adapter {
    /// Reads a folder that `peft` or hone wrote.
    ///
    /// # Errors
    /// A file that is absent or broken; a configuration that asks for more than plain LoRA on the products of every
    /// layer; a tensor that is missing, unknown or misshaped. Each is named.
    pub fn load(dir: &Path, config: &Config) -> Result<Adapter> {
        let path = dir.join(CONFIG);
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let path = dir.join(MODEL);
        let bytes = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        Adapter::from_bytes(&text, &bytes, config).with_context(|| format!("use the adapter in {}", dir.display()))
    }

    /// Reads the text of `adapter_config.json` and the bytes of `adapter_model.safetensors`.
    ///
    /// # Errors
    /// As [`Adapter::load`].
    pub fn from_bytes(text: &str, bytes: &[u8], config: &Config) -> Result<Adapter> {
        let value: Value = serde_json::from_str(text).with_context(|| format!("parse {CONFIG}"))?;
        let object = value.as_object().with_context(|| format!("{CONFIG} is not a JSON object"))?;
        refuse_unsupported(object)?;
        let mut found = BTreeMap::new();
        for (name, shape, values) in read_tensors(MODEL, bytes)? {
            found.insert(name, (shape, values));
        }
        let lora = lora_config(object, targets(object, found.keys().map(String::as_str))?)?;
        lora.check(config)?;
        let mut tensors = Vec::new();
        for spec in lora.parameters(config) {
            let (shape, values) = found.remove(&spec.name).with_context(|| format!("{MODEL} lacks `{}`", spec.name))?;
            ensure!(
                shape == spec.shape,
                "{MODEL}: `{}` has shape {shape:?}, rank and model ask for {:?}",
                spec.name,
                spec.shape
            );
            tensors.push((spec.name, values));
        }
        if let Some(name) = found.keys().next() {
            bail!("{MODEL} holds `{name}`, which is no matrix of this adapter");
        }
        Ok(Adapter { lora, tensors })
    }

    /// Content of `adapter_config.json`. `base` is where the adapted model lies, for `base_model_name_or_path`.
    #[must_use]
    pub fn config_json(&self, base: &str) -> Value {
        let alpha = self.lora.alpha;
        json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": self.lora.rank,
            "lora_alpha": if alpha.fract() == 0.0 { json!(alpha as u64) } else { json!(alpha) },
            "lora_dropout": self.lora.dropout,
            "target_modules": self.lora.targets.iter().map(|target| target.name()).collect::<Vec<_>>(),
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "modules_to_save": null,
            "use_dora": false,
            "use_rslora": false,
        })
    }

    /// Writes `adapter_model.safetensors`, in f32.
    ///
    /// # Errors
    /// What `out` answers.
    ///
    /// # Panics
    /// When the adapter is not one of `config`.
    pub fn write(&self, config: &Config, out: &mut dyn Write) -> anyhow::Result<()> {
        let specs = self.lora.parameters(config);
        assert_eq!(specs.len(), self.tensors.len(), "the adapter belongs to this configuration");
        write_tensors(&specs, Dtype::F32, &mut |index| Ok(self.tensors[index].1.as_slice().into()), out)
    }
}

fn lora_config(object: &Map<String, Value>, targets: Vec<Target>) -> Result<LoraConfig> {
    let number = |key: &str| object.get(key).and_then(Value::as_f64);
    let rank = object.get("r").and_then(Value::as_u64).with_context(|| format!("{CONFIG} lacks `r`"))?;
    Ok(LoraConfig {
        rank: usize::try_from(rank).unwrap_or(usize::MAX),
        alpha: number("lora_alpha").with_context(|| format!("{CONFIG} lacks `lora_alpha`"))?,
        dropout: number("lora_dropout").unwrap_or(0.0),
        targets,
    })
}

fn refuse_unsupported(object: &Map<String, Value>) -> Result<()> {
    let peft_type = object.get("peft_type").and_then(Value::as_str).unwrap_or_default();
    ensure!(peft_type == "LORA", "{CONFIG}: `peft_type` is {peft_type:?}, only \"LORA\" is supported");
    for (key, value) in object {
        let known = ANY_VALUE.contains(&key.as_str()) || READ.contains(&key.as_str());
        let is_default = key == "bias" && value == "none";
        if !known && !is_default && !is_off(value) {
            let shown: String = value.to_string().chars().take(60).collect();
            bail!("{CONFIG}: `{key}` = {shown} is not supported (only plain LoRA on {})", known_targets());
        }
    }
    Ok(())
}

/// Which products the tensors adapt. A list in `target_modules` must name the same (a pattern is answered by the
/// tensors).
fn targets<'a>(object: &Map<String, Value>, names: impl Iterator<Item = &'a str>) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for name in names {
        let known = Target::ALL.into_iter().find(|target| name.contains(&format!(".{}.lora_", target.name())));
        let Some(target) = known.filter(|_| name.starts_with(PREFIX)) else {
            bail!("{MODEL} holds `{name}`: adapters stand beside {} only", known_targets());
        };
        targets.push(target);
    }
    targets.sort_unstable();
    targets.dedup();
    if let Some(list) = object.get("target_modules").and_then(Value::as_array) {
        let listed: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
        let listed = Target::parse_list(&listed).with_context(|| format!("use `target_modules` of {CONFIG}"))?;
        ensure!(listed == targets, "{CONFIG} and {MODEL} name different targets");
    }
    Ok(targets)
}
