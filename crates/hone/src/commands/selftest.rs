//! `hone selftest`: the numeric suite with PyTorch's values on this machine, and a short benchmark.

use crate::exit::Refused;
use crate::output;
use crate::workspace::Workspace;
use anyhow::Result;
use clap::Args;
use hone_model::device::not_run_on_hardware;
use hone_model::selftest::{Check, benchmark, suite};
use serde_json::{Value, json};

/// Flags of `hone selftest`.
#[derive(Args, Debug)]
pub struct SelftestArgs {
    /// The device to test.
    #[arg(long, default_value = "cpu", value_parser = ["auto", "cpu", "cuda", "cuda-f32", "reference"])]
    device: String,
    /// Threads; 0 = all cores.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Duration of the benchmark in seconds; 0 = none.
    #[arg(long, value_name = "SECONDS", default_value_t = 120.0)]
    benchmark: f64,
}

/// What is said before a GPU is tested.
const NOT_RUN_SINCE: &str = "the kernels of attention, norms, rotations and partial sums and the paged cache were changed after the last \
    run on a GPU (docs/gpu.md); they were compiled and emulated without one";

/// Runs the verb.
pub fn run(ws: &Workspace, args: &SelftestArgs) -> Result<()> {
    if let Some(what) = not_run(&args.device).filter(|_| !ws.json) {
        output::line(&format!("note: {what}. This test is the first thing to run."));
    }
    let checks = suite(&args.device, args.threads, &mut |check| {
        if !ws.json && !check.passed() {
            output::error(&describe(check));
        }
    })?;
    let failed = checks.iter().filter(|check| !check.passed()).count();
    let closest = checks.iter().map(|check| (check.found - check.expected).abs() / check.expected.abs());
    let worst = closest.fold(0.0, f64::max);
    let measured = if args.benchmark > 0.0 && failed == 0 {
        Some(benchmark(&args.device, args.threads, args.benchmark.min(600.0))?)
    } else {
        None
    };
    if ws.json {
        let benchmark = measured.map(|b| {
            json!({"product_gflops": b.product_gflops, "train_tokens_per_s": b.train_tokens_per_s,
                "share_of_products": b.share_of_products, "decode_tokens_per_s": b.decode_tokens_per_s})
        });
        output::json(&json!({"device": args.device, "passed": failed == 0, "failed": failed,
            "checks": checks.iter().map(as_json).collect::<Vec<Value>>(), "benchmark": benchmark}));
    } else {
        output::line(&format!(
            "{} of {} numbers agree with PyTorch on {} (largest difference {worst:.1e})",
            checks.len() - failed,
            checks.len(),
            args.device
        ));
        if let Some(b) = measured {
            output::line(&format!("products of 1024 x 1024 matrices: {:.1} GFLOP/s", b.product_gflops));
            output::line(&format!(
                "training, 3.7 M parameters, 16 x 128 tokens: {:.0} tokens/s ({:.0} % of the products' speed)",
                b.train_tokens_per_s,
                100.0 * b.share_of_products
            ));
            output::line(&format!("decoding of one answer, weights in bf16: {:.0} tokens/s", b.decode_tokens_per_s));
        }
    }
    if failed == 0 { Ok(()) } else { Err(Refused.into()) }
}

/// What of a device's kernels was not run on such hardware.
fn not_run(device: &str) -> Option<&'static str> {
    match device {
        "reference" => None,
        device if device.starts_with("cuda") => Some(NOT_RUN_SINCE),
        _ => not_run_on_hardware(),
    }
}

fn describe(check: &Check) -> String {
    let Check { name, found, expected, tolerance } = check;
    format!("{name}: {found}, PyTorch {expected} (allowed: {tolerance:.0e})")
}

fn as_json(check: &Check) -> Value {
    json!({"name": check.name, "found": check.found, "expected": check.expected, "tolerance": check.tolerance,
        "passed": check.passed()})
}
