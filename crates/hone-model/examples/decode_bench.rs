//! Times decoding, one token of each of several sequences at a time, and prints one line of JSON.
//!
//! `decode_bench --device cpu|cuda --format f32|bf16|int8 --streams S --context C --tokens N [--profile]`: a model of the shape of
//! Qwen/Qwen3-0.6B with random weights; every sequence begins with `C` tokens. `bytes_per_step` is what a step must read: the
//! weights once, keys and values of every sequence; `bandwidth_gb_s` is what a copy on the device reaches in the same run
//! (bytes read and written); `share_of_bandwidth` is the one over the other in the time of a step.

#![expect(clippy::print_stdout, reason = "the result of a benchmark goes to standard output")]

use anyhow::{Context, Result, bail};
use hone_model::device::{self, Gpu, Room, Span, WeightFormat};
use hone_model::{Config, Decoder, DecoderOptions, HostWeights};
use std::time::Instant;

struct Arguments {
    device: String,
    format: WeightFormat,
    streams: usize,
    context: usize,
    tokens: usize,
    is_profiled: bool,
}

fn main() -> Result<()> {
    let arguments = arguments()?;
    let config = Config::from_json(&serde_json::json!({
        "model_type": "qwen3", "vocab_size": 151_936, "hidden_size": 1024, "intermediate_size": 3072,
        "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
        "max_position_embeddings": 40_960, "rms_norm_eps": 1e-6, "tie_word_embeddings": true, "rope_theta": 1_000_000.0,
    }))?;
    let bandwidth = bandwidth(&arguments.device)?;
    let Arguments { streams, context, tokens, format, .. } = arguments;
    let options = DecoderOptions { slots: streams, max_context: context + tokens + 1, format };
    let weights = HostWeights::random(&config, 1);
    let mut decoder = Decoder::new(device::open(&arguments.device, 0)?, &config, &weights, &options)?;
    drop(weights);
    let ids: Vec<u32> = (0..context).map(|position| (position * 17 % config.vocab_size) as u32).collect();
    let begun = Instant::now();
    let mut next: Vec<u32> = Vec::new();
    for slot in 0..streams {
        next.push(highest(&decoder.prefill(slot, &ids)?));
    }
    let prefill_s = begun.elapsed().as_secs_f64();
    let mut seconds = Vec::new();
    for _ in 0..tokens {
        let begun = Instant::now();
        let rows: Vec<(usize, u32)> = next.iter().copied().enumerate().collect();
        next = decoder.decode(&rows)?.iter().map(|logits| highest(logits)).collect();
        seconds.push(begun.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    device::time_kernels(true);
    let rows: Vec<(usize, u32)> = next.iter().copied().enumerate().collect();
    decoder.decode(&rows)?;
    device::time_kernels(false);
    for (name, runs, ms) in device::kernel_times().into_iter().take(if arguments.is_profiled { 20 } else { 0 }) {
        println!("{ms:9.3} ms {runs:5} x {name}");
    }
    let step = seconds[seconds.len() / 2];
    // The embedding is the head; of norms and biases there are few.
    let per_weight = match format {
        WeightFormat::F32 => 4.0,
        WeightFormat::Bf16 => 2.0,
        WeightFormat::Int8 => 1.0 + 4.0 / 64.0,
    };
    let per_token = Decoder::bytes_per_token(&config, device::cache_format(&arguments.device));
    let cached = (streams * (context + tokens / 2)) as u64 * per_token;
    let bytes = config.num_parameters() as f64 * per_weight + cached as f64;
    let gpu = Gpu::first().ok();
    let result = serde_json::json!({
        "work": format!("decode qwen3-0.6b {} x {streams}, context {context}", format.name()),
        "device": gpu.map_or(arguments.device.clone(), |gpu| format!("{}, {}", arguments.device, gpu.name)),
        "step_ms": step * 1e3,
        "tokens_per_s": streams as f64 / step,
        "prompt_tokens_per_s": (streams * context) as f64 / prefill_s,
        "bytes_per_step": bytes,
        "bandwidth_gb_s": bandwidth / 1e9,
        "share_of_bandwidth": bytes / step / bandwidth,
    });
    println!("{result}");
    Ok(())
}

fn highest(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(id, _)| id as u32)
}

/// Bytes per second that a copy on the device reads and writes; the best of several.
fn bandwidth(name: &str) -> Result<f64> {
    const NUMBERS: usize = 1 << 28;
    let mut device = device::open(name, 0)?;
    device.reserve(&Room { len: 2 * NUMBERS, ..Room::default() })?;
    device.fill(Span::f32(0, NUMBERS), 1.5);
    let mut best = 0.0f64;
    for _ in 0..6 {
        device.finish()?;
        let begun = Instant::now();
        device.copy(Span::f32(NUMBERS, NUMBERS), Span::f32(0, NUMBERS));
        device.finish()?;
        best = best.max(8.0 * NUMBERS as f64 / begun.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn arguments() -> Result<Arguments> {
    let mut arguments = Arguments {
        device: "cpu".to_owned(),
        format: WeightFormat::Bf16,
        streams: 1,
        context: 128,
        tokens: 64,
        is_profiled: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        if flag == "--profile" {
            arguments.is_profiled = true;
            continue;
        }
        let value = words.next().with_context(|| format!("{flag} needs a value"))?;
        let number = || value.parse::<usize>().with_context(|| format!("{flag} needs a number, got {value}"));
        match flag.as_str() {
            "--device" => arguments.device = value,
            "--format" => {
                arguments.format = WeightFormat::by_name(&value).with_context(|| format!("no format {value}"))?;
            }
            "--streams" => arguments.streams = number()?.max(1),
            "--context" => arguments.context = number()?.max(1),
            "--tokens" => arguments.tokens = number()?.max(1),
            _ => bail!("unknown flag {flag}; known: --device --format --streams --context --tokens"),
        }
    }
    Ok(arguments)
}
