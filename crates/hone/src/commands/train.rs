//! `hone train FILE…`: one training run in the foreground, without a workspace or a daemon.
//!
//! The gates, the training loop and the checkpoint format are those of the daemon; the run ends with an ordinary
//! checkpoint folder. Ctrl-C writes a checkpoint at the next step; the same command with the same `--out` goes on.

use crate::commands::roles::{is_stopped, loop_config, stop_flag};
use crate::commands::submit::gate_request;
use crate::exit::{Refused, UsageError};
use crate::output;
use crate::workspace::{Workspace, absolute};
use anyhow::{Context, Result};
use clap::Args;
use hone_data::check::check_file;
use hone_disk as disk;
use hone_pipeline::event::StagedCheckpoint;
use hone_pipeline::finding::SchemaOrigin;
use hone_pipeline::ids::{CheckpointId, JobId, LeaseToken};
use hone_pipeline::state::{Position, Progress};
use hone_pipeline::wire::{TrainFile, TrainRequest, WIRE_FORMAT_VERSION, WorkerMessage};
use hone_train::{YieldFlag, train_slice};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Flags of `hone train`.
#[derive(Args, Debug)]
pub struct TrainArgs {
    #[command(flatten)]
    job: JobArgs,
    /// Where the run goes: `checkpoint-N` and `resume` folders.
    #[arg(long, value_name = "DIR", default_value = "hone-train")]
    out: PathBuf,
}

/// What is trained, and how.
#[derive(Args, Debug)]
pub struct JobArgs {
    /// JSONL files, in order.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The model folder (default: the workspace's newest checkpoint or base model).
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Schema of the files (default: schema_id of config.json).
    #[arg(long, value_name = "ID")]
    schema: Option<String>,
    /// Rows per micro-batch, or auto.
    #[arg(long)]
    batch_size: Option<String>,
    /// Peak learning rate.
    #[arg(long)]
    learning_rate: Option<f64>,
    /// Longest row in tokens.
    #[arg(long)]
    max_length: Option<usize>,
    /// Passes over the rows.
    #[arg(long)]
    epochs: Option<u32>,
    /// Data profile.
    #[arg(long)]
    profile: Option<String>,
    /// Rank of LoRA adapters; 0 = full fine-tuning.
    #[arg(long)]
    lora_rank: Option<usize>,
    /// The adapters' output is multiplied by alpha / rank.
    #[arg(long)]
    lora_alpha: Option<f64>,
    /// Share of the adapters' inputs that training leaves out.
    #[arg(long)]
    lora_dropout: Option<f64>,
    /// Products that get an adapter: peft's names, separated by commas, or all-linear.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    lora_targets: Option<Vec<String>>,
    /// Compute layers again in the backward pass: less memory, more time.
    #[arg(long)]
    recompute: bool,
}

impl JobArgs {
    /// The configuration with these flags over it.
    pub fn config(&self, ws: &Workspace) -> Result<crate::config::Config> {
        let mut pairs = ws.set.clone();
        pairs.extend(self.pairs()?);
        crate::config::Config::load(&ws.root, &pairs)
    }

    /// The schema of the files.
    pub fn schema(&self, config: &crate::config::Config) -> String {
        self.schema.clone().unwrap_or_else(|| config.schema_id.0.clone())
    }

    /// The files, in order.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The model's folder: the one that is named, else the newest checkpoint of the workspace.
    pub fn model_dir(&self, ws: &Workspace) -> Result<PathBuf> {
        model_dir(ws, self.model.as_deref())
    }

    /// The flags as configuration keys.
    fn pairs(&self) -> Result<Vec<(String, String)>> {
        let targets = self.lora_targets.as_ref().map(serde_json::to_string).transpose()?;
        let flags = [
            ("batch_size", self.batch_size.clone()),
            ("learning_rate", self.learning_rate.map(|v| v.to_string())),
            ("max_length", self.max_length.map(|v| v.to_string())),
            ("epochs", self.epochs.map(|v| v.to_string())),
            ("profile.name", self.profile.clone()),
            ("lora.rank", self.lora_rank.map(|v| v.to_string())),
            ("lora.alpha", self.lora_alpha.map(|v| v.to_string())),
            ("lora.dropout", self.lora_dropout.map(|v| v.to_string())),
            ("lora.targets", targets),
            ("recompute", self.recompute.then(|| "true".to_string())),
        ];
        Ok(flags.into_iter().filter_map(|(key, value)| value.map(|v| (key.to_string(), v))).collect())
    }
}

/// A model's folder: the one that is named, else the newest checkpoint of the workspace.
pub fn model_dir(ws: &Workspace, named: Option<&Path>) -> Result<PathBuf> {
    if let Some(dir) = named {
        return absolute(dir);
    }
    let Ok(state) = ws.state() else {
        let message = "find a model: name its folder with --model DIR (there is no workspace here)";
        return Err(UsageError(message.to_string()).into());
    };
    let latest = state.latest_checkpoint().context("find a checkpoint to start from")?.id;
    ws.layout().checkpoint_model_dir(&state, latest)
}

