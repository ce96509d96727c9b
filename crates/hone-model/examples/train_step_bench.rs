//! Times training steps (zero, forward, backward, clip, AdamW) and prints one line of JSON.
//!
//! `train_step_bench --model DIR|qwen3-3.7m|qwen3-0.6b --rows R --length L --steps N --threads T [--device cpu|cuda|cuda-f32]
//! [--micro ROWS] [--profile] [--lora RANK] [--rows-file FILE]`; each step's rows go in micro-batches of `ROWS`, all at once without. Step `s`
//! row `r` position `p` of the batch is the id `(s·7919 + r·31 + p·17 + 1) mod vocabulary`, every position but each row's last is
//! trained. With a file (lines of {"ids", "trained"}, as `chat_rows.py` writes them) each step takes the next `R` rows and
//! packs them into micro-batches of at most `L` tokens; its `tokens_per_s` counts trained tokens. A first step is not
//! counted. `product_gflops` is what one large product reaches in the same run: the machine's own limit;
//! `share_of_limit` is 6 · parameters · tokens / time over it (full fine-tuning).

#![expect(clippy::print_stdout, reason = "the result of a benchmark goes to standard output")]

use anyhow::{Context, Result, bail};
use hone_model::device::{self, Gpu, Room, Span};
use hone_model::{AdamW, Batch, Config, HostWeights, LoraConfig, Method, Target, Trainer, TrainerOptions};
use std::ops::Range;
use std::path::Path;
use std::time::Instant;

struct Arguments {
    model: String,
    rows: usize,
    length: usize,
    steps: usize,
    threads: usize,
    device: String,
    micro: Option<usize>,
    is_profiled: bool,
    lora: Option<usize>,
    rows_file: Option<String>,
}

fn main() -> Result<()> {
    let arguments = arguments()?;
    let (config, weights) = model(&arguments.model)?;
    let steps = steps(&arguments, config.vocab_size)?;
    let most = |length: fn(&Batch) -> usize| steps.iter().flatten().map(length).max().unwrap_or(0);
    let options = TrainerOptions {
        max_tokens: most(|batch| batch.ids.len()),
        max_segment_tokens: most(|batch| batch.segments.iter().copied().max().unwrap_or(0)),
        method: Method { lora: arguments.lora.map(lora), ..Method::full() },
    };
    let device = device::open(&arguments.device, arguments.threads)?;
    let planned_bytes = Trainer::planned_bytes(&config, &options, &*device)?;
    let mut trainer = Trainer::new(device, &config, &weights, &options)?;
    drop(weights);
    let (mut losses, mut seconds, mut cpu_seconds, mut speeds) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (step, batches) in steps.iter().enumerate() {
        let (start, cpu_start) = (Instant::now(), cpu_seconds_so_far()?);
        losses.push(train_step(&mut trainer, batches, step as u64 + 1)?);
        if step > 0 {
            cpu_seconds.push(cpu_seconds_so_far()? - cpu_start);
            seconds.push(start.elapsed().as_secs_f64());
            let counted = if arguments.rows_file.is_some() { trained_tokens } else { num_tokens };
            speeds.push(batches.iter().map(counted).sum::<usize>() as f64 / start.elapsed().as_secs_f64());
        }
    }
    let peak_memory_bytes = peak_memory_bytes()?;
    if arguments.is_profiled {
        device::time_kernels(true);
        train_step(&mut trainer, &steps[0], steps.len() as u64 + 1)?;
        device::time_kernels(false);
        for (name, runs, ms) in device::kernel_times() {
            println!("{ms:9.3} ms {runs:5} x {name}");
        }
    }
    let gpu = Gpu::first().ok();
    drop(trainer);
    let limit = product_gflops(&arguments)?;
    for values in [&mut seconds, &mut cpu_seconds, &mut speeds] {
        values.sort_by(f64::total_cmp);
    }
    let median = |values: &[f64]| values[values.len() / 2];
    let step_tokens = steps[1].iter().map(num_tokens).sum::<usize>() as f64;
    let flops = 6.0 * config.num_parameters() as f64 * step_tokens;
    let result = serde_json::json!({
        "work": format!("{} {}x{}", arguments.model, arguments.rows, arguments.length),
        "threads": arguments.threads,
        "device": gpu.as_ref().map_or(arguments.device.clone(), |gpu| format!("{}, {}", arguments.device, gpu.name)),
        "gpu_memory_bytes": gpu.map(|gpu| gpu.memory.0 - gpu.memory.1),
        "parameters": config.num_parameters(),
        "tokens_per_s": median(&speeds),
        "best_tokens_per_s": speeds[speeds.len() - 1],
        "step_ms": median(&seconds) * 1e3,
        "cpu_ms": median(&cpu_seconds) * 1e3,
        "peak_memory_bytes": peak_memory_bytes,
        "planned_bytes": planned_bytes,
        "losses": losses,
        "product_gflops": limit,
        "share_of_limit": flops / median(&seconds) / 1e9 / limit,
    });
    println!("{result}");
    Ok(())
}

