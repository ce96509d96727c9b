//! `hone export`: training curves for other tools.

use crate::exit::UsageError;
use crate::output;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use hone_monitor::export;
use hone_pipeline::ids::JobId;
use hone_pipeline::state::State;
use serde_json::json;
use std::path::{Path, PathBuf};

/// `hone export VERB`.
#[derive(Args, Debug)]
pub struct ExportArgs {
    #[command(subcommand)]
    verb: ExportVerb,
}

#[derive(Subcommand, Debug)]
enum ExportVerb {
    /// TensorBoard event files: a run per job, and one of all evaluations.
    Tensorboard {
        /// Folder to write into, for `tensorboard --logdir`.
        dir: PathBuf,
        /// Only this job, e.g. job-3.
        #[arg(long)]
        job: Option<String>,
    },
    /// A CSV file per job with a line per optimizer step.
    Csv {
        /// Folder to write into.
        dir: PathBuf,
        /// Only this job, e.g. job-3.
        #[arg(long)]
        job: Option<String>,
    },
}

/// `hone export …`.
pub fn run(ws: &Workspace, args: &ExportArgs) -> Result<()> {
    let state = ws.state()?;
    let (dir, job, is_csv) = match &args.verb {
        ExportVerb::Tensorboard { dir, job } => (dir, job, false),
        ExportVerb::Csv { dir, job } => (dir, job, true),
    };
    let (layout, mut written) = (ws.layout(), Vec::new());
    for job in jobs(&state, job.as_deref())? {
        let steps = export::steps(&layout, job);
        if steps.is_empty() {
            continue;
        }
        written.push(if is_csv {
            write(dir, &format!("{job}.csv"), export::csv(&steps).as_bytes())?
        } else {
            write(&dir.join(job.to_string()), &event_file(steps[0].at_ms), &export::tensorboard_steps(&steps))?
        });
    }
    if !is_csv && !state.evaluations.is_empty() && job.is_none() {
        let first = state.evaluations.values().next().map_or(0, |evaluation| evaluation.at_ms);
        // The first evaluation may be a newer one by now, under another name: TensorBoard would show both.
        remove_earlier(&dir.join("evaluations"))?;
        written.push(write(&dir.join("evaluations"), &event_file(first), &export::tensorboard_evaluations(&state))?);
    }
    if ws.json {
        output::json(&json!({ "files": written }));
    } else if written.is_empty() {
        output::line("no job has taken a step yet: nothing was written");
    } else {
        written.iter().for_each(|path| output::line(&path.display().to_string()));
    }
    Ok(())
}

fn jobs(state: &State, wanted: Option<&str>) -> Result<Vec<JobId>> {
    let Some(wanted) = wanted else { return Ok(state.jobs.keys().copied().collect()) };
    let number = wanted.strip_prefix("job-").unwrap_or(wanted).parse().ok().map(JobId);
    let known = number.filter(|job| state.jobs.contains_key(job));
    let job = known.ok_or_else(|| {
        UsageError(format!("export the curves of {wanted}: there is no such job\nhint: `hone queue` lists the jobs"))
    })?;
    Ok(vec![job])
}

/// The name that TensorBoard looks for. The same job gets the same name, so that an export again replaces it.
fn event_file(at_ms: u64) -> String {
    format!("events.out.tfevents.{}.hone", at_ms / 1000)
}

/// Removes what an earlier export wrote there.
fn remove_earlier(dir: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
    for entry in entries {
        let path = entry.with_context(|| format!("list {}", dir.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("events.out.tfevents.") && name.ends_with(".hone") {
            hone_disk::remove_file(&path)?;
        }
    }
    Ok(())
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf> {
    hone_disk::create_dir(dir).with_context(|| format!("make {}", dir.display()))?;
    let path = dir.join(name);
    hone_disk::write_atomic(&path, bytes).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}
