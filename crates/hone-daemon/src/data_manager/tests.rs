//! Tests of `data_manager`.

use super::*;
use crate::testing::HttpServer;
use hone_pipeline::ids::JobId;
use hone_pipeline::state::{Job, JobState};

fn samples(seed: u64, count: u64) -> Vec<Value> {
    let sample = |i| {
        json!({
            "id": format!("s{seed}-{i}"),
            "messages": [{"role": "user", "content": format!("{seed} {i}?")}, {"role": "assistant", "content": "①"}],
            "metadata": {"level": 1},
        })
    };
    (0..count).map(sample).collect()
}

/// Every answer but `wrong` is right.
fn verdicts(body: &[u8]) -> String {
    let asked: Value = serde_json::from_slice(body).unwrap();
    let judge = |sample: &Value| {
        let solved = sample["response"] != "wrong";
        json!({"id": sample["id"], "solved": solved, "score": 0.0, "parsed": true, "reason": ""})
    };
    json!({"results": asked["samples"].as_array().unwrap().iter().map(judge).collect::<Vec<_>>()}).to_string()
}

/// A healthy skill whose samples `change` may spoil.
fn skill(change: impl Fn(&mut Vec<Value>) + Send + 'static) -> HttpServer {
    HttpServer::start(move |request| match request.line.as_str() {
        "GET /health" => (200, json!({"status": "ok"}).to_string()),
        "POST /generate" => {
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            assert_eq!(body["split"], json!("train"));
            let level = body["level"].as_u64().unwrap();
            let mut samples =
                samples(1_000 * (level - 1) + body["seed"].as_u64().unwrap(), body["count"].as_u64().unwrap());
            change(&mut samples);
            (200, json!({"skill": "binary", "version": "3", "level": level, "samples": samples}).to_string())
        }
        "POST /verify" => (200, verdicts(&request.body)),
        line => panic!("{line}"),
    })
}

fn order(server: &HttpServer) -> GenerateOrder {
    let skill = SkillEndpoint::new("binary", &server.url);
    GenerateOrder { skill, level: 1, count: 3, seed: None, replay_share: 0.1, steps: false, priority: Priority::Low }
}

#[test]
fn generated_data_enters_through_the_inbox_and_no_seed_comes_twice() {
    let root = tempfile::tempdir().unwrap();
    let server = skill(|_| {});
    let first = generate_once(root.path(), &order(&server), &Limits::default()).unwrap();
    let second = generate_once(root.path(), &order(&server), &Limits::default()).unwrap();
    assert_eq!(first.inbox_path, "low/binary-l1-1.jsonl");
    assert_eq!((second.seed, second.rows, second.version.as_str()), (2, 3, "3"));
    let file = root.path().join("inbox").join(&first.inbox_path);
    let rows: Vec<Value> =
        std::fs::read_to_string(&file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[0]["messages"][1]["content"], "①");
    let sidecar = Sidecar::read(&hone_store::datasets::sidecar_of(&file)).unwrap();
    assert_eq!(sidecar.schema_id.as_deref(), Some("chat_sft_v1"));
    let provenance = sidecar.provenance.unwrap();
    let quality = json!({"samples": 3, "distinct_answers": 1, "most_frequent_answer": 3, "longest_question": 4,
        "longest_answer": 1, "verified": 3});
    let mix = json!([{"level": 1, "count": 3}]);
    let expected = json!({"skill": "binary", "version": "3", "level": 1, "seed": 1, "split": "train", "mix": mix,
        "quality": quality});
    assert_eq!(provenance, expected);
}

