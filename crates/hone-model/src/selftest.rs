//! The numeric suite on this machine, with what PyTorch computes inside the program, and a short benchmark: what to run on
//! a new machine or device before it is trusted.
//!
//! Seven tiny random models (`testdata/reference`, made by `scripts/make_reference.py`) are trained for three steps, in
//! full and by LoRA, on a packed and masked batch; every later number depends on every gradient. Then each decodes: PyTorch's greedy
//! answers, and with weights in every format what a whole pass computes.

pub(crate) mod decoding;

use crate::batch::Batch;
use crate::config::Config;
use crate::decoder::{Decoder, DecoderOptions};
use crate::device::{self, WeightFormat};
use crate::lora::Adapter;
use crate::method::Method;
use crate::train::{AdamW, Trainer, TrainerOptions};
use crate::weights::HostWeights;
use anyhow::{Context, Result};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::time::Instant;

/// One comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// The model and the number.
    pub name: String,
    /// What this machine computes.
    pub found: f64,
    /// What PyTorch computed.
    pub expected: f64,
    /// Largest allowed distance, relative to what is expected.
    pub tolerance: f64,
}

/// What the benchmark measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Benchmark {
    /// Products of 1024 × 1024 matrices, in 10⁹ operations per second.
    pub product_gflops: f64,
    /// Tokens per second of full training steps of a model of Qwen3's shape with 3.7 M parameters, 16 rows of 128 tokens.
    pub train_tokens_per_s: f64,
    /// 6 · parameters · tokens over the time and the speed of products.
    pub share_of_products: f64,
    /// Tokens per second of one answer of that model, weights in bf16, behind 64 to 256 tokens.
    pub decode_tokens_per_s: f64,
}

impl Check {
    /// Whether the numbers agree.
    #[must_use]
    pub fn passed(&self) -> bool {
        (self.found - self.expected).abs() <= self.tolerance * self.expected.abs()
    }
}

/// A recorded model. Families that differ in their positions only share the weights.
struct Recorded {
    name: &'static str,
    config: &'static str,
    weights: &'static [u8],
    adapter_config: &'static str,
    adapter: &'static [u8],
    expect: &'static str,
}

static LLAMA: &[u8] = include_bytes!("../testdata/reference/llama_tied/model/model.safetensors");
static LLAMA3: &[u8] = include_bytes!("../testdata/reference/llama3_rope/model/model.safetensors");
static QWEN2: &[u8] = include_bytes!("../testdata/reference/qwen2/model/model.safetensors");
static QWEN3: &[u8] = include_bytes!("../testdata/reference/qwen3/model/model.safetensors");
static QWEN3_UNTIED: &[u8] = include_bytes!("../testdata/reference/qwen3_untied/model/model.safetensors");
static BATCH: &[u8] = include_bytes!("../testdata/reference/qwen3/batch.safetensors");

macro_rules! recorded {
    ($name:literal, $weights:expr) => {
        Recorded {
            name: $name,
            config: include_str!(concat!("../testdata/reference/", $name, "/model/config.json")),
            weights: $weights,
            adapter_config: include_str!(concat!("../testdata/reference/", $name, "/adapter/adapter_config.json")),
            adapter: include_bytes!(concat!("../testdata/reference/", $name, "/adapter/adapter_model.safetensors")),
            expect: include_str!(concat!("../testdata/reference/", $name, "/expect.json")),
        }
    };
}

fn all() -> [Recorded; 7] {
    [
        recorded!("llama_tied", LLAMA),
        recorded!("llama_linear_rope", LLAMA),
        recorded!("llama3_rope", LLAMA3),
        recorded!("qwen2", QWEN2),
        recorded!("qwen3", QWEN3),
        recorded!("qwen3_yarn_rope", QWEN3),
        recorded!("qwen3_untied", QWEN3_UNTIED),
    ]
}

/// How many times the tolerance of f32 a device is allowed: `cuda` rounds operands of products to the 8 bits of bf16.
fn leniency(device: &str) -> f64 {
    if device == "cuda" { 300.0 } else { 1.0 }
}

/// Runs every comparison on a device; `report` gets each as it is made. The tolerance is 1e-4 for losses, 1e-3 for gradient
/// norms; on `cuda`, 3e-2 and 3e-1 (three steps with a learning rate of 0.01, where differences grow).
///
/// # Errors
/// The device cannot be opened, or a fault of it.
pub fn suite(device: &str, threads: usize, report: &mut dyn FnMut(&Check)) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    let batch = batch()?;
    for recorded in all() {
        let run = Run::new(&recorded, device, threads, &batch)?;
        for check in run.checks().with_context(|| format!("compute {}", recorded.name))? {
            report(&check);
            checks.push(check);
        }
    }
    Ok(checks)
}

