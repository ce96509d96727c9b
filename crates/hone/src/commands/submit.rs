//! `hone submit` and `hone validate`: both gates, with and without queueing.

use crate::commands::roles::loop_config;
use crate::config::Config;
use crate::exit::Refused;
use crate::output;
use crate::workspace::{Workspace, absolute};
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use hone_daemon::inbox::{self, Sidecar};
use hone_data::check::check_file;
use hone_pipeline::finding::{Level, Report, SchemaOrigin, Severity, TokenStats};
use hone_pipeline::ids::DatasetId;
use hone_pipeline::state::{Dataset, DatasetState, Priority, State};
use hone_pipeline::wire::{CheckRequest, ControlRequest, WIRE_FORMAT_VERSION};
use hone_store::datasets::sidecar_of;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long `hone submit` waits for the verdict before it says that the daemon goes on without it.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(600);
/// Time between two looks at the state.
const POLL: Duration = Duration::from_millis(100);

/// Order of service, as a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PriorityArg {
    /// Before all others.
    High,
    /// The usual.
    Normal,
    /// When nothing else waits.
    Low,
}

/// Content-check level, as a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LevelArg {
    /// Syntax, types, roles, emptiness.
    Quick,
    /// Quick, token statistics, balance, duplicates.
    Standard,
    /// Standard, leakage, overlap, degenerate text, secrets.
    Deep,
}

impl From<LevelArg> for Level {
    fn from(level: LevelArg) -> Self {
        match level {
            LevelArg::Quick => Level::Quick,
            LevelArg::Standard => Level::Standard,
            LevelArg::Deep => Level::Deep,
        }
    }
}

/// Flags of `hone submit`.
#[derive(Args, Debug)]
pub struct SubmitArgs {
    /// The file.
    file: PathBuf,
    /// Order of service.
    #[arg(long, value_enum, default_value = "normal")]
    priority: PriorityArg,
    /// Schema of its rows.
    #[arg(long, value_name = "ID")]
    schema: Option<String>,
    /// Do not wait for the verdict.
    #[arg(long)]
    no_wait: bool,
}

/// Flags of `hone validate`.
#[derive(Args, Debug)]
pub struct ValidateArgs {
    /// The file.
    file: PathBuf,
    /// Schema of its rows.
    #[arg(long, value_name = "ID")]
    schema: Option<String>,
    /// How deep to look.
    #[arg(long, value_enum, ignore_case = true)]
    level: Option<LevelArg>,
    /// The model folder that counts the tokens (default: the workspace's base model).
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
}

/// `hone submit`.
pub fn submit(ws: &Workspace, args: &SubmitArgs) -> Result<()> {
    ws.require()?;
    let known: Vec<DatasetId> = ws.state()?.datasets.keys().copied().collect();
    let inbox_path = place_in_inbox(ws, args)?;
    let daemon = hone_daemon::control::send(&ws.root, &ControlRequest::Scan, Duration::from_secs(5)).is_ok();
    if args.no_wait || !daemon {
        if ws.json {
            output::json(&json!({"inbox_path": inbox_path, "verdict": null}));
        } else {
            output::line(&format!("put into the inbox: {inbox_path}"));
            if !daemon {
                output::note("note: no daemon runs here; `hone up` (or `hone daemon`) takes it");
            }
        }
        return Ok(());
    }
    let dataset = wait_for_verdict(ws, &inbox_path, &known)?;
    report_dataset(ws, &dataset)
}

/// Fails, as what could not be done to it, where there is no file at a path.
pub fn require_file(verb: &str, file: &Path) -> Result<()> {
    if file.is_file() {
        return Ok(());
    }
    let shown = file.display();
    if file.is_dir() {
        bail!("{verb} {shown}: it is a folder\nhint: name a file");
    }
    bail!("{verb} {shown}: there is no such file")
}

/// Copies the file into the inbox, complete at once.
fn place_in_inbox(ws: &Workspace, args: &SubmitArgs) -> Result<String> {
    let file = absolute(&args.file)?;
    require_file("submit", &args.file)?;
    let priority = match args.priority {
        PriorityArg::High => Priority::High,
        PriorityArg::Normal => Priority::Normal,
        PriorityArg::Low => Priority::Low,
    };
    let sidecar = Sidecar { schema_flag: args.schema.clone(), submitted: true, ..Sidecar::default() };
    inbox::place(&ws.root, &file, priority, &sidecar)
}

