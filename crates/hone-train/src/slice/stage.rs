//! The end of a slice: both folders written into staging.

use super::{Slice, StepRecord};
use crate::checkpoint::{self, Contents};
use crate::resume::{self, Resumed};
use crate::{Refusal, replay};
use anyhow::{Context, Result};
use hone_model::HostWeights;
use hone_pipeline::event::StagedCheckpoint;
use hone_pipeline::ids::CheckpointId;
use serde_json::{Value, json};

impl Slice<'_> {
    /// Writes the checkpoint and its resume state.
    ///
    /// # Errors
    /// A [`Refusal`] when the weights are not finite; whatever the disk answers.
    pub(super) fn stage(mut self, ends_job: bool, yielded: bool) -> Result<StagedCheckpoint> {
        let weights = self.trainer.weights().context("read the weights back")?;
        refuse_nonfinite(&weights, self.global_step())?;
        self.state.checkpoint = CheckpointId(self.global_step());
        self.state.rows_digest = self.digest.hex();
        let request = self.request;
        let contents = Contents {
            model_dir: &request.model_dir,
            config: &self.config,
            weights: &weights,
            dtype: self.dtype,
            trainer_state: &self.trainer_state(),
            lineage: &self.lineage(),
        };
        let manifest_hash =
            checkpoint::write(&request.root.join(&request.staging), &contents).context("write the checkpoint")?;
        let optimizer = self.trainer.optimizer_state().context("read the optimizer state back")?;
        let content = Resumed { state: self.state.clone(), masters: weights, optimizer };
        resume::write(&request.root.join(&request.resume_staging), &self.config, content)
            .context("write the resume state")?;
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
            "train_batch_size": settings.batch_size,
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
}

/// A checkpoint with a number that is not finite would poison everything after it.
fn refuse_nonfinite(weights: &HostWeights, step: u64) -> Result<()> {
    for (name, values) in &weights.tensors {
        if values.iter().any(|x| !x.is_finite()) {
            let reason =
                format!("after step {step}, {name} holds a number that is not finite: no checkpoint is written");
            return Err(Refusal(format!("{reason} (hint: lower learning_rate)")).into());
        }
    }
    Ok(())
}