/// One recorded model on one device.
struct Run<'a> {
    name: &'static str,
    device: &'a str,
    threads: usize,
    batch: &'a Batch,
    config: Config,
    weights: HostWeights,
    adapter: Adapter,
    expect: Value,
}

impl<'a> Run<'a> {
    fn new(recorded: &Recorded, device: &'a str, threads: usize, batch: &'a Batch) -> Result<Run<'a>> {
        let config = Config::from_json(&serde_json::from_str(recorded.config)?)?;
        Ok(Run {
            name: recorded.name,
            device,
            threads,
            batch,
            weights: HostWeights::from_bytes(recorded.weights, &config)?,
            adapter: Adapter::from_bytes(recorded.adapter_config, recorded.adapter, &config)?,
            expect: serde_json::from_str(recorded.expect)?,
            config,
        })
    }

    fn checks(&self) -> Result<Vec<Check>> {
        let mut checks = Vec::new();
        let mut add = |what: String, found: f64, expected: f64, tolerance: f64| {
            let tolerance = tolerance * leniency(self.device);
            checks.push(Check { name: format!("{}: {what}", self.name), found, expected, tolerance });
        };
        let mut full = self.trainer(Method::full())?;
        for step in 0..3 {
            let (loss, norm) = self.step(&mut full, step)?;
            add(format!("loss of step {}", step + 1), loss, self.number("losses", step)?, 1e-4);
            add(format!("gradient norm of step {}", step + 1), norm, self.number("grad_norms", step)?, 1e-3);
        }
        let after = self.expect["loss_after"].as_f64().context("find `loss_after`")?;
        add("loss after three steps".to_owned(), self.loss(&mut full)?, after, 1e-4);
        let mut lora = self.trainer(Method { lora: Some(self.adapter.lora.clone()), ..Method::full() })?;
        lora.load_adapter(&self.adapter)?;
        for step in 0..3 {
            let (loss, _) = self.step(&mut lora, step)?;
            add(format!("LoRA loss of step {}", step + 1), loss, self.number("lora_losses", step)?, 1e-4);
        }
        let mut again = self.trainer(Method { recompute: true, ..Method::full() })?;
        let mut fresh = self.trainer(Method::full())?;
        self.step(&mut again, 0)?;
        self.step(&mut fresh, 0)?;
        let same = again.trained()? == fresh.trained()?;
        add("recomputed layers give the same bits (1 = yes)".to_owned(), f64::from(u8::from(same)), 1.0, 0.0);
        add("share of the greedy tokens with a clear margin".to_owned(), self.greedy()?, 1.0, 0.0);
        for format in WeightFormat::ALL {
            let what = format!("1 + distance of decoding from a whole pass, weights in {}", format.name());
            add(what, 1.0 + self.distance(format)?, 1.0, 1e-4);
        }
        Ok(checks)
    }

    fn trainer(&self, method: Method) -> Result<Trainer> {
        let options = TrainerOptions { method, ..TrainerOptions::full(self.batch.ids.len(), 64) };
        Trainer::new(device::open(self.device, self.threads)?, &self.config, &self.weights, &options)
    }

    fn number(&self, key: &str, index: usize) -> Result<f64> {
        self.expect[key][index].as_f64().with_context(|| format!("find `{key}` of step {index}"))
    }

    fn loss(&self, trainer: &mut Trainer) -> Result<f64> {
        let trained = self.batch.targets.iter().filter(|&&target| target >= 0).count();
        trainer.zero_grad();
        let stats = trainer.accumulate(self.batch, 1.0 / trained as f32)?;
        Ok(stats.loss_sum / stats.trained_tokens as f64)
    }

    /// One step as PyTorch made it; the loss and the gradient norm before it.
    fn step(&self, trainer: &mut Trainer, index: usize) -> Result<(f64, f64)> {
        let loss = self.loss(trainer)?;
        let norm = trainer.grad_norm()?;
        trainer.adamw_step(&AdamW {
            lr: 1e-2,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.1,
            step: index as u64 + 1,
            grad_scale: (1.0 / (norm + 1e-6)).min(1.0),
        })?;
        Ok((loss, norm))
    }
}

