//! The values that decisions and children need, already validated. The file they are read from is
//! the business of the `hone` crate; these are the frozen, typed results.

use crate::curriculum::CurriculumSettings;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Hyperparameters of a job, frozen at its first step and kept across its resumes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainSettings {
    /// Rows per micro-batch.
    pub batch_size: usize,
    /// Micro-batches per optimizer step.
    pub gradient_accumulation: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Longest row in tokens.
    pub max_length: usize,
    /// What happens to longer rows.
    pub overlong: Overlong,
    /// Passes over each job's rows.
    pub epochs: u32,
    /// Optimizer steps between checkpoints.
    pub save_steps: u64,
    /// Optimizer steps between previews; 0 = none.
    pub preview_steps: u64,
    /// Optimizer steps of linear warm-up at the start of a job.
    pub warmup_steps: u64,
    /// Learning-rate schedule; its horizon is the job.
    pub lr_schedule: LrSchedule,
    /// Decoupled weight decay, applied to tensors of two or more dimensions.
    pub weight_decay: f64,
    /// Gradient norm above which gradients are scaled down; 0 = never.
    pub max_grad_norm: f64,
    /// Seed of the order of rows.
    pub seed: u64,
    /// The data profile.
    pub profile: ProfileSettings,
    /// Extra variables of the chat template.
    pub chat_template_kwargs: serde_json::Map<String, serde_json::Value>,
    /// The self-check refuses to start when the share of trained tokens is below this.
    pub min_trained_share: f64,
    /// ... or above this.
    pub max_trained_share: f64,
    /// Worker threads of the engine; 0 = all cores.
    pub threads: usize,
    /// Device name: `cpu` or `reference`.
    pub device: String,
    /// Adapters that are trained in place of the model; none = the model itself.
    #[serde(default)]
    pub lora: Option<LoraSettings>,
    /// Parameters that stay as they are: names, or patterns in which `*` stands for any characters.
    #[serde(default)]
    pub freeze: Vec<String>,
    /// Compute layers again in the backward pass in place of keeping their activations.
    #[serde(default)]
    pub recompute: bool,
    /// Rows of a micro-batch in place of `batch_size`, which still counts the rows of a step; 0 = `batch_size`. Set after
    /// a worker ran out of memory.
    #[serde(default)]
    pub micro_batch: usize,
    /// Take the largest micro-batch that fits into memory, up to the rows of a step.
    #[serde(default)]
    pub auto_batch: bool,
    /// Memory that a run may plan for; 0 = most of what the host has available.
    #[serde(default)]
    pub max_memory_bytes: u64,
    /// Largest weight file of a checkpoint; 0 = one file.
    #[serde(default)]
    pub max_shard_bytes: u64,
}

/// A data profile by name, with what is configured for it. Written as the name alone where there is nothing else, as it
/// always was before; an older reader refuses the longer form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WrittenProfile", into = "WrittenProfile")]
pub struct ProfileSettings {
    /// `plain`, `emoji_think` or `regime3`.
    pub name: String,
    /// The system message of every row and prompt, in place of the profile's own.
    pub system_prompt: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum WrittenProfile {
    Name(String),
    Whole { name: String, system_prompt: String },
}

impl ProfileSettings {
    /// A profile with nothing configured.
    #[must_use]
    pub fn named(name: &str) -> ProfileSettings {
        ProfileSettings { name: name.to_string(), system_prompt: None }
    }
}

impl Default for ProfileSettings {
    fn default() -> Self {
        ProfileSettings::named("plain")
    }
}

impl From<WrittenProfile> for ProfileSettings {
    fn from(written: WrittenProfile) -> Self {
        match written {
            WrittenProfile::Name(name) => ProfileSettings { name, system_prompt: None },
            WrittenProfile::Whole { name, system_prompt } => {
                ProfileSettings { name, system_prompt: Some(system_prompt) }
            }
        }
    }
}

impl From<ProfileSettings> for WrittenProfile {
    fn from(ProfileSettings { name, system_prompt }: ProfileSettings) -> Self {
        match system_prompt {
            None => WrittenProfile::Name(name),
            Some(system_prompt) => WrittenProfile::Whole { name, system_prompt },
        }
    }
}

/// Low-rank adapters (LoRA).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoraSettings {
    /// Rank of the adapters.
    pub rank: usize,
    /// Their output is multiplied by `alpha / rank`.
    pub alpha: f64,
    /// Share of their inputs that training leaves out.
    pub dropout: f64,
    /// Products that get one, as `peft` names them; `all-linear` alone means all.
    pub targets: Vec<String>,
}

impl TrainSettings {
    /// Rows of one optimizer step.
    #[must_use]
    pub fn rows_per_step(&self) -> usize {
        self.batch_size.max(1) * self.gradient_accumulation.max(1)
    }

    /// Rows of a micro-batch, before `auto_batch` has its say.
    #[must_use]
    pub fn micro_rows(&self) -> usize {
        if self.micro_batch > 0 { self.micro_batch } else { self.batch_size.max(1) }
    }
}