/// What is asked while files train: as by the daemon the workspace's validation files, and where there is no workspace the
/// first of the files themselves.
pub fn preview_files(ws: &Workspace, config: &crate::config::Config, files: &[TrainFile]) -> Result<Vec<TrainFile>> {
    if ws.layout().db().exists() {
        return hone_daemon::preview_files(&ws.layout(), &loop_config(config));
    }
    Ok(files.iter().take(1).cloned().collect())
}

/// Where a run stands, in its folder.
const RUN_STATE: &str = "run.json";

/// Resume states of a run, in its folder.
const RESUME_DIR: &str = "resume";

/// Content of [`RUN_STATE`].
#[derive(Default, serde::Serialize, serde::Deserialize)]
struct RunState {
    slices: u64,
    checkpoint: u64,
    position: Position,
    rows_digest: String,
    done: bool,
    /// What is trained: the schema, and each file's hash; empty in a run of an older hone.
    #[serde(default)]
    inputs: String,
    /// The model's folder, where it was named.
    #[serde(default)]
    model: Option<String>,
    /// By which settings.
    #[serde(default)]
    settings: serde_json::Value,
}

/// Runs the verb.
pub fn run(ws: &Workspace, args: &TrainArgs) -> Result<()> {
    let config = args.job.config(ws)?;
    let schema = args.job.schema(&config);
    let model_dir = args.job.model_dir(ws)?;
    let (mut files, mut inputs) = (Vec::new(), schema.clone());
    // Without a name it is the newest checkpoint of the workspace, which may be another one when the run is gone on with.
    let named = args.job.model.as_ref().map(|_| model_dir.display().to_string());
    for file in args.job.files() {
        let path = absolute(file)?;
        let hash = gate(ws, &config, &path, &schema, &model_dir)?;
        let name = path.file_name().map_or_else(|| "file".to_string(), |n| n.to_string_lossy().into_owned());
        inputs.push_str(&format!(" {hash}"));
        files.push(TrainFile { name, path, schema_id: schema.clone() });
    }
    let out = absolute(&args.out)?;
    let state = earlier(&out, inputs, named, &config)?;
    disk::create_dir(&out.join(RESUME_DIR))?;
    train(ws, &config, &out, &model_dir, files, state)
}

/// The run that stands in the folder, or a new one. One of other files, of a model that was named otherwise, or that is done by
/// other settings, is none to go on with.
fn earlier(out: &Path, inputs: String, model: Option<String>, config: &crate::config::Config) -> Result<RunState> {
    let settings = serde_json::to_value(&config.settings.train).context("write down the settings")?;
    let state_file = out.join(RUN_STATE);
    let Ok(bytes) = std::fs::read(&state_file) else {
        return Ok(RunState { inputs, model, settings, ..RunState::default() });
    };
    let state: RunState = serde_json::from_slice(&bytes).with_context(|| format!("read {}", state_file.display()))?;
    let other = match () {
        () if state.inputs.is_empty() => None,
        () if state.inputs != inputs => Some("a run of other files"),
        () if state.model.is_some() && model.is_some() && state.model != model => {
            Some("a run of a model at another path")
        }
        () if state.done && state.settings != settings => Some("a run that is done, by other settings"),
        () => None,
    };
    match other {
        Some(what) => {
            let shown = out.display();
            Err(UsageError(format!("train into {shown}: it holds {what} (hint: another --out, or remove it)")).into())
        }
        None => Ok(state),
    }
}

/// Both gates; nothing is trained that they refuse. Returns the file's hash.
fn gate(ws: &Workspace, config: &crate::config::Config, file: &Path, schema: &str, model_dir: &Path) -> Result<String> {
    let origin = (schema.to_string(), SchemaOrigin::Flag);
    let request = gate_request(config, file.to_path_buf(), origin, Some(model_dir.to_path_buf()));
    let report = check_file(&request, &|_| {});
    if report.is_accepted() {
        return Ok(report.blake3);
    }
    if ws.json {
        output::json(&report);
    }
    for line in report.error_lines() {
        output::error(&format!("{}: {line}", file.display()));
    }
    Err(Refused.into())
}

fn train(
    ws: &Workspace,
    config: &crate::config::Config,
    out: &Path,
    model_dir: &Path,
    files: Vec<TrainFile>,
    mut state: RunState,
) -> Result<()> {
    let stop = stop_flag()?;
    let preview_files = preview_files(ws, config, &files)?;
    let (started, was_done) = (Instant::now(), state.done);
    let bar = progress_bar(ws.json);
    let yield_flag = YieldFlag::default();
    while !state.done {
        let request = request(config, out, model_dir, (&files, &preview_files), &state);
        let mut staged = None;
        train_slice(
            &request,
            &mut |message| {
                if is_stopped(&stop) {
                    yield_flag.set();
                }
                report(ws, &bar, &message);
                if let WorkerMessage::Staged(checkpoint) = message {
                    staged = Some(checkpoint);
                }
            },
            &yield_flag,
        )?;
        let staged = staged.context("find the checkpoint that the run should have written")?;
        publish(out, &staged, &mut state)?;
        if staged.yielded && is_stopped(&stop) {
            break;
        }
    }
    bar.finish_and_clear();
    summary(ws, out, &state, started.elapsed().as_secs_f64(), was_done);
    Ok(())
}

