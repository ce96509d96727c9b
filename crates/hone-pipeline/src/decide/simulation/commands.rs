//! What people ask for in a schedule.

use super::Simulation;
use crate::event::Command;
use crate::ids::*;
use crate::state::*;
use rand::RngExt;

impl Simulation {
    pub(super) fn random_command(&mut self) {
        let reason = String::new();
        let job = JobId(self.rng.random_range(1..6));
        let checkpoint = CheckpointId(self.rng.random_range(0..12));
        let command = match self.rng.random_range(0..31) {
            29 => Command::NewLineage {
                model_name: "n".to_string(),
                base_model: format!("models/{}", self.rng.random_range(0..3)),
                identity: ModelIdentity::default(),
                manifest_hash: "base".to_string(),
                reason,
            },
            30 => Command::SwitchLineage { number: self.rng.random_range(1..4), reason },
            0 | 1 => Command::Pause { reason },
            2..9 => Command::Resume { reason },
            9 | 10 => Command::Skip { reason },
            11 => Command::Stop { reason },
            12 | 13 => Command::MoveJob { job, priority: Priority::High },
            14 => Command::CancelJob { job },
            15..19 => Command::RetryJob { job },
            19 | 20 => Command::Deploy { checkpoint: Some(checkpoint), reason },
            21 => Command::Deploy { checkpoint: None, reason },
            22 | 23 => Command::Rollback { reason },
            26 => Command::Rewind { checkpoint, reason },
            27 => Command::Undo { dataset: DatasetId(job.0), reason },
            28 => Command::Forget { dataset: DatasetId(job.0), reason },
            24 => Command::Pin { checkpoint, reason },
            _ => Command::Unpin { checkpoint },
        };
        self.command(command);
    }
}
