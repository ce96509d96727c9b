//! What skills say about the simulated checkpoints, and what must hold of the levels that follow.

use super::Simulation;
use crate::curriculum::SkillEvaluation;
use crate::event::Event;
use crate::ids::CheckpointId;
use rand::RngExt;
use std::collections::BTreeSet;

impl Simulation {
    /// The verdict on a checkpoint's answers: right by luck, and now and then of another level or of other files.
    pub(super) fn scored(&mut self, checkpoint: CheckpointId) -> Event {
        let level = if self.chance(5) { 9 } else { self.state.skill("s").level };
        let manifest_hash =
            if self.chance(5) { String::new() } else { self.state.checkpoints[&checkpoint].manifest_hash.clone() };
        let evaluation = SkillEvaluation {
            checkpoint,
            level,
            seed: self.rng.random_range(0..1_000),
            questions: 300,
            solved: if self.chance(60) { 280 } else { 20 },
            ..SkillEvaluation::default()
        };
        Event::SkillScored { skill: "s".to_string(), total_levels: 3, manifest_hash, evaluation }
    }

    /// Levels stay within bounds, move by one, and never on the word of a single checkpoint.
    pub(super) fn check_curriculum(&self) {
        for progress in self.state.curriculum.values() {
            self.must((1..=3).contains(&progress.level), "a level that does not exist");
            for step in &progress.moves {
                self.must(step.from.abs_diff(step.to) == 1, "a level was left out");
                // By their order: the clock may have been set in between.
                let decided = |e: &SkillEvaluation| e.level == step.from && Some(e.checkpoint) == step.checkpoint;
                let num_before = progress.history.iter().rposition(decided).map_or(0, |at| at + 1);
                let at_level = progress.history[..num_before].iter().filter(|e| e.level == step.from);
                let checkpoints: BTreeSet<_> = at_level.map(|e| e.checkpoint).collect();
                self.must(checkpoints.len() >= 2, "a level moved on too little evidence");
            }
            let distinct: BTreeSet<_> = progress.history.iter().map(|e| (e.checkpoint, e.level, e.seed)).collect();
            self.must(distinct.len() == progress.history.len(), "an evaluation counts twice");
        }
    }
}
