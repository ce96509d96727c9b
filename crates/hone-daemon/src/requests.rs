//! What children are asked to do, derived from the state, the configuration and the files that lie there.

#[cfg(test)]
mod tests;

use crate::inbox::Sidecar;
use crate::options::LoopConfig;
use anyhow::{Context, Result};
use hone_pipeline::config::{KeepBack, Level};
use hone_pipeline::content::{CompareFile, CompareRole};
use hone_pipeline::decide::evaluated_back;
use hone_pipeline::finding::SchemaOrigin;
use hone_pipeline::ids::{CheckpointId, DatasetId, JobId, LeaseToken};
use hone_pipeline::spec;
use hone_pipeline::state::{Dataset, DatasetState, State};
use hone_pipeline::wire::{CheckRequest, EvalRequest, KeptBack, Replay, TrainFile, TrainRequest, WIRE_FORMAT_VERSION};
use hone_store::Layout;
use hone_store::datasets::sidecar_of;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// The schema of files for which nothing names one.
pub(crate) const DEFAULT_SCHEMA_ID: &str = "chat_sft_v1";
/// Suites whose first rows are answered as previews.
const MAX_PREVIEW_FILES: usize = 4;
/// The first row of a suite is looked at when it is at most so long.
const MAX_FIRST_ROW_BYTES: u64 = 1 << 20;

/// Both gates over a taken file; over an accepted one, the deep check in the background.
pub(crate) fn check(
    layout: &Layout,
    state: &State,
    config: &LoopConfig,
    dataset: &Dataset,
    sidecar: &Sidecar,
) -> CheckRequest {
    let (schema_id, schema_origin) = match (&dataset.schema_flag, &sidecar.schema_id, &config.schema_id) {
        (Some(id), _, _) => (id.as_str(), SchemaOrigin::Flag),
        (None, Some(id), _) => (id.as_str(), SchemaOrigin::Sidecar),
        (None, None, Some(id)) => (id.as_str(), SchemaOrigin::Config),
        (None, None, None) => (DEFAULT_SCHEMA_ID, SchemaOrigin::Default),
    };
    let settings = &config.settings;
    let background = dataset.state == DatasetState::Accepted;
    // What it was accepted as, whatever is configured by now.
    let schema_id = dataset.schema_id.as_deref().filter(|_| background).unwrap_or(schema_id);
    let level = if background { Level::Deep } else { settings.validation_level };
    let latest = state.latest_checkpoint().filter(|_| level != Level::Quick);
    let model_dir = latest.and_then(|checkpoint| layout.checkpoint_model_dir(state, checkpoint.id).ok());
    CheckRequest {
        format_version: WIRE_FORMAT_VERSION,
        file: layout.dataset_file(dataset),
        schema_id: schema_id.to_string(),
        schema_origin,
        level,
        max_length: longest_row(settings.train.max_length, model_dir.as_deref()),
        model_dir,
        overlong: settings.train.overlong,
        profile: settings.train.profile.clone(),
        chat_template_kwargs: settings.train.chat_template_kwargs.clone(),
        max_line_bytes: config.limits.max_line_bytes,
        max_file_bytes: config.limits.max_file_bytes,
        max_unpacked_bytes: config.limits.max_unpacked_bytes,
        content: config.content.clone(),
        compare: match level {
            Level::Deep => {
                let files = compare_files(layout, state, config, Some(dataset.id));
                files.unwrap_or_else(|error| vec![unreadable(&error)])
            }
            Level::Quick | Level::Standard => Vec::new(),
        },
        background,
    }
}

/// What the rows of a new file are compared with at `deep`: the suites in `validation/`, and the files that were
/// accepted earlier (before `dataset`, where it is one), the newest first.
///
/// # Errors
/// The validation folder or a sidecar in it cannot be read.
pub fn compare_files(
    layout: &Layout,
    state: &State,
    config: &LoopConfig,
    dataset: Option<DatasetId>,
) -> Result<Vec<CompareFile>> {
    let suites = suites(layout, config)?.into_iter();
    let suites = suites.map(|TrainFile { name, path, schema_id }| CompareFile {
        name: format!("validation/{name}"),
        path,
        schema_id,
        role: CompareRole::Validation,
    });
    let before = |other: &&Dataset| dataset.is_none_or(|id| other.id < id);
    let accepted = |other: &&Dataset| other.state == DatasetState::Accepted;
    let earlier = state.datasets.values().rev().filter(before).filter(accepted).filter_map(|dataset| {
        let path = layout.dataset_file(dataset);
        Some(CompareFile {
            name: format!("{} ({})", dataset.id, dataset.file_name),
            schema_id: dataset.schema_id.clone()?,
            role: CompareRole::Earlier,
            path: Some(path).filter(|path| path.is_file())?,
        })
    });
    Ok(suites.chain(earlier).collect())
}

