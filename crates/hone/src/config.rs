//! The configuration of a workspace: one file, `config.json`, read strictly.
//!
//! Precedence: command line (`--set`) > `HONE_*` environment > `config.json` > defaults. Every key stands once,
//! in the table [`keys::KEYS`]; the commented file of `hone init`, `docs/configuration.md`, `hone config show` and
//! the JSON Schema are made from it. All problems are reported together, each with line, key and what is allowed.

pub mod keys;
mod read;
mod render;
mod settings;
#[cfg(test)]
mod tests;

pub use render::{commented_file, json_schema, markdown};
pub use settings::is_url;

use anyhow::Result;
use hone_daemon::data_manager::QualityProfile;
use hone_daemon::{Alerts, Housekeeping, SkillEndpoint, SkillOrder};
use hone_pipeline::config::Settings;
use hone_pipeline::content::ContentSettings;
use hone_pipeline::finding::SchemaOrigin;
use hone_pipeline::state::Priority;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The table of keys.
    Default,
    /// `config.json`.
    File,
    /// A `HONE_*` variable.
    Environment,
    /// `--set` or a flag.
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Default => "default",
            Origin::File => "config.json",
            Origin::Environment => "environment",
            Origin::CommandLine => "command line",
        })
    }
}

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `config.json:12`, `HONE_SEED` or `--set`.
    pub place: String,
    /// The key, dotted.
    pub key: String,
    /// What was found, what is allowed, the nearest valid name.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            write!(f, "{}: {}", self.place, self.message)
        } else {
            write!(f, "{}: {}: {}", self.place, self.key, self.message)
        }
    }
}

/// A value, where it came from, and where in that it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    value: Value,
    origin: Origin,
    /// As [`Problem::place`].
    place: String,
    /// The same for each entry of a list or field of an object; empty where they have no places of their own.
    inner: Vec<String>,
}

impl Given {
    fn new(value: Value, origin: Origin, place: &str) -> Given {
        Given { value, origin, place: place.to_string(), inner: Vec::new() }
    }

    fn place_of_entry(&self, index: usize) -> String {
        self.inner.get(index).unwrap_or(&self.place).clone()
    }
}

/// The effective values, each with its origin.
#[derive(Clone, Debug)]
pub struct Values(BTreeMap<&'static str, Given>);

/// The validated configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The served name of the model.
    pub model_name: String,
    /// The base model's folder, if one is named here.
    pub model_path: Option<PathBuf>,
    /// Schema for files that name none, and where that came from.
    pub schema_id: (String, SchemaOrigin),
    /// What the pure decisions read.
    pub settings: Settings,
    /// Roles of this host.
    pub roles: Vec<String>,
    /// Skill servers.
    pub skills: Vec<Skill>,
    /// The data manager.
    pub auto_generate: AutoGenerate,
    /// Retention of all but checkpoints, snapshots.
    pub housekeeping: Housekeeping,
    /// Questions of each sealed set of a skill's level.
    pub sealed_questions: u64,
    /// Most tokens of an answer in an evaluation.
    pub max_answer_tokens: usize,
    /// How people are told.
    pub alerts: Alerts,
    /// Another trainer; empty = the built-in one.
    pub trainer_command: Vec<String>,
    /// The inbox's rules.
    pub inbox: Inbox,
    /// The server's values.
    pub serve: Serve,
    /// How targets are watched.
    pub watch: Watch,
    /// Where the monitor listens.
    pub monitor_listen: SocketAddr,
    /// Limits of the check child.
    pub max_line_bytes: u64,
    /// Largest accepted file.
    pub max_file_bytes: u64,
    /// Most bytes that a packed file may unpack to.
    pub max_unpacked_bytes: u64,
    /// Thresholds of the content gate.
    pub content: ContentSettings,
    /// Time limit of one check.
    pub check_timeout: Duration,
}

