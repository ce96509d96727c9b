//! When the loop asks skills for data, and what it notes of the answer.

use super::Daemon;
use crate::clock::now_ms;
use crate::data_manager::{self, GenerateOrder, GeneratedFile, Memory};
use crate::effects::Given;
use crate::options::DataManagerConfig;
use anyhow::Result;
use hone_pipeline::state::LogSeverity;

impl Daemon {
    pub(super) fn ask_for_data(&mut self) -> Result<()> {
        let Given { state, config } = &self.given;
        if self.generating || self.live.in_inbox > 0 || state.disk_low {
            return Ok(());
        }
        let now = now_ms();
        let Some(skill) = data_manager::due(state, &config.data_manager, &self.memory, self.turn, now) else {
            return Ok(());
        };
        let &DataManagerConfig { count, priority, replay_share, steps, .. } = &config.data_manager;
        let level = state.skill(&skill.name).level;
        let order = GenerateOrder { skill: skill.clone(), level, count, seed: None, replay_share, steps, priority };
        let limits = config.limits.clone();
        (self.generating, self.memory.last_ms) = (true, now);
        self.turn += 1;
        self.runner.generate(order, limits)
    }

    pub(super) fn generated(&mut self, skill: &str, result: Result<GeneratedFile>) -> Result<()> {
        self.generating = false;
        let asked_ms = self.memory.last_ms;
        let before = std::mem::replace(&mut self.memory, Memory::read(&self.options.root));
        self.memory.last_ms = self.memory.last_ms.max(asked_ms);
        let (severity, kind, message) = match result {
            Ok(file) => {
                self.timers.scan_now();
                let message = format!("{} rows came as {} (seed {})", file.rows, file.inbox_path, file.seed);
                (LogSeverity::Info, "data_generated", message)
            }
            Err(error) => {
                // The same trouble is told once, not at every try.
                if before.failures.get(skill).is_some_and(|earlier| earlier.reason == format!("{error:#}")) {
                    return Ok(());
                }
                (LogSeverity::Warning, "data_not_generated", format!("no data came of {skill}: {error:#}"))
            }
        };
        self.note(severity, kind, "data_manager", message)
    }
}