fn wait_for_verdict(ws: &Workspace, inbox_path: &str, known: &[DatasetId]) -> Result<Dataset> {
    let store = ws.store()?;
    let start = Instant::now();
    while start.elapsed() < VERDICT_TIMEOUT {
        let state: State = store.load()?;
        let mine = state.datasets.values().rev().find(|d| d.inbox_path == inbox_path && !known.contains(&d.id));
        if let Some(dataset) = mine
            && !matches!(dataset.state, DatasetState::Arriving | DatasetState::Checking)
        {
            return Ok(dataset.clone());
        }
        std::thread::sleep(POLL);
    }
    bail!("see a verdict about {inbox_path} within {} s; `hone status` tells how far it is", VERDICT_TIMEOUT.as_secs())
}

fn report_dataset(ws: &Workspace, dataset: &Dataset) -> Result<()> {
    if ws.json {
        output::json(dataset);
    } else {
        match &dataset.state {
            DatasetState::Accepted => output::line(&format!(
                "accepted: {} is {} ({} rows, {}); it waits in the queue",
                dataset.file_name,
                dataset.id,
                dataset.rows,
                dataset.schema_id.as_deref().unwrap_or("?")
            )),
            DatasetState::Duplicate { of } => {
                output::line(&format!(
                    "already known: {} has the same bytes as {of}; nothing to do",
                    dataset.file_name
                ));
            }
            DatasetState::Rejected { reasons } => {
                output::line(&format!("rejected: {}", dataset.file_name));
                for reason in reasons {
                    output::line(&format!("  {}: {reason}", dataset.file_name));
                }
                output::line("the file and its report are in rejected/");
            }
            DatasetState::Vanished => output::line(&format!("gone: {} left the inbox", dataset.file_name)),
            DatasetState::Arriving | DatasetState::Checking => {}
        }
    }
    match dataset.state {
        DatasetState::Accepted | DatasetState::Duplicate { .. } => Ok(()),
        _ => Err(Refused.into()),
    }
}

/// `hone validate`.
pub fn validate(ws: &Workspace, args: &ValidateArgs) -> Result<()> {
    let config = ws.config()?;
    let file = absolute(&args.file)?;
    require_file("validate", &args.file)?;
    let mut request = check_request(ws, &config, file, args)?;
    let sets = ws.layout().root().join("run").join(format!("validate-{}", std::process::id()));
    if let (Level::Deep, Ok(state)) = (request.level, ws.state()) {
        request.compare.extend(hone_daemon::write_skill_sets(&ws.layout(), &state, &loop_config(&config), &sets)?);
    }
    let report = check_file(&request, &|_| {});
    hone_disk::remove_tree(&sets)?;
    if ws.json {
        output::json(&report);
    } else {
        print_report(&args.file, &report);
    }
    if report.is_accepted() { Ok(()) } else { Err(Refused.into()) }
}

fn check_request(ws: &Workspace, config: &Config, file: PathBuf, args: &ValidateArgs) -> Result<CheckRequest> {
    let schema = schema_of(config, &file, args.schema.as_deref())?;
    let level = args.level.map_or(config.settings.validation_level, Level::from);
    let model_dir = match &args.model {
        Some(dir) => Some(absolute(dir)?),
        None => base_model_dir(ws),
    };
    let request = gate_request(config, file, schema, model_dir);
    let compare = match (level, ws.state()) {
        (Level::Deep, Ok(state)) => hone_daemon::compare_files(&ws.layout(), &state, &loop_config(config), None)?,
        _ => Vec::new(),
    };
    Ok(CheckRequest { level, compare, ..request })
}

/// The schema of a file outside the inbox: that of the flag, its sidecar or the configuration.
pub fn schema_of(config: &Config, file: &Path, flag: Option<&str>) -> Result<(String, SchemaOrigin)> {
    let sidecar = Sidecar::read(&sidecar_of(file)).with_context(|| format!("use {}", file.display()))?;
    Ok(match (flag, sidecar.schema_id) {
        (Some(id), _) => (id.to_string(), SchemaOrigin::Flag),
        (None, Some(id)) => (id, SchemaOrigin::Sidecar),
        (None, None) => config.schema_id.clone(),
    })
}