/// A skill server that the data manager asks. What is left out of its bounds is what [`QualityProfile`] has for its name.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
pub struct Skill {
    /// Its name; `hone skill serve NAME` when it is one of hone's own.
    pub name: String,
    /// Base URL.
    pub url: String,
    /// Schema that its files are held against.
    pub schema_id: Option<String>,
    /// Longest question.
    pub max_question_chars: Option<usize>,
    /// Longest answer.
    pub max_answer_chars: Option<usize>,
    /// Fewest different answers, as a share.
    pub min_distinct_answers: Option<f64>,
    /// Most samples with one and the same answer, as a share.
    pub max_same_answer: Option<f64>,
    /// Whether the data manager asks it.
    pub generate: Option<bool>,
}

impl Skill {
    /// As the daemon knows it.
    #[must_use]
    pub fn endpoint(&self) -> SkillEndpoint {
        let Skill { name, url, schema_id, max_question_chars, max_answer_chars, min_distinct_answers, .. } = self;
        let known = QualityProfile::of(name);
        let quality = QualityProfile {
            max_question_chars: max_question_chars.unwrap_or(known.max_question_chars),
            max_answer_chars: max_answer_chars.unwrap_or(known.max_answer_chars),
            min_distinct_answers: min_distinct_answers.unwrap_or(known.min_distinct_answers),
            max_same_answer: self.max_same_answer.unwrap_or(known.max_same_answer),
            schema_id: schema_id.clone().unwrap_or(known.schema_id),
        };
        SkillEndpoint { quality, generate: self.generate.unwrap_or(true), ..SkillEndpoint::new(name, url) }
    }
}

/// When the data manager asks for data.
#[derive(Clone, Debug, PartialEq)]
pub struct AutoGenerate {
    /// At all.
    pub enabled: bool,
    /// Samples per file.
    pub count: u64,
    /// Only while at most this many jobs are open.
    pub threshold: u64,
    /// Wait between two files.
    pub cooldown: Duration,
    /// Priority of the file.
    pub priority: Priority,
    /// Share of earlier levels.
    pub replay_share: f64,
    /// With worked steps.
    pub steps: bool,
    /// Which skill is asked next.
    pub order: SkillOrder,
}

/// When a file of the inbox is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbox {
    /// Time between scans.
    pub scan_interval: Duration,
    /// How long size and time must not change.
    pub settle: Duration,
    /// How long a torn last line waits.
    pub torn: Duration,
}

/// The server's values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serve {
    /// Where it listens.
    pub listen: SocketAddr,
    /// How weights are held; `auto` = as they are stored.
    pub dtype: String,
    /// Sequences at the same time.
    pub slots: usize,
    /// Longest prompt and answer together; 0 = the model's own limit.
    pub max_context: usize,
    /// Waiting requests before 429.
    pub max_queue: usize,
    /// Engine threads; 0 = all cores.
    pub threads: usize,
    /// Bytes of the disk that uploads leave free.
    pub min_free_bytes: u64,
    /// Memory for keys and values of all requests together, in MiB.
    pub cache_mb: u64,
    /// Memory that models with their caches may take together, in MiB; 0 = what is available.
    pub max_memory_mb: u64,
    /// Tokens of an answer whose request names no limit; 0 = what the context leaves.
    pub default_max_tokens: usize,
    /// Deployments kept beside the serving and the previous one.
    pub keep_deployments: usize,
    /// Largest file of a deployment in MiB.
    pub max_blob_mb: u64,
    /// How long an answer may take, in seconds; 0 = as long as it takes.
    pub request_timeout_sec: u64,
    /// How long a client may take nothing of what waits for it, in seconds.
    pub stall_timeout_sec: u64,
    /// How long running answers may go on after a stop, in seconds.
    pub drain_sec: u64,
    /// Largest JSON body in MiB.
    pub max_body_mb: usize,
    /// Most answers of one request.
    pub max_choices: usize,
}

/// How a target is watched after a switch.
#[derive(Clone, Debug, PartialEq)]
pub struct Watch {
    /// Wait between two looks.
    pub interval: Duration,
    /// Longest time of a canary's answer.
    pub max_answer: Duration,
    /// Largest share of errors.
    pub max_error_share: f64,
    /// Questions with what their answers must contain.
    pub canary_file: Option<PathBuf>,
    /// Least share of them answered as expected.
    pub min_canary_share: f64,
}