fn request(
    config: &crate::config::Config,
    out: &Path,
    model_dir: &Path,
    (files, preview_files): (&[TrainFile], &[TrainFile]),
    state: &RunState,
) -> TrainRequest {
    let resume = resume_dir(out, state.checkpoint);
    let is_first = state.slices == 0;
    TrainRequest {
        format_version: WIRE_FORMAT_VERSION,
        job: JobId(1),
        token: LeaseToken(state.slices + 1),
        root: out.to_path_buf(),
        run_dir: out.to_path_buf(),
        model_dir: if is_first {
            model_dir.to_path_buf()
        } else {
            out.join(CheckpointId(state.checkpoint).to_string())
        },
        parent: CheckpointId(state.checkpoint),
        resume_dir: (!is_first).then_some(resume),
        files: files.to_vec(),
        replay: None,
        kept_back: Vec::new(),
        number_from: None,
        position: state.position.clone(),
        rows_digest: state.rows_digest.clone(),
        settings: config.settings.train.clone(),
        preview_files: preview_files.to_vec(),
        staging: "staging/checkpoint".to_string(),
        resume_staging: "staging/resume".to_string(),
        lineage: json!({"made_by": "hone train", "model": model_dir, "version": env!("CARGO_PKG_VERSION")}),
    }
}

/// Moves both staged folders into place, then records them, then drops the resume state of before: a kill in between
/// leaves `run.json` with the folders that it names.
fn publish(out: &Path, staged: &StagedCheckpoint, state: &mut RunState) -> Result<()> {
    let before = resume_dir(out, state.checkpoint);
    let resume = resume_dir(out, staged.checkpoint.0);
    for (from, to) in
        [(&staged.staging, out.join(staged.checkpoint.to_string())), (&staged.resume_staging, resume.clone())]
    {
        disk::remove_tree(&to)?;
        disk::rename(&out.join(from), &to)?;
    }
    state.slices += 1;
    state.checkpoint = staged.checkpoint.0;
    state.position = staged.position.clone();
    state.rows_digest = staged.rows_digest.clone();
    state.done = staged.ends_job;
    disk::write_json(&out.join(RUN_STATE), state)?;
    if before != resume { disk::remove_tree(&before) } else { Ok(()) }
}

fn resume_dir(out: &Path, checkpoint: u64) -> PathBuf {
    out.join(RESUME_DIR).join(format!("step-{checkpoint}"))
}

/// A bar for people; hidden when a program reads.
fn progress_bar(json: bool) -> ProgressBar {
    if json {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} steps  {msg}  ETA {eta}");
    bar.set_style(style.expect("the template is constant"));
    bar
}

fn report(ws: &Workspace, bar: &ProgressBar, message: &WorkerMessage) {
    if ws.json {
        output::json(message);
    }
    match message {
        WorkerMessage::Step(progress) => {
            bar.set_length(progress.total_steps);
            bar.set_position(progress.job_step);
            bar.set_message(figures(progress));
        }
        WorkerMessage::Preview { prompt, answer, .. } if !ws.json => {
            bar.suspend(|| {
                output::line(&format!("preview: {} -> {}", output::excerpt(prompt, 60), output::excerpt(answer, 60)))
            });
        }
        WorkerMessage::Warning { message, .. } if !ws.json => {
            bar.suspend(|| output::note(&format!("warning: {message}")))
        }
        _ => {}
    }
}

/// Loss, rate, speed and memory in a few words.
#[must_use]
pub fn figures(progress: &Progress) -> String {
    format!(
        "loss {:.4}  lr {:.1e}  {:.0} tokens/s ({:.0} trained)  {}",
        progress.loss,
        progress.learning_rate,
        progress.tokens_per_s,
        progress.trained_tokens_per_s,
        output::bytes(progress.memory_bytes)
    )
}

fn summary(ws: &Workspace, out: &Path, state: &RunState, seconds: f64, was_done: bool) {
    let folder = out.join(CheckpointId(state.checkpoint).to_string());
    let peak = hone_train::clock::peak_resident_bytes();
    if ws.json {
        output::json(
            &json!({"type": "summary", "done": state.done, "was_done": was_done, "checkpoint": folder, "steps": state.position.job_step,
            "rows_trained": state.position.rows_trained, "seconds": seconds, "peak_memory_bytes": peak}),
        );
        return;
    }
    let verb = match (was_done, state.done) {
        (true, _) => "nothing was left to do: an earlier run has trained",
        (false, true) => "trained",
        (false, false) => "stopped early (the same command goes on): trained",
    };
    output::line(&format!(
        "{verb} {} rows in {} steps, {}, at most {} of memory; the model is in {}",
        state.position.rows_trained,
        state.position.job_step,
        output::duration(seconds),
        output::bytes(peak),
        folder.display()
    ));
}
