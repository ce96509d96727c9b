//! Counters in the Prometheus text format, under hone's names and under those that dashboards for vLLM ask for. Every
//! label has a bounded set of values: routes of a table, classes of status, reasons, the one served name, and the last
//! checkpoints that answered.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Routes that are told apart; every other path counts as `other`.
const ROUTES: [&str; 10] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/models",
    "/models/info",
    "/health",
    "/ready",
    "/metrics",
    "/openapi.json",
    "/admin",
    "other",
];
const NUM_STATUS_CLASSES: usize = 5;
/// Checkpoints whose answers are told apart.
const MAX_CHECKPOINTS: usize = 8;
/// How answers end.
const OUTCOMES: [&str; 2] = ["complete", "failed"];
/// Why answers end, as clients are told.
const REASONS: [&str; 4] = ["stop", "length", "tool_calls", "abort"];
/// Upper bounds of the histograms' buckets, in seconds.
const BOUNDS_S: [f64; 15] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// A number that is a share of 1 000 000.
const MILLION: f64 = 1e6;

/// Everything that is counted.
#[derive(Default)]
pub struct Metrics {
    requests: [[AtomicU64; NUM_STATUS_CLASSES]; ROUTES.len()],
    finished: [AtomicU64; REASONS.len()],
    // A lock and no counters: checkpoints come and go, and an answer takes much longer than this.
    /// Complete and failed answers of the last checkpoints that answered, oldest first.
    answers: Mutex<VecDeque<(String, [u64; OUTCOMES.len()])>>,
    running: AtomicUsize,
    waiting: AtomicUsize,
    models: AtomicUsize,
    tokens: AtomicU64,
    prompt_tokens: AtomicU64,
    /// Of the cache's tokens, in millionths.
    cache_use: AtomicU64,
    /// Prompt tokens that were looked for in the cache, and those that were there.
    prefix_queries: AtomicU64,
    prefix_hits: AtomicU64,
    first_token: Histogram,
    between_tokens: Histogram,
    whole: Histogram,
}

#[derive(Default)]
struct Histogram {
    buckets: [AtomicU64; BOUNDS_S.len()],
    count: AtomicU64,
    sum_us: AtomicU64,
}

/// State of the engines, for gauges.
#[derive(Clone, Copy, Debug, Default)]
pub struct EngineState {
    /// Choices that hold a slot.
    pub running: usize,
    /// Choices that wait for a slot.
    pub waiting: usize,
    /// Models in memory that answer: the serving one and those that finish what they admitted.
    pub models: usize,
    /// Share of the cache that holds tokens of running requests.
    pub cache_use: f64,
    /// Prompt tokens so far that were looked for in the cache, and those that were there.
    pub prefix: (u64, u64),
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

