//! The loss curve and previews of a job, from the `events.jsonl` of its slices. Files are read on from where they were
//! left; a step that a crash made run twice counts as it ran last.

use hone_pipeline::ids::JobId;
use hone_pipeline::state::Progress;
use hone_pipeline::wire::{WorkerLine, WorkerMessage};
use hone_store::Layout;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Points of a curve as shown.
const MAX_POINTS: usize = 240;
/// Steps kept in memory; beyond them every second one is dropped.
const MAX_STEPS: usize = 100_000;
/// Most bytes read of one file at a time; the rest follows at the next reading.
const MAX_READ_BYTES: u64 = 4 << 20;
/// Previews shown.
const NUM_PREVIEWS: usize = 3;
/// Characters shown of each text of a preview.
const MAX_PREVIEW_CHARS: usize = 400;
/// Steps that the time per step is measured over.
const NUM_TIMED_STEPS: usize = 50;

/// Reads one job at a time.
pub(super) struct CurveReader {
    layout: Layout,
    job: Option<JobId>,
    curve: Curve,
    /// Slices read to their end; their worker is gone.
    finished: BTreeSet<u64>,
    /// Bytes read of the slice that is not finished.
    offsets: BTreeMap<u64, u64>,
}

/// What the slices of a job said so far.
#[derive(Default)]
pub(super) struct Curve {
    /// By step within the job.
    steps: BTreeMap<u64, Progress>,
    /// Newest last.
    pub(super) previews: VecDeque<Preview>,
    /// What the worker did last when it was not a step, e.g. `tokenizing`.
    pub(super) phase: Option<String>,
    /// Number of the newest slice's lease.
    newest: u64,
    /// First step within the job that the newest slice took.
    newest_from: Option<u64>,
}

#[derive(Clone, serde::Serialize)]
pub(super) struct Preview {
    step: u64,
    source: String,
    prompt: String,
    answer: String,
    expected: String,
}

impl CurveReader {
    pub(super) fn new(layout: Layout) -> CurveReader {
        let (finished, offsets) = Default::default();
        CurveReader { layout, job: None, curve: Curve::default(), finished, offsets }
    }

    /// The curve of a job, read on. Absent or damaged files are as if they were empty.
    pub(super) fn read(&mut self, job: JobId) -> &Curve {
        if self.job != Some(job) {
            *self = CurveReader::new(self.layout.clone());
            self.job = Some(job);
        }
        let folder = self.layout.runs().join(job.to_string());
        let slices: BTreeSet<u64> = std::fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("lease-")?.parse().ok())
            .collect();
        let unread: Vec<u64> = slices.difference(&self.finished).copied().collect();
        for slice in unread {
            let offset = self.offsets.entry(slice).or_default();
            let path = folder.join(format!("lease-{slice}")).join("events.jsonl");
            let at_end = self.curve.read_on(&path, slice, offset);
            if at_end && slices.last() != Some(&slice) {
                self.finished.insert(slice);
                self.offsets.remove(&slice);
            }
        }
        &self.curve
    }
}

impl Curve {
    /// Takes in complete lines from `offset` on; true when the file's end was reached.
    fn read_on(&mut self, path: &Path, slice: u64, offset: &mut u64) -> bool {
        let Some(text) = read_lines(path, *offset) else { return true };
        *offset += text.len() as u64;
        for line in text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            if let Ok(line) = serde_json::from_slice::<WorkerLine>(line) {
                self.take(slice, line.message);
            }
        }
        (text.len() as u64) < MAX_READ_BYTES / 2
    }

    fn take(&mut self, slice: u64, message: WorkerMessage) {
        if slice > self.newest {
            (self.newest, self.newest_from, self.phase) = (slice, None, None);
        }
        match message {
            WorkerMessage::Step(progress) => {
                if slice == self.newest {
                    self.phase = None;
                    self.newest_from.get_or_insert(progress.job_step);
                }
                self.steps.insert(progress.job_step, progress);
                if self.steps.len() > MAX_STEPS {
                    let mut keep = false;
                    self.steps.retain(|_, _| {
                        keep = !keep;
                        keep
                    });
                }
            }
            WorkerMessage::Alive { phase } if slice == self.newest => self.phase = Some(phase),
            WorkerMessage::Preview { step, source, prompt, answer, expected } => {
                let [prompt, answer, expected] = [prompt, answer, expected].map(|text| shorten(&text));
                self.previews.push_back(Preview { step, source, prompt, answer, expected });
                while self.previews.len() > NUM_PREVIEWS {
                    self.previews.pop_front();
                }
            }
            _ => {}
        }
    }

    /// The newest step.
    pub(super) fn last(&self) -> Option<&Progress> {
        self.steps.values().next_back()
    }

    /// `[step, mean loss]` over equal stretches of the job, at most [`MAX_POINTS`] of them.
    pub(super) fn points(&self) -> Vec<(u64, f64)> {
        let steps: Vec<&Progress> = self.steps.values().filter(|step| step.loss.is_finite()).collect();
        let stretch = steps.len().div_ceil(MAX_POINTS).max(1);
        let mean = |steps: &[&Progress]| steps.iter().map(|step| step.loss).sum::<f64>() / steps.len() as f64;
        steps.chunks(stretch).filter_map(|steps| Some((steps.last()?.step, mean(steps)))).collect()
    }

    /// Milliseconds per step over the last steps of the newest slice; none before its second step.
    pub(super) fn ms_per_step(&self) -> Option<f64> {
        let from = self.newest_from?;
        let mut recent = self.steps.range(from..).rev().take(NUM_TIMED_STEPS).map(|(_, step)| step);
        let last = recent.next()?;
        let first = recent.last()?;
        let steps = last.job_step.checked_sub(first.job_step).filter(|&steps| steps > 0)?;
        Some(last.at_ms.checked_sub(first.at_ms)? as f64 / steps as f64)
    }
}

/// Complete lines of a file from `offset` on, at most [`MAX_READ_BYTES`]; none when it cannot be read.
fn read_lines(path: &Path, offset: u64) -> Option<Vec<u8>> {
    let mut file = File::open(path).ok()?;
    file.seek(SeekFrom::Start(offset)).ok()?;
    let mut text = Vec::new();
    file.take(MAX_READ_BYTES).read_to_end(&mut text).ok()?;
    let end = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
    text.truncate(end);
    Some(text)
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_PREVIEW_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}

#[cfg(test)]
mod tests;