#[test]
fn samples_that_are_no_training_data_are_refused_by_name() {
    type Spoil = fn(&mut Vec<Value>);
    let spoil: [(Spoil, &str); 8] = [
        (|s| s[1]["messages"] = json!([]), "sample s1-1: its messages are not a conversation"),
        (|s| s[1]["messages"][1]["content"] = json!(" "), "sample s1-1: it does not end with an answer"),
        (|s| s[1]["metadata"] = json!(null), "sample s1-1: its metadata is not an object"),
        (|s| s[1]["id"] = json!("s1-0"), "sample s1-0: its id comes twice"),
        (|s| s[1]["messages"] = s[0]["messages"].clone(), "sample s1-1: its conversation comes twice"),
        (|s| s[1]["messages"][1]["content"] = json!("wrong"), "sample s1-1: the skill itself calls its answer wrong"),
        (|s| s[1]["messages"][1]["content"] = json!("①\u{7}"), "sample s1-1: its answer holds control"),
        (|s| s[1]["messages"][1]["content"] = json!("①".repeat(500)), "its answer 500"),
    ];
    for (spoil, expected) in spoil {
        let root = tempfile::tempdir().unwrap();
        let error = generate_once(root.path(), &order(&skill(spoil)), &Limits::default()).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains(expected), "{error}");
        assert!(!root.path().join("inbox").exists(), "nothing is placed");
    }
}

#[test]
fn a_question_that_two_levels_share_comes_once() {
    let root = tempfile::tempdir().unwrap();
    let server = skill(|samples| samples[0]["messages"][0]["content"] = "shared?".into());
    let order = GenerateOrder { level: 2, count: 4, replay_share: 0.5, ..order(&server) };
    let file = generate_once(root.path(), &order, &Limits::default()).unwrap();
    let text = std::fs::read_to_string(root.path().join("inbox").join(&file.inbox_path)).unwrap();
    assert_eq!((file.rows, text.matches("shared?").count()), (3, 1));
}

#[test]
fn it_asks_when_the_queue_runs_dry_and_the_cooldown_has_passed() {
    let endpoint = |name: &str| SkillEndpoint::new(name, "");
    let config = DataManagerConfig {
        enabled: true,
        threshold: 1,
        cooldown_ms: 100,
        skills: vec![endpoint("a"), endpoint("b")],
        ..DataManagerConfig::default()
    };
    let mut state = State::default();
    let memory = Memory { last_ms: 1_000, ..Memory::default() };
    let name =
        |state: &State, config, turn, now| due(state, config, &memory, turn, now).map(|skill| skill.name.clone());
    assert_eq!(name(&state, &config, 0, 1_099), None, "the cooldown");
    assert_eq!(name(&state, &config, 0, 1_100).as_deref(), Some("a"));
    assert_eq!(name(&state, &config, 1, 1_100).as_deref(), Some("b"), "they take turns");
    for number in 1..=2 {
        let job = Job::new(JobId(number), Vec::new(), Priority::Low, 0);
        state.jobs.insert(job.id, job);
    }
    assert_eq!(name(&state, &config, 0, 1_100), None, "two jobs are open");
    let completed = Job { state: JobState::Completed, ..state.jobs[&JobId(1)].clone() };
    state.jobs.insert(completed.id, completed);
    assert!(name(&state, &config, 0, 1_100).is_some());
    state.control = Control::Paused { reason: String::new() };
    assert_eq!(name(&state, &config, 0, 1_100), None, "paused");
    let off = DataManagerConfig { enabled: false, ..config.clone() };
    assert_eq!(name(&State::default(), &off, 0, 1_100), None, "off");
}

#[test]
fn a_share_comes_from_the_levels_below() {
    let root = tempfile::tempdir().unwrap();
    let server = skill(|_| {});
    let order = |level, count, replay_share| GenerateOrder { level, count, replay_share, ..order(&server) };
    assert_eq!(order(1, 10, 0.5).mix(), [(1, 10)]);
    assert_eq!(order(3, 100, 0.25).mix(), [(3, 75), (1, 13), (2, 12)]);
    assert_eq!(order(3, 5, 0.25).mix(), [(3, 4), (1, 1)]);
    assert_eq!(order(2, 4, 1.0).mix(), [(2, 1), (1, 3)]);
    assert_eq!(order(4, 1, 1.0).mix(), [(4, 1)]);
    let file = generate_once(root.path(), &order(3, 16, 0.25), &Limits::default()).unwrap();
    assert_eq!((file.inbox_path.as_str(), file.rows), ("low/binary-l3-1.jsonl", 16));
}

