//! Asking a skill for new data when the queue runs dry. What it brings enters through the inbox like any file.
//!
//! The next seed lies in `run/data_manager.json` (`{"next_seed": N, "last_ms": T, "failures": {SKILL: {"at_ms", "tries",
//! "reason"}}}`) and is advanced before it is used, so no seed is used twice. Were the file lost, the same seeds would make
//! the same bytes again, which the daemon recognises as duplicates; nothing is trained twice. A skill that gave nothing
//! rests a while, so that the others have their turn; its entry goes with the next file that it gives.

mod quality;
#[cfg(test)]
mod tests;

pub use quality::{Quality, QualityProfile};

use crate::clock::now_ms;
use crate::inbox::{self, Sidecar};
use crate::options::{DataManagerConfig, Limits, SkillEndpoint, SkillOrder};
use crate::skill::{Sample, SkillClient, Split};
use anyhow::{Context, Result, bail, ensure};
use hone_disk::FileLock;
use hone_pipeline::state::{Control, Dataset, DatasetState, Priority, State, TimeMs, Work};
use hone_store::Layout;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

/// After a rejected file its skill rests this many times the cooldown.
pub const REST_AFTER_REJECTION: u64 = 10;
/// After it gave nothing it rests twice the cooldown, then four times, and so on up to this.
const MAX_REST_AFTER_FAILURE: u64 = 10;
/// A rest is counted in cooldowns of at least this.
const MIN_COOLDOWN_MS: u64 = 1_000;
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
    /// Share of the samples that come from the levels below, evenly.
    pub replay_share: f64,
    /// Ask for worked steps before the answers.
    pub steps: bool,
    /// Priority of the file.
    pub priority: Priority,
}

impl GenerateOrder {
    /// How many samples of which level: first the level itself, then those below it, each with at least one.
    #[must_use]
    pub fn mix(&self) -> Vec<(u32, u64)> {
        let num_earlier = ((self.count as f64 * self.replay_share) as u64).min(self.count.saturating_sub(1));
        let num_levels = u64::from(self.level.saturating_sub(1));
        let mut mix = vec![(self.level, if num_levels == 0 { self.count } else { self.count - num_earlier })];
        for level in 1..self.level {
            let rest = u64::from(u64::from(level) <= num_earlier % num_levels);
            mix.push((level, num_earlier / num_levels + rest));
        }
        mix.retain(|(_, count)| *count > 0);
        mix
    }
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
    /// What the quality check counted.
    pub quality: Quality,
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
    let client = SkillClient::new(&order.skill.url, timeout, limits.skill_max_answer_bytes)
        .with_tries(limits.skill_tries)
        .with_steps(order.steps);
    ensure!(client.health()?, "the skill {skill} at {} is not healthy", order.skill.url);
    let seed = match order.seed {
        Some(seed) => seed,
        None => fresh_seed(root)?,
    };
    let mut version = String::new();
    let mut samples = Vec::new();
    let mut of_other_levels = HashSet::new();
    for (level, count) in order.mix() {
        let generated = client.generate(level, count, seed, Split::Train)?;
        // Levels may share questions, and a level that has fewer of them repeats some and says so. Anything else that comes
        // twice is a fault, which the quality check finds.
        let mut of_level = HashSet::new();
        let mut fresh = |sample: &Sample| {
            let text = conversation(sample);
            !of_other_levels.contains(&text) && (of_level.insert(text) || !generated.repeated)
        };
        samples.extend(generated.samples.into_iter().filter(|s| fresh(s)).map(|sample| (level, sample)));
        of_other_levels.extend(of_level);
        version = generated.version;
    }
    let quality = quality::check(&samples, &order.skill.quality, &client)
        .with_context(|| format!("use the samples of {skill}"))?;
    let (inbox_path, rows) = place(root, order, seed, (&version, &samples, &quality))?;
    Ok(GeneratedFile { inbox_path, rows, seed, version, quality })
}

/// The skill to ask now, if it is time: the manager is on, training is not paused, nothing arrives or is
/// evaluated, at most `threshold` jobs are open (0: nothing runs), and the cooldown since data was last asked for has passed.
/// A skill whose last file was rejected, or that gave none, rests longer. Skills take turns by `turn`, or the weakest of
/// those that do not rest comes first.
#[must_use]
pub fn due<'a>(
    state: &State,
    config: &'a DataManagerConfig,
    memory: &Memory,
    turn: u64,
    now: TimeMs,
) -> Option<&'a SkillEndpoint> {
    if why_not(state, config, memory, now).is_some() {
        return None;
    }
    in_order(state, config, turn).into_iter().find(|skill| rest(state, config, memory, &skill.name, now).is_none())
}

