//! The past, page by page: curves, runs, checkpoints, files, events, logs.

use super::{Refusal, Shared, failed};
use crate::desk::Records;
use crate::history::{Column, METRICS, Metric};
use crate::sources::{ledger, queue};
use anyhow::Context;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::Response;
use hone_pipeline::ids::{CheckpointId, DatasetId, JobId};
use hone_pipeline::state::{Dataset, Job, LogSeverity};
use hone_store::EventFilter;
use serde::Deserialize;
use serde_json::{Value, json};

/// Entries of a page, when the request names no number and at most.
const PAGE: usize = 50;
const MAX_PAGE: usize = 500;
/// Points of a curve, when the request names no number and at most.
const POINTS: usize = 600;
const MAX_POINTS: usize = 10_000;
/// Longest text that events are searched for.
const MAX_TEXT: usize = 200;

/// A page of a list that is newest first: entries with numbers below `before`.
#[derive(Deserialize)]
pub(super) struct PageQuery {
    before: Option<u64>,
    limit: Option<usize>,
    state: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct RunQuery {
    job: u64,
    metric: Option<String>,
    from: Option<u64>,
    to: Option<u64>,
    points: Option<usize>,
}

#[derive(Deserialize)]
pub(super) struct PointsQuery {
    points: Option<usize>,
}

#[derive(Deserialize)]
pub(super) struct EventsQuery {
    before: Option<u64>,
    limit: Option<usize>,
    severity: Option<String>,
    text: Option<String>,
}

type Asked<T> = Result<Query<T>, QueryRejection>;
type Numbered = Result<Path<u64>, PathRejection>;

/// Answers a question with the parameters of a request, or says what is wrong with them.
async fn answer<T, Q>(shared: &Shared, asked: Result<T, String>, question: Q) -> Response
where
    T: Send + 'static,
    Q: FnOnce(&mut Records, T) -> Result<Value, Refusal> + Send + 'static,
{
    match asked {
        Ok(asked) => shared.0.desk.ask(move |records| question(records, asked)).await,
        Err(message) => failed(&Refusal::Invalid(message)),
    }
}

fn query<T>(asked: Asked<T>) -> Result<T, String> {
    asked.map(|Query(query)| query).map_err(|rejection| rejection.body_text())
}

fn number(asked: Numbered) -> Result<u64, String> {
    asked.map(|Path(number)| number).map_err(|_| "the path ends in a number".to_string())
}

pub(super) async fn runs(State(shared): State<Shared>, asked: Asked<PageQuery>) -> Response {
    answer(&shared, query(asked), |records, page| {
        let state = records.workspace.state()?;
        let started = state.jobs.values().rev().filter(|job| job.started_ms.is_some());
        Ok(paged("runs", started, |job| job.id.0, &page, |job: &Job| queue::job_entry(&state, job)))
    })
    .await
}

pub(super) async fn checkpoints(State(shared): State<Shared>, asked: Asked<PageQuery>) -> Response {
    answer(&shared, query(asked), |records, page| {
        let state = records.workspace.state()?;
        let all = state.checkpoints.values().rev();
        Ok(paged("checkpoints", all, |checkpoint| checkpoint.id.0, &page, |c| ledger::entry(&state, c)))
    })
    .await
}

pub(super) async fn checkpoint(State(shared): State<Shared>, asked: Numbered) -> Response {
    answer(&shared, number(asked), |records, number| {
        let state = records.workspace.state()?;
        let found = state.checkpoints.get(&CheckpointId(number));
        let checkpoint = found.ok_or_else(|| Refusal::NotFound(format!("there is no checkpoint-{number}")))?;
        Ok(ledger::story(&state, checkpoint))
    })
    .await
}

pub(super) async fn datasets(State(shared): State<Shared>, asked: Asked<PageQuery>) -> Response {
    answer(&shared, query(asked), |records, page| {
        let state = records.workspace.state()?;
        let all = state.datasets.values().rev();
        Ok(paged("datasets", all, |dataset| dataset.id.0, &page, |dataset: &Dataset| queue::dataset_entry(dataset)))
    })
    .await
}

pub(super) async fn report(State(shared): State<Shared>, asked: Numbered) -> Response {
    answer(&shared, number(asked), |records, number| {
        let state = records.workspace.state()?;
        let found = state.datasets.get(&DatasetId(number));
        let dataset = found.ok_or_else(|| Refusal::NotFound(format!("there is no dataset-{number}")))?;
        let report = hone_store::datasets::read_report(records.workspace.layout(), dataset)?;
        let report = report.ok_or_else(|| Refusal::NotFound(format!("dataset-{number} has no report yet")))?;
        Ok(json!({ "dataset": queue::dataset_entry(dataset), "report": report }))
    })
    .await
}

/// `{KEY: [entry], "next": number to go on before, or null}`.
fn paged<'a, T: serde::Serialize + 'a>(
    key: &str,
    newest_first: impl Iterator<Item = &'a T>,
    number: impl Fn(&T) -> u64,
    page: &PageQuery,
    entry: impl Fn(&T) -> Value,
) -> Value {
    let limit = page.limit.unwrap_or(PAGE).clamp(1, MAX_PAGE);
    let before = page.before.unwrap_or(u64::MAX);
    let mut next = None;
    let mut entries: Vec<Value> = Vec::new();
    for item in newest_first.filter(|item| number(item) < before) {
        if entries.len() == limit {
            next = Some(number(item) + 1);
            break;
        }
        let entry = entry(item);
        if page.state.as_ref().is_none_or(|state| entry["state"] == state.as_str()) {
            entries.push(entry);
        }
    }
    json!({ key: entries, "next": next })
}

pub(super) async fn run(State(shared): State<Shared>, asked: Asked<RunQuery>) -> Response {
    answer(&shared, query(asked), |records, asked| {
        let name = asked.metric.as_deref().unwrap_or("loss");
        let known = || METRICS.map(|metric| metric.name).join(", ");
        let metric = METRICS.into_iter().find(|metric| metric.name == name);
        let metric = metric.ok_or_else(|| Refusal::Invalid(format!("no metric {name:?} (known: {})", known())))?;
        let state = records.workspace.state()?;
        let job = JobId(asked.job);
        if !state.jobs.contains_key(&job) {
            return Err(Refusal::NotFound(format!("there is no {job}")));
        }
        Ok(curve(records, job, metric, &asked))
    })
    .await
}

fn curve(records: &Records, job: JobId, metric: Metric, asked: &RunQuery) -> Value {
    let (from, to) = (asked.from.unwrap_or(0), asked.to.unwrap_or(u64::MAX));
    let points = asked.points.unwrap_or(POINTS).clamp(1, MAX_POINTS);
    let mut histories = records.histories.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let series = &histories.read_whole(job).series;
    let superseded: Vec<Value> = series
        .superseded(metric, from, to, points)
        .into_iter()
        .map(|(lease, column)| {
            let mut entry = columns(&column);
            entry["lease"] = lease.into();
            entry
        })
        .collect();
    let (non_finite, num_non_finite) = series.non_finite();
    let mut answer = columns(&series.column(metric, from, to, points));
    answer["job"] = job.to_string().into();
    answer["metric"] = metric.name.into();
    answer["unit"] = metric.unit.into();
    answer["superseded"] = superseded.into();
    answer["non_finite"] = non_finite.into();
    answer["num_non_finite"] = num_non_finite.into();
    answer
}

/// Figures that are not known or not finite are `null`.
fn columns(column: &Column) -> Value {
    let Column { steps, at_ms, mean, min, max } = column;
    json!({ "steps": steps, "at_ms": at_ms, "mean": mean, "min": min, "max": max })
}

pub(super) async fn evaluations(State(shared): State<Shared>, asked: Asked<PointsQuery>) -> Response {
    answer(&shared, query(asked), |records, asked| {
        let state = records.workspace.state()?;
        let points = asked.points.unwrap_or(POINTS).clamp(1, MAX_POINTS);
        Ok(json!({ "suites": ledger::suites_over_time(&state, points) }))
    })
    .await
}

pub(super) async fn past_events(State(shared): State<Shared>, asked: Asked<EventsQuery>) -> Response {
    answer(&shared, query(asked), |records, asked| {
        let text = asked.text.filter(|text| !text.is_empty());
        if text.as_ref().is_some_and(|text| text.len() > MAX_TEXT) {
            return Err(Refusal::Invalid(format!("text is longer than {MAX_TEXT} bytes")));
        }
        let severities = severities(asked.severity.as_deref().unwrap_or_default())?;
        let limit = asked.limit.unwrap_or(PAGE).clamp(1, MAX_PAGE);
        let filter = EventFilter { before: asked.before, severities, text };
        let lines = records.store()?.find_events(&filter, limit)?;
        let next = lines.last().filter(|_| lines.len() == limit).map(|(seq, _)| *seq);
        let events: Vec<Value> = lines.iter().map(|(seq, entry)| crate::events::event_json(*seq, entry)).collect();
        Ok(json!({ "events": events, "next": next }))
    })
    .await
}

/// `warning,error` and the like; empty = all.
fn severities(names: &str) -> Result<Vec<LogSeverity>, Refusal> {
    let parse = |name: &str| match name.trim() {
        "info" => Ok(LogSeverity::Info),
        "warning" => Ok(LogSeverity::Warning),
        "error" => Ok(LogSeverity::Error),
        other => Err(Refusal::Invalid(format!("no severity {other:?} (known: info, warning, error)"))),
    };
    names.split(',').filter(|name| !name.is_empty()).map(parse).collect()
}

/// Bytes read from the end of a log file.
const LOG_TAIL_BYTES: u64 = 64 << 10;

pub(super) async fn logs(State(shared): State<Shared>, asked: Asked<PageQuery>) -> Response {
    answer(&shared, query(asked), |records, page| {
        let folder = records.workspace.layout().logs();
        let limit = page.limit.unwrap_or(PAGE).clamp(1, MAX_PAGE);
        // Names come from the folder, never from the request.
        let mut names: Vec<String> = std::fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".log").map(str::to_string))
            .collect();
        names.sort();
        let tail = |name: &String| -> anyhow::Result<Value> {
            let (lines, at_ms) = tail(&folder.join(format!("{name}.log")), limit).context("read a log file")?;
            Ok(json!({ "role": name, "written_ms": at_ms, "lines": lines }))
        };
        let logs: Vec<Value> = names.iter().map(tail).collect::<anyhow::Result<_>>()?;
        Ok(json!({ "logs": logs }))
    })
    .await
}

fn tail(path: &std::path::Path, limit: usize) -> anyhow::Result<(Vec<String>, u64)> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(path)?;
    let metadata = file.metadata()?;
    file.seek(SeekFrom::Start(metadata.len().saturating_sub(LOG_TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(limit);
    let lines = lines[first..].iter().map(|line| plain(line)).collect();
    Ok((lines, metadata.modified().map_or(0, crate::clock::ms_of)))
}

/// A line without the colour codes of terminals and without other control characters.
fn plain(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(letter) = chars.next() {
        match letter {
            '\u{1b}' => drop(chars.find(char::is_ascii_alphabetic)),
            letter if letter.is_control() && letter != '\t' => {}
            letter => out.push(letter),
        }
    }
    out
}
