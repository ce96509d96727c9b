//! What the slices of a job reported: the source of the live view and of every curve.
//!
//! `events.jsonl` has what a worker said, steps at most a few times a second among it; `metrics.jsonl` has a line per step
//! and is where curves come from. A trainer that writes none has its curves from what it said.
//! Files are read on from where they were left. A step that a crash made run twice counts as it ran last; what it
//! was before stays as a *superseded* stretch, so that both attempts can be shown. A figure that is not finite is
//! kept as such (its JSON is `null`) and never enters a mean.

mod series;
#[cfg(test)]
mod tests;

pub(crate) use series::{Column, METRICS, Metric, Series};

use hone_pipeline::ids::JobId;
use hone_pipeline::state::Progress;
use hone_pipeline::wire::{WorkerLine, WorkerMessage};
use hone_store::Layout;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

const EVENTS_FILE: &str = "events.jsonl";
const METRICS_FILE: &str = "metrics.jsonl";
/// Jobs whose curves stay in memory; the one that was asked for longest ago goes first.
const MAX_JOBS: usize = 3;
/// Most bytes read of one file at a time by the live view; the rest follows at the next reading.
const MAX_READ_BYTES: u64 = 4 << 20;
/// Most reads of one file for a whole curve (so 4 GiB).
const MAX_READS: usize = 1024;
/// Previews kept.
const NUM_PREVIEWS: usize = 3;
/// Warnings kept.
const NUM_WARNINGS: usize = 20;
/// Characters kept of each text of a preview or warning.
const MAX_TEXT_CHARS: usize = 400;
/// Steps that the time per step is measured over.
const NUM_TIMED_STEPS: usize = 50;

/// Reads the histories of jobs.
pub(crate) struct HistoryReader {
    layout: Layout,
    /// Newest use last.
    jobs: VecDeque<(JobId, JobReader)>,
}

#[derive(Default)]
struct JobReader {
    history: History,
    /// Slices read to their end; their worker is gone.
    finished: BTreeSet<u64>,
    /// Bytes read of the events and the metrics of slices that are not finished.
    offsets: BTreeMap<u64, (u64, u64)>,
}

/// What the slices of a job said so far.
#[derive(Default)]
pub(crate) struct History {
    /// Figures by step.
    pub(crate) series: Series,
    /// Newest last.
    pub(crate) previews: VecDeque<Preview>,
    /// Rows or steps that a worker refused or skipped; newest last.
    pub(crate) warnings: VecDeque<Warning>,
    /// What the worker did last when it was not a step, e.g. `tokenizing`.
    pub(crate) phase: Option<String>,
    last: Option<Progress>,
    /// Number of the newest slice's lease.
    newest: u64,
    /// `(job_step, at_ms)` of the newest slice's last steps.
    timed: VecDeque<(u64, u64)>,
}

/// A greedy answer to a validation prompt.
#[derive(Clone, serde::Serialize)]
pub(crate) struct Preview {
    step: u64,
    source: String,
    prompt: String,
    answer: String,
    expected: String,
}

/// Something that a worker met and went on from.
#[derive(Clone, serde::Serialize)]
pub(crate) struct Warning {
    code: String,
    message: String,
}

impl HistoryReader {
    pub(crate) fn new(layout: Layout) -> HistoryReader {
        HistoryReader { layout, jobs: VecDeque::new() }
    }

    /// The history of a job, read on by at most one stretch per slice: quick, and complete after a few calls.
    /// Absent or damaged files are as if they were empty.
    pub(crate) fn read(&mut self, job: JobId) -> &History {
        self.read_on(job, 1)
    }

    /// The whole history of a job as of now.
    pub(crate) fn read_whole(&mut self, job: JobId) -> &History {
        self.read_on(job, MAX_READS)
    }

    fn read_on(&mut self, job: JobId, reads: usize) -> &History {
        let kept = self.jobs.iter().position(|(id, _)| *id == job).and_then(|index| self.jobs.remove(index));
        self.jobs.push_back(kept.unwrap_or_else(|| (job, JobReader::default())));
        if self.jobs.len() > MAX_JOBS {
            self.jobs.pop_front();
        }
        let (_, reader) = self.jobs.back_mut().expect("pushed above");
        reader.read_on(&self.layout.runs().join(job.to_string()), reads);
        &reader.history
    }
}

