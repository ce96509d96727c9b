//! What the daemon is told by its caller. Plain values, already validated; nothing here reads a file or the
//! environment.

use crate::data_manager::QualityProfile;
use crate::notify::Notifier;
use anyhow::Result;
use hone_pipeline::config::Settings;
use hone_pipeline::content::ContentSettings;
use hone_pipeline::state::Priority;
use hone_store::retention::Rest;
use std::path::PathBuf;
use std::time::Duration;

/// Everything that is fixed while a daemon runs.
pub struct DaemonOptions {
    /// Root of the workspace (absolute).
    pub root: PathBuf,
    /// The `hone` binary; children are `program child KIND --request FILE`.
    pub program: PathBuf,
    /// Reads the configuration; called at the start and again whenever work may begin.
    pub load_settings: Box<dyn Fn() -> Result<LoopConfig> + Send>,
    /// Time between two scans of the inbox.
    pub scan_interval: Duration,
    /// How long a file must not have changed before it is complete.
    pub settle: Duration,
    /// How long a torn last line is waited for.
    pub torn: Duration,
    /// Key for the doors of deployment targets, where they ask for one. Never logged.
    pub admin_key: Option<String>,
    /// What the service manager is told.
    pub notifier: Notifier,
    /// True when a person started this daemon: an earlier `stop` is over. False for a restart by a
    /// supervisor, which must not undo a `stop`.
    pub started_by_hand: bool,
}

impl DaemonOptions {
    /// Options with the default times, no admin key, started by hand.
    #[must_use]
    pub fn new(
        root: PathBuf,
        program: PathBuf,
        load_settings: Box<dyn Fn() -> Result<LoopConfig> + Send>,
    ) -> DaemonOptions {
        DaemonOptions {
            root,
            program,
            load_settings,
            scan_interval: Duration::from_millis(200),
            settle: Duration::from_secs(2),
            torn: Duration::from_secs(60),
            admin_key: None,
            notifier: Notifier::default(),
            started_by_hand: true,
        }
    }
}

/// What `config.json` says to the loop; read again whenever work may begin.
#[derive(Clone, Debug, Default)]
pub struct LoopConfig {
    /// What decisions read.
    pub settings: Settings,
    /// The configured `schema_id`; `None` = the default applies (`chat_sft_v1`).
    pub schema_id: Option<String>,
    /// When and where new data is asked for.
    pub data_manager: DataManagerConfig,
    /// Named limits of the effects.
    pub limits: Limits,
    /// Thresholds of the content gate.
    pub content: ContentSettings,
    /// Retention and snapshots.
    pub housekeeping: Housekeeping,
    /// How people are told.
    pub alerts: Alerts,
    /// Questions of each sealed set of a skill's level; 0 = none are asked.
    pub sealed_questions: u64,
    /// A program with its arguments that takes the place of `train-job`; empty = the built-in one.
    pub trainer_command: Vec<String>,
    /// The name under which checkpoints are served; `None` = that of the lineage.
    pub model_name: Option<String>,
}

/// How people are told of what they must see; both empty = not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alerts {
    /// A program with its arguments; the alert comes on its stdin.
    pub command: Vec<String>,
    /// A webhook; the alert is the body of a POST.
    pub url: Option<String>,
}

/// What is done beside the work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Housekeeping {
    /// Time between two runs.
    pub every_ms: u64,
    /// Time limit of one run.
    pub max_ms: u64,
    /// When the daily snapshot is due, in minutes since midnight UTC; `None` = never.
    pub snapshot_at_min: Option<u64>,
    /// How long the rest stays.
    pub rest: Rest,
}

impl Default for Housekeeping {
    fn default() -> Self {
        let day = 24 * 3_600_000;
        let rest = Rest { rejected_ms: 30 * day, runs_ms: 14 * day, logs_ms: 30 * day, keep_snapshots: 7 };
        Housekeeping { every_ms: 60_000, max_ms: 300_000, snapshot_at_min: Some(180), rest }
    }
}

/// The `auto_generate` group and the configured skills.
#[derive(Clone, Debug)]
pub struct DataManagerConfig {
    /// Whether the daemon asks by itself.
    pub enabled: bool,
    /// Samples per request.
    pub count: u64,
    /// It asks when at most so many jobs are open.
    pub threshold: usize,
    /// Time between two requests.
    pub cooldown_ms: u64,
    /// Priority of the file.
    pub priority: Priority,
    /// Share of the samples that come from levels below that of now.
    pub replay_share: f64,
    /// Ask for worked steps before the answers, of skills that have them.
    pub steps: bool,
    /// Which skill is asked next.
    pub order: SkillOrder,
    /// The skills.
    pub skills: Vec<SkillEndpoint>,
}

