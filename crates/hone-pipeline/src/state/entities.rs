//! When an entity is active: something is still to happen with it.

use super::{
    Checkpoint, CheckpointState, Dataset, DatasetState, DeepCheck, Deployment, DeploymentState, Entity, Evaluation,
    Job, Judgement,
};

impl Entity for Dataset {
    /// It is on its way, to be checked again in the background, or its folder is to be emptied.
    fn is_active(&self) -> bool {
        match self.state {
            DatasetState::Arriving | DatasetState::Checking => true,
            DatasetState::Rejected { .. } | DatasetState::Duplicate { .. } => !self.filed,
            DatasetState::Accepted => {
                let is_wanted = self.gone.is_none() && self.set_aside.is_none();
                self.check_started || (self.deep_check == DeepCheck::Due && is_wanted)
            }
            DatasetState::Vanished => false,
        }
    }
}

impl Entity for Job {
    /// It is queued or running.
    fn is_active(&self) -> bool {
        self.state.is_open()
    }
}

impl Entity for Checkpoint {
    /// It is to be published.
    fn is_active(&self) -> bool {
        matches!(self.state, CheckpointState::Staged { .. })
    }
}

impl Entity for Evaluation {
    /// It is to be tried again.
    fn is_active(&self) -> bool {
        self.retry_at_ms.is_some()
    }
}

impl Entity for Judgement {
    /// A verdict is final.
    fn is_active(&self) -> bool {
        false
    }
}

impl Entity for Deployment {
    /// It is to be done, under way, or serves.
    fn is_active(&self) -> bool {
        self.in_flight || matches!(self.state, DeploymentState::Pending | DeploymentState::Live)
    }
}
