//! Times generation by the engine that serves, and prints one line of JSON.
//!
//! `serve_bench --model DIR --threads T --weights f32|bf16|int8 --work prompt|decode|batch`: `prompt` takes a prompt of 512 tokens in and gives the
//! first token; `decode` generates 64 tokens after a prompt of 16 (`--context N`: of N); `batch` does that for `--streams` (8) requests at once. A first round is
//! not counted. `tokens_per_s` counts prompt tokens for `prompt` and generated tokens, the first of each answer left out,
//! otherwise; `peak_mb` is the largest resident memory of the process. `--work limits` needs no model: what the machine reads
//! from memory and multiplies at most, with so many threads.

#![expect(clippy::print_stdout, reason = "the result of a benchmark goes to standard output")]

use anyhow::{Context, Result, bail};
use hone_generate::WeightFormat;
use hone_generate::{Engine, EngineOptions, GenEventKind, GenRequest, RequestId};
use std::path::Path;
use std::time::Instant;

const PROMPT_TOKENS: usize = 512;
const SHORT_PROMPT_TOKENS: usize = 16;
const GENERATED_TOKENS: usize = 65;
const STREAMS: usize = 8;
/// 512 MB.
const NUMBERS_READ: usize = 1 << 26;

fn main() -> Result<()> {
    let (mut model, mut threads, mut work, mut weights, mut streams, mut context) =
        (String::new(), 2, String::new(), None, STREAMS, SHORT_PROMPT_TOKENS);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--model" => model = value,
            "--threads" => threads = value.parse()?,
            "--work" => work = value,
            "--context" => context = value.parse()?,
            "--streams" => streams = value.parse()?,
            "--weights" => weights = Some(WeightFormat::by_name(&value).context("--weights is f32, bf16 or int8")?),
            _ => bail!("unknown argument {name}"),
        }
    }
    if work == "limits" {
        let (read, product) = (read_gb_per_s(threads), hone_model::selftest::product_gflops("cpu", threads, 1.0)?);
        println!("{{\"work\": \"limits\", \"read_gb_per_s\": {read:.2}, \"product_gflops\": {product:.1}}}");
        return Ok(());
    }
    let (streams, prompt_tokens, max_tokens) = match work.as_str() {
        "prompt" => (1, PROMPT_TOKENS, 1),
        "decode" => (1, context, GENERATED_TOKENS),
        "batch" => (streams, context, GENERATED_TOKENS),
        _ => bail!("--work is prompt, decode, batch or limits"),
    };
    let options = EngineOptions {
        threads,
        weights,
        slots: streams,
        max_context: (prompt_tokens + max_tokens).next_multiple_of(64),
        ..EngineOptions::default()
    };
    let mut engine = Engine::new(Path::new(&model), &options)?;
    let mut tokens_per_s = 0.0;
    for round in 0..2 {
        tokens_per_s = measure(&mut engine, round, streams, prompt_tokens, max_tokens)?;
    }
    println!("{{\"work\": \"{work}\", \"tokens_per_s\": {tokens_per_s:.2}, \"peak_mb\": {:.1}}}", peak_mb()?);
    Ok(())
}

/// Prompts are ids that no end token stands among; generation goes on whatever comes.
fn measure(engine: &mut Engine, round: u32, streams: usize, prompt_tokens: usize, max_tokens: usize) -> Result<f64> {
    for stream in 0..streams {
        let ids =
            (0..prompt_tokens).map(|at| 1000 + (at as u32 * 17 + stream as u32 * 31 + round * 7) % 20_000).collect();
        let mut request = GenRequest { prompt: ids, max_tokens, ..GenRequest::default() };
        // An end token would shorten the work.
        request.sampling.logit_bias = engine.tokenizer().eos_ids().iter().map(|id| (*id, -100.0)).collect();
        engine.submit(RequestId(stream as u64), request)?;
    }
    let mut start = Instant::now();
    let mut num_tokens = 0;
    let mut num_started = 0;
    while !engine.idle() {
        for event in engine.step()? {
            let GenEventKind::Token { .. } = event.kind else { continue };
            if num_started < streams {
                num_started += 1;
                // Decoding is timed from the last first token on.
                if max_tokens > 1 {
                    (start, num_tokens) = (Instant::now(), 0);
                }
            } else {
                num_tokens += 1;
            }
        }
    }
    let counted = if max_tokens == 1 { prompt_tokens } else { num_tokens };
    Ok(counted as f64 / start.elapsed().as_secs_f64())
}

/// The fastest of several sums over memory that no cache holds.
fn read_gb_per_s(threads: usize) -> f64 {
    let numbers: Vec<u64> = (0..NUMBERS_READ as u64).collect();
    let part = numbers.len() / threads.max(1);
    let mut fastest = f64::INFINITY;
    for _ in 0..10 {
        let start = Instant::now();
        let sum: u64 = std::thread::scope(|scope| {
            let sums: Vec<_> = numbers
                .chunks_exact(part)
                .map(|part| scope.spawn(|| part.iter().fold(0, |sum: u64, number| sum.wrapping_add(*number))))
                .collect();
            sums.into_iter().map(|sum| sum.join().expect("a sum does not panic")).fold(0, u64::wrapping_add)
        });
        std::hint::black_box(sum);
        fastest = fastest.min(start.elapsed().as_secs_f64());
    }
    (part * threads.max(1) * size_of::<u64>()) as f64 / fastest / 1e9
}

fn peak_mb() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).context("find VmHWM")?;
    let kilobytes: f64 = line.split_whitespace().nth(1).context("read VmHWM")?.parse()?;
    Ok(kilobytes / 1024.0)
}