impl DataManagerConfig {
    /// The skills that it asks for data.
    pub(crate) fn asked(&self) -> impl Iterator<Item = &SkillEndpoint> {
        self.skills.iter().filter(|skill| skill.generate)
    }
}

impl Default for DataManagerConfig {
    fn default() -> Self {
        DataManagerConfig {
            enabled: false,
            count: 1000,
            threshold: 0,
            cooldown_ms: 60_000,
            priority: Priority::Low,
            replay_share: 0.1,
            steps: false,
            order: SkillOrder::RoundRobin,
            skills: Vec::new(),
        }
    }
}

/// Which skill the data manager asks next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkillOrder {
    /// One after the other.
    RoundRobin,
    /// The one at the lowest share of its levels, then with the lowest accuracy.
    WeakestFirst,
}

/// Where a skill is served, and what its samples must be like.
#[derive(Clone, Debug, PartialEq)]
pub struct SkillEndpoint {
    /// Name within hone, e.g. `binary`.
    pub name: String,
    /// Base URL, e.g. `http://127.0.0.1:8090`.
    pub url: String,
    /// Bounds of generated samples.
    pub quality: QualityProfile,
    /// Whether the daemon asks it for training data; one that it does not ask is only evaluated.
    pub generate: bool,
}

impl SkillEndpoint {
    /// A skill with the bounds that hone has for its name.
    #[must_use]
    pub fn new(name: &str, url: &str) -> SkillEndpoint {
        let quality = QualityProfile::of(name);
        SkillEndpoint { name: name.to_string(), url: url.to_string(), quality, generate: true }
    }
}

/// Named limits of the effects: reaching one is an answer, never an endless wait.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Longest accepted line of a data file in bytes.
    pub max_line_bytes: u64,
    /// Largest accepted data file in bytes.
    pub max_file_bytes: u64,
    /// Most bytes that a packed data file may unpack to.
    pub max_unpacked_bytes: u64,
    /// Time limit of one check.
    pub check_max_ms: u64,
    /// Address space of a check in bytes; 0 = no limit.
    pub check_max_memory_bytes: u64,
    /// How long a child of an earlier daemon is waited for before it is killed.
    pub earlier_child_wait_ms: u64,
    /// Time limit of the call in which a server verifies, loads and tries a checkpoint.
    pub deploy_load_ms: u64,
    /// Time limit of every other call to a server's door (sending one file has ten times as long).
    pub deploy_call_ms: u64,
    /// Wait between two looks at a target after a switch.
    pub watch_interval_ms: u64,
    /// Longest time of a canary's answer.
    pub max_answer_ms: u64,
    /// Largest share of a target's answers that may be errors after a switch.
    pub max_error_share: f64,
    /// Questions that a target must answer after a switch, relative to the workspace; none = any answer will do.
    pub canary_file: Option<PathBuf>,
    /// Least share of them that must be answered as expected.
    pub min_canary_share: f64,
    /// Time limit of one call to a skill.
    pub skill_call_ms: u64,
    /// Tries of a call to a skill that does not answer or is busy.
    pub skill_tries: u32,
    /// Largest answer of a skill in bytes.
    pub skill_max_answer_bytes: u64,
    /// Most tokens of an answer in an evaluation.
    pub max_answer_tokens: usize,
    /// How long the end of the daemon waits for effects under way.
    pub exit_wait_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_line_bytes: 100 << 20,
            max_file_bytes: 10 << 30,
            max_unpacked_bytes: 10 << 30,
            check_max_ms: 15 * 60_000,
            check_max_memory_bytes: 8 << 30,
            earlier_child_wait_ms: 10_000,
            deploy_load_ms: 10 * 60_000,
            deploy_call_ms: 30_000,
            watch_interval_ms: 2_000,
            max_answer_ms: 20_000,
            max_error_share: 0.05,
            canary_file: None,
            min_canary_share: 0.9,
            skill_call_ms: 60_000,
            skill_tries: 3,
            skill_max_answer_bytes: 256 << 20,
            max_answer_tokens: 768,
            exit_wait_ms: 10_000,
        }
    }
}