/// The recorded batch: rows one after the other, labels moved to the token that predicts them.
fn batch() -> Result<Batch> {
    let tensors = SafeTensors::deserialize(BATCH)?;
    let numbers = |name: &str| -> Result<Vec<i64>> {
        let bytes = tensors.tensor(name)?.data().to_vec();
        Ok(bytes
            .chunks_exact(8)
            .map(|b| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
            .collect())
    };
    let row_length = tensors.tensor("input_ids")?.shape()[1];
    let (ids, labels, segment_ids) = (numbers("input_ids")?, numbers("labels")?, numbers("segment_ids")?);
    let mut batch = Batch::default();
    for (i, id) in ids.into_iter().enumerate() {
        batch.ids.push(u32::try_from(id)?);
        let ends_row = (i + 1) % row_length == 0;
        batch.targets.push(if ends_row || labels[i + 1] < 0 { -1 } else { i32::try_from(labels[i + 1])? });
        match batch.segments.last_mut() {
            Some(length) if i % row_length != 0 && segment_ids[i] == segment_ids[i - 1] => *length += 1,
            _ => batch.segments.push(1),
        }
    }
    Ok(batch)
}

/// Measures products, training steps and decoding for about `seconds` in all.
///
/// # Errors
/// The device cannot be opened, or a fault of it.
pub fn benchmark(device_name: &str, threads: usize, seconds: f64) -> Result<Benchmark> {
    let product_gflops = product_gflops(device_name, threads, seconds / 4.0)?;
    let config = Config::from_json(&json!({
        "model_type": "qwen3", "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 3,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32, "max_position_embeddings": 1024,
        "tie_word_embeddings": true, "rope_theta": 10000.0
    }))?;
    let (rows, length) = (16, 128);
    let ids: Vec<u32> = (0..rows * length).map(|i| (i * 7919 % 4096) as u32).collect();
    let targets = ids.iter().skip(1).map(|&id| id as i32).chain([-1]).collect();
    let batch = Batch { targets, segments: vec![length; rows], ids };
    let options = TrainerOptions::full(rows * length, length);
    let open = device::open(device_name, threads)?;
    let mut trainer = Trainer::new(open, &config, &HostWeights::random(&config, 1), &options)?;
    let begun = Instant::now();
    let mut fastest = f64::INFINITY;
    for step in 1.. {
        let started = Instant::now();
        trainer.zero_grad();
        trainer.accumulate(&batch, 1.0 / (rows * length) as f32)?;
        trainer.grad_norm()?;
        let (lr, eps, weight_decay) = (1e-4, 1e-8, 0.01);
        trainer.adamw_step(&AdamW { lr, beta1: 0.9, beta2: 0.999, eps, weight_decay, step, grad_scale: 1.0 })?;
        fastest = fastest.min(started.elapsed().as_secs_f64());
        if begun.elapsed().as_secs_f64() > seconds * 0.5 {
            break;
        }
    }
    let train_tokens_per_s = (rows * length) as f64 / fastest;
    let flops = 6.0 * config.num_parameters() as f64 * train_tokens_per_s;
    let share_of_products = flops / (product_gflops * 1e9);
    let decode_tokens_per_s = decode_tokens_per_s(&config, device_name, threads, seconds / 4.0)?;
    Ok(Benchmark { product_gflops, train_tokens_per_s, share_of_products, decode_tokens_per_s })
}

/// Tokens per second of the fastest of several answers.
fn decode_tokens_per_s(config: &Config, device_name: &str, threads: usize, seconds: f64) -> Result<f64> {
    const PROMPT: usize = 64;
    const END: usize = 256;
    let options = DecoderOptions { slots: 1, max_context: END, format: WeightFormat::Bf16 };
    let weights = HostWeights::random(config, 1);
    let mut decoder = Decoder::new(device::open(device_name, threads)?, config, &weights, &options)?;
    let ids: Vec<u32> = (0..END).map(|i| (i * 7919 % config.vocab_size) as u32).collect();
    let begun = Instant::now();
    let mut fastest = f64::INFINITY;
    while fastest.is_infinite() || begun.elapsed().as_secs_f64() < seconds {
        decoder.reset(0);
        decoder.prefill(0, &ids[..PROMPT])?;
        let started = Instant::now();
        for &id in &ids[PROMPT..] {
            decoder.decode(&[(0, id)])?;
        }
        fastest = fastest.min(started.elapsed().as_secs_f64());
    }
    Ok((END - PROMPT) as f64 / fastest)
}

/// 10⁹ operations per second of the fastest product of 1024 × 1024 matrices that fits into `seconds`.
///
/// # Errors
/// As for [`benchmark`].
pub fn product_gflops(device_name: &str, threads: usize, seconds: f64) -> Result<f64> {
    const N: usize = 1024;
    let mut device = device::open(device_name, threads)?;
    device.reserve(&device::Room { len: 3 * N * N, largest_operand: N * N, second_operand: N * N })?;
    let span = |i: usize| device::Span::f32(i * N * N, N * N);
    device.fill(span(1), 0.5);
    device.fill(span(2), 0.25);
    let begun = Instant::now();
    let mut fastest = f64::INFINITY;
    while fastest.is_infinite() || begun.elapsed().as_secs_f64() < seconds {
        let started = Instant::now();
        device.matmul(span(0).matrix(N), span(1).matrix(N), span(2).matrix(N), false);
        device.finish()?;
        fastest = fastest.min(started.elapsed().as_secs_f64());
    }
    Ok(2.0 * (N * N * N) as f64 / fastest / 1e9)
}

#[cfg(test)]
mod tests;
