//! The end of a slice: both folders written into staging.

use super::{Slice, StepRecord};
use crate::checkpoint::{self, Contents};
use crate::{Refusal, replay, resume};
use anyhow::Result;
use hone_pipeline::event::StagedCheckpoint;
use hone_pipeline::ids::CheckpointId;
use serde_json::{Value, json};

impl Slice<'_> {
    /// Writes the checkpoint and its resume state.
    ///
    /// # Errors
    /// A [`Refusal`] when the weights are not finite; whatever the disk answers.
    pub(super) fn stage(mut self, ends_job: bool, yielded: bool) -> Result<StagedCheckpoint> {
        self.state.checkpoint = CheckpointId(self.global_step());
        self.state.rows_digest = self.digest.hex();
        let request = self.request;
        let (trainer_state, lineage) = (self.trainer_state(), self.lineage());
        let contents = Contents {
            model_dir: &request.model_dir,
            config: &self.config,
            dtype: self.dtype,
            max_shard_bytes: request.settings.max_shard_bytes,
            adapter_base: &self.state.base_model,
            trainer_state: &trainer_state,
            lineage: &lineage,
        };
        let staging = request.root.join(&request.staging);
        let written = checkpoint::write(&staging, &contents, &mut self.trainer);
        let manifest_hash = written.map_err(|e| self.no_checkpoint(e))?;
        let staging = request.root.join(&request.resume_staging);
        let written = resume::write(&staging, &self.config, &self.state, &mut self.trainer);
        written.map_err(|e| self.no_checkpoint(e))?;
        Ok(StagedCheckpoint {
            checkpoint: self.state.checkpoint,
            parent: request.parent,
            job: request.job,
            staging: request.staging.clone(),
            resume_staging: request.resume_staging.clone(),
            manifest_hash,
            position: self.state.position,
            rows_digest: self.state.rows_digest,
            train_loss: self.state.last_loss,
            ends_job,
            yielded,
        })
    }

    /// `trainer_state.json` with keys that `transformers.TrainerState` knows.
    fn trainer_state(&self) -> Value {
        let settings = &self.request.settings;
        let epoch = |rows: u64| rows as f64 / self.order.num_examples as f64;
        let line = |record: &StepRecord| {
            json!({"epoch": epoch(record.rows.1), "step": record.step, "loss": record.loss,
                "grad_norm": record.grad_norm, "learning_rate": record.learning_rate})
        };
        json!({
            "best_metric": null,
            "best_model_checkpoint": null,
            "epoch": epoch(self.state.position.rows_trained),
            "global_step": self.global_step(),
            "is_hyper_param_search": false,
            "is_local_process_zero": true,
            "is_world_process_zero": true,
            "log_history": self.records.iter().map(line).collect::<Vec<Value>>(),
            "logging_steps": 1,
            "max_steps": self.state.position.total_steps,
            "num_input_tokens_seen": self.records.iter().map(|r| r.tokens).sum::<u64>(),
            "num_train_epochs": settings.epochs,
            "save_steps": settings.save_steps,
            "train_batch_size": self.micro_rows,
            "trial_name": null,
            "trial_params": null,
        })
    }

    /// `lineage.json`: see [`crate::checkpoint`].
    fn lineage(&self) -> Value {
        let request = self.request;
        let (first, last) = (request.position.rows_trained, self.state.position.rows_trained);
        let mut files: Vec<(u64, u64)> = vec![(0, 0); self.examples.files.len()];
        for example in &self.examples.list {
            files[example.file].0 += 1;
        }
        for index in self.order.steps_from(request.position.job_step).take(self.records.len()).flatten() {
            files[self.examples.list[index].file].1 += 1;
        }
        let sources = request.replay.as_ref().map(replay::files).unwrap_or_default();
        let schema_of = |name: &str| {
            let file = request.files.iter().chain(&sources).find(|file| file.name == name);
            file.map(|file| file.schema_id.as_str())
        };
        let files: Vec<Value> = self
            .examples
            .files
            .iter()
            .zip(&files)
            .map(|(name, (examples, trained))| {
                json!({"name": name, "schema_id": schema_of(name), "examples": examples, "trained_in_slice": trained})
            })
            .collect();
        let ours = json!({
            "format_version": 1,
            "checkpoint": self.state.checkpoint,
            "parent": request.parent,
            "job": request.job,
            "steps_from_base": self.state.steps_from_base,
            "optimizer_step": self.state.optimizer_step,
            "position": self.state.position,
            "rows_digest": self.state.rows_digest,
            "slice": {
                "job_steps": [request.position.job_step + 1, self.state.position.job_step],
                "rows_in_order": [first, last],
            },
            "files": files,
            "rows_overlong": self.examples.rows_overlong,
            "rows_kept_back": self.examples.rows_kept_back,
            "rows_refused": self.examples.rows_refused,
            "replay_share": request.replay.as_ref().map(|replay| replay.share),
            "settings": request.settings,
            "versions": {"hone": env!("CARGO_PKG_VERSION")},
        });
        let mut lineage = match &request.lineage {
            Value::Object(fields) => fields.clone(),
            Value::Null => serde_json::Map::new(),
            other => serde_json::Map::from_iter([("request".to_string(), other.clone())]),
        };
        if let Value::Object(fields) = ours {
            lineage.extend(fields);
        }
        Value::Object(lineage)
    }

    /// A checkpoint with a number that is not finite would poison everything after it: nothing of it stays.
    fn no_checkpoint(&self, error: anyhow::Error) -> anyhow::Error {
        if error.chain().any(|cause| cause.is::<std::io::Error>()) {
            return error.context("write the checkpoint");
        }
        for staging in [&self.request.staging, &self.request.resume_staging] {
            if let Err(error) = hone_disk::remove_tree(&self.request.root.join(staging)) {
                return error.context("remove the unfinished checkpoint");
            }
        }
        let step = self.global_step();
        Refusal(format!("after step {step} no checkpoint is written: {error:#} (hint: lower learning_rate)")).into()
    }
}
