//! `hone train` and `hone plan` with the real binary on a tiny model: kills at random instants change nothing, memory is
//! what was planned.

#![expect(clippy::disallowed_methods, reason = "tests write their own fixtures")]

use hone_model::{Config, Dtype, HostWeights};
use hone_skills::{GenerateRequest, Split};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

struct Rig {
    dir: tempfile::TempDir,
}

impl Rig {
    /// A workspace with a tiny model, and `rows` rows of Binary in `data.jsonl`.
    fn new(rows: usize) -> Rig {
        let rig = Rig { dir: tempfile::tempdir().unwrap() };
        let output = rig.hone(&["init", "--tiny"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let request = GenerateRequest { level: 1, count: rows, seed: 5, split: Split::Train, steps: false };
        let batch = hone_skills::find("binary").unwrap().generate(&request).unwrap();
        let lines = batch.samples.iter().map(|s| json!({"messages": s.messages}).to_string() + "\n");
        std::fs::write(rig.path("data.jsonl"), lines.collect::<String>()).unwrap();
        rig
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn hone(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hone"));
        command.arg("--root").arg(self.path("root")).args(args).stdin(Stdio::null());
        command
    }

    /// `hone train data.jsonl --out OUT`, with two threads.
    fn train(&self, out: &str, extra: &[&str]) -> Command {
        let (file, out) = (self.path("data.jsonl"), self.path(out));
        let mut command = self.hone(&["--json", "train"]);
        command.arg(file).arg("--out").arg(out).args(["--set", "threads=2", "--set", "preview_steps=0"]).args(extra);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// The last line of a program that ended well.
#[track_caller]
fn last_line(mut command: Command) -> Value {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

/// The loss of each step, as bits; a step that was trained twice must have had the same both times.
fn losses(out: &Path) -> BTreeMap<u64, u64> {
    let mut losses = BTreeMap::new();
    for line in std::fs::read_to_string(out.join("metrics.jsonl")).unwrap().lines() {
        // A kill may cut the last line of its process; the step is trained again.
        let Ok(record) = serde_json::from_str::<Value>(line) else { continue };
        let (step, loss) = (record["step"].as_u64().unwrap(), record["loss"].as_f64().unwrap().to_bits());
        let before = losses.insert(step, loss);
        assert!(before.is_none_or(|before| before == loss), "step {step} had another loss before the kill");
    }
    losses
}

// budget: 60 s
#[test]
fn thirty_random_kills_change_neither_losses_nor_weights() {
    if std::env::var("HONE_SLOW").is_err() {
        return;
    }
    let common = ["--batch-size", "4", "--learning-rate", "1e-3", "--set", "save_steps=2"];
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    for (extra, files) in [
        (vec![], vec!["model.safetensors"]),
        (
            vec!["--lora-rank", "4", "--lora-dropout", "0.1"],
            [&shards[..], &["adapter/adapter_model.safetensors"]].concat(),
        ),
    ] {
        kills_change_nothing(&[&common[..], &extra].concat(), &files);
    }
}

/// Thirty kills of a job of 70 steps; `files` of its last checkpoint are those of an undisturbed run.
fn kills_change_nothing(settings: &[&str], files: &[&str]) {
    let rig = Rig::new(280);
    let whole = last_line(rig.train("whole", settings));
    assert_eq!((&whole["done"], &whole["steps"]), (&json!(true), &json!(70)));

    // SplitMix64: which line of its output is the last that a process lives to see.
    let mut state = 20_251_125u64;
    let mut random = |below: u64| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 27)) % below
    };
    for _ in 0..30 {
        let mut child = rig.train("killed", settings).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for _ in 0..=random(9) {
            if lines.next().is_none() {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let killed = last_line(rig.train("killed", settings));
    assert_eq!(killed["done"], true);
    assert_eq!(losses(&rig.path("killed")), losses(&rig.path("whole")));
    let read = |out: &str, file: &str| std::fs::read(rig.path(out).join(file)).unwrap();
    for file in files {
        let file = &format!("checkpoint-70/{file}");
        assert!(read("killed", file) == read("whole", file), "{file} differs");
    }
    let digest = |out: &str| serde_json::from_slice::<Value>(&read(out, "run.json")).unwrap()["rows_digest"].clone();
    assert_eq!(digest("killed"), digest("whole"), "the same rows in the same order");
}

#[test]
fn ctrl_c_ends_a_run_with_a_checkpoint_from_which_the_same_command_goes_on() {
    let rig = Rig::new(64);
    let settings = ["--batch-size", "8", "--learning-rate", "1e-3"];
    let whole = last_line(rig.train("whole", &settings));
    assert_eq!((&whole["done"], &whole["steps"]), (&json!(true), &json!(8)));

    let mut child = rig.train("stopped", &settings).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap());
    lines.find(|line| line.contains(r#""type":"step""#)).unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let last: Value = serde_json::from_str(&lines.last().unwrap()).unwrap();
    assert!(child.wait().unwrap().success());
    let steps = last["steps"].as_u64().unwrap();
    // It may have ended just before it heard: then there was nothing to stop.
    assert!(last["done"] == false && steps < 8 || steps == 8, "{last}");
    assert!(rig.path(&format!("stopped/checkpoint-{steps}/config.json")).is_file());

    let on = last_line(rig.train("stopped", &settings));
    assert_eq!((&on["done"], &on["steps"]), (&json!(true), &json!(8)));
    assert_eq!(losses(&rig.path("stopped")), losses(&rig.path("whole")));
    let weights = |out: &str| std::fs::read(rig.path(out).join("checkpoint-8/model.safetensors")).unwrap();
    assert!(weights("stopped") == weights("whole"));
}

#[test]
fn a_folder_that_holds_another_run_is_not_taken_for_this_one() {
    let rig = Rig::new(16);
    let settings = ["--batch-size", "8"];
    let first = last_line(rig.train("out", &settings));
    assert_eq!((&first["done"], &first["was_done"]), (&json!(true), &json!(false)));
    let again = last_line(rig.train("out", &settings));
    assert_eq!((&again["done"], &again["was_done"]), (&json!(true), &json!(true)));
    let refused = |what: &str, extra: &[&str]| {
        let output = rig.train("out", &[&settings[..], extra].concat()).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(what), "{error}");
    };
    refused("a run that is done, by other settings", &["--epochs", "3"]);
    let text = std::fs::read_to_string(rig.path("data.jsonl")).unwrap();
    std::fs::write(rig.path("data.jsonl"), text.lines().skip(1).map(|line| format!("{line}\n")).collect::<String>())
        .unwrap();
    refused("a run of other files", &[]);
}

#[test]
fn a_run_shows_answers_of_the_model_that_it_trains() {
    let rig = Rig::new(16);
    let previews = |mut command: Command| {
        let output = command.args(["--set", "preview_steps=2", "--batch-size", "4"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let previews = lines.into_iter().filter(|line| line["type"] == "preview");
        previews.map(|line| (line["step"].as_u64().unwrap(), line["source"].as_str().unwrap().to_string())).collect()
    };
    let expected = |file: &str| -> Vec<(u64, String)> {
        [(2, 1), (2, 2), (4, 1), (4, 2)].map(|(step, line)| (step, format!("{file}:{line}"))).to_vec()
    };
    let found: Vec<(u64, String)> = previews(rig.train("nothing-to-ask", &[]));
    assert_eq!(found, [], "a workspace without validation files");
    std::fs::copy(rig.path("data.jsonl"), rig.path("root/validation/asked.jsonl")).unwrap();
    assert_eq!(previews(rig.train("validation", &[])), expected("asked.jsonl"));
    // Without a workspace: rows of the file itself.
    let (model, out) = (rig.path("root/models/tiny"), rig.path("alone"));
    let mut alone = Command::new(env!("CARGO_BIN_EXE_hone"));
    alone.arg("--root").arg(rig.path("nowhere")).args(["--json", "train"]).arg(rig.path("data.jsonl"));
    alone.arg("--model").arg(model).arg("--out").arg(out).stdin(Stdio::null());
    assert_eq!(previews(alone), expected("data.jsonl"));
}

/// The workspace's tiny tokenizer with a model of several million parameters.
fn larger_model(rig: &Rig) -> PathBuf {
    let tiny = rig.path("root/models/tiny");
    let dir = rig.path("larger");
    std::fs::create_dir(&dir).unwrap();
    for entry in std::fs::read_dir(&tiny).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.join(path.file_name().unwrap())).unwrap();
    }
    let mut json: Value = serde_json::from_slice(&std::fs::read(tiny.join("config.json")).unwrap()).unwrap();
    for (key, value) in [("hidden_size", 512), ("intermediate_size", 1024), ("num_hidden_layers", 6), ("head_dim", 64)]
    {
        json[key] = json!(value);
    }
    json["num_attention_heads"] = json!(8);
    std::fs::write(dir.join("config.json"), json.to_string()).unwrap();
    let config = Config::from_json(&json).unwrap();
    let mut file = std::io::BufWriter::new(std::fs::File::create(dir.join("model.safetensors")).unwrap());
    HostWeights::random(&config, 3).write(&config, Dtype::F32, &mut file).unwrap();
    std::io::Write::flush(&mut file).unwrap();
    dir
}

/// Beside 5 %, what no plan knows: the allocator's arenas, and huge pages that the kernel gives or not. It changes from
/// run to run and does not grow with the model.
const SLACK_BYTES: f64 = 32e6;

#[test]
fn every_size_of_the_micro_batch_is_measured() {
    let rig = Rig::new(32);
    let mut plan = rig.hone(&["--json", "plan", "--calibrate", "0.1", "--set", "threads=2", "--set", "epochs=3"]);
    plan.arg(rig.path("data.jsonl")).args(["--batch-size", "8"]);
    let plan = last_line(plan);
    let sizes: Vec<&Value> = plan["micro_batches"].as_array().unwrap().iter().collect();
    let rows: Vec<u64> = sizes.iter().map(|micro| micro["rows"].as_u64().unwrap()).collect();
    assert_eq!((rows, &plan["chosen"]), (vec![8, 4, 2, 1], &json!(8)));
    for micro in sizes {
        let (seconds, per_second) = (micro["seconds"].as_f64().unwrap(), micro["tokens_per_s"].as_f64().unwrap());
        let tokens = plan["tokens"].as_f64().unwrap() * 3.0;
        assert!(seconds > 0.0 && (seconds * per_second / tokens - 1.0).abs() < 1e-9, "{micro}");
    }
}

// budget: 60 s
#[test]
fn a_run_takes_the_memory_that_was_planned() {
    if std::env::var("HONE_SLOW").is_err() {
        return;
    }
    let rig = Rig::new(32);
    let model = larger_model(&rig);
    let model = model.to_str().unwrap();
    std::fs::copy(rig.path("data.jsonl"), rig.path("root/validation/asked.jsonl")).unwrap();
    for (name, extra) in [
        ("full", vec!["--batch-size", "16"]),
        ("small", vec!["--batch-size", "2"]),
        ("lora", vec!["--batch-size", "16", "--lora-rank", "8"]),
        ("again", vec!["--batch-size", "16", "--recompute"]),
        ("previews", vec!["--batch-size", "16", "--set", "preview_steps=1"]),
    ] {
        let flags = [&["--model", model], &extra[..]].concat();
        let mut plan =
            rig.hone(&["--json", "plan", "--calibrate", "0", "--set", "threads=2", "--set", "preview_steps=0"]);
        plan.arg(rig.path("data.jsonl")).args(&flags);
        let plan = last_line(plan);
        let micro = plan["micro_batches"].as_array().unwrap().iter().find(|micro| micro["rows"] == plan["chosen"]);
        let planned = micro.unwrap()["peak_bytes"].as_f64().unwrap();
        let used = last_line(rig.train(name, &flags))["peak_memory_bytes"].as_f64().unwrap();
        let difference = used - planned;
        let allowed = 0.05 * planned + SLACK_BYTES;
        assert!(difference.abs() < allowed, "{name}: {used} bytes used, {planned} planned, {allowed} may lie between");
    }
}
