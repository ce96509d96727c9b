//! The data manager by hand: `hone data generate`, `hone data status`.

use crate::commands::roles::loop_config;
use crate::exit::UsageError;
use crate::output;
use crate::workspace::Workspace;
use anyhow::Result;
use clap::Subcommand;
use hone_daemon::data_manager::{GenerateOrder, generate_once};
use hone_pipeline::wire::ControlRequest;
use serde_json::json;
use std::time::Duration;

/// `hone data …`.
#[derive(Subcommand, Debug)]
pub enum DataVerb {
    /// Ask a skill server for training data and put it into the inbox.
    Generate {
        /// The skill (default: the first configured one).
        #[arg(long)]
        skill: Option<String>,
        /// The level.
        #[arg(long, default_value_t = 1)]
        level: u32,
        /// Samples.
        #[arg(long)]
        count: Option<u64>,
        /// The seed (default: the next one).
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Which skills are configured, and when data is asked for.
    Status,
}

/// Runs the verb.
pub fn run(ws: &Workspace, verb: &DataVerb) -> Result<()> {
    ws.require()?;
    let config = ws.config()?;
    let manager = loop_config(&config).data_manager;
    match verb {
        DataVerb::Status => {
            let skills: Vec<_> = config.skills.iter().map(|s| json!({"name": s.name, "url": s.url})).collect();
            if ws.json {
                output::json(
                    &json!({"enabled": manager.enabled, "count": manager.count, "threshold": manager.threshold,
                    "cooldown_ms": manager.cooldown_ms, "skills": skills}),
                );
                return Ok(());
            }
            let state = if manager.enabled { "on" } else { "off (auto_generate.enabled)" };
            output::line(&format!("automatic generation: {state}"));
            output::line(&format!(
                "{} samples a file while at most {} jobs are open",
                manager.count, manager.threshold
            ));
            for skill in &config.skills {
                output::line(&format!("  {} at {}", skill.name, skill.url));
            }
        }
        DataVerb::Generate { skill, level, count, seed } => {
            let endpoint = match skill {
                Some(name) => manager.skills.iter().find(|s| s.name == *name),
                None => manager.skills.first(),
            };
            let Some(endpoint) = endpoint else {
                let message = "generate data: no such skill is configured; add it to `skills` in config.json";
                return Err(UsageError(message.to_string()).into());
            };
            let order = GenerateOrder {
                skill: endpoint.clone(),
                level: *level,
                count: count.unwrap_or(manager.count),
                seed: *seed,
                priority: manager.priority,
            };
            let file = generate_once(&ws.root, &order, &loop_config(&config).limits)?;
            let _ = hone_daemon::control::send(&ws.root, &ControlRequest::Scan, Duration::from_secs(2));
            if ws.json {
                output::json(&json!({"inbox_path": file.inbox_path, "rows": file.rows, "seed": file.seed}));
            } else {
                output::line(&format!(
                    "put into the inbox: {} ({} rows, seed {})",
                    file.inbox_path, file.rows, file.seed
                ));
            }
        }
    }
    Ok(())
}
