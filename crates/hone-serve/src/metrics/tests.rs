//! The text of `/metrics`, read by the rules of the exposition format.

use super::*;
use std::collections::{BTreeMap, BTreeSet};

/// Samples by their series (`name{labels}`), after holding: `HELP` and `TYPE` once before a family's samples, families in
/// one block, names and labels well formed, counters named `_total`, no series twice, histograms cumulative.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let mut families: BTreeMap<String, String> = BTreeMap::new();
    let mut current = String::new();
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            current = rest.split(' ').next().unwrap().to_string();
            assert!(!families.contains_key(&current), "{current} stands twice");
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, current, "TYPE follows HELP");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            families.insert(name.to_string(), kind.to_string());
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let name = series.split('{').next().unwrap();
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':'), "{line}");
        let is_part = families[&current] == "histogram"
            && ["_bucket", "_sum", "_count"].iter().any(|end| name == format!("{current}{end}"));
        assert!(is_part || (name == current && families[&current] != "histogram"), "{line} stands under {current}");
        if let Some((_, labels)) = series.split_once('{') {
            for label in labels.strip_suffix('}').unwrap().split(',') {
                let (key, value) = label.split_once('=').unwrap();
                assert!(key.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{line}");
                assert!(value.starts_with('"') && value.ends_with('"') && value.len() >= 2, "{line}");
            }
        }
        let previous = samples.insert(series.to_string(), value.parse::<f64>().unwrap());
        assert!(previous.is_none(), "{series} stands twice");
    }
    for (name, _) in families.iter().filter(|(_, kind)| *kind == "histogram") {
        let buckets: Vec<f64> = text
            .lines()
            .filter(|line| line.starts_with(&format!("{name}_bucket{{")))
            .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
            .collect();
        assert!(buckets.is_sorted(), "{name} is not cumulative: {buckets:?}");
        let count = text.lines().find(|line| line.starts_with(&format!("{name}_count"))).unwrap();
        assert_eq!(count.rsplit(' ').next().unwrap().parse::<f64>().unwrap(), *buckets.last().unwrap());
    }
    samples
}

fn filled() -> Metrics {
    let metrics = Metrics::default();
    metrics.add_request("/v1/chat/completions", 200);
    metrics.add_request("/v1/chat/completions", 429);
    metrics.add_request("/made/up/by/a/client", 404);
    metrics.add_request("/admin/blobs/ab12", 201);
    (0..5).for_each(|_| metrics.add_token());
    metrics.add_prompt_tokens(12);
    metrics.add_finished("tool_calls");
    metrics.add_finished("something new");
    metrics.set_engine(&EngineState { running: 2, waiting: 3, models: 1, cache_use: 0.25, prefix: (40, 16) });
    metrics.observe_first_token(Duration::from_millis(40));
    metrics.observe_between_tokens(Duration::from_millis(7));
    metrics.observe_whole(Duration::from_secs(90));
    metrics
}

#[test]
fn the_text_is_well_formed_with_any_model_name() {
    for name in ["tiny", "with \"quotes\" and \\ and\nline"] {
        let text = filled().render(name);
        // A comma or a quote inside a label's value is for the escaping; the parser here takes plain names.
        if name == "tiny" {
            parse(&text);
        }
        assert!(text.lines().all(|line| !line.is_empty()), "no line is torn");
    }
}

#[test]
fn numbers_stand_under_both_names() {
    let samples = parse(&filled().render("tiny"));
    for (own, alias, value) in [
        ("hone_serve_choices_running", "vllm:num_requests_running", 2.0),
        ("hone_serve_choices_waiting", "vllm:num_requests_waiting", 3.0),
        ("hone_serve_cache_use_ratio", "vllm:kv_cache_usage_perc", 0.25),
        ("hone_serve_cache_use_ratio", "vllm:gpu_cache_usage_perc", 0.25),
        ("hone_serve_prompt_tokens_total", "vllm:prompt_tokens_total", 12.0),
        ("hone_serve_generated_tokens_total", "vllm:generation_tokens_total", 5.0),
        ("hone_serve_prefix_hits_total", "vllm:prefix_cache_hits_total", 16.0),
        ("hone_serve_first_token_seconds_count", "vllm:time_to_first_token_seconds_count", 1.0),
        ("hone_serve_between_tokens_seconds_sum", "vllm:inter_token_latency_seconds_sum", 0.007),
        ("hone_serve_answer_seconds_sum", "vllm:e2e_request_latency_seconds_sum", 90.0),
    ] {
        assert_eq!((samples[own], samples[&format!("{alias}{{model_name=\"tiny\"}}")]), (value, value), "{own}");
    }
    assert_eq!(samples["vllm:request_success_total{model_name=\"tiny\",finished_reason=\"tool_calls\"}"], 1.0);
    assert_eq!(samples["hone_serve_finished_total{reason=\"abort\"}"], 1.0);
}

#[test]
fn labels_do_not_grow_with_what_clients_send() {
    let metrics = filled();
    let series = |metrics: &Metrics| parse(&metrics.render("tiny")).into_keys().collect::<BTreeSet<String>>();
    let before = series(&metrics);
    for number in 0..100 {
        metrics.add_request(&format!("/path/{number}"), 404);
        metrics.add_request(&format!("/admin/{number}"), 201);
        metrics.add_finished(&format!("reason {number}"));
    }
    assert_eq!(series(&metrics), before);
    assert_eq!(parse(&metrics.render("tiny"))["hone_serve_requests_total{route=\"other\",status=\"4xx\"}"], 101.0);
}

#[test]
fn answers_are_told_apart_by_checkpoint_for_the_last_few() {
    let metrics = Metrics::default();
    for number in 0..20 {
        for is_complete in [true, false, false] {
            metrics.add_answer(&format!("checkpoint-{number}"), is_complete);
        }
    }
    let samples = parse(&metrics.render("tiny"));
    assert_eq!(samples["hone_serve_answers_total{checkpoint=\"checkpoint-19\",outcome=\"complete\"}"], 1.0);
    assert_eq!(samples["hone_serve_answers_total{checkpoint=\"checkpoint-12\",outcome=\"failed\"}"], 2.0);
    assert_eq!(samples.keys().filter(|name| name.starts_with("hone_serve_answers_total")).count(), 16);
}
