//! The closed loop with the real skill servers and a scripted learner: data is generated at the level that the learner has
//! reached, its answers are judged by the skill, and the level goes up and down with them.

#![expect(clippy::disallowed_methods, reason = "tests write fixtures")]

#[expect(dead_code, reason = "headers are another test's concern")]
#[path = "../src/testing.rs"]
mod testing;

use hone_daemon::{DaemonOptions, DataManagerConfig, Limits, LoopConfig, SkillEndpoint};
use hone_pipeline::config::Settings;
use hone_pipeline::ids::CheckpointId;
use hone_pipeline::state::{
    Change, Checkpoint, CheckpointState, Dataset, DatasetState, Lineage, LogSeverity, ModelIdentity, Position, State,
};
use hone_skills::{GenerateRequest, Split};
use hone_store::{Layout, Store};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use testing::HttpServer;

/// Far longer than anything here takes on a loaded machine.
const TIMEOUT: Duration = Duration::from_secs(240);

/// Seeds of questions, as `hone_daemon` numbers them: fresh ones by lease, and the sealed ones.
const FIRST_SEED: u64 = 1 << 40;
const SEALED_SEED: u64 = 1 << 50;
/// More leases than the learner gets.
const NUM_LEASES: u64 = 80;

/// The right answers to all questions of the first levels that may be asked, by the ids of their samples.
fn right_answers() -> BTreeMap<String, String> {
    let ask = |skill: &str, count, seed| {
        let request = GenerateRequest { level: 1, count, seed, split: Split::Eval, steps: false };
        hone_skills::find(skill).unwrap().generate(&request).unwrap()
    };
    let binary = ask("binary", 500, 1);
    assert!(binary.repeated, "all questions of the level are there");
    let syllo = (1..NUM_LEASES).map(|lease| ask("syllo", 300, FIRST_SEED + lease));
    let batches = syllo.chain([binary, ask("syllo", 100, SEALED_SEED)]);
    batches.flat_map(|batch| batch.samples).map(|s| (s.id.clone(), s.answer().to_string())).collect()
}

/// A skill server of hone, ended by `stop`; returns its URL.
fn serve(skill: &'static str, stop: &Arc<AtomicBool>) -> (String, JoinHandle<()>) {
    let (told, address) = channel();
    let flag = Arc::clone(stop);
    let server = std::thread::spawn(move || {
        let ready = |address| told.send(address).unwrap();
        hone_skill_server::run(skill, ([127, 0, 0, 1], 0).into(), flag, ready).unwrap();
    });
    (format!("http://{}", address.recv_timeout(TIMEOUT).unwrap()), server)
}

fn workspace(root: &Path) {
    let mut store = Store::create(root).unwrap();
    let base = Layout::new(root).models().join("base");
    std::fs::create_dir_all(&base).unwrap();
    std::fs::create_dir_all(root.join("behave")).unwrap();
    std::fs::write(base.join("config.json"), "{}").unwrap();
    std::fs::write(base.join("model.safetensors"), "").unwrap();
    let (model_name, base_model) = ("m".to_string(), "models/base".to_string());
    let checkpoint = Checkpoint {
        id: CheckpointId(0),
        parent: None,
        job: None,
        state: CheckpointState::Published,
        manifest_hash: "base".to_string(),
        position: Position::default(),
        rows_digest: String::new(),
        train_loss: None,
        created_ms: 0,
        ends_job: false,
        yielded: false,
        marks: Default::default(),
    };
    let (identity, base) = (ModelIdentity::default(), CheckpointId(0));
    let lineage = Lineage { number: 1, model_name, base_model, identity, base, left_at: None };
    store.commit(&[Change::SetLineage(lineage), Change::PutCheckpoint(checkpoint)]).unwrap();
}