    /// Counts an answer of a checkpoint that is complete, or that ended by a fault or by its time limit.
    pub fn add_answer(&self, checkpoint: &str, is_complete: bool) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let at = answers.iter().position(|(name, _)| name == checkpoint).unwrap_or_else(|| {
            if answers.len() == MAX_CHECKPOINTS {
                answers.pop_front();
            }
            answers.push_back((checkpoint.to_string(), [0; OUTCOMES.len()]));
            answers.len() - 1
        });
        answers[at].1[usize::from(!is_complete)] += 1;
    }

    /// Counts a generated token.
    pub fn add_token(&self) {
        self.tokens.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the tokens of an admitted prompt.
    pub fn add_prompt_tokens(&self, num_tokens: usize) {
        self.prompt_tokens.fetch_add(num_tokens as u64, Ordering::Relaxed);
    }

    /// Counts an ended choice by the reason that its client was told; any other one is `abort`.
    pub fn add_finished(&self, reason: &str) {
        let index = REASONS.iter().position(|known| *known == reason).unwrap_or(REASONS.len() - 1);
        self.finished[index].fetch_add(1, Ordering::Relaxed);
    }

    /// How the engines stand now.
    pub fn set_engine(&self, state: &EngineState) {
        self.running.store(state.running, Ordering::Relaxed);
        self.waiting.store(state.waiting, Ordering::Relaxed);
        self.models.store(state.models, Ordering::Relaxed);
        self.cache_use.store((state.cache_use * MILLION) as u64, Ordering::Relaxed);
        self.prefix_queries.store(state.prefix.0, Ordering::Relaxed);
        self.prefix_hits.store(state.prefix.1, Ordering::Relaxed);
    }

    /// From the arrival of a request to its first token.
    pub fn observe_first_token(&self, elapsed: Duration) {
        self.first_token.observe(elapsed);
    }

    /// Between two tokens of one choice.
    pub fn observe_between_tokens(&self, elapsed: Duration) {
        self.between_tokens.observe(elapsed);
    }

    /// From the arrival of a request to its last token.
    pub fn observe_whole(&self, elapsed: Duration) {
        self.whole.observe(elapsed);
    }

    /// The text of `/metrics`; `model_name` is the served name.
    pub fn render(&self, model_name: &str) -> String {
        let mut text = String::new();
        self.render_own(&mut text);
        self.render_vllm(&mut text, &format!("model_name=\"{}\"", escaped(model_name)));
        text
    }

    fn render_own(&self, text: &mut String) {
        head(text, "hone_serve_requests_total", "counter", "Answered requests by route and class of status.");
        for (route, classes) in ROUTES.iter().zip(&self.requests) {
            for (class, count) in classes.iter().enumerate().map(|(class, count)| (class + 1, get(count))) {
                if count > 0 {
                    line(
                        text,
                        format_args!("hone_serve_requests_total{{route=\"{route}\",status=\"{class}xx\"}} {count}"),
                    );
                }
            }
        }
        let name = "hone_serve_answers_total";
        head(text, name, "counter", "Answers of the last checkpoints that answered; failed: by a fault or over time.");
        for (checkpoint, counts) in self.answers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            for (outcome, count) in OUTCOMES.iter().zip(counts) {
                line(
                    text,
                    format_args!("{name}{{checkpoint=\"{}\",outcome=\"{outcome}\"}} {count}", escaped(checkpoint)),
                );
            }
        }
        head(text, "hone_serve_finished_total", "counter", "Ended answers by reason.");
        for (reason, count) in REASONS.iter().zip(&self.finished) {
            line(text, format_args!("hone_serve_finished_total{{reason=\"{reason}\"}} {}", get(count)));
        }
        let gauge = |value: &AtomicUsize| value.load(Ordering::Relaxed) as f64;
        let mut one = |name: &str, kind: &str, help: &str, value: f64| {
            head(text, name, kind, help);
            line(text, format_args!("{name} {value}"));
        };
        one("hone_serve_choices_running", "gauge", "Choices that hold a slot.", gauge(&self.running));
        one("hone_serve_choices_waiting", "gauge", "Choices that wait for a slot.", gauge(&self.waiting));
        one("hone_serve_models", "gauge", "Serving and draining models in memory.", gauge(&self.models));
        one("hone_serve_cache_use_ratio", "gauge", "Share of the cache in use.", get(&self.cache_use) as f64 / MILLION);
        one("hone_serve_generated_tokens_total", "counter", "Generated tokens.", get(&self.tokens) as f64);
        one(
            "hone_serve_prompt_tokens_total",
            "counter",
            "Tokens of admitted prompts.",
            get(&self.prompt_tokens) as f64,
        );
        one(
            "hone_serve_prefix_queries_total",
            "counter",
            "Prompt tokens looked for in the cache.",
            get(&self.prefix_queries) as f64,
        );
        one(
            "hone_serve_prefix_hits_total",
            "counter",
            "Prompt tokens that were in the cache.",
            get(&self.prefix_hits) as f64,
        );
        self.first_token.render(text, "hone_serve_first_token_seconds", "From arrival to the first token.", "");
        self.between_tokens.render(text, "hone_serve_between_tokens_seconds", "Between two tokens of a choice.", "");
        self.whole.render(text, "hone_serve_answer_seconds", "From arrival to the last token.", "");
    }

    /// The same numbers under vLLM's names, so that its dashboards work.
    fn render_vllm(&self, text: &mut String, label: &str) {
        let gauge = |value: &AtomicUsize| value.load(Ordering::Relaxed) as f64;
        let cache_use = get(&self.cache_use) as f64 / MILLION;
        let mut one = |name: &str, kind: &str, help: &str, value: f64| {
            head(text, name, kind, help);
            line(text, format_args!("{name}{{{label}}} {value}"));
        };
        one("vllm:num_requests_running", "gauge", "Alias of hone_serve_choices_running.", gauge(&self.running));
        one("vllm:num_requests_waiting", "gauge", "Alias of hone_serve_choices_waiting.", gauge(&self.waiting));
        one("vllm:kv_cache_usage_perc", "gauge", "Alias of hone_serve_cache_use_ratio; 1 is full.", cache_use);
        one("vllm:gpu_cache_usage_perc", "gauge", "Older name of vllm:kv_cache_usage_perc.", cache_use);
        one(
            "vllm:prompt_tokens_total",
            "counter",
            "Alias of hone_serve_prompt_tokens_total.",
            get(&self.prompt_tokens) as f64,
        );
        one(
            "vllm:generation_tokens_total",
            "counter",
            "Alias of hone_serve_generated_tokens_total.",
            get(&self.tokens) as f64,
        );
        one(
            "vllm:prefix_cache_queries_total",
            "counter",
            "Alias of hone_serve_prefix_queries_total.",
            get(&self.prefix_queries) as f64,
        );
        one(
            "vllm:prefix_cache_hits_total",
            "counter",
            "Alias of hone_serve_prefix_hits_total.",
            get(&self.prefix_hits) as f64,
        );
        head(text, "vllm:request_success_total", "counter", "Alias of hone_serve_finished_total.");
        for (reason, count) in REASONS.iter().zip(&self.finished) {
            line(
                text,
                format_args!("vllm:request_success_total{{{label},finished_reason=\"{reason}\"}} {}", get(count)),
            );
        }
        self.first_token.render(
            text,
            "vllm:time_to_first_token_seconds",
            "Alias of hone_serve_first_token_seconds.",
            label,
        );
        let between = "Alias of hone_serve_between_tokens_seconds.";
        self.between_tokens.render(text, "vllm:inter_token_latency_seconds", between, label);
        self.between_tokens.render(text, "vllm:time_per_output_token_seconds", between, label);
        self.whole.render(text, "vllm:e2e_request_latency_seconds", "Alias of hone_serve_answer_seconds.", label);
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

    fn render(&self, text: &mut String, name: &str, help: &str, label: &str) {
        head(text, name, "histogram", help);
        let (inside, alone) = if label.is_empty() {
            (String::new(), String::new())
        } else {
            (format!("{label},"), format!("{{{label}}}"))
        };
        let mut below = 0;
        for (bound, bucket) in BOUNDS_S.iter().zip(&self.buckets) {
            below += get(bucket);
            line(text, format_args!("{name}_bucket{{{inside}le=\"{bound}\"}} {below}"));
        }
        let sum_s = get(&self.sum_us) as f64 / MILLION;
        // Counted after the buckets, it is never below them.
        let count = get(&self.count).max(below);
        line(
            text,
            format_args!(
                "{name}_bucket{{{inside}le=\"+Inf\"}} {count}\n{name}_sum{alone} {sum_s}\n{name}_count{alone} {count}"
            ),
        );
    }
}

fn get(value: &AtomicU64) -> u64 {
    value.load(Ordering::Relaxed)
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    line(text, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
}

fn line(text: &mut String, content: std::fmt::Arguments) {
    writeln!(text, "{content}").expect("writing into a String does not fail");
}

#[cfg(test)]
mod tests;
