//! When the loop asks skills for data, and what it notes of the answer.

use super::Daemon;
use crate::clock::now_ms;
use crate::data_manager::{self, GenerateOrder, GeneratedFile};
use crate::effects::Given;
use anyhow::Result;
use hone_pipeline::state::LogSeverity;

impl Daemon {
    pub(super) fn ask_for_data(&mut self) -> Result<()> {
        let Given { state, config } = &self.given;
        if self.generating || self.live.in_inbox > 0 || state.disk_low {
            return Ok(());
        }
        let now = now_ms();
        let Some(skill) = data_manager::due(state, &config.data_manager, self.last_generated_ms, self.turn, now) else {
            return Ok(());
        };
        let (count, priority) = (config.data_manager.count, config.data_manager.priority);
        let (level, replay_share) = (state.skill(&skill.name).level, config.data_manager.replay_share);
        let order = GenerateOrder { skill: skill.clone(), level, count, seed: None, replay_share, priority };
        let limits = config.limits.clone();
        (self.generating, self.last_generated_ms) = (true, now);
        self.turn += 1;
        self.runner.generate(order, limits)
    }

    pub(super) fn generated(&mut self, result: Result<GeneratedFile>) -> Result<()> {
        self.generating = false;
        let (severity, kind, message) = match result {
            Ok(file) => {
                self.timers.scan_now();
                self.last_generate_problem.clear();
                let message = format!("{} rows came as {} (seed {})", file.rows, file.inbox_path, file.seed);
                (LogSeverity::Info, "data_generated", message)
            }
            Err(error) => {
                let message = format!("no data came: {error:#}");
                // The same trouble is told once, not at every try.
                if message == self.last_generate_problem {
                    return Ok(());
                }
                self.last_generate_problem.clone_from(&message);
                (LogSeverity::Warning, "data_not_generated", message)
            }
        };
        self.note(severity, kind, "data_manager", message)
    }
}