#[test]
fn one_answer_for_all_is_no_training_data() {
    let root = tempfile::tempdir().unwrap();
    let server = skill(|_| {});
    let error = generate_once(root.path(), &GenerateOrder { count: 20, ..order(&server) }, &Limits::default());
    assert!(format!("{:#}", error.unwrap_err()).contains("20 samples have the same answer"));
}

#[test]
fn the_weakest_comes_first_and_a_rejected_one_rests() {
    let endpoint = |name: &str| SkillEndpoint::new(name, "");
    let config = DataManagerConfig {
        enabled: true,
        cooldown_ms: 100,
        order: SkillOrder::WeakestFirst,
        skills: vec![endpoint("a"), endpoint("b")],
        ..DataManagerConfig::default()
    };
    let mut state = State::default();
    let a = hone_pipeline::curriculum::SkillProgress { level: 3, total_levels: 7, ..state.skill("a") };
    state.curriculum.insert("a".to_string(), a);
    let name = |state: &State, now| due(state, &config, &Memory::default(), 0, now).map(|skill| skill.name.clone());
    assert_eq!(name(&state, 5_000).as_deref(), Some("b"));
    let rejected = Dataset {
        id: hone_pipeline::ids::DatasetId(1),
        file_name: String::new(),
        inbox_path: String::new(),
        priority: Priority::Low,
        schema_flag: None,
        state: DatasetState::Rejected { reasons: Vec::new() },
        arrived_ms: 5_000,
        schema_id: None,
        blake3: None,
        rows: 0,
        provenance: Some(json!({"skill": "b"})),
        keep_back: None,
        check_started: false,
        check_tries: 0,
        deep_check: Default::default(),
        filed: true,
        gone: Default::default(),
        set_aside: Default::default(),
    };
    state.datasets.insert(rejected.id, rejected);
    assert_eq!(name(&state, 5_999).as_deref(), Some("a"), "b rests ten cooldowns");
    assert_eq!(name(&state, 6_000).as_deref(), Some("b"));
}

#[test]
fn a_skill_that_gives_nothing_rests_longer_each_time_and_the_others_are_asked() {
    let root = tempfile::tempdir().unwrap();
    let endpoint = |name: &str| SkillEndpoint::new(name, "");
    let config = DataManagerConfig {
        enabled: true,
        cooldown_ms: 2_000,
        order: SkillOrder::WeakestFirst,
        skills: vec![endpoint("down"), endpoint("well")],
        ..DataManagerConfig::default()
    };
    let mut state = State::default();
    let well = hone_pipeline::curriculum::SkillProgress { level: 3, total_levels: 7, ..state.skill("well") };
    state.curriculum.insert("well".to_string(), well);
    let fail = || remember(root.path(), "down", Some(&anyhow::anyhow!("ask it: nobody is there"))).unwrap();
    // After n failures in a row: the times, from the last one on, at which it is left out and asked again.
    for (rests_at, asked_at) in [(3_999, 4_000), (7_999, 8_000), (15_999, 16_000), (19_999, 20_000), (19_999, 20_000)] {
        fail();
        let memory = Memory::read(root.path());
        let at_ms = memory.failures["down"].at_ms;
        let name = |now| due(&state, &config, &memory, 0, now).map(|skill| skill.name.as_str());
        assert_eq!((name(at_ms + rests_at), name(at_ms + asked_at)), (Some("well"), Some("down")));
        assert_eq!(name(at_ms - 1), Some("down"), "a clock that was set back holds nobody up");
    }
    let alone = DataManagerConfig { skills: vec![endpoint("down")], ..config.clone() };
    let memory = Memory::read(root.path());
    let waits = why_not(&state, &alone, &memory, memory.failures["down"].at_ms + 500).unwrap();
    assert_eq!(waits, "down gave nothing: ask it: nobody is there; asked again in 20 s");
    let only_evaluated = |name: &str| SkillEndpoint { generate: false, ..endpoint(name) };
    let one = DataManagerConfig { skills: vec![only_evaluated("down"), endpoint("well")], ..config.clone() };
    let turns =
        [0, 1, 2].map(|turn| due(&state, &one, &Memory::default(), turn, 9_000).map(|skill| skill.name.as_str()));
    assert_eq!(turns, [Some("well"); 3], "one that is only evaluated has no turn");
    let none = DataManagerConfig { skills: vec![only_evaluated("down")], ..config.clone() };
    assert!(due(&state, &none, &Memory::default(), 0, 9_000).is_none());
    remember(root.path(), "down", None).unwrap();
    assert_eq!(Memory::read(root.path()), Memory::default(), "a file that came ends it");
}

