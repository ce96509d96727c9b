//! Counters in the Prometheus text format. Small on purpose: counts, gauges and two latency histograms.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Routes that are told apart; every other path counts as `other`.
const ROUTES: [&str; 9] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/models",
    "/models/info",
    "/health",
    "/ready",
    "/metrics",
    "/admin",
    "other",
];
const NUM_STATUS_CLASSES: usize = 5;
/// Upper bounds of the histograms' buckets, in seconds.
const BOUNDS_S: [f64; 13] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Everything that is counted.
#[derive(Default)]
pub struct Metrics {
    requests: [[AtomicU64; NUM_STATUS_CLASSES]; ROUTES.len()],
    running: AtomicUsize,
    waiting: AtomicUsize,
    models: AtomicUsize,
    tokens: AtomicU64,
    prompt_tokens: AtomicU64,
    first_token: Histogram,
    whole: Histogram,
}

#[derive(Default)]
struct Histogram {
    buckets: [AtomicU64; BOUNDS_S.len()],
    count: AtomicU64,
    sum_us: AtomicU64,
}

impl Metrics {
    /// Counts an answered request.
    pub fn add_request(&self, path: &str, status: u16) {
        let route = ROUTES
            .iter()
            .position(|route| path == *route || (*route == "/admin" && path.starts_with("/admin/")))
            .unwrap_or(ROUTES.len() - 1);
        let class = (usize::from(status) / 100).clamp(1, NUM_STATUS_CLASSES) - 1;
        self.requests[route][class].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a generated token.
    pub fn add_token(&self) {
        self.tokens.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the tokens of an admitted prompt.
    pub fn add_prompt_tokens(&self, num_tokens: usize) {
        self.prompt_tokens.fetch_add(num_tokens as u64, Ordering::Relaxed);
    }

    /// Choices that hold a slot.
    pub fn set_running(&self, num: usize) {
        self.running.store(num, Ordering::Relaxed);
    }

    /// Choices that wait for a slot.
    pub fn set_waiting(&self, num: usize) {
        self.waiting.store(num, Ordering::Relaxed);
    }

    /// Models in memory that answer: the serving one and those that finish what they admitted.
    pub fn set_models(&self, num: usize) {
        self.models.store(num, Ordering::Relaxed);
    }

    /// From the arrival of a request to its first token.
    pub fn observe_first_token(&self, elapsed: Duration) {
        self.first_token.observe(elapsed);
    }

    /// From the arrival of a request to its last token.
    pub fn observe_whole(&self, elapsed: Duration) {
        self.whole.observe(elapsed);
    }

    /// The text of `/metrics`.
    pub fn render(&self) -> String {
        let mut text = String::from(
            "# HELP hone_serve_requests_total Answered requests by route and class of status.\n\
             # TYPE hone_serve_requests_total counter\n",
        );
        for (route, classes) in ROUTES.iter().zip(&self.requests) {
            for (class, count) in classes.iter().enumerate() {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    let class = class + 1;
                    line(
                        &mut text,
                        format_args!("hone_serve_requests_total{{route=\"{route}\",status=\"{class}xx\"}} {count}"),
                    );
                }
            }
        }
        let gauge = |value: &AtomicUsize| value.load(Ordering::Relaxed) as u64;
        single(&mut text, "hone_serve_choices_running", "gauge", "Choices that hold a slot.", gauge(&self.running));
        single(&mut text, "hone_serve_choices_waiting", "gauge", "Choices that wait for a slot.", gauge(&self.waiting));
        single(&mut text, "hone_serve_models", "gauge", "Serving and draining models in memory.", gauge(&self.models));
        let tokens = self.tokens.load(Ordering::Relaxed);
        single(&mut text, "hone_serve_generated_tokens_total", "counter", "Generated tokens.", tokens);
        let prompt_tokens = self.prompt_tokens.load(Ordering::Relaxed);
        single(&mut text, "hone_serve_prompt_tokens_total", "counter", "Tokens of admitted prompts.", prompt_tokens);
        self.first_token.render(&mut text, "hone_serve_first_token_seconds", "From arrival to the first token.");
        self.whole.render(&mut text, "hone_serve_answer_seconds", "From arrival to the last token.");
        text
    }
}

impl Histogram {
    fn observe(&self, elapsed: Duration) {
        if let Some(bucket) = BOUNDS_S.iter().position(|bound| elapsed.as_secs_f64() <= *bound) {
            self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
        self.sum_us.fetch_add(elapsed.as_micros() as u64, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    fn render(&self, text: &mut String, name: &str, help: &str) {
        line(text, format_args!("# HELP {name} {help}\n# TYPE {name} histogram"));
        let mut below = 0;
        for (bound, bucket) in BOUNDS_S.iter().zip(&self.buckets) {
            below += bucket.load(Ordering::Relaxed);
            line(text, format_args!("{name}_bucket{{le=\"{bound}\"}} {below}"));
        }
        let count = self.count.load(Ordering::Relaxed);
        let sum_s = self.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        line(text, format_args!("{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum_s}\n{name}_count {count}"));
    }
}

fn single(text: &mut String, name: &str, kind: &str, help: &str, value: u64) {
    line(text, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"));
}

fn line(text: &mut String, content: std::fmt::Arguments) {
    writeln!(text, "{content}").expect("writing into a String does not fail");
}
