//! How active an entity is: settled, waiting for its turn, or on its way.

use super::{
    Activity, Checkpoint, CheckpointState, Dataset, DatasetState, DeepCheck, Deployment, DeploymentState, Entity,
    Evaluation, Job, JobState, Judgement,
};

/// Something is to happen with it now, or nothing.
fn moving(is_so: bool) -> Activity {
    if is_so { Activity::Moving } else { Activity::Settled }
}

impl Entity for Dataset {
    /// It is on its way, its folder is to be emptied, or it is checked again in the background; or it waits for that.
    fn activity(&self) -> Activity {
        match self.state {
            DatasetState::Arriving | DatasetState::Checking => Activity::Moving,
            DatasetState::Rejected { .. } | DatasetState::Duplicate { .. } => moving(!self.filed),
            DatasetState::Accepted if self.check_started => Activity::Moving,
            DatasetState::Accepted => {
                let is_wanted = self.gone.is_none() && self.set_aside.is_none();
                let waits = self.deep_check == DeepCheck::Due && is_wanted;
                if waits { Activity::Waiting } else { Activity::Settled }
            }
            DatasetState::Vanished => Activity::Settled,
        }
    }
}

impl Entity for Job {
    /// It is queued or running.
    fn activity(&self) -> Activity {
        match self.state {
            JobState::Queued => Activity::Waiting,
            ref state => moving(state.is_open()),
        }
    }
}

impl Entity for Checkpoint {
    /// It is to be published.
    fn activity(&self) -> Activity {
        moving(matches!(self.state, CheckpointState::Staged { .. }))
    }
}

impl Entity for Evaluation {
    /// It is to be tried again.
    fn activity(&self) -> Activity {
        moving(self.retry_at_ms.is_some())
    }
}

impl Entity for Judgement {
    /// A verdict is final.
    fn activity(&self) -> Activity {
        Activity::Settled
    }
}

impl Entity for Deployment {
    /// It is to be done, under way, or serves.
    fn activity(&self) -> Activity {
        moving(self.in_flight || matches!(self.state, DeploymentState::Pending | DeploymentState::Live))
    }
}