#[test]
fn worked_steps_are_asked_for_by_order_and_stand_in_the_provenance() {
    use std::sync::Mutex;
    static ASKED: Mutex<Vec<Value>> = Mutex::new(Vec::new());
    let server = HttpServer::start(|request| match request.line.as_str() {
        "GET /health" => (200, json!({"status": "ok"}).to_string()),
        "POST /generate" => {
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            ASKED.lock().unwrap().push(body["steps"].clone());
            let samples = samples(body["seed"].as_u64().unwrap(), 3);
            (200, json!({"skill": "binary", "version": "3", "level": 1, "samples": samples}).to_string())
        }
        _ => (200, verdicts(&request.body)),
    });
    let root = tempfile::tempdir().unwrap();
    let steps_of = |steps| {
        let file = generate_once(root.path(), &GenerateOrder { steps, ..order(&server) }, &Limits::default()).unwrap();
        let file = root.path().join("inbox").join(file.inbox_path);
        Sidecar::read(&hone_store::datasets::sidecar_of(&file)).unwrap().provenance.unwrap()["steps"].clone()
    };
    assert_eq!((steps_of(false), steps_of(true)), (Value::Null, json!(true)));
    // Servers that know no `steps` are not bothered with it.
    assert_eq!(*ASKED.lock().unwrap(), [Value::Null, json!(true)]);
}

#[test]
fn bounds_are_configuration() {
    let root = tempfile::tempdir().unwrap();
    let server = skill(|_| {});
    // Under the name of one of hone's own skills, and all answers are the same: as for yes or no where nearly all are yes.
    let mut skill = SkillEndpoint::new("binary", &server.url);
    (skill.quality.max_same_answer, skill.quality.min_distinct_answers) = (1.0, 0.0);
    skill.quality.schema_id = "sharegpt_v1".to_string();
    let order = GenerateOrder { skill, count: 20, ..order(&server) };
    let file = generate_once(root.path(), &order, &Limits::default()).unwrap();
    let file = root.path().join("inbox").join(file.inbox_path);
    let sidecar = Sidecar::read(&hone_store::datasets::sidecar_of(&file)).unwrap();
    assert_eq!(sidecar.schema_id.as_deref(), Some("sharegpt_v1"));
}

#[test]
fn worked_steps_of_binary_keep_its_bounds() {
    let binary = hone_skills::find("binary").unwrap();
    for level in 1..=7 {
        let (count, split) = (500, hone_skills::Split::Train);
        let request = hone_skills::GenerateRequest { level, count, seed: 3, split, steps: true };
        let samples = binary.generate(&request).unwrap().samples;
        let longest = samples.iter().map(|sample| sample.answer().chars().count()).max().unwrap();
        assert!(longest <= QualityProfile::of("binary").max_answer_chars, "level {level}: {longest}");
    }
}