impl Values {
    /// Reads `<root>/config.json` (absent: defaults), the environment and `--set` pairs. What is wrong keeps its default
    /// and is among the problems.
    fn read(root: &Path, environment: &[(String, String)], set: &[(String, String)]) -> (Values, Vec<Problem>) {
        let (mut values, mut problems) = (Values::defaults().0, Vec::new());
        let path = root.join("config.json");
        match std::fs::read_to_string(&path) {
            Ok(text) => read::file(&text, &mut values, &mut problems),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => problems.push(Problem {
                place: path.display().to_string(),
                key: String::new(),
                message: format!("cannot be read: {error}"),
            }),
        }
        read::environment(environment, &mut values, &mut problems);
        read::command_line(set, &mut values, &mut problems);
        (Values(values), problems)
    }

    fn defaults() -> Values {
        let given = |key: &keys::Key| (key.path, Given::new(key.default_value(), Origin::Default, "default"));
        Values(keys::KEYS.iter().map(given).collect())
    }

    /// Every key with its value and origin, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Value, Origin)> {
        self.0.iter().map(|(path, given)| (*path, &given.value, given.origin))
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        serde_json::from_value(self.0[path].value.clone()).expect("the table of keys has checked type and range")
    }

    fn seconds(&self, path: &str) -> Duration {
        Duration::from_secs_f64(self.get(path))
    }

    fn origin(&self, path: &str) -> Origin {
        self.0[path].origin
    }

    /// A problem of a key whose value is well formed.
    fn problem(&self, path: &str, message: String) -> Problem {
        Problem { place: self.0[path].place.clone(), key: path.to_string(), message }
    }

    /// The same of one entry of a list, or field of an object, which is called `name`.
    fn problem_inside(&self, path: &str, (index, name): (usize, &str), message: String) -> Problem {
        Problem { place: self.0[path].place_of_entry(index), key: format!("{path}{name}"), message }
    }
}

impl Config {
    /// The typed form of checked values.
    pub fn from_values(values: &Values) -> Result<Config, Vec<Problem>> {
        let listen = values.get::<String>("serve.listen");
        let serve = Serve {
            listen: listen.parse().expect("checked as an address"),
            dtype: values.get("serve.dtype"),
            slots: values.get("serve.slots"),
            max_context: values.get("serve.max_context"),
            max_queue: values.get("serve.max_queue"),
            threads: values.get("serve.threads"),
            min_free_bytes: values.get("serve.min_free_bytes"),
            cache_mb: values.get("serve.cache_mb"),
            max_memory_mb: values.get("serve.max_memory_mb"),
            default_max_tokens: values.get("serve.default_max_tokens"),
            keep_deployments: values.get("serve.keep_deployments"),
            max_blob_mb: values.get("serve.max_blob_mb"),
            request_timeout_sec: values.get("serve.request_timeout_sec"),
            stall_timeout_sec: values.get("serve.stall_timeout_sec"),
            drain_sec: values.get("serve.drain_sec"),
            max_body_mb: values.get("serve.max_body_mb"),
            max_choices: values.get("serve.max_choices"),
        };
        let (settings, problems) = (settings::settings(values, &serve), settings::contradictions(values));
        let settings = match settings {
            Ok(settings) if problems.is_empty() => settings,
            Ok(_) => return Err(problems),
            Err(more) => return Err(more.into_iter().chain(problems).collect()),
        };
        let schema_origin = match values.origin("schema_id") {
            Origin::Default => SchemaOrigin::Default,
            Origin::CommandLine => SchemaOrigin::Flag,
            Origin::File | Origin::Environment => SchemaOrigin::Config,
        };
        Ok(Config {
            model_name: values.get("model_name"),
            model_path: values.get("model_path"),
            schema_id: (values.get("schema_id"), schema_origin),
            settings,
            roles: values.get("roles"),
            skills: values.get("skills"),
            auto_generate: AutoGenerate {
                enabled: values.get("auto_generate.enabled"),
                count: values.get("auto_generate.count"),
                threshold: values.get("auto_generate.threshold"),
                cooldown: values.seconds("auto_generate.cooldown_sec"),
                priority: values.get("auto_generate.priority"),
                replay_share: values.get("auto_generate.replay_share"),
                steps: values.get("auto_generate.steps"),
                order: values.get("auto_generate.order"),
            },
            housekeeping: settings::housekeeping(values),
            sealed_questions: values.get("evaluation.sealed_questions"),
            max_answer_tokens: values.get("evaluation.max_answer_tokens"),
            alerts: Alerts { command: values.get("alerts.command"), url: values.get("alerts.url") },
            trainer_command: values.get("trainer.command"),
            inbox: Inbox {
                scan_interval: values.seconds("queue.scan_sec"),
                settle: values.seconds("queue.settle_sec"),
                torn: values.seconds("queue.torn_sec"),
            },
            watch: Watch {
                interval: values.seconds("deployment.watch_interval_sec"),
                max_answer: values.seconds("deployment.max_answer_sec"),
                max_error_share: values.get("deployment.max_error_share"),
                canary_file: values.get("deployment.canary_file"),
                min_canary_share: values.get("deployment.min_canary_share"),
            },
            monitor_listen: values.get::<String>("monitor.listen").parse().expect("checked as an address"),
            max_line_bytes: values.get("validation.max_line_bytes"),
            max_file_bytes: values.get("validation.max_file_bytes"),
            max_unpacked_bytes: values.get("validation.max_unpacked_bytes"),
            content: settings::content_settings(values),
            check_timeout: values.seconds("validation.max_sec"),
            serve,
        })
    }