impl JobReader {
    fn read_on(&mut self, folder: &Path, reads: usize) {
        let slices = slices(folder);
        let unread: Vec<u64> = slices.difference(&self.finished).copied().collect();
        for slice in unread {
            let run = folder.join(format!("lease-{slice}"));
            let metrics = run.join(METRICS_FILE);
            let has_metrics = metrics.is_file();
            let (events_offset, metrics_offset) = self.offsets.entry(slice).or_default();
            let events = run.join(EVENTS_FILE);
            let history = &mut self.history;
            let at_end = (0..reads).any(|_| history.read_events(&events, slice, events_offset, !has_metrics));
            let at_end = (0..reads).any(|_| history.read_metrics(&metrics, slice, metrics_offset)) && at_end;
            if !at_end {
                // A later slice says what came after; it must not be taken in before this one is.
                return;
            }
            if slices.last() != Some(&slice) {
                self.finished.insert(slice);
                self.offsets.remove(&slice);
            }
        }
    }
}

impl History {
    /// Takes in what a worker said from `offset` on; true when the file's end was reached.
    fn read_events(&mut self, path: &Path, slice: u64, offset: &mut u64, with_steps: bool) -> bool {
        let Some((text, at_end)) = read_lines(path, *offset) else { return true };
        *offset += text.len() as u64;
        for message in lines(&text).filter_map(parse) {
            if let (WorkerMessage::Step(progress), true) = (&message, with_steps) {
                self.series.push(slice, progress);
            }
            self.take(slice, message);
        }
        at_end
    }

    /// Takes in the steps of `metrics.jsonl` from `offset` on; true when the file's end was reached. Memory is what the
    /// worker told last; so is the time in files of older versions.
    fn read_metrics(&mut self, path: &Path, slice: u64, offset: &mut u64) -> bool {
        let Some((text, at_end)) = read_lines(path, *offset) else { return true };
        *offset += text.len() as u64;
        let told = self.last.clone().unwrap_or_default();
        for line in lines(&text).filter_map(|line| serde_json::from_slice::<MetricsLine>(line).ok()) {
            self.series.push(slice, &line.fill(&told));
        }
        at_end
    }

    fn take(&mut self, slice: u64, message: WorkerMessage) {
        if slice > self.newest {
            (self.newest, self.phase) = (slice, None);
            self.timed.clear();
        }
        match message {
            WorkerMessage::Step(progress) => self.take_step(slice, progress),
            WorkerMessage::Alive { phase } if slice == self.newest => self.phase = Some(phase),
            WorkerMessage::Preview { step, source, prompt, answer, expected } => {
                let [prompt, answer, expected] = [prompt, answer, expected].map(|text| shorten(&text));
                keep(&mut self.previews, NUM_PREVIEWS, Preview { step, source, prompt, answer, expected });
            }
            WorkerMessage::Warning { code, message } => {
                keep(&mut self.warnings, NUM_WARNINGS, Warning { code, message: shorten(&message) });
            }
            _ => {}
        }
    }

    fn take_step(&mut self, slice: u64, progress: Progress) {
        if slice >= self.newest {
            self.newest = slice;
            self.phase = None;
            keep(&mut self.timed, NUM_TIMED_STEPS, (progress.job_step, progress.at_ms));
            self.last = Some(progress);
        }
    }

    /// The newest step.
    pub(crate) fn last(&self) -> Option<&Progress> {
        self.last.as_ref()
    }

    /// Milliseconds per step over the last steps of the newest slice; none before its second step.
    pub(crate) fn ms_per_step(&self) -> Option<f64> {
        let ((first_step, first_ms), (last_step, last_ms)) = (self.timed.front()?, self.timed.back()?);
        let steps = last_step.checked_sub(*first_step).filter(|&steps| steps > 0)?;
        Some(last_ms.checked_sub(*first_ms)? as f64 / steps as f64)
    }
}

/// Every step of a job, in order, each as it ran last. Absent or damaged files are as if they were empty.
pub(crate) fn all_steps(layout: &Layout, job: JobId) -> Vec<Progress> {
    let folder = layout.runs().join(job.to_string());
    let mut steps = BTreeMap::new();
    for slice in slices(&folder) {
        let run = folder.join(format!("lease-{slice}"));
        let mut told = BTreeMap::new();
        each_line(&run.join(EVENTS_FILE), &mut |line| {
            if let Some(WorkerMessage::Step(progress)) = parse(line) {
                told.insert(progress.job_step, progress);
            }
        });
        let mut has_metrics = false;
        each_line(&run.join(METRICS_FILE), &mut |line| {
            let Ok(line) = serde_json::from_slice::<MetricsLine>(line) else { return };
            has_metrics = true;
            let before = told.range(..=line.job_step).next_back().or_else(|| told.iter().next());
            let progress = line.fill(&before.map(|(_, progress)| progress.clone()).unwrap_or_default());
            steps.insert(progress.job_step, progress);
        });
        if !has_metrics {
            steps.append(&mut told);
        }
    }
    steps.into_values().collect()
}

