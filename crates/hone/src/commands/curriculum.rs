//! Levels of the skills: `hone curriculum status|set-level|reset`.

use crate::commands::control::send;
use crate::output;
use crate::workspace::Workspace;
use anyhow::Result;
use clap::Subcommand;
use hone_pipeline::curriculum::{CurriculumSettings, SkillProgress};
use hone_pipeline::event::Command;
use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

/// Evaluations that a sparkline shows.
const SPARKS: usize = 20;

/// `hone curriculum …`.
#[derive(Subcommand, Debug)]
pub enum CurriculumVerb {
    /// Level, accuracy and the last move of every skill.
    Status,
    /// Train a skill at a level from now on; what was measured before does not count for it.
    SetLevel {
        /// The skill.
        skill: String,
        /// The level.
        level: u32,
    },
    /// Forget level and history of a skill.
    Reset {
        /// The skill.
        skill: String,
    },
}

/// Runs the verb.
pub fn run(ws: &Workspace, verb: &CurriculumVerb) -> Result<()> {
    ws.require()?;
    match verb {
        CurriculumVerb::Status => status(ws),
        CurriculumVerb::SetLevel { skill, level } => {
            send(ws, Command::SetLevel { skill: skill.clone(), level: *level })
        }
        CurriculumVerb::Reset { skill } => send(ws, Command::ResetSkill { skill: skill.clone() }),
    }
}

fn status(ws: &Workspace) -> Result<()> {
    let (state, settings) = (ws.state()?, ws.config()?.settings.curriculum);
    if ws.json {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        output::json(&hone_daemon::status::curriculum_view(&state, &settings, now));
        return Ok(());
    }
    let names: BTreeSet<&String> = state.curriculum.keys().chain(&settings.skills).collect();
    if names.is_empty() {
        output::line("no skill is configured; add one to `skills` in config.json");
        return Ok(());
    }
    if !settings.enabled {
        output::line("levels stay as they are (curriculum.enabled is false)");
    }
    let rows: Vec<Vec<String>> = names.into_iter().flat_map(|name| rows(&state.skill(name), &settings)).collect();
    output::table(&["skill", "level", "accuracy", "last evaluations", "evidence", "last move"], &rows);
    Ok(())
}

/// One row per level that was ever asked, the level of now first.
fn rows(progress: &SkillProgress, settings: &CurriculumSettings) -> Vec<Vec<String>> {
    let total = if progress.total_levels == 0 { "?".to_string() } else { progress.total_levels.to_string() };
    let mut levels: BTreeSet<u32> = progress.history.iter().map(|evaluation| evaluation.level).collect();
    levels.remove(&progress.level);
    let evidence = format!("{} of {}", progress.evidence(settings).len(), progress.needed(settings));
    let last_move = progress
        .moves
        .last()
        .map_or("none".to_string(), |step| format!("{} to {}: {}", step.from, step.to, step.reason));
    let mut rows = vec![vec![
        progress.skill.clone(),
        format!("{} of {total}", progress.level),
        accuracy(progress, progress.level),
        sparkline(&accuracies(progress, progress.level)),
        evidence,
        last_move,
    ]];
    for level in levels {
        let sparks = sparkline(&accuracies(progress, level));
        rows.push(vec![
            String::new(),
            level.to_string(),
            accuracy(progress, level),
            sparks,
            String::new(),
            String::new(),
        ]);
    }
    rows
}

fn accuracies(progress: &SkillProgress, level: u32) -> Vec<f64> {
    let of_level = progress.history.iter().filter(|evaluation| evaluation.level == level);
    of_level.filter_map(|evaluation| evaluation.accuracy()).collect()
}

fn accuracy(progress: &SkillProgress, level: u32) -> String {
    accuracies(progress, level).last().map_or("-".to_string(), |accuracy| format!("{:.1} %", 100.0 * accuracy))
}

/// The newest shares as bars, oldest left: `▁` is 0, `█` is 1.
fn sparkline(shares: &[f64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let bar = |share: &f64| BARS[((share.clamp(0.0, 1.0) * 8.0) as usize).min(7)];
    shares[shares.len().saturating_sub(SPARKS)..].iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_rise_with_the_share_and_the_newest_stay() {
        assert_eq!(sparkline(&[0.0, 0.5, 1.0]), "▁▅█");
        assert_eq!(sparkline(&[]), "");
        let mut many = vec![0.0; 30];
        many.push(1.0);
        assert_eq!(sparkline(&many).chars().count(), SPARKS);
        assert!(sparkline(&many).ends_with('█'));
    }
}