    /// Reads everything and validates it; the error lists all problems, one a line.
    pub fn load(root: &Path, set: &[(String, String)]) -> Result<Config> {
        Ok(load(root, set)?.1)
    }
}

/// Where compiled kernels for GPUs are kept: `hone/kernels` in the user's folder for caches. None where there is no such folder.
pub fn kernel_folder() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")))?;
    Some(caches.join("hone").join("kernels"))
}

/// The effective values, with the process's own environment, and what they make; all problems at once.
pub fn load(root: &Path, set: &[(String, String)]) -> Result<(Values, Config)> {
    let environment = environment(std::env::vars_os());
    let read = environment.and_then(|environment| read_all(root, &environment, set));
    read.map_err(|problems| anyhow::Error::new(ConfigError(problems)))
}

/// The variables of hone. What others are called and hold is no matter here.
fn environment(all: impl Iterator<Item = (OsString, OsString)>) -> Result<Vec<(String, String)>, Vec<Problem>> {
    let (mut ours, mut problems) = (Vec::new(), Vec::new());
    for (name, value) in all {
        let Some(name) = name.to_str().filter(|name| name.starts_with("HONE_")) else { continue };
        match value.into_string() {
            Ok(value) => ours.push((name.to_string(), value)),
            Err(_) => {
                let message = "its value is not UTF-8".to_string();
                problems.push(Problem { place: name.to_string(), key: String::new(), message });
            }
        }
    }
    if problems.is_empty() { Ok(ours) } else { Err(problems) }
}

fn read_all(
    root: &Path,
    environment: &[(String, String)],
    set: &[(String, String)],
) -> Result<(Values, Config), Vec<Problem>> {
    let (values, mut problems) = Values::read(root, environment, set);
    match Config::from_values(&values) {
        Ok(config) if problems.is_empty() => return Ok((values, config)),
        Ok(_) => {}
        Err(more) => problems.extend(more),
    }
    Err(problems)
}

/// Puts a text in the place of a key's value in a `config.json`, and leaves all else as it is. False where the file is
/// absent, does not name the key, or says so already.
pub fn put_text(file: &Path, key: &str, text: &str) -> Result<bool> {
    let Ok(old) = std::fs::read_to_string(file) else { return Ok(false) };
    let Some(range) = read::range_of(&old, key) else { return Ok(false) };
    let new = format!("{}{}{}", &old[..range.start], Value::String(text.to_string()), &old[range.end..]);
    if new == old {
        return Ok(false);
    }
    hone_disk::write_atomic(file, new.as_bytes())?;
    Ok(true)
}

/// All problems of a configuration; the command line answers it with exit code 2.
#[derive(Debug)]
pub struct ConfigError(pub Vec<Problem>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "read the configuration: {count} problem{}", if count == 1 { "" } else { "s" })?;
        for problem in &self.0 {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