/// What generation waits for, in a sentence; none when it is due.
#[must_use]
pub fn why_not(state: &State, config: &DataManagerConfig, memory: &Memory, now: TimeMs) -> Option<String> {
    let arriving = |d: &&Dataset| matches!(d.state, DatasetState::Arriving | DatasetState::Checking);
    let (num_open, num_arriving) = (state.jobs.num_active(), state.datasets.moving().filter(arriving).count());
    let due_ms = memory.last_ms + config.cooldown_ms;
    match () {
        () if !config.enabled => Some("it is off (auto_generate.enabled)".to_string()),
        () if config.skills.is_empty() => Some("no skill is configured".to_string()),
        () if config.asked().next().is_none() => Some("every configured skill has \"generate\": false".to_string()),
        () if state.control != Control::Running => Some("training is paused or stopping".to_string()),
        () if num_arriving > 0 => Some(format!("{num_arriving} files are being checked")),
        () if num_open > config.threshold => {
            Some(format!("{num_open} jobs are open, at most {} may be", config.threshold))
        }
        // What it measures may move a level. A slice in training is an open job, which `threshold` counts.
        () if is_evaluating(state) => Some("a checkpoint is being evaluated".to_string()),
        // After a clock that was set back the last time seems to be still to come: it holds nobody up.
        () if memory.last_ms <= now && now < due_ms => {
            Some(format!("the cooldown ends in {} s", (due_ms - now).div_ceil(1_000)))
        }
        () => {
            let rests = config.asked().map(|skill| rest(state, config, memory, &skill.name, now));
            let Rest { until_ms, why } = rests.collect::<Option<Vec<_>>>()?.into_iter().min_by_key(|r| r.until_ms)?;
            Some(format!("{why}; asked again in {} s", (until_ms - now).div_ceil(1_000)))
        }
    }
}

fn is_evaluating(state: &State) -> bool {
    state.lease.as_ref().is_some_and(|lease| matches!(lease.work, Work::Evaluate { .. }))
}

fn in_order<'a>(state: &State, config: &'a DataManagerConfig, turn: u64) -> Vec<&'a SkillEndpoint> {
    let mut skills: Vec<&SkillEndpoint> = config.asked().collect();
    let turn = usize::try_from(turn % skills.len().max(1) as u64).expect("it is below a length");
    skills.rotate_left(turn);
    if config.order == SkillOrder::WeakestFirst {
        let strength = |skill: &&SkillEndpoint| {
            let progress = state.skill(&skill.name);
            let accuracy = progress.latest().and_then(|evaluation| evaluation.accuracy()).unwrap_or(0.0);
            (f64::from(progress.level - 1) + accuracy) / f64::from(progress.total_levels.max(1))
        };
        skills.sort_by(|a, b| strength(a).total_cmp(&strength(b)));
    }
    skills
}

/// Why a skill is not asked for a while.
struct Rest {
    until_ms: TimeMs,
    why: String,
}

/// The longer of a skill's rests at `now`: its newest file was rejected (the state is the memory of it), or it gave none.
fn rest(state: &State, config: &DataManagerConfig, memory: &Memory, skill: &str, now: TimeMs) -> Option<Rest> {
    let of_skill = |d: &&Dataset| d.provenance.as_ref().is_some_and(|p| p["skill"] == skill);
    let rejected = match state.datasets.values().rev().find(of_skill) {
        Some(Dataset { state: DatasetState::Rejected { .. }, arrived_ms, .. }) if *arrived_ms <= now => {
            let until_ms = arrived_ms + REST_AFTER_REJECTION * config.cooldown_ms;
            Some(Rest { until_ms, why: format!("the last file of {skill} was rejected") })
        }
        _ => None,
    };
    let failed = memory.failures.get(skill).filter(|failure| failure.at_ms <= now).map(|failure| Rest {
        until_ms: failure.at_ms + failure.rest_ms(config.cooldown_ms),
        why: format!("{skill} gave nothing: {}", failure.reason),
    });
    [rejected, failed].into_iter().flatten().filter(|rest| now < rest.until_ms).max_by_key(|rest| rest.until_ms)
}