fn wait_for(root: &Path, what: &str, mut holds: impl FnMut(&State) -> bool) -> State {
    let start = Instant::now();
    loop {
        let state = Store::open_read_only(root).unwrap().load().unwrap();
        if holds(&state) {
            return state;
        }
        assert!(start.elapsed() < TIMEOUT, "{what}: {:?}", state.curriculum);
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_learner_drives_the_levels_up_and_down_with_the_real_servers() {
    // budget: 120 s
    if !std::env::var("HONE_SLOW").is_ok_and(|slow| slow == "1") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let root: PathBuf = folder.path().to_path_buf();
    workspace(&root);
    std::fs::write(root.join("behave/answers.json"), serde_json::to_vec(&right_answers()).unwrap()).unwrap();
    std::fs::write(root.join("behave/knows"), "90").unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let names = ["binary", "syllo"];
    let (urls, servers): (Vec<_>, Vec<_>) = names.map(|skill| serve(skill, &stop)).into_iter().unzip();
    let load_settings = move || {
        let mut settings = Settings { retry_backoff_ms: 1, ..Settings::default() };
        settings.train.save_steps = 2;
        settings.curriculum.skills = names.map(str::to_string).to_vec();
        let skill = |(name, url): (&&str, &String)| SkillEndpoint::new(name, url);
        let skills = names.iter().zip(&urls).map(skill).collect();
        let data_manager =
            DataManagerConfig { enabled: true, count: 10, cooldown_ms: 1, skills, ..DataManagerConfig::default() };
        Ok(LoopConfig { settings, data_manager, sealed_questions: 100, ..LoopConfig::default() })
    };
    let program = PathBuf::from(env!("CARGO_BIN_EXE_hone-fake-worker"));
    let mut options = DaemonOptions::new(root.clone(), program, Box::new(load_settings));
    options.scan_interval = Duration::from_millis(10);
    let flag = Arc::clone(&stop);
    let daemon = std::thread::spawn(move || hone_daemon::run(options, flag, || {}));

    // 90 % right lead to level 2. There the learner knows nothing, and so it comes back.
    let there_and_back = |state: &State| {
        let has_moved = names.iter().all(|skill| state.skill(skill).moves.len() > 1);
        has_moved && names.iter().any(|skill| !files_of(state, skill, 2).is_empty())
    };
    let state = wait_for(&root, "every level goes up and down", there_and_back);
    stop.store(true, Ordering::SeqCst);
    daemon.join().unwrap().unwrap();
    servers.into_iter().for_each(|server| server.join().unwrap());
    for skill in names {
        check_there_and_back(&state, skill);
    }
    let view = std::fs::read(root.join("status/curriculum_state.json")).unwrap();
    let view: Value = serde_json::from_slice(&view).unwrap();
    assert_eq!((&view["skills"][0]["skill"], &view["skills"][1]["skill"]), (&json!("binary"), &json!("syllo")));
}

fn check_there_and_back(state: &State, skill: &str) {
    let progress = state.skill(skill);
    let moves: Vec<_> = progress.moves[..2].iter().map(|step| (step.from, step.to, step.reason.as_str())).collect();
    let up = "the last 3 evaluations average 90.0 %, at least 80 %";
    assert_eq!(moves, [(1, 2, up), (2, 1, "the last 3 evaluations average 0.0 %, below 50 %")], "{skill}");
    let distinct: BTreeSet<_> = progress.history.iter().map(|e| (e.checkpoint, e.visit)).collect();
    assert_eq!(distinct.len(), progress.history.len(), "one evaluation per checkpoint");
    assert!(progress.history.iter().all(|e| e.questions == 300 && e.errored == 0), "{skill}");

    // Files are of the level that was reached, under the skill's own schema, and the next level's hold some of the one below.
    let schema = if skill == "syllo" { "syllo_v1" } else { "chat_sft_v1" };
    let files = [1, 2].into_iter().flat_map(|level| files_of(state, skill, level));
    assert!(files.map(|file| file.schema_id.as_deref()).all(|id| id == Some(schema)), "{skill}");
    for file in files_of(state, skill, 2) {
        let mix = &file.provenance.as_ref().unwrap()["mix"];
        assert_eq!(*mix, json!([{"level": 2, "count": 9}, {"level": 1, "count": 1}]));
    }

    // The same sealed questions for every checkpoint, of each level that was reached.
    let sealed = |level: u32| -> Vec<_> {
        let suite = format!("{skill}/{level}");
        let results = state.evaluations.values().filter_map(|evaluation| evaluation.result(&suite));
        results.map(|result| (result.suite_hash.clone(), result.rows, result.share_right())).collect()
    };
    let first = sealed(1);
    assert!(first.len() > 3 && first.iter().all(|result| *result == first[0]), "{first:?}");
    assert_eq!((first[0].1, first[0].2), (100, Some(0.9)));
    assert!(sealed(2).iter().any(|result| result.2 == Some(0.0)), "{skill}");
}

/// Accepted files of a skill's level.
fn files_of<'a>(state: &'a State, skill: &str, level: u32) -> Vec<&'a Dataset> {
    let is_of = |d: &&Dataset| {
        let provenance = d.provenance.as_ref().filter(|_| d.state == DatasetState::Accepted);
        provenance.is_some_and(|p| p["skill"] == skill && p["level"] == level)
    };
    state.datasets.values().filter(is_of).collect()
}

