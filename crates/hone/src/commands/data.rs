//! The data manager by hand (`hone data generate`, `hone data status`), and rows as they are trained (`hone data show`).

pub mod row_door;
pub mod show;
#[cfg(test)]
mod tests;

use crate::commands::roles::loop_config;
use crate::exit::UsageError;
use crate::output;
use crate::workspace::Workspace;
use anyhow::{Result, bail};
use clap::Subcommand;
use hone_daemon::data_manager::{self, GenerateOrder, Memory, generate_once};
use hone_daemon::skill::SkillClient;
use hone_daemon::{DataManagerConfig, Limits, SkillEndpoint, clock};
use hone_pipeline::wire::ControlRequest;
use serde_json::json;
use std::time::Duration;

/// How long a skill may take to say that it is well.
const HEALTH_WAIT: Duration = Duration::from_secs(2);

/// `hone data …`.
#[derive(Subcommand, Debug)]
pub enum DataVerb {
    /// Ask a skill server for training data and put it into the inbox.
    Generate {
        /// The skill (default: the first configured one).
        #[arg(long)]
        skill: Option<String>,
        /// The level (default: the one that the curriculum has reached).
        #[arg(long)]
        level: Option<u32>,
        /// Samples.
        #[arg(long)]
        count: Option<u64>,
        /// The seed (default: the next one).
        #[arg(long)]
        seed: Option<u64>,
        /// With worked steps before the answers, of skills that have them (default: auto_generate.steps).
        #[arg(long)]
        steps: bool,
        /// Now, whatever the queue and the cooldown say.
        #[arg(long)]
        force: bool,
    },
    /// Which skills are configured, and when data is asked for.
    Status,
    /// What the trainer will see of a file: tokens, and which of them are trained.
    Show(show::ShowArgs),
}

/// Runs the verb.
pub fn run(ws: &Workspace, verb: &DataVerb) -> Result<()> {
    match verb {
        DataVerb::Show(args) => show::run(ws, args),
        DataVerb::Status => status(ws),
        DataVerb::Generate { skill, level, count, seed, steps, force } => {
            let (level, count, seed, steps, force) = (*level, *count, *seed, *steps, *force);
            generate(ws, &Asked { skill: skill.as_deref(), level, count, seed, steps, force })
        }
    }
}

/// The flags of `hone data generate`.
struct Asked<'a> {
    skill: Option<&'a str>,
    level: Option<u32>,
    count: Option<u64>,
    seed: Option<u64>,
    steps: bool,
    force: bool,
}

fn status(ws: &Workspace) -> Result<()> {
    ws.require()?;
    let config = ws.config()?;
    let (manager, limits) = (loop_config(&config).data_manager, Limits::default());
    let (state, memory) = (ws.state()?, Memory::read(&ws.root));
    let verdict = data_manager::why_not(&state, &manager, &memory, clock::now_ms());
    let skills: Vec<_> = manager
        .skills
        .iter()
        .map(|skill| {
            let client = SkillClient::new(&skill.url, HEALTH_WAIT, limits.skill_max_answer_bytes);
            let health = client
                .health()
                .map_or_else(|error| error.to_string(), |ok| if ok { "ok" } else { "not ok" }.to_string());
            json!({"name": skill.name, "url": skill.url, "level": state.skill(&skill.name).level, "health": health,
                "generate": skill.generate, "failure": memory.failures.get(&skill.name)})
        })
        .collect();
    if ws.json {
        output::json(&json!({"enabled": manager.enabled, "count": manager.count, "threshold": manager.threshold,
            "cooldown_ms": manager.cooldown_ms, "replay_share": manager.replay_share, "waits_for": verdict, "skills": skills}));
        return Ok(());
    }
    output::line(&match &verdict {
        Some(reason) => format!("automatic generation waits: {reason}"),
        None => "automatic generation: due now".to_string(),
    });
    let (count, threshold, share) = (manager.count, manager.threshold, 100.0 * manager.replay_share);
    output::line(&format!(
        "{count} samples a file ({share:.0} % of levels below) while at most {threshold} jobs are open"
    ));
    let columns = ["name", "url", "level", "health", "generate"];
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
    let rows: Vec<Vec<String>> = skills.iter().map(|s| columns.iter().map(|key| text(&s[*key])).collect()).collect();
    output::table(&["skill", "url", "level", "health", "asked for data"], &rows);
    for (skill, failure) in memory.failures.iter().filter(|(name, _)| manager.skills.iter().any(|s| s.name == **name)) {
        output::line(&format!("{skill} gave nothing, {} times in a row: {}", failure.tries, failure.reason));
    }
    Ok(())
}

/// The skill of that name, or the first one that is asked for data; else what to do.
fn find<'a>(manager: &'a DataManagerConfig, name: Option<&str>) -> Result<&'a SkillEndpoint, String> {
    let names: Vec<&str> = manager.skills.iter().map(|skill| skill.name.as_str()).collect();
    let found = match name {
        Some(name) => manager.skills.iter().find(|skill| skill.name == name),
        // One that is only evaluated is asked by its name alone.
        None => manager.skills.iter().find(|skill| skill.generate),
    };
    found.ok_or_else(|| match name {
        Some(name) if !names.is_empty() => {
            format!("generate data: no skill {name:?} is configured (configured: {})", names.join(", "))
        }
        _ => "generate data: no skill is configured; add one to `skills` in config.json".to_string(),
    })
}

fn generate(ws: &Workspace, asked: &Asked) -> Result<()> {
    ws.require()?;
    let config = ws.config()?;
    let (config, state) = (loop_config(&config), ws.state()?);
    let manager = config.data_manager;
    let endpoint = find(&manager, asked.skill).map_err(UsageError)?;
    if !asked.force {
        let skills = vec![SkillEndpoint { generate: true, ..endpoint.clone() }];
        let by_hand = DataManagerConfig { enabled: true, skills, ..manager.clone() };
        if let Some(reason) = data_manager::why_not(&state, &by_hand, &Memory::read(&ws.root), clock::now_ms()) {
            bail!("generate data: {reason} (hint: --force does it now)");
        }
    }
    let order = GenerateOrder {
        skill: endpoint.clone(),
        level: asked.level.unwrap_or_else(|| state.skill(&endpoint.name).level),
        count: asked.count.unwrap_or(manager.count),
        seed: asked.seed,
        replay_share: if asked.level.is_some() { 0.0 } else { manager.replay_share },
        steps: asked.steps || manager.steps,
        priority: manager.priority,
    };
    let file = generate_once(&ws.root, &order, &config.limits)?;
    let _ = hone_daemon::control::send(&ws.root, &ControlRequest::Scan, Duration::from_secs(2));
    if ws.json {
        output::json(
            &json!({"inbox_path": file.inbox_path, "rows": file.rows, "seed": file.seed, "quality": file.quality}),
        );
    } else {
        let (path, rows, seed) = (&file.inbox_path, file.rows, file.seed);
        output::line(&format!("put into the inbox: {path} ({rows} rows, seed {seed})"));
        let quality = &file.quality;
        output::line(&format!(
            "quality: {} different answers, the most frequent {} times; {} answers verified by the skill",
            quality.distinct_answers, quality.most_frequent_answer, quality.verified
        ));
    }
    Ok(())
}