/// What both gates are asked about a file, under the limits of the configuration.
pub fn gate_request(
    config: &Config,
    file: PathBuf,
    (schema_id, schema_origin): (String, SchemaOrigin),
    model_dir: Option<PathBuf>,
) -> CheckRequest {
    let train = &config.settings.train;
    CheckRequest {
        format_version: WIRE_FORMAT_VERSION,
        file,
        schema_id,
        schema_origin,
        level: config.settings.validation_level,
        max_length: hone_daemon::longest_row(train.max_length, model_dir.as_deref()),
        model_dir,
        overlong: train.overlong,
        profile: train.profile.clone(),
        chat_template_kwargs: train.chat_template_kwargs.clone(),
        max_line_bytes: config.max_line_bytes,
        max_file_bytes: config.max_file_bytes,
        max_unpacked_bytes: config.max_unpacked_bytes,
        content: config.content.clone(),
        compare: Vec::new(),
        background: false,
    }
}

/// The base model of the workspace, when there is one: its template is part of the check.
fn base_model_dir(ws: &Workspace) -> Option<PathBuf> {
    let state = ws.state().ok()?;
    Some(ws.root.join(state.lineage?.base_model))
}

fn print_report(file: &Path, report: &Report) {
    let verdict = if report.is_accepted() { "accepted" } else { "rejected" };
    output::line(&format!(
        "{verdict}: {} ({} rows, {}, schema {}, level {}, {} ms)",
        file.display(),
        report.rows,
        output::bytes(report.size_bytes),
        report.schema_id,
        format!("{:?}", report.level).to_lowercase(),
        report.elapsed_ms
    ));
    for finding in &report.findings {
        let mark = if finding.severity == Severity::Error { "error" } else { "warning" };
        let place = match finding.lines.first() {
            Some(line) => format!("{}:{line}: ", file.display()),
            None => String::new(),
        };
        output::line(&format!("{place}{mark}[{}]: {}", finding.code, finding.message));
        if finding.count > 1 {
            let lines: Vec<String> = finding.lines.iter().map(ToString::to_string).collect();
            output::line(&format!("  on {} rows: lines {}", finding.count, lines.join(", ")));
        }
        if let Some(evidence) = &finding.evidence {
            output::line(&format!("  found: {}", output::excerpt(evidence, 120)));
        }
        output::line(&format!("  hint: {}", finding.hint));
    }
    if let Some(stats) = &report.stats {
        print_stats(stats);
    }
}

fn print_stats(stats: &TokenStats) {
    if stats.num_tokens > 0 {
        output::line(&format!(
            "tokens: {} ({:.1} % trained); a row: least {}, half {}, 95 % {}, 99 % {}, most {}; {} over max_length",
            stats.num_tokens,
            100.0 * stats.trained_share,
            stats.min_row_tokens,
            stats.median_row_tokens,
            stats.p95_row_tokens,
            stats.p99_row_tokens,
            stats.max_row_tokens,
            stats.num_overlong_rows
        ));
    }
    let Some(balance) = &stats.balance else { return };
    let list = |counts: &std::collections::BTreeMap<String, u64>| {
        let mut sorted: Vec<(&String, &u64)> = counts.iter().collect();
        sorted.sort_by(|a, b| b.1.cmp(a.1));
        let shown = sorted.iter().take(6).map(|(name, rows)| format!("{} {rows}", output::excerpt(name, 24)));
        shown.collect::<Vec<_>>().join(", ")
    };
    for (what, counts) in [
        ("roles", &balance.roles),
        ("messages", &balance.turns),
        ("answer length", &balance.answer_chars),
        ("scripts", &balance.scripts),
        ("languages", &balance.languages),
        ("labels", &balance.labels),
        ("sources", &balance.sources),
    ] {
        if !counts.is_empty() {
            output::line(&format!("{what}: {}", list(counts)));
        }
    }
}