fn num_tokens(batch: &Batch) -> usize {
    batch.ids.len()
}

fn trained_tokens(batch: &Batch) -> usize {
    batch.targets.iter().filter(|&&target| target >= 0).count()
}

fn train_step(trainer: &mut Trainer, batches: &[Batch], step: u64) -> Result<f64> {
    let trained: usize = batches.iter().map(trained_tokens).sum();
    trainer.zero_grad();
    let mut loss_sum = 0.0;
    for batch in batches {
        loss_sum += trainer.accumulate(batch, 1.0 / trained as f32)?.loss_sum;
    }
    let norm = trainer.grad_norm()?;
    trainer.adamw_step(&AdamW {
        lr: 1e-4,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.01,
        step,
        grad_scale: (1.0 / (norm + 1e-6)).min(1.0),
    })?;
    Ok(loss_sum / trained as f64)
}

/// All linear layers, as peft's `all-linear`.
fn lora(rank: usize) -> LoraConfig {
    use Target::{Down, Gate, Key, Output, Query, Up, Value};
    LoraConfig {
        rank,
        alpha: 2.0 * rank as f64,
        dropout: 0.0,
        targets: vec![Query, Key, Value, Output, Gate, Up, Down],
    }
}

/// Micro-batches of each step.
fn steps(arguments: &Arguments, vocab_size: usize) -> Result<Vec<Vec<Batch>>> {
    let Some(path) = &arguments.rows_file else {
        let micro = arguments.micro.unwrap_or(arguments.rows);
        let step = |step: usize| -> Vec<Batch> {
            let parts = (0..arguments.rows).step_by(micro);
            parts.map(|first| batch(arguments, step, first..(first + micro).min(arguments.rows), vocab_size)).collect()
        };
        return Ok((0..=arguments.steps).map(step).collect());
    };
    let text = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let rows = text.lines().map(row).collect::<Result<Vec<Batch>>>()?;
    let steps: Vec<Vec<Batch>> = rows.chunks_exact(arguments.rows).map(|rows| pack(rows, arguments.length)).collect();
    anyhow::ensure!(steps.len() > arguments.steps, "{path} holds rows for {} steps", steps.len());
    Ok(steps[..=arguments.steps].to_vec())
}

/// One line of a file of rows as a batch of one segment.
fn row(line: &str) -> Result<Batch> {
    let row: serde_json::Value = serde_json::from_str(line).context("read a row")?;
    let numbers = |key: &str| -> Result<Vec<u32>> {
        let numbers = row[key].as_array().with_context(|| format!("find `{key}` of a row"))?;
        numbers.iter().map(|n| Ok(u32::try_from(n.as_u64().context("read a number")?)?)).collect()
    };
    let (ids, trained) = (numbers("ids")?, numbers("trained")?);
    let next = ids.iter().zip(&trained).skip(1).map(|(&id, &trained)| if trained == 1 { id as i32 } else { -1 });
    let targets = next.chain([-1]).collect();
    Ok(Batch { segments: vec![ids.len()], targets, ids })
}

/// Rows, the longest first, each into the first micro-batch with room for it.
fn pack(rows: &[Batch], length: usize) -> Vec<Batch> {
    let mut rows: Vec<&Batch> = rows.iter().collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.ids.len()));
    let mut packed: Vec<Batch> = Vec::new();
    for row in rows {
        let place = packed.iter().position(|batch| batch.ids.len() + row.ids.len() <= length);
        let place = place.unwrap_or_else(|| {
            packed.push(Batch::default());
            packed.len() - 1
        });
        packed[place].ids.extend(&row.ids);
        packed[place].targets.extend(&row.targets);
        packed[place].segments.extend(&row.segments);
    }
    packed
}

