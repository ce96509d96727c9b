//! The past, page by page.

use super::*;

#[test]
fn a_run_is_told_by_metric_range_and_number_of_points() {
    let root = tempfile::tempdir().unwrap();
    let _store = busy_workspace(root.path());
    let monitor = Monitor::start(options(root.path()));
    let run = monitor.json("/api/history/run?job=2");
    assert_eq!((&run["metric"], &run["unit"]), (&json!("loss"), &json!("nats per trained token")));
    assert_eq!(run["steps"], json!([19, 20, 21]));
    assert_eq!(run["mean"], json!([1.0, 0.8, 0.7]));
    assert_eq!((&run["superseded"], &run["num_non_finite"]), (&json!([]), &json!(0)));
    let part = monitor.json("/api/history/run?job=2&metric=learning_rate&from=20&to=20");
    assert_eq!((&part["steps"], &part["mean"]), (&json!([20]), &json!([1e-3])));
    let one = monitor.json("/api/history/run?job=2&points=1");
    assert_eq!((&one["min"], &one["max"]), (&json!([0.7]), &json!([1.0])));
    let refused = |path: &str, status: u16, part: &str| {
        let (found, text) = monitor.text(path);
        assert!(found == status && text.contains(part), "{path}: {found} {text}");
    };
    refused("/api/history/run?job=2&metric=mood", 400, "loss, learning_rate");
    refused("/api/history/run?job=99", 404, "job-99");
    refused("/api/history/run", 400, "job");
    refused("/api/history/run?job=x", 400, "");
    // A queued job has no steps: an empty curve, not an error.
    assert_eq!(monitor.json("/api/history/run?job=3")["steps"], json!([]));
}

#[test]
fn both_attempts_of_a_crashed_slice_and_figures_that_are_not_finite_are_told() {
    let root = tempfile::tempdir().unwrap();
    let store = busy_workspace(root.path());
    let run = store.layout().run(JobId(2), LeaseToken(5));
    std::fs::create_dir_all(&run).unwrap();
    let line = |step, loss| {
        let message = WorkerMessage::Step(progress(step, loss));
        serde_json::to_string(&WorkerLine { token: LeaseToken(5), message }).unwrap() + "\n"
    };
    std::fs::write(run.join("events.jsonl"), line(21, 0.65) + &line(22, f64::NAN) + &line(23, 0.5)).unwrap();
    let monitor = Monitor::start(options(root.path()));
    let told = monitor.json("/api/history/run?job=2");
    assert_eq!(told["steps"], json!([19, 20, 21, 22, 23]));
    assert_eq!(told["mean"], json!([1.0, 0.8, 0.65, null, 0.5]));
    assert_eq!((&told["non_finite"], &told["num_non_finite"]), (&json!([22]), &json!(1)));
    assert_eq!(told["superseded"][0]["lease"], 4);
    assert_eq!(told["superseded"][0]["mean"], json!([0.7]));
}

#[test]
fn lists_come_in_pages_newest_first() {
    let root = tempfile::tempdir().unwrap();
    let mut store = busy_workspace(root.path());
    let more: Vec<Change> = (11..=20).map(|number| checkpoint(number, Some(10))).collect();
    store.commit(&more).unwrap();
    let monitor = Monitor::start(options(root.path()));
    let numbers = |page: &Value, key: &str, field: &str| -> Vec<Value> {
        page[key].as_array().unwrap().iter().map(|entry| entry[field].clone()).collect()
    };
    let mut seen = Vec::new();
    let mut path = "/api/checkpoints?limit=5".to_string();
    loop {
        let page = monitor.json(&path);
        seen.extend(numbers(&page, "checkpoints", "number"));
        match page["next"].as_u64() {
            Some(next) => path = format!("/api/checkpoints?limit=5&before={next}"),
            None => break,
        }
    }
    let expected: Vec<Value> = (10..=20).rev().chain([0]).map(Value::from).collect();
    assert_eq!(seen, expected);
    assert_eq!(numbers(&monitor.json("/api/datasets"), "datasets", "id"), ["dataset-2", "dataset-1"]);
    assert_eq!(numbers(&monitor.json("/api/datasets?state=rejected"), "datasets", "file_name"), [HOSTILE]);
    assert_eq!(numbers(&monitor.json("/api/history/runs"), "runs", "id"), ["job-2"]);
    assert_eq!(monitor.text("/api/checkpoints?limit=many").0, 400);
}