/// What a model sees of a sample.
fn conversation(sample: &Sample) -> String {
    serde_json::to_string(&sample.messages).expect("JSON values are plain data")
}

fn place(
    root: &Path,
    order: &GenerateOrder,
    seed: u64,
    (version, samples, quality): (&str, &[(u32, Sample)], &Quality),
) -> Result<(String, u64)> {
    let mut bytes = Vec::new();
    for (_, sample) in samples {
        let row = json!({ "messages": sample.messages, "metadata": sample.metadata });
        serde_json::to_writer(&mut bytes, &row).context("encode a row")?;
        bytes.push(b'\n');
    }
    let (skill, level) = (&order.skill.name, order.level);
    let mix: Vec<Value> = order.mix().iter().map(|(level, count)| json!({ "level": level, "count": count })).collect();
    let mut provenance = json!({
        "skill": skill, "version": version, "level": level, "seed": seed,
        "split": Split::Train, "mix": mix, "quality": quality,
    });
    if order.steps {
        provenance["steps"] = true.into();
    }
    let schema_id = Some(order.skill.quality.schema_id.clone());
    let sidecar = Sidecar { schema_id, provenance: Some(provenance), ..Sidecar::default() };
    let name = format!("{skill}-l{level}-{seed}.jsonl");
    let inbox_path = inbox::place_bytes(root, &name, &bytes, order.priority, &sidecar)?;
    Ok((inbox_path, samples.len() as u64))
}

/// The content of `run/data_manager.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The next seed.
    pub next_seed: u64,
    /// When data was last asked for; 0 for never.
    pub last_ms: TimeMs,
    /// Skills that gave nothing the last time that the daemon asked.
    #[serde(default)]
    pub failures: BTreeMap<String, Failure>,
}

/// How asking a skill went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The last time.
    pub at_ms: TimeMs,
    /// How often in a row.
    pub tries: u32,
    /// Why, the last time.
    pub reason: String,
}

impl Failure {
    fn rest_ms(&self, cooldown_ms: u64) -> u64 {
        cooldown_ms.max(MIN_COOLDOWN_MS) * (1 << self.tries.min(16)).min(MAX_REST_AFTER_FAILURE)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Memory { next_seed: 1, last_ms: 0, failures: BTreeMap::new() }
    }
}

impl Memory {
    /// That of the workspace `root`.
    #[must_use]
    pub fn read(root: &Path) -> Memory {
        let path = Layout::new(root).run_dir().join("data_manager.json");
        let memory = std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        memory.unwrap_or_default()
    }
}

/// Notes how asking a skill went.
///
/// # Errors
/// Whatever the disk answers.
pub(crate) fn remember(root: &Path, skill: &str, error: Option<&anyhow::Error>) -> Result<()> {
    if error.is_none() && !Memory::read(root).failures.contains_key(skill) {
        return Ok(());
    }
    change_memory(root, |memory| match error {
        None => drop(memory.failures.remove(skill)),
        Some(error) => {
            let tries = memory.failures.get(skill).map_or(0, |failure| failure.tries).saturating_add(1);
            let failure = Failure { at_ms: now_ms(), tries, reason: format!("{error:#}") };
            memory.failures.insert(skill.to_string(), failure);
        }
    })
}

fn fresh_seed(root: &Path) -> Result<u64> {
    let mut seed = 0;
    change_memory(root, |memory| {
        seed = memory.next_seed;
        (memory.next_seed, memory.last_ms) = (seed + 1, now_ms());
    })?;
    Ok(seed)
}

fn change_memory(root: &Path, change: impl FnOnce(&mut Memory)) -> Result<()> {
    let folder = Layout::new(root).run_dir();
    hone_disk::create_dir(&folder)?;
    let start = Instant::now();
    let _lock = loop {
        match FileLock::try_exclusive(&folder.join("data_manager.lock"))? {
            Some(lock) => break lock,
            None if start.elapsed() > LOCK_WAIT => bail!("note it: another program has been noting something for long"),
            None => std::thread::sleep(LOCK_POLL),
        }
    };
    let mut memory = Memory::read(root);
    change(&mut memory);
    hone_disk::write_json(&folder.join("data_manager.json"), &memory)
}