impl Default for TrainSettings {
    fn default() -> Self {
        TrainSettings {
            batch_size: 8,
            gradient_accumulation: 1,
            learning_rate: 2e-5,
            max_length: 1024,
            overlong: Overlong::Skip,
            epochs: 1,
            save_steps: 100,
            preview_steps: 50,
            warmup_steps: 0,
            lr_schedule: LrSchedule::Constant,
            weight_decay: 0.01,
            max_grad_norm: 1.0,
            seed: 42,
            profile: ProfileSettings::default(),
            chat_template_kwargs: serde_json::Map::new(),
            min_trained_share: 0.005,
            max_trained_share: 1.0,
            threads: 0,
            device: "cpu".to_string(),
            lora: None,
            freeze: Vec::new(),
            recompute: false,
            micro_batch: 0,
            auto_batch: false,
            max_memory_bytes: 0,
            max_shard_bytes: 5_000_000_000,
        }
    }
}

/// What happens to a row that is longer than `max_length`. An answer is never cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlong {
    /// Not trained, counted and reported.
    Skip,
    /// The file is rejected.
    Reject,
    /// The beginning of the prompt is cut.
    TruncatePrompt,
}

/// Learning-rate schedule over the steps of one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LrSchedule {
    /// The peak rate after warm-up.
    Constant,
    /// Half a cosine down to zero.
    Cosine,
    /// A straight line down to zero.
    Linear,
    /// Constant, then a straight line to zero over the last fifth.
    WarmupStableDecay,
}

/// When a challenger is promoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromotionPolicy {
    /// Better on the mean over suites.
    Better,
    /// Not worse on any suite and better on at least one.
    NotWorse,
    /// Only people promote.
    Manual,
}

/// What happens when a checkpoint is worse than its parent beyond the margin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnRegression {
    /// Training pauses and people are told.
    Hold,
    /// Training restarts from the champion without the files of the job that made it worse; where it is the champion
    /// itself that is worse, as `Hold`.
    Rewind,
    /// It is noted, and training goes on.
    Continue,
}

/// Margins of one suite; what is absent is that of all suites.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuiteMargins {
    /// Least gain, in nats per token or as a share of right answers.
    #[serde(default)]
    pub min_gain: Option<f64>,
    /// Largest regression, in the same unit.
    #[serde(default)]
    pub max_regression: Option<f64>,
}

/// Weights of the ranking score.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreWeights {
    /// Of `1 / (1 + loss)`.
    pub loss: f64,
    /// Of the token accuracy.
    pub token_accuracy: f64,
    /// Of the share of right answers.
    pub answers: f64,
}

impl Default for ScoreWeights {
    fn default() -> Self {
        ScoreWeights { loss: 0.4, token_accuracy: 0.4, answers: 0.2 }
    }
}

/// What the pure decisions need to know of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Hyperparameters for the next job.
    pub train: TrainSettings,
    /// Content-check level before queueing.
    pub validation_level: Level,
    /// Whether files that were accepted at a lower level are checked at `deep` while they wait or are trained.
    #[serde(default)]
    pub deep_in_background: bool,
    /// When a challenger is promoted.
    pub promotion_policy: PromotionPolicy,
    /// Loss by which a challenger must be lower to be called better.
    pub min_gain: f64,
    /// Loss by which a challenger may be higher on a suite without being called worse.
    pub max_regression: f64,
    /// Share of right answers by which a challenger must be higher to be called better on a suite of questions.
    pub min_answer_gain: f64,
    /// Share of right answers by which it may be lower without being called worse.
    pub max_answer_regression: f64,
    /// Suites with margins of their own, by name.
    pub suite_margins: BTreeMap<String, SuiteMargins>,
    /// The chance, over a champion's tenure, that an equal or worse challenger is promoted.
    pub error_budget: f64,
    /// What happens when a checkpoint is worse than the one it was trained from.
    pub on_regression: OnRegression,
    /// People are told when so many checkpoints in a row did not take the champion's place; 0 = never.
    #[serde(default)]
    pub alert_after: usize,
    /// No verdict where more of a suite's answers could not be generated or checked.
    pub max_errored_share: f64,
    /// No promotion where more of a suite's answers are cut, empty or unparsable.
    pub max_unusable_share: f64,
    /// Weights of the ranking score.
    pub score_weights: ScoreWeights,
    /// Time limit of one evaluation.
    pub evaluation_max_ms: u64,
    /// How long a lease holds without renewal.
    pub lease_ms: u64,
    /// Tries of a job after transient failures.
    pub max_tries: u32,
    /// Wait before the second try; doubled for each further one.
    pub retry_backoff_ms: u64,
    /// Deployment targets, in order.
    pub targets: Vec<Target>,
    /// How long a target is watched after a switch; 0 = not at all.
    pub watch_ms: u64,
    /// Arriving files that may be checked at the same time.
    pub max_checks: usize,
    /// How many queued jobs the queue holds before files wait in the inbox.
    pub max_queued_jobs: usize,
    /// When a skill's level moves.
    #[serde(default)]
    pub curriculum: CurriculumSettings,
    /// Below so many free bytes nothing new is begun; 0 = never.
    #[serde(default)]
    pub min_free_bytes: u64,
    /// Which checkpoints stay on disk.
    #[serde(default)]
    pub retention: Retention,
    /// Files with fewer rows share a job until it has so many; 0 = one job per file.
    #[serde(default)]
    pub min_rows: u64,
    /// Rows of earlier data sets that a job trains again, per new row; 0 = none.
    #[serde(default)]
    pub replay_share: f64,
    /// Earlier data sets that one job takes such rows from, at most.
    #[serde(default)]
    pub replay_max_datasets: usize,
    /// Rows of a file accepted from now on that are kept back from training.
    #[serde(default)]
    pub keep_back: KeepBack,
    /// The newest files whose kept-back rows are evaluated.
    #[serde(default)]
    pub keep_back_files: usize,
    /// Fewer kept-back rows are not evaluated beside files in `validation/`: they could tell nothing and would hold promotions.
    #[serde(default)]
    pub keep_back_min_rows: usize,
}

