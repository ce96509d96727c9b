//! Asking a skill for new data when the queue runs dry. What it brings enters through the inbox like any file.
//!
//! The next seed lies in `run/data_manager.json` (`{"next_seed": N, "last_ms": T}`) and is advanced before it is
//! used, so no seed is used twice. Were the file lost, the same seeds would make the same bytes again, which
//! the daemon recognises as duplicates; nothing is trained twice.

#[cfg(test)]
mod tests;

use crate::clock::now_ms;
use crate::inbox::{self, Sidecar};
use crate::options::{DataManagerConfig, Limits, SkillEndpoint};
use crate::skill::{Generated, Sample, SkillClient, Split};
use anyhow::{Context, Result, bail, ensure};
use hone_disk::FileLock;
use hone_pipeline::state::{Control, DatasetState, Priority, State, TimeMs};
use hone_store::Layout;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// The level that is asked for as long as no curriculum says otherwise.
pub const FIRST_LEVEL: u32 = 1;
/// Schema of generated rows.
const SCHEMA_ID: &str = "chat_sft_v1";
/// How many words of what does not pass the quality check are named.
const MAX_PROBLEMS: usize = 5;
const LOCK_WAIT: Duration = Duration::from_secs(10);
const LOCK_POLL: Duration = Duration::from_millis(5);

/// One request for data.
#[derive(Clone, Debug)]
pub struct GenerateOrder {
    /// Whom to ask.
    pub skill: SkillEndpoint,
    /// Which level.
    pub level: u32,
    /// How many samples.
    pub count: u64,
    /// The seed; the next fresh one of the workspace when absent.
    pub seed: Option<u64>,
    /// Priority of the file.
    pub priority: Priority,
}

/// What was placed in the inbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeneratedFile {
    /// Relative to `inbox/`.
    pub inbox_path: String,
    /// Rows of the file.
    pub rows: u64,
    /// The seed that made it.
    pub seed: u64,
    /// The skill's version.
    pub version: String,
}

/// Asks once, checks what came, and places it in the inbox of the workspace `root`.
///
/// # Errors
/// The skill does not answer, answers outside its contract, or what it brings does not pass the quality check.
pub fn generate_once(root: &Path, order: &GenerateOrder, limits: &Limits) -> Result<GeneratedFile> {
    let skill = &order.skill.name;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    ensure!(!skill.is_empty() && skill.chars().all(plain), "{skill:?} cannot be part of a file name");
    ensure!(order.count > 0, "ask for at least one sample");
    let timeout = Duration::from_millis(limits.skill_call_ms);
    let client = SkillClient::new(&order.skill.url, timeout, limits.skill_max_answer_bytes);
    ensure!(client.health()?, "the skill {skill} at {} is not healthy", order.skill.url);
    let seed = match order.seed {
        Some(seed) => seed,
        None => fresh_seed(root)?,
    };
    let generated = client.generate(order.level, order.count, seed, Split::Train)?;
    let problems = quality_problems(&generated.samples);
    if !problems.is_empty() {
        bail!("the samples of {skill} do not pass the quality check: {}", problems.join("; "));
    }
    let (inbox_path, rows) = place(root, order, seed, &generated)?;
    Ok(GeneratedFile { inbox_path, rows, seed, version: generated.version })
}

/// The skill to ask now, if it is time: the manager is on, training is not paused, nothing arrives, at most
/// `threshold` jobs are open, and the cooldown since `last_ms` has passed. Skills take turns by `turn`.
#[must_use]
pub fn due<'a>(
    state: &State,
    config: &'a DataManagerConfig,
    last_ms: TimeMs,
    turn: u64,
    now: TimeMs,
) -> Option<&'a SkillEndpoint> {
    let arriving = |state: &DatasetState| matches!(state, DatasetState::Arriving | DatasetState::Checking);
    let num_open = state.jobs.values().filter(|job| job.state.is_open()).count();
    let idle = num_open <= config.threshold && !state.datasets.values().any(|dataset| arriving(&dataset.state));
    let due = config.enabled && state.control == Control::Running && idle && now >= last_ms + config.cooldown_ms;
    let turn = usize::try_from(turn % config.skills.len().max(1) as u64).expect("it is below a length");
    config.skills.get(turn).filter(|_| due)
}