/// Calls `take` with every complete line of a file.
fn each_line(path: &Path, take: &mut dyn FnMut(&[u8])) {
    let mut offset = 0;
    while let Some((text, at_end)) = read_lines(path, offset) {
        offset += text.len() as u64;
        lines(&text).for_each(&mut *take);
        if at_end {
            break;
        }
    }
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty())
}

/// The leases of a job's slices, oldest first.
fn slices(folder: &Path) -> BTreeSet<u64> {
    let number = |name: &str| name.strip_prefix("lease-")?.parse().ok();
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| number(entry.ok()?.file_name().to_str()?)).collect()
}

/// What a line of a worker says; none when it is damaged.
fn parse(line: &[u8]) -> Option<WorkerMessage> {
    match serde_json::from_slice::<WorkerLine>(line) {
        Ok(line) => Some(line.message),
        Err(_) => serde_json::from_slice::<StepWithGaps>(line).ok().map(|step| WorkerMessage::Step(step.fill())),
    }
}

/// A line of `metrics.jsonl`; a figure that was not finite is absent there.
#[derive(serde::Deserialize)]
struct MetricsLine {
    step: u64,
    job_step: u64,
    loss: Option<f64>,
    learning_rate: f64,
    grad_norm: Option<f64>,
    tokens: u64,
    #[serde(default)]
    trained_tokens: u64,
    ms: f64,
    at_ms: Option<u64>,
}

impl MetricsLine {
    /// With what the worker told last of time, memory and the length of the job.
    fn fill(self, told: &Progress) -> Progress {
        Progress {
            step: self.step,
            job_step: self.job_step,
            total_steps: told.total_steps,
            loss: self.loss.unwrap_or(f64::NAN),
            learning_rate: self.learning_rate,
            grad_norm: self.grad_norm.unwrap_or(f64::NAN),
            tokens_per_s: self.tokens as f64 * 1000.0 / self.ms,
            trained_tokens_per_s: self.trained_tokens as f64 * 1000.0 / self.ms,
            memory_bytes: told.memory_bytes,
            at_ms: self.at_ms.unwrap_or(told.at_ms),
        }
    }
}

/// A step whose figures are not all numbers: JSON has no NaN, so they are `null`.
#[derive(serde::Deserialize)]
struct StepWithGaps {
    r#type: StepTag,
    step: u64,
    job_step: u64,
    total_steps: u64,
    loss: Option<f64>,
    learning_rate: Option<f64>,
    grad_norm: Option<f64>,
    tokens_per_s: Option<f64>,
    trained_tokens_per_s: Option<f64>,
    memory_bytes: u64,
    at_ms: u64,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum StepTag {
    Step,
}

impl StepWithGaps {
    fn fill(self) -> Progress {
        let StepTag::Step = self.r#type;
        let number = |figure: Option<f64>| figure.unwrap_or(f64::NAN);
        Progress {
            step: self.step,
            job_step: self.job_step,
            total_steps: self.total_steps,
            loss: number(self.loss),
            learning_rate: number(self.learning_rate),
            grad_norm: number(self.grad_norm),
            tokens_per_s: number(self.tokens_per_s),
            trained_tokens_per_s: number(self.trained_tokens_per_s),
            memory_bytes: self.memory_bytes,
            at_ms: self.at_ms,
        }
    }
}

fn keep<T>(list: &mut VecDeque<T>, limit: usize, item: T) {
    list.push_back(item);
    while list.len() > limit {
        list.pop_front();
    }
}

/// Complete lines of a file from `offset` on, at most [`MAX_READ_BYTES`], and whether that was all; none when it
/// cannot be read.
fn read_lines(path: &Path, offset: u64) -> Option<(Vec<u8>, bool)> {
    let mut file = File::open(path).ok()?;
    file.seek(SeekFrom::Start(offset)).ok()?;
    let mut text = Vec::new();
    file.take(MAX_READ_BYTES).read_to_end(&mut text).ok()?;
    let at_end = (text.len() as u64) < MAX_READ_BYTES;
    let end = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
    // A line longer than a stretch never ends inside it: nothing that follows can be read.
    let at_end = at_end || end == 0;
    text.truncate(end);
    Some((text, at_end))
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}