#[test]
fn a_checkpoint_tells_what_led_to_it_and_what_became_of_it() {
    let root = tempfile::tempdir().unwrap();
    let _store = busy_workspace(root.path());
    let monitor = Monitor::start(options(root.path()));
    let story = monitor.json("/api/checkpoints/10");
    assert_eq!(story["checkpoint"]["verdict"]["reason"], "loss 0.9 against 2.0");
    assert_eq!(story["lineage"][0]["id"], "checkpoint-0");
    assert_eq!((&story["job"]["id"], &story["files"][0]["file_name"]), (&json!("job-1"), &json!("good.jsonl")));
    assert_eq!(story["deployments"][0]["target"], "local");
    assert_eq!(monitor.text("/api/checkpoints/11").0, 404);
    assert_eq!(monitor.text("/api/checkpoints/ten").0, 400);
    let suites = monitor.json("/api/history/evaluations")["suites"].clone();
    assert_eq!(suites[0]["suite"], "held-out.jsonl");
    assert_eq!((&suites[0]["checkpoints"], &suites[0]["mean_nll"]), (&json!([0, 10]), &json!([2.0, 0.9])));
    let thin = monitor.json("/api/history/evaluations?points=1")["suites"][0].clone();
    assert_eq!(
        (&thin["checkpoints"], &thin["min_nll"], &thin["max_nll"]),
        (&json!([10]), &json!([0.9]), &json!([2.0]))
    );
}