/// A skill of one level whose answer is always right. The first call of `/verify` is told to `asked` and hangs until
/// `go_on` says so.
fn slow_judge(asked: SyncSender<()>, go_on: Receiver<()>) -> HttpServer {
    let mut is_first = true;
    HttpServer::start(move |request| match request.line.as_str() {
        "GET /info" => {
            let info = json!({"skill": "s", "name": "S", "description": "", "version": "1", "api_version": "1", "total_levels": 1});
            (200, info.to_string())
        }
        "GET /levels" => (200, json!({"levels": []}).to_string()),
        "POST /generate" => {
            let asked: Value = serde_json::from_slice(&request.body).unwrap();
            let sample = |i: u64| json!({"id": i.to_string(), "messages": [{"role": "user", "content": format!("{i}?")}, {"role": "assistant", "content": "yes"}], "metadata": {}});
            let samples: Vec<Value> = (0..asked["count"].as_u64().unwrap()).map(sample).collect();
            (200, json!({"skill": "s", "version": "1", "level": asked["level"], "samples": samples}).to_string())
        }
        "POST /verify" => {
            let sent: Value = serde_json::from_slice(&request.body).unwrap();
            let samples = sent["samples"].as_array().unwrap();
            if std::mem::take(&mut is_first) {
                asked.send(()).unwrap();
                go_on.recv().unwrap();
            }
            let judge = |sample: &Value| json!({"id": sample["id"], "solved": true, "score": 1.0, "parsed": true, "reason": ""});
            (200, json!({"results": samples.iter().map(judge).collect::<Vec<_>>()}).to_string())
        }
        line => panic!("{line}"),
    })
}

#[test]
fn answers_outlive_a_daemon_that_is_killed_before_their_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    workspace(root);
    let (asked, judging) = sync_channel(1);
    let (go_on, released) = sync_channel(1);
    let skill = slow_judge(asked, released);
    let mut settings = Settings::default();
    settings.curriculum.eval_samples = 5;
    std::fs::write(root.join("settings.json"), serde_json::to_vec(&settings).unwrap()).unwrap();
    std::fs::write(root.join("skill"), &skill.url).unwrap();
    std::fs::write(root.join("behave/answers.json"), "{}").unwrap();
    std::fs::write(root.join("behave/knows"), "0").unwrap();
    let start = || Command::new(env!("CARGO_BIN_EXE_hone-fake-worker")).arg("daemon").arg(root).spawn().unwrap();

    let mut daemon = start();
    judging.recv_timeout(TIMEOUT).unwrap();
    // The evaluation is over, its seed is in the lease's folder, and nobody has judged it.
    let state = wait_for(root, "the evaluation ends", |state| !state.evaluations.is_empty());
    assert_eq!((state.open_exams.len(), state.curriculum.len()), (1, 0));
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    go_on.send(()).unwrap();

    let mut daemon = start();
    let state =
        wait_for(root, "the verdict comes", |state| !state.curriculum.is_empty() && state.open_exams.is_empty());
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let history = &state.skill("s").history;
    assert_eq!(history.len(), 1, "one verdict on one evaluation");
    assert_eq!((history[0].checkpoint, history[0].questions, history[0].solved), (CheckpointId(0), 5, 5));
    assert_eq!(state.counters.lease, 1, "nothing was answered again");
}