fn batch(arguments: &Arguments, step: usize, rows: Range<usize>, vocab_size: usize) -> Batch {
    let mut batch = Batch { segments: vec![arguments.length; rows.len()], ..Batch::default() };
    for row in rows {
        let id = |position: usize| (step * 7919 + row * 31 + position * 17 + 1) % vocab_size;
        batch.ids.extend((0..arguments.length).map(|position| id(position) as u32));
        batch.targets.extend((1..arguments.length).map(|position| id(position) as i32));
        batch.targets.push(-1);
    }
    batch
}

fn model(name: &str) -> Result<(Config, HostWeights)> {
    if name == "qwen3-0.6b" {
        // The shape of Qwen/Qwen3-0.6B.
        let config = Config::from_json(&serde_json::json!({
            "model_type": "qwen3", "vocab_size": 151_936, "hidden_size": 1024, "intermediate_size": 3072,
            "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
            "max_position_embeddings": 40_960, "rms_norm_eps": 1e-6, "tie_word_embeddings": true, "rope_theta": 1_000_000.0,
        }))?;
        let weights = HostWeights::random(&config, 1);
        return Ok((config, weights));
    }
    if name == "qwen3-3.7m" {
        let config = Config::from_json(&serde_json::json!({
            "model_type": "qwen3", "vocab_size": 2048, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6, "tie_word_embeddings": true, "rope_theta": 10000.0,
        }))?;
        let weights = HostWeights::random(&config, 1);
        return Ok((config, weights));
    }
    let dir = Path::new(name);
    let config = Config::from_dir(dir)?;
    let weights = HostWeights::load(dir, &config)?;
    Ok((config, weights))
}

/// Billions of multiplications and additions per second in products of large square matrices, held as the device likes
/// activations; the best of several.
fn product_gflops(arguments: &Arguments) -> Result<f64> {
    let mut device = device::open(&arguments.device, arguments.threads)?;
    // Large enough to fill the device.
    let size: usize = if device.name() == "cpu" { 1024 } else { 8192 };
    device.reserve(&Room { len: 3 * size * size, ..Room::default() })?;
    let format = device.activation_format();
    let part = |i: usize| Span { offset: i * size * size * (4 / format.size()), len: size * size, format };
    for i in 0..2 {
        let mut state = i as u32 + 1;
        let mut number = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1u32 << 24) as f32 - 0.5
        };
        let numbers: Vec<f32> = (0..size * size).map(|_| number()).collect();
        device.upload(part(i), &numbers)?;
    }
    let (c, a, b) = (part(2).matrix(size), part(0).matrix(size), part(1).matrix(size).transposed());
    let mut best = 0.0f64;
    for _ in 0..8 {
        let start = Instant::now();
        device.matmul(c, a, b, false);
        device.finish()?;
        best = best.max(2.0 * (size as f64).powi(3) / start.elapsed().as_secs_f64() / 1e9);
    }
    Ok(best)
}

/// Processor time of all threads of this process: steadier than the clock where other programs run.
fn cpu_seconds_so_far() -> Result<f64> {
    let mut nanoseconds = 0.0;
    for task in std::fs::read_dir("/proc/self/task").context("list threads")? {
        let schedule = std::fs::read_to_string(task?.path().join("schedstat")).context("read processor time")?;
        nanoseconds += schedule.split(' ').next().context("find processor time")?.parse::<f64>()?;
    }
    Ok(nanoseconds / 1e9)
}

/// Highest resident memory of this process so far (`VmHWM`).
fn peak_memory_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("read memory use")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).context("find VmHWM")?;
    let kilobytes = line.split_whitespace().nth(1).context("read VmHWM")?;
    Ok(kilobytes.parse::<u64>().context("read VmHWM")? * 1024)
}

fn arguments() -> Result<Arguments> {
    let mut arguments = Arguments {
        model: "qwen3-3.7m".to_owned(),
        rows: 16,
        length: 128,
        steps: 5,
        threads: 0,
        device: "cpu".to_owned(),
        micro: None,
        is_profiled: false,
        lora: None,
        rows_file: None,
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
            "--model" => arguments.model = value,
            "--rows" => arguments.rows = number()?.max(1),
            "--length" => arguments.length = number()?.max(2),
            "--steps" => arguments.steps = number()?.max(1),
            "--threads" => arguments.threads = number()?,
            "--device" => arguments.device = value,
            "--micro" => arguments.micro = Some(number()?.max(1)),
            "--lora" => arguments.lora = Some(number()?.max(1)),
            "--rows-file" => arguments.rows_file = Some(value),
            _ => bail!(
                "unknown flag {flag}; known: --model --rows --length --steps --threads --device --micro --lora --rows-file"
            ),
        }
    }
    Ok(arguments)
}
