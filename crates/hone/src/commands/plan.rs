//! `hone plan FILE…`: what a job will take before it starts: rows, tokens, steps, and for each micro-batch its memory at
//! the peak and its time. Previews are counted where the run will have them. The memory is that of one slice in a process
//! of its own, as the daemon trains; `hone train` keeps up to the size of the weights on top of it after its first
//! checkpoint, because its allocator does.

use crate::commands::train::{JobArgs, preview_files};
use crate::output;
use crate::workspace::{Workspace, absolute};
use anyhow::Result;
use clap::Args;
use hone_pipeline::wire::TrainFile;
use hone_train::Plan;
use std::time::Duration;

/// Flags of `hone plan`.
#[derive(Args, Debug)]
pub struct PlanArgs {
    #[command(flatten)]
    job: JobArgs,
    /// Train first micro-batches for about so many seconds in all, to tell the time (0 = do not measure).
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0)]
    calibrate: f64,
}

/// Runs the verb.
pub fn run(ws: &Workspace, args: &PlanArgs) -> Result<()> {
    let config = args.job.config(ws)?;
    let schema = args.job.schema(&config);
    let model_dir = args.job.model_dir(ws)?;
    let mut files = Vec::new();
    for file in args.job.files() {
        let path = absolute(file)?;
        let name = path.file_name().map_or_else(|| "file".to_string(), |n| n.to_string_lossy().into_owned());
        files.push(TrainFile { name, path, schema_id: schema.clone() });
    }
    let time = (args.calibrate > 0.0).then(|| Duration::from_secs_f64(args.calibrate.min(3600.0)));
    let previews = preview_files(ws, &config, &files)?;
    let plan = hone_train::plan(&model_dir, &files, &previews, &config.settings.train, time)?;
    if ws.json {
        output::json(&plan);
    } else {
        print(&plan);
    }
    Ok(())
}

fn print(plan: &Plan) {
    output::line(&format!(
        "{} rows ({} left out), {} examples, the longest of {} tokens",
        plan.rows, plan.rows_skipped, plan.examples, plan.longest
    ));
    output::line(&format!(
        "{} tokens a pass, {} of them trained; {} steps of {} rows in {} epoch{}",
        plan.tokens,
        plan.trained_tokens,
        plan.steps,
        plan.rows_per_step,
        plan.epochs,
        if plan.epochs == 1 { "" } else { "s" }
    ));
    let unmeasured = || "-".to_string();
    let rows: Vec<Vec<String>> = plan
        .micro_batches
        .iter()
        .map(|micro| {
            vec![
                micro.rows.to_string(),
                micro.largest_tokens.to_string(),
                output::bytes(micro.peak_bytes),
                if micro.fits { "yes" } else { "no" }.to_string(),
                micro.tokens_per_s.map_or_else(unmeasured, |speed| format!("{speed:.0}")),
                micro.seconds.map_or_else(unmeasured, output::duration),
            ]
        })
        .collect();
    output::table(&["rows", "tokens at most", "peak memory", "fits", "tokens/s", "time"], &rows);
    if plan.memory_limit_bytes > 0 {
        output::line(&format!("at most {} may be used", output::bytes(plan.memory_limit_bytes)));
    }
    output::line(&match plan.chosen {
        Some(rows) => format!("a run takes micro-batches of {rows} row{}", if rows == 1 { "" } else { "s" }),
        None => "no micro-batch fits (hint: a smaller --max-length, --recompute, --lora-rank)".to_string(),
    });
}