/// What is wrong with samples: each must be a conversation that ends with a non-empty answer, none may come twice.
fn quality_problems(samples: &[Sample]) -> Vec<String> {
    let (mut ids, mut texts) = (HashSet::new(), HashSet::new());
    let mut problems = Vec::new();
    for sample in samples {
        let role = |message: &Value| message.get("role").and_then(Value::as_str).map(str::to_string);
        let content = |message: &Value| message.get("content").and_then(Value::as_str).map(str::to_string);
        let whole = sample.messages.iter().all(|m| role(m).is_some() && content(m).is_some());
        let asks = sample.messages.iter().any(|m| role(m).as_deref() == Some("user"));
        let last = sample.messages.last();
        let answer = last.filter(|m| role(m).as_deref() == Some("assistant")).and_then(content).unwrap_or_default();
        let mut problem = |what: &str| problems.push(format!("sample {}: {what}", sample.id));
        if !whole || !asks {
            problem("its messages are not a conversation");
        } else if answer.trim().is_empty() {
            problem("it does not end with an answer");
        }
        if !sample.metadata.is_object() {
            problem("its metadata is not an object");
        }
        if !ids.insert(sample.id.as_str()) {
            problem("its id comes twice");
        }
        if !texts.insert(serde_json::to_string(&sample.messages).expect("JSON values are plain data")) {
            problem("its conversation comes twice");
        }
    }
    if problems.len() > MAX_PROBLEMS {
        let more = problems.len() - MAX_PROBLEMS;
        problems.truncate(MAX_PROBLEMS);
        problems.push(format!("and {more} more"));
    }
    problems
}

fn place(root: &Path, order: &GenerateOrder, seed: u64, generated: &Generated) -> Result<(String, u64)> {
    let mut bytes = Vec::new();
    for sample in &generated.samples {
        let row = json!({ "messages": sample.messages, "metadata": sample.metadata });
        serde_json::to_writer(&mut bytes, &row).context("encode a row")?;
        bytes.push(b'\n');
    }
    let (skill, level) = (&order.skill.name, order.level);
    let provenance = json!({
        "skill": generated.skill, "version": generated.version, "level": level, "seed": seed, "split": Split::Train,
    });
    let sidecar =
        Sidecar { schema_id: Some(SCHEMA_ID.to_string()), provenance: Some(provenance), ..Sidecar::default() };
    let name = format!("{skill}-l{level}-{seed}.jsonl");
    let inbox_path = inbox::place_bytes(root, &name, &bytes, order.priority, &sidecar)?;
    Ok((inbox_path, generated.samples.len() as u64))
}

/// The content of `run/data_manager.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memory {
    pub next_seed: u64,
    pub last_ms: TimeMs,
}

impl Memory {
    pub fn read(root: &Path) -> Memory {
        let path = Layout::new(root).run_dir().join("data_manager.json");
        let memory = std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        memory.unwrap_or(Memory { next_seed: 1, last_ms: 0 })
    }
}

fn fresh_seed(root: &Path) -> Result<u64> {
    let folder = Layout::new(root).run_dir();
    hone_disk::create_dir(&folder)?;
    let start = Instant::now();
    let _lock = loop {
        match FileLock::try_exclusive(&folder.join("data_manager.lock"))? {
            Some(lock) => break lock,
            None if start.elapsed() > LOCK_WAIT => bail!("take a seed: another program has been taking one for long"),
            None => std::thread::sleep(LOCK_POLL),
        }
    };
    let seed = Memory::read(root).next_seed;
    let memory = Memory { next_seed: seed + 1, last_ms: now_ms() };
    hone_disk::write_json(&folder.join("data_manager.json"), &memory)?;
    Ok(seed)
}