/// What people are told of the limit of answers (severity, subject, message) when a checkpoint was evaluated under it and every
/// right answer is `yes`.
fn told_of_the_limit(max_answer_tokens: usize) -> Vec<(LogSeverity, String, String)> {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_path_buf();
    workspace(&root);
    // A vocabulary of single bytes and little else: `yes` is three tokens and the end of the turn.
    let tokenizer = hone_data::tiny::build_tokenizer(std::iter::once("zzz".to_string()), 300).unwrap();
    let files = [("tokenizer.json", tokenizer), ("tokenizer_config.json", hone_data::tiny::tokenizer_config())];
    for (name, content) in files {
        std::fs::write(root.join("models/base").join(name), content.to_string()).unwrap();
    }
    std::fs::write(root.join("behave/answers.json"), "{}").unwrap();
    std::fs::write(root.join("behave/knows"), "0").unwrap();
    // A judge that waits for nobody.
    let (asked, _judging) = sync_channel(1);
    let (go_on, released) = sync_channel(1);
    go_on.send(()).unwrap();
    let skill = slow_judge(asked, released);
    let url = skill.url.clone();
    let load_settings = move || {
        let mut settings = Settings::default();
        settings.curriculum.eval_samples = 5;
        let limits = Limits { max_answer_tokens, ..Limits::default() };
        let data_manager =
            DataManagerConfig { skills: vec![SkillEndpoint::new("s", &url)], ..DataManagerConfig::default() };
        Ok(LoopConfig { settings, limits, data_manager, ..LoopConfig::default() })
    };
    let program = PathBuf::from(env!("CARGO_BIN_EXE_hone-fake-worker"));
    let mut options = DaemonOptions::new(root.clone(), program, Box::new(load_settings));
    options.scan_interval = Duration::from_millis(10);
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let daemon = std::thread::spawn(move || hone_daemon::run(options, flag, || {}));
    wait_for(&root, "the verdict comes", |state| !state.curriculum.is_empty() && state.open_exams.is_empty());
    stop.store(true, Ordering::SeqCst);
    daemon.join().unwrap().unwrap();
    let events = Store::open_read_only(&root).unwrap().events(None, 1_000).unwrap();
    let about_it = events.into_iter().map(|(_, entry)| entry).filter(|entry| entry.kind == "answer_limit_low");
    about_it.map(|entry| (entry.severity, entry.subject, entry.message)).collect()
}

#[test]
fn a_limit_that_cuts_right_answers_is_told_and_one_that_holds_them_is_not() {
    let message = "a right answer of s level 1 has 4 tokens, more than evaluation.max_answer_tokens (3): it counts as cut; \
                   set evaluation.max_answer_tokens to 4 or more";
    assert_eq!(told_of_the_limit(3), [(LogSeverity::Warning, "s/1".to_string(), message.to_string())]);
    assert_eq!(told_of_the_limit(4), []);
}

#[test]
fn own_skill_servers_conform() {
    // budget: 20 s
    if !std::env::var("HONE_SLOW").is_ok_and(|slow| slow == "1") {
        return;
    }
    for skill in ["binary", "syllo"] {
        let stop = Arc::new(AtomicBool::new(false));
        let (url, server) = serve(skill, &stop);
        let found = hone_daemon::conform::conform(&url);
        assert_eq!((found.skill.as_str(), found.faults), (skill, Vec::new()));
        stop.store(true, Ordering::SeqCst);
        server.join().unwrap();
    }
}