#[test]
fn the_report_of_a_file_is_told_where_it_lies() {
    let root = tempfile::tempdir().unwrap();
    let store = busy_workspace(root.path());
    let layout = store.layout();
    std::fs::create_dir_all(layout.dataset(DatasetId(1))).unwrap();
    std::fs::write(layout.dataset_report(DatasetId(1)), r#"{"verdict":"accepted","rows":300}"#).unwrap();
    std::fs::create_dir_all(layout.rejected()).unwrap();
    let filed = layout.rejected().join(format!("{HOSTILE}.report.json"));
    std::fs::write(filed, r#"{"dataset":"dataset-2","verdict":"rejected","findings":[{"line":7}]}"#).unwrap();
    let monitor = Monitor::start(options(root.path()));
    assert_eq!(monitor.json("/api/datasets/1/report")["report"]["rows"], 300);
    let refused = monitor.json("/api/datasets/2/report");
    assert_eq!(refused["report"]["findings"][0]["line"], 7);
    assert_eq!(refused["dataset"]["file_name"], HOSTILE);
    assert_eq!(monitor.text("/api/datasets/3/report").0, 404);
    assert_eq!(monitor.text("/api/datasets/..%2F..%2Fhone.db/report").0, 400);
}

#[test]
fn a_row_is_shown_by_whom_it_concerns_and_no_path_is_told() {
    let root = tempfile::tempdir().unwrap();
    let store = busy_workspace(root.path());
    let layout = store.layout().clone();
    std::fs::create_dir_all(layout.rejected()).unwrap();
    // The refused file lies in rejected/, with its report beside it; the accepted one is gone.
    std::fs::write(layout.rejected().join(HOSTILE), "{}\n").unwrap();
    std::fs::write(layout.rejected().join(format!("{HOSTILE}.report.json")), r#"{"dataset":"dataset-2"}"#).unwrap();
    let (file, place) = (layout.rejected().join(HOSTILE), root.path().display().to_string());
    let door = move |asked: &crate::RowAsked| {
        assert_eq!((&asked.file, asked.schema_id.as_deref()), (&file, Some("chat_sft_v1")));
        let tokens = json!([{"id": 1, "text": "<b>", "trained": true}]);
        let row = json!({"line": asked.line, "row": "row-1", "examples": [{"num_trained": 1, "tokens": tokens}]});
        match asked.line {
            7 => Ok(
                json!({"file": asked.file, "schema_id": "chat_sft_v1", "profile": {"name": "plain"}, "max_length": 128, "rows": [row]}),
            ),
            _ => Err(format!("show {}: no such row", asked.file.display())),
        }
    };
    let rows = Some(Arc::new(door) as crate::RowDoor);
    let monitor = Monitor::start(MonitorOptions { rows, ..options(root.path()) });
    let told = monitor.json("/api/datasets/2/rows/7");
    assert_eq!(
        (&told["row"]["line"], &told["profile"], &told["max_length"]),
        (&json!(7), &json!("plain"), &json!(128))
    );
    assert_eq!(told["row"]["examples"][0]["tokens"][0]["text"], "<b>");
    assert_eq!(told["dataset"]["id"], "dataset-2");
    let (status, refused) = monitor.text("/api/datasets/2/rows/8");
    assert_eq!(status, 422, "{refused}");
    assert!(!told.to_string().contains(&place) && !refused.contains(&place), "no path is told");
    assert_eq!(monitor.text("/api/datasets/1/rows/7").0, 404, "its file is gone");
    assert_eq!(monitor.text("/api/datasets/9/rows/7").0, 404);
    assert_eq!(monitor.text("/api/datasets/2/rows/..%2F7").0, 400);
    let closed = Monitor::start(options(root.path()));
    assert_eq!(closed.text("/api/datasets/2/rows/7").0, 403);
}

#[test]
fn past_events_are_found_by_severity_and_text() {
    let root = tempfile::tempdir().unwrap();
    let mut store = busy_workspace(root.path());
    let (kind, subject) = ("job_failed".to_string(), "job-9".to_string());
    let message = "<script>alert(1)</script>".to_string();
    store.commit(&[Change::Log(LogEntry { at_ms: 9, severity: LogSeverity::Error, kind, subject, message })]).unwrap();
    let monitor = Monitor::start(options(root.path()));
    let found = |path: &str| -> Vec<Value> {
        let page = monitor.json(path);
        page["events"].as_array().unwrap().iter().map(|event| event["message"].clone()).collect()
    };
    assert_eq!(found("/api/history/events?limit=2"), ["<script>alert(1)</script>", "three"]);
    assert_eq!(monitor.json("/api/history/events?limit=2")["next"], 3);
    assert_eq!(found("/api/history/events?before=3"), ["two", "one"]);
    assert_eq!(found("/api/history/events?severity=warning,error"), ["<script>alert(1)</script>"]);
    assert_eq!(found("/api/history/events?text=TWO"), ["two"]);
    assert_eq!(monitor.text("/api/history/events?severity=loud").0, 400);
}

#[test]
fn logs_are_told_without_control_characters() {
    let root = tempfile::tempdir().unwrap();
    let store = busy_workspace(root.path());
    std::fs::create_dir_all(store.layout().logs()).unwrap();
    std::fs::write(store.layout().logs().join("daemon.log"), "one\n\u{1b}[32mtwo\u{1b}[0m\u{7}\nthree\n").unwrap();
    let monitor = Monitor::start(options(root.path()));
    let told = monitor.json("/api/logs?limit=2");
    assert_eq!((&told["logs"][0]["role"], &told["logs"][0]["lines"]), (&json!("daemon"), &json!(["two", "three"])));
}

#[test]
fn a_cleared_cache_is_read_anew() {
    let root = tempfile::tempdir().unwrap();
    let _store = busy_workspace(root.path());
    let monitor = Monitor::start(options(root.path()));
    let reads = || {
        let told = monitor.json("/api/sources");
        let sources = told["sources"].as_array().unwrap();
        let system = sources.iter().find(|source| source["name"] == "system").unwrap();
        system["num_reads"].as_u64().unwrap()
    };
    assert_eq!(reads(), 1);
    let send = |content_type: &str| {
        let request = monitor.agent.post(monitor.url("/api/cache/clear")).header("content-type", content_type);
        request.send("{}").unwrap().status().as_u16()
    };
    assert_eq!(send("text/plain"), 400);
    assert_eq!(send("application/json"), 200);
    assert_eq!(reads(), 2);
}

#[test]
fn the_grafana_dashboard_asks_only_for_metrics_that_exist() {
    let text = include_str!("../../../../deploy/grafana/hone.json");
    let dashboard: Value = serde_json::from_str(text).unwrap();
    let root = tempfile::tempdir().unwrap();
    let _store = busy_workspace(root.path());
    let metrics = Monitor::start(options(root.path())).text("/metrics").1;
    let known = |name: &str| metrics.lines().any(|line| line.starts_with(&format!("# TYPE {name} ")));
    let mut num_checked = 0;
    for target in dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap())
    {
        let expression = target["expr"].as_str().unwrap();
        let names =
            expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|w| w.starts_with("hone_"));
        // Those of the inference server come from its own `/metrics`, and these two are unknown at a first reading.
        let here = |name: &&str| {
            !name.starts_with("hone_serve_") && !matches!(*name, "hone_inference_up" | "hone_cpu_busy_ratio")
        };
        for name in names.filter(here) {
            assert!(known(name), "{name} is not a metric");
            num_checked += 1;
        }
    }
    assert!(num_checked >= 10, "{num_checked}");
}

#[test]
fn line_ends_in_names_make_no_headers() {
    let root = tempfile::tempdir().unwrap();
    let mut store = busy_workspace(root.path());
    let name = "a\r\nx-injected: 1\r\n\r\n<script>.jsonl";
    store.commit(&[dataset(99, name, DatasetState::Accepted), log(name)]).unwrap();
    let monitor = Monitor::start(options(root.path()));
    for path in ["/api/unified", "/api/datasets?limit=500", "/api/history/events?limit=500"] {
        let mut response = monitor.agent.get(monitor.url(path)).call().unwrap();
        assert!(response.headers().get("x-injected").is_none(), "{path}");
        assert_eq!(response.headers()["content-type"], "application/json", "{path}");
        let body: Value = serde_json::from_str(&response.body_mut().read_to_string().unwrap()).unwrap();
        assert!(body.to_string().contains("x-injected"), "{path} tells the name as it is");
    }
    // A line end in a path or a query is an error of the request, or text.
    for path in ["/api/logs?limit=1%0d%0ax-injected:%201", "/api/datasets?state=a%0d%0ax-injected:%201"] {
        let response = monitor.agent.get(monitor.url(path)).call().unwrap();
        assert!(response.headers().get("x-injected").is_none(), "{path}");
    }
}
