//! Figures by step in bounded memory: buckets of consecutive steps with least, greatest and mean value of each metric.

use hone_pipeline::state::Progress;

/// Buckets kept of one job; beyond them neighbours are joined, so that each holds twice as many steps.
pub(super) const MAX_BUCKETS: usize = 32_768;
/// Superseded stretches kept, and buckets of each.
const MAX_SUPERSEDED: usize = 20;
const MAX_SUPERSEDED_BUCKETS: usize = 512;
/// Steps with a figure that is not finite that are named; the rest is counted.
const MAX_NON_FINITE: usize = 1_000;

/// A metric of a training step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Metric {
    /// Its name in requests and answers.
    pub(crate) name: &'static str,
    /// Its unit, for people.
    pub(crate) unit: &'static str,
    index: usize,
}

/// All metrics of a step.
pub(crate) const METRICS: [Metric; NUM_METRICS] = [
    Metric { name: "loss", unit: "nats per trained token", index: 0 },
    Metric { name: "learning_rate", unit: "1", index: 1 },
    Metric { name: "grad_norm", unit: "norm before clipping", index: 2 },
    Metric { name: "tokens_per_s", unit: "tokens per second", index: 3 },
    Metric { name: "memory_bytes", unit: "bytes", index: 4 },
];
const NUM_METRICS: usize = 5;

fn values(progress: &Progress) -> [f64; NUM_METRICS] {
    let Progress { loss, learning_rate, grad_norm, tokens_per_s, memory_bytes, .. } = progress;
    [*loss, *learning_rate, *grad_norm, *tokens_per_s, *memory_bytes as f64]
}

/// Consecutive steps of one job.
#[derive(Clone, Debug)]
struct Bucket {
    first_job_step: u64,
    /// Global step and time of its last step.
    last_step: u64,
    at_ms: u64,
    steps: u64,
    figures: [Figure; NUM_METRICS],
}

/// The finite values of one metric in a bucket.
#[derive(Clone, Copy, Debug)]
struct Figure {
    min: f64,
    max: f64,
    sum: f64,
    count: u32,
}

impl Figure {
    fn of(value: f64) -> Figure {
        if value.is_finite() {
            Figure { min: value, max: value, sum: value, count: 1 }
        } else {
            Figure { min: f64::INFINITY, max: f64::NEG_INFINITY, sum: 0.0, count: 0 }
        }
    }

    fn join(&mut self, other: &Figure) {
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sum += other.sum;
        self.count += other.count;
    }
}

impl Bucket {
    fn join(&mut self, other: &Bucket) {
        (self.last_step, self.at_ms) = (other.last_step, other.at_ms);
        self.steps += other.steps;
        self.figures.iter_mut().zip(&other.figures).for_each(|(figure, other)| figure.join(other));
    }
}

/// The steps of one job.
#[derive(Default)]
pub(crate) struct Series {
    buckets: Vec<Bucket>,
    /// Steps per full bucket: a power of two.
    stretch: u64,
    /// The slice that wrote last.
    slice: u64,
    superseded: Vec<Superseded>,
    non_finite: Vec<u64>,
    num_non_finite: u64,
}

/// Steps that were run again later.
struct Superseded {
    slice: u64,
    buckets: Vec<Bucket>,
}

/// One metric, ready to be drawn. A bucket without a finite value has NaN.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Column {
    /// Global step that ends each bucket.
    pub(crate) steps: Vec<u64>,
    /// When that step ended.
    pub(crate) at_ms: Vec<u64>,
    pub(crate) mean: Vec<f64>,
    pub(crate) min: Vec<f64>,
    pub(crate) max: Vec<f64>,
}

impl Series {
    /// Takes in a step that `slice` took.
    pub(super) fn push(&mut self, slice: u64, progress: &Progress) {
        if slice != self.slice {
            self.supersede(progress.job_step);
            self.slice = slice;
        }
        let values = values(progress);
        if values.iter().any(|value| !value.is_finite()) {
            self.num_non_finite += 1;
            if self.non_finite.len() < MAX_NON_FINITE {
                self.non_finite.push(progress.step);
            }
        }
        self.stretch = self.stretch.max(1);
        let bucket = Bucket {
            first_job_step: progress.job_step,
            last_step: progress.step,
            at_ms: progress.at_ms,
            steps: 1,
            figures: values.map(Figure::of),
        };
        match self.buckets.last_mut() {
            Some(last) if last.steps < self.stretch => last.join(&bucket),
            _ => self.buckets.push(bucket),
        }
        if self.buckets.len() > MAX_BUCKETS {
            self.stretch *= 2;
            self.buckets = joined(&self.buckets, 2);
        }
    }

    /// Puts aside the steps from `job_step` on: a later slice takes them again. A bucket that the border cuts goes
    /// with the older ones.
    fn supersede(&mut self, job_step: u64) {
        let from = self.buckets.partition_point(|bucket| bucket.first_job_step < job_step);
        let tail = self.buckets.split_off(from);
        if !tail.is_empty() {
            let group = tail.len().div_ceil(MAX_SUPERSEDED_BUCKETS);
            self.superseded.push(Superseded { slice: self.slice, buckets: joined(&tail, group) });
        }
        if self.superseded.len() > MAX_SUPERSEDED {
            self.superseded.remove(0);
        }
    }

    /// A metric over the global steps `from..=to` in at most `points` buckets.
    pub(crate) fn column(&self, metric: Metric, from: u64, to: u64, points: usize) -> Column {
        column(&self.buckets, metric, from, to, points)
    }

    /// The same of each stretch that was run again later, oldest first, with the number of its slice's lease.
    pub(crate) fn superseded(&self, metric: Metric, from: u64, to: u64, points: usize) -> Vec<(u64, Column)> {
        let columns = self.superseded.iter().map(|part| (part.slice, column(&part.buckets, metric, from, to, points)));
        columns.filter(|(_, column)| !column.steps.is_empty()).collect()
    }

    /// Global steps with a figure that is not finite, and how many there are in all.
    pub(crate) fn non_finite(&self) -> (&[u64], u64) {
        (&self.non_finite, self.num_non_finite)
    }
}

fn column(buckets: &[Bucket], metric: Metric, from: u64, to: u64, points: usize) -> Column {
    let start = buckets.partition_point(|bucket| bucket.last_step < from);
    let end = buckets.partition_point(|bucket| bucket.last_step <= to);
    let range = &buckets[start.min(end)..end];
    let group = range.len().div_ceil(points.max(1)).max(1);
    let mut column = Column::default();
    for bucket in joined(range, group) {
        let Figure { min, max, sum, count } = bucket.figures[metric.index];
        let known = |value: f64| if count > 0 { value } else { f64::NAN };
        column.steps.push(bucket.last_step);
        column.at_ms.push(bucket.at_ms);
        column.mean.push(known(sum / f64::from(count.max(1))));
        column.min.push(known(min));
        column.max.push(known(max));
    }
    column
}

/// The same steps in buckets of `group` neighbours each.
fn joined(buckets: &[Bucket], group: usize) -> Vec<Bucket> {
    let join = |group: &[Bucket]| {
        let mut whole = group[0].clone();
        group[1..].iter().for_each(|bucket| whole.join(bucket));
        whole
    };
    buckets.chunks(group.max(1)).map(join).collect()
}
