//! The closed loop with the real Binary server and a scripted learner: data is generated at the level that the learner has
//! reached, its answers are judged by the skill, and the level goes up and down with them.

#![expect(clippy::disallowed_methods, reason = "tests write fixtures")]

use hone_daemon::{DaemonOptions, DataManagerConfig, LoopConfig, SkillEndpoint};
use hone_pipeline::config::Settings;
use hone_pipeline::ids::CheckpointId;
use hone_pipeline::state::{Change, Checkpoint, CheckpointState, Lineage, ModelIdentity, Position, State};
use hone_skills::{GenerateRequest, Split};
use hone_store::{Layout, Store};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// Far longer than anything here takes on a loaded machine.
const TIMEOUT: Duration = Duration::from_secs(240);

/// The right answers to all questions of the first level, by the ids that the learner sees.
fn right_answers() -> BTreeMap<String, String> {
    let skill = hone_skills::find("binary").unwrap();
    let request = GenerateRequest { level: 1, count: 500, seed: 1, split: Split::Eval, steps: false };
    let batch = skill.generate(&request).unwrap();
    assert!(batch.repeated, "all questions of the level are there");
    batch.samples.iter().map(|s| (format!("binary/{}", s.id), s.answer().to_string())).collect()
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
    let lineage = Lineage { number: 1, model_name, base_model, identity: ModelIdentity::default() };
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
fn a_learner_drives_the_level_up_and_down_with_the_real_server() {
    // budget: 60 s
    if !std::env::var("HONE_SLOW").is_ok_and(|slow| slow == "1") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let root: PathBuf = folder.path().to_path_buf();
    workspace(&root);
    std::fs::write(root.join("behave/answers.json"), serde_json::to_vec(&right_answers()).unwrap()).unwrap();
    std::fs::write(root.join("behave/knows"), "90").unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (told, address) = channel();
    let flag = Arc::clone(&stop);
    let server = std::thread::spawn(move || {
        hone_skill_server::run("binary", ([127, 0, 0, 1], 0).into(), flag, |address| told.send(address).unwrap())
    });
    let url = format!("http://{}", address.recv_timeout(TIMEOUT).unwrap());
    let load_settings = move || {
        let mut settings = Settings { retry_backoff_ms: 1, ..Settings::default() };
        settings.train.save_steps = 2;
        settings.curriculum.skills = vec!["binary".to_string()];
        let skills = vec![SkillEndpoint { name: "binary".to_string(), url: url.clone() }];
        let data_manager =
            DataManagerConfig { enabled: true, count: 20, cooldown_ms: 1, skills, ..DataManagerConfig::default() };
        Ok(LoopConfig { settings, data_manager, ..LoopConfig::default() })
    };
    let program = PathBuf::from(env!("CARGO_BIN_EXE_hone-fake-worker"));
    let mut options = DaemonOptions::new(root.clone(), program, Box::new(load_settings));
    options.scan_interval = Duration::from_millis(10);
    let flag = Arc::clone(&stop);
    let daemon = std::thread::spawn(move || hone_daemon::run(options, flag, || {}));

    let state = wait_for(&root, "90 % right lead to level 2", |state| state.skill("binary").level == 2);
    let step = &state.skill("binary").moves[0];
    assert_eq!(step.reason, "the last 3 evaluations average 90.0 %, at least 80 %");
    // The file after that is of level 2, with a share of level 1.
    let of_level = |state: &State, level: u32| {
        let mut provenances = state.datasets.values().filter_map(|dataset| dataset.provenance.clone());
        provenances.rfind(|p| p["level"] == level)
    };
    let state = wait_for(&root, "data of level 2 comes", |state| of_level(state, 2).is_some());
    let mix = serde_json::json!([{"level": 2, "count": 18}, {"level": 1, "count": 2}]);
    assert_eq!(of_level(&state, 2).unwrap()["mix"], mix);

    // At level 2 the learner knows nothing, and so it comes back.
    let state = wait_for(&root, "nothing right leads back to level 1", |state| state.skill("binary").moves.len() > 1);
    let progress = state.skill("binary");
    assert_eq!((progress.moves[1].from, progress.moves[1].to), (2, 1));
    assert_eq!(progress.moves[1].reason, "the last 3 evaluations average 0.0 %, below 50 %");
    let checkpoints: std::collections::BTreeSet<_> = progress.history.iter().map(|e| e.checkpoint).collect();
    assert_eq!(checkpoints.len(), progress.history.len(), "one evaluation per checkpoint");
    assert!(progress.history.iter().all(|e| e.questions == 300 && e.errored == 0 && e.unparsed == 0));
    let view = std::fs::read(root.join("status/curriculum_state.json")).unwrap();
    let view: serde_json::Value = serde_json::from_slice(&view).unwrap();
    assert_eq!(view["skills"][0]["skill"], "binary");
    stop.store(true, Ordering::SeqCst);
    daemon.join().unwrap().unwrap();
    server.join().unwrap().unwrap();
}

#[test]
fn own_skill_servers_conform() {
    // budget: 20 s
    if !std::env::var("HONE_SLOW").is_ok_and(|slow| slow == "1") {
        return;
    }
    for skill in ["binary", "syllo"] {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, address) = channel();
        let flag = Arc::clone(&stop);
        let server = std::thread::spawn(move || {
            hone_skill_server::run(skill, ([127, 0, 0, 1], 0).into(), flag, |address| told.send(address).unwrap())
        });
        let found = hone_daemon::conform::conform(&format!("http://{}", address.recv_timeout(TIMEOUT).unwrap()));
        assert_eq!((found.skill.as_str(), found.faults), (skill, Vec::new()));
        stop.store(true, Ordering::SeqCst);
        server.join().unwrap().unwrap();
    }
}