/// Stands for a validation folder that cannot be read: the check then fails by its name instead of passing.
fn unreadable(error: &anyhow::Error) -> CompareFile {
    CompareFile {
        name: format!("the validation folder (failed to {error:#})"),
        path: PathBuf::new(),
        schema_id: DEFAULT_SCHEMA_ID.to_string(),
        role: CompareRole::Validation,
    }
}

/// The next slice of a job: from the newest published checkpoint, at the job's position.
pub(crate) fn train(
    layout: &Layout,
    state: &State,
    config: &LoopConfig,
    job: JobId,
    token: LeaseToken,
) -> Result<TrainRequest> {
    let job = state.jobs.get(&job).with_context(|| format!("find {job}"))?;
    let parent = state.latest_checkpoint().context("find a checkpoint to start from")?;
    let settings = job.settings.clone().with_context(|| format!("find the settings of {}", job.id))?;
    let resume_dir = layout.resume(parent.id);
    let files = train_files(layout, state, &job.datasets)?;
    let replay = match &job.replay {
        Some(replay) => Some(Replay { share: replay.share, files: train_files(layout, state, &replay.datasets)? }),
        None => None,
    };
    let kept_back = kept_back(layout, state, &job.kept_back)?;
    Ok(TrainRequest {
        format_version: WIRE_FORMAT_VERSION,
        job: job.id,
        token,
        root: layout.root().to_path_buf(),
        run_dir: layout.run(job.id, token),
        model_dir: layout.checkpoint_model_dir(state, parent.id)?,
        parent: parent.id,
        resume_dir: resume_dir.is_dir().then_some(resume_dir),
        files,
        replay,
        kept_back,
        number_from: state.highest_number(),
        position: job.position.clone(),
        rows_digest: state.rows_digest(job.id).to_string(),
        lineage: lineage(state, job.id, parent.id, &settings),
        settings,
        preview_files: preview_files(layout, config)?,
        staging: Layout::checkpoint_staging(token),
        resume_staging: Layout::resume_staging(token),
    })
}

fn train_files(layout: &Layout, state: &State, datasets: &[DatasetId]) -> Result<Vec<TrainFile>> {
    let file = |id: &DatasetId| -> Result<TrainFile> {
        let dataset = state.datasets.get(id).with_context(|| format!("find {id}"))?;
        Ok(TrainFile {
            name: id.to_string(),
            path: layout.dataset_file(dataset),
            schema_id: dataset.schema_id.clone().with_context(|| format!("find the schema of {id}"))?,
        })
    };
    datasets.iter().map(file).collect()
}

/// Those of the data sets whose rows are here, with what of them is kept back.
fn kept_back(layout: &Layout, state: &State, datasets: &[DatasetId]) -> Result<Vec<KeptBack>> {
    let here = |id: &DatasetId| {
        let dataset = state.datasets.get(id).filter(|dataset| dataset.gone.is_none())?;
        Some((*id, dataset.keep_back?))
    };
    let (ids, keeps): (Vec<DatasetId>, Vec<KeepBack>) = datasets.iter().filter_map(here).unzip();
    let files = train_files(layout, state, &ids)?;
    Ok(files.into_iter().zip(keeps).map(|(file, keep)| KeptBack { file, keep }).collect())
}

/// The evaluation of a checkpoint on the suites that lie in `validation/` now and on the rows that are kept back.
pub(crate) fn evaluate(
    layout: &Layout,
    state: &State,
    config: &LoopConfig,
    checkpoint: CheckpointId,
    token: LeaseToken,
) -> Result<EvalRequest> {
    let record = state.checkpoints.get(&checkpoint).with_context(|| format!("find {checkpoint}"))?;
    let suites = suites(layout, config)?;
    Ok(EvalRequest {
        format_version: WIRE_FORMAT_VERSION,
        checkpoint,
        manifest_hash: record.manifest_hash.clone(),
        token,
        run_dir: layout.eval_run(checkpoint, token),
        model_dir: layout.checkpoint_model_dir(state, checkpoint)?,
        kept_back: kept_back(layout, state, &evaluated_rows(state, config, suites.is_empty()))?,
        suites,
        settings: config.settings.train.clone(),
        questions: Vec::new(),
        max_answer_tokens: config.limits.max_answer_tokens,
        max_ms: config.settings.evaluation_max_ms,
        keep_dir: Some(layout.eval_results(checkpoint)),
    })
}