/// Rows of a file that are never trained and evaluated instead: `share` of them, rounded down, at most `max_rows`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KeepBack {
    /// Share of the file's rows; 0 = none.
    pub share: f64,
    /// At most so many.
    pub max_rows: usize,
}

impl KeepBack {
    /// How many rows of a file of `rows` that are; fewer where rows say the same.
    #[must_use]
    pub fn num_rows(self, rows: usize) -> usize {
        ((self.share.clamp(0.0, 1.0) * rows as f64) as usize).min(self.max_rows)
    }
}

/// Which checkpoints stay on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Older ones go.
    pub keep_ms: u64,
    /// When all together are larger, the oldest go before their time.
    pub max_total_bytes: u64,
    /// None goes before it is so old.
    pub min_age_ms: u64,
    /// How many resume states stay.
    pub keep_resume: usize,
    /// How long the rows of a data set stay after its last job ended; 0 = for ever.
    pub keep_datasets_ms: u64,
}

impl Default for Retention {
    fn default() -> Self {
        let hour = 3_600_000;
        Retention {
            keep_ms: 36 * hour,
            max_total_bytes: 150_000_000_000,
            min_age_ms: hour,
            keep_resume: 2,
            keep_datasets_ms: 180 * 24 * hour,
        }
    }
}

pub use crate::finding::Level;

impl Default for Settings {
    fn default() -> Self {
        Settings {
            train: TrainSettings::default(),
            validation_level: Level::Quick,
            deep_in_background: false,
            promotion_policy: PromotionPolicy::NotWorse,
            min_gain: 0.0,
            max_regression: 0.02,
            min_answer_gain: 0.0,
            max_answer_regression: 0.05,
            suite_margins: BTreeMap::new(),
            error_budget: 0.05,
            on_regression: OnRegression::Hold,
            alert_after: 0,
            max_errored_share: 0.05,
            max_unusable_share: 0.5,
            score_weights: ScoreWeights::default(),
            evaluation_max_ms: 10 * 60_000,
            lease_ms: 60_000,
            max_tries: 3,
            retry_backoff_ms: 1_000,
            targets: Vec::new(),
            watch_ms: 0,
            max_checks: 1,
            max_queued_jobs: 10_000,
            curriculum: CurriculumSettings::default(),
            min_free_bytes: 0,
            retention: Retention::default(),
            min_rows: 0,
            replay_share: 0.0,
            replay_max_datasets: 32,
            keep_back: KeepBack::default(),
            keep_back_files: 4,
            keep_back_min_rows: 20,
        }
    }
}

/// Where checkpoints are served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Unique name.
    pub name: String,
    /// Base URL of the server, e.g. `http://127.0.0.1:8765`.
    pub url: String,
    /// How files reach it.
    pub transport: Transport,
}

/// How checkpoint files reach a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// The server's blob folder is on this machine; files are linked (or copied) into it.
    Local {
        /// The root of the serving host's files (it holds `blobs/`).
        serve_root: PathBuf,
    },
    /// Files are sent through the server's door.
    Http,
    /// Files are sent by rsync over ssh; everything else goes through the server's door.
    Rsync {
        /// `user@host:/path/of/serve-root`.
        destination: String,
        /// The remote shell with its flags; rsync's own default when absent.
        rsh: Option<String>,
    },
    /// Programs of the user stage, switch, verify and roll back.
    Command {
        /// Copies and prepares.
        stage: String,
        /// Makes it serve.
        switch: String,
        /// Prints what serves.
        verify: String,
        /// Goes back.
        rollback: Option<String>,
    },
}

#[cfg(test)]
mod tests;
