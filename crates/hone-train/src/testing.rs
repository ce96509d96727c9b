//! What the tests share: a workspace with a tiny random model, data files, and jobs run to their end.

use crate::{YieldFlag, train_slice};
use anyhow::Result;
use hone_data::tiny;
use hone_model::{Config, Dtype, HostWeights};
use hone_pipeline::config::TrainSettings;
use hone_pipeline::event::StagedCheckpoint;
use hone_pipeline::ids::{CheckpointId, JobId, LeaseToken};
use hone_pipeline::state::Position;
use hone_pipeline::wire::{TrainFile, TrainRequest, WIRE_FORMAT_VERSION, WorkerMessage};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Questions and answers of the tests' data.
pub const PAIRS: [(&str, &str); 10] = [
    ("What is one plus one?", "Two."),
    ("What colour is the sky?", "Blue, on a good day."),
    ("Name a fruit.", "An apple."),
    ("Name a river.", "The Danube."),
    ("Say hello.", "Hello!"),
    ("What do cows drink?", "Water."),
    ("Count to three.", "One, two, three."),
    ("Where is Paris?", "In France."),
    ("Who wrote Faust?", "Goethe."),
    ("Is ice cold?", "Yes, it is."),
];

/// A temporary workspace with the model folder `base/`.
pub struct Workspace {
    dir: TempDir,
}

/// A finished job.
pub struct Finished {
    /// Every checkpoint, in order.
    pub staged: Vec<StagedCheckpoint>,
    /// Every message.
    pub messages: Vec<WorkerMessage>,
    /// Lines of `metrics.jsonl` of the steps that are in checkpoints.
    pub metrics: Vec<Value>,
}

impl Workspace {
    pub fn new(dtype: Dtype) -> Workspace {
        let dir = TempDir::new().unwrap();
        let base = dir.path().join("base");
        fs::create_dir(&base).unwrap();
        let texts = PAIRS.iter().flat_map(|(q, a)| [(*q).to_string(), (*a).to_string()]);
        let tokenizer = tiny::build_tokenizer(texts, 300).unwrap();
        let put = |name: &str, value: &Value| fs::write(base.join(name), value.to_string()).unwrap();
        let config = json!({
            "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "dtype": dtype.name(),
            "vocab_size": 304, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "hidden_act": "silu",
            "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "tie_word_embeddings": true,
            "rope_theta": 10000.0, "attention_bias": false, "eos_token_id": 2
        });
        put("config.json", &config);
        put("tokenizer.json", &tokenizer);
        put("tokenizer_config.json", &tiny::tokenizer_config());
        put("generation_config.json", &tiny::generation_config());
        let config = Config::from_json(&config).unwrap();
        let mut file = fs::File::create(base.join("model.safetensors")).unwrap();
        HostWeights::random(&config, 7).write(&config, dtype, &mut file).unwrap();
        Workspace { dir }
    }

    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    pub fn base(&self) -> PathBuf {
        self.root().join("base")
    }

    /// Writes rows of `chat_sft_v1`.
    pub fn chat_file(&self, name: &str, pairs: &[(&str, &str)]) -> TrainFile {
        let line = |(question, answer): &(&str, &str)| {
            let messages = json!([{"role": "user", "content": question}, {"role": "assistant", "content": answer}]);
            format!("{}\n", json!({ "messages": messages }))
        };
        self.file(name, &pairs.iter().map(line).collect::<String>())
    }

    pub fn file(&self, name: &str, text: &str) -> TrainFile {
        let path = self.root().join(format!("{name}.jsonl"));
        fs::write(&path, text).unwrap();
        TrainFile { name: name.to_string(), path, schema_id: "chat_sft_v1".to_string() }
    }

    /// The first slice of job 3 from `checkpoint-0`.
    pub fn request(&self, files: &[TrainFile], settings: TrainSettings) -> TrainRequest {
        TrainRequest {
            format_version: WIRE_FORMAT_VERSION,
            job: JobId(3),
            token: LeaseToken(1),
            root: self.root().to_path_buf(),
            run_dir: self.root().join("run"),
            model_dir: self.base(),
            parent: CheckpointId(0),
            resume_dir: None,
            files: files.to_vec(),
            replay: None,
            kept_back: Vec::new(),
            number_from: None,
            position: Position::default(),
            rows_digest: String::new(),
            settings,
            preview_files: Vec::new(),
            staging: "staging".to_string(),
            resume_staging: "resume-staging".to_string(),
            lineage: json!({"lineage_number": 1}),
        }
    }

    /// Moves what was staged into place and makes the request of the next slice.
    pub fn publish(&self, request: &mut TrainRequest, staged: &StagedCheckpoint) {
        let checkpoint = self.root().join(staged.checkpoint.to_string());
        let resume = self.root().join(format!("resume-{}", staged.checkpoint.0));
        fs::rename(self.root().join(&staged.staging), &checkpoint).unwrap();
        fs::rename(self.root().join(&staged.resume_staging), &resume).unwrap();
        request.model_dir = checkpoint;
        request.resume_dir = Some(resume);
        request.parent = staged.checkpoint;
        request.position = staged.position.clone();
        request.rows_digest = staged.rows_digest.clone();
        request.token.0 += 1;
        request.run_dir = self.root().join(format!("run-{}", request.token.0));
    }

    /// Runs slices until the job ends. `yields`: ask for a checkpoint at every step.
    pub fn finish(&self, mut request: TrainRequest, yields: bool) -> Result<Finished> {
        let mut done = Finished { staged: Vec::new(), messages: Vec::new(), metrics: Vec::new() };
        loop {
            let flag = YieldFlag::default();
            if yields {
                flag.set();
            }
            let messages = run(&request, &flag)?;
            let staged = staged(&messages);
            let metrics = fs::read_to_string(request.run_dir.join("metrics.jsonl")).unwrap();
            done.metrics.extend(metrics.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
            done.messages.extend(messages);
            self.publish(&mut request, &staged);
            let ends_job = staged.ends_job;
            done.staged.push(staged);
            if ends_job {
                return Ok(done);
            }
        }
    }
}

impl Finished {
    /// Losses of all steps.
    pub fn losses(&self) -> Vec<f64> {
        self.metrics.iter().map(|line| line["loss"].as_f64().unwrap()).collect()
    }
}

/// Small numbers for the tiny model.
pub fn settings() -> TrainSettings {
    TrainSettings {
        batch_size: 4,
        learning_rate: 1e-2,
        max_length: 64,
        save_steps: 0,
        preview_steps: 0,
        threads: 1,
        ..TrainSettings::default()
    }
}

/// One slice; its messages.
pub fn run(request: &TrainRequest, flag: &YieldFlag) -> Result<Vec<WorkerMessage>> {
    let mut messages = Vec::new();
    train_slice(request, &mut |message| messages.push(message), flag)?;
    Ok(messages)
}

/// The last message, which must be `Staged`.
pub fn staged(messages: &[WorkerMessage]) -> StagedCheckpoint {
    match messages.last() {
        Some(WorkerMessage::Staged(staged)) => staged.clone(),
        other => panic!("the last message is {other:?}"),
    }
}

/// Codes of all warnings.
pub fn warnings(messages: &[WorkerMessage]) -> Vec<(String, String)> {
    let warning = |message: &WorkerMessage| match message {
        WorkerMessage::Warning { code, message } => Some((code.clone(), message.clone())),
        _ => None,
    };
    messages.iter().filter_map(warning).collect()
}