/// The data sets whose kept-back rows are evaluated: none where they are few and there are other suites.
fn evaluated_rows(state: &State, config: &LoopConfig, alone: bool) -> Vec<DatasetId> {
    let datasets = evaluated_back(state, &config.settings);
    let num_rows = |id: &DatasetId| {
        let dataset = &state.datasets[id];
        dataset.keep_back.map_or(0, |keep| keep.num_rows(usize::try_from(dataset.rows).unwrap_or(usize::MAX)))
    };
    let enough = datasets.iter().map(num_rows).sum::<usize>() >= config.settings.keep_back_min_rows;
    if alone || enough { datasets } else { Vec::new() }
}

/// The longest row that a job takes, in tokens: `max_length`, and no more than the context of the model.
#[must_use]
pub fn longest_row(max_length: usize, model_dir: Option<&Path>) -> usize {
    let config = model_dir.and_then(|dir| std::fs::read(dir.join("config.json")).ok());
    let config = config.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
    let context = config.and_then(|config| config["max_position_embeddings"].as_u64());
    context.and_then(|context| usize::try_from(context).ok()).map_or(max_length, |context| max_length.min(context))
}

/// The validation files whose first questions are answered while a job trains.
///
/// # Errors
/// The folder or a sidecar cannot be read.
pub fn preview_files(layout: &Layout, config: &LoopConfig) -> Result<Vec<TrainFile>> {
    if config.settings.train.preview_steps == 0 {
        return Ok(Vec::new());
    }
    let mut files = suites(layout, config)?;
    files.truncate(MAX_PREVIEW_FILES);
    Ok(files)
}

/// The files `validation/*.jsonl`, by name, each with its schema.
///
/// # Errors
/// The folder or a sidecar cannot be read.
pub fn suites(layout: &Layout, config: &LoopConfig) -> Result<Vec<TrainFile>> {
    let folder = layout.validation();
    let mut suites = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry.context("list the validation folder")?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if name.starts_with('.') || !name.ends_with(".jsonl") || !path.is_file() {
            continue;
        }
        suites.push(suite(&path, config)?);
    }
    suites.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(suites)
}

/// A file as a suite. Its schema is that of the sidecar, else the configured one where the first row fits it, else the one
/// that the first row does fit.
///
/// # Errors
/// The sidecar cannot be read.
pub fn suite(path: &Path, config: &LoopConfig) -> Result<TrainFile> {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let sidecar = Sidecar::read(&sidecar_of(path)).with_context(|| format!("use the suite {name}"))?;
    let schema_id = match sidecar.schema_id {
        Some(id) => id,
        None => schema_of_first_row(path, config.schema_id.as_deref().unwrap_or(DEFAULT_SCHEMA_ID)),
    };
    Ok(TrainFile { name, path: path.to_path_buf(), schema_id })
}

fn schema_of_first_row(path: &Path, configured: &str) -> String {
    let row = first_row(path).unwrap_or_default();
    let fits = spec::find(configured).is_some_and(|spec| spec.check_row(&row).is_ok());
    let other = spec::suggest(&row).filter(|_| !fits);
    other.unwrap_or(configured).to_string()
}

fn first_row(path: &Path) -> Option<Value> {
    let mut line = String::new();
    let mut reader = BufReader::new(std::fs::File::open(path).ok()?).take(MAX_FIRST_ROW_BYTES);
    while line.trim().is_empty() {
        line.clear();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    }
    serde_json::from_str(line.trim_start_matches('\u{feff}')).ok()
}

/// What leads to the checkpoints of a slice; becomes their `lineage.json`.
fn lineage(state: &State, job: JobId, parent: CheckpointId, settings: &hone_pipeline::config::TrainSettings) -> Value {
    let datasets = state.jobs[&job].datasets.iter().filter_map(|id| state.datasets.get(id)).map(|dataset| {
        json!({
            "id": dataset.id.to_string(),
            "file": dataset.file_name,
            "blake3": dataset.blake3,
            "rows": dataset.rows,
            "schema_id": dataset.schema_id,
            "provenance": dataset.provenance,
        })
    });
    json!({
        "format_version": 1,
        "lineage": state.lineage,
        "parent": parent.to_string(),
        "parent_manifest": state.checkpoints.get(&parent).map(|checkpoint| &checkpoint.manifest_hash),
        "job": job.to_string(),
        "datasets": datasets.collect::<Vec<_>>(),
        "replay": state.jobs[&job].replay,
        "kept_back": state.jobs[&job].kept_back,
        "settings": settings,
        "versions": { "hone": env!("CARGO_PKG_VERSION") },
    })
}
