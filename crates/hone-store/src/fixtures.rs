//! Small entities for the tests of this crate.

use crate::Layout;
use hone_pipeline::ids::{CheckpointId, DatasetId, JobId, LeaseToken};
use hone_pipeline::state::{Checkpoint, CheckpointState, Dataset, DatasetState, Position, Priority};

pub(crate) fn dataset(id: u64, inbox_path: &str, state: DatasetState) -> Dataset {
    Dataset {
        id: DatasetId(id),
        file_name: inbox_path.rsplit('/').next().unwrap().to_string(),
        inbox_path: inbox_path.to_string(),
        priority: Priority::Normal,
        schema_flag: None,
        state,
        arrived_ms: 1,
        schema_id: None,
        blake3: None,
        rows: 0,
        provenance: None,
        keep_back: None,
        check_started: false,
        check_tries: 0,
        deep_check: Default::default(),
        filed: false,
        gone: None,
        set_aside: None,
    }
}

/// A checkpoint staged under `lease-id`.
pub(crate) fn staged(id: u64, manifest_hash: &str) -> Checkpoint {
    Checkpoint {
        id: CheckpointId(id),
        parent: Some(CheckpointId(0)),
        job: Some(JobId(1)),
        state: CheckpointState::Staged {
            staging: Layout::checkpoint_staging(LeaseToken(id)),
            resume_staging: Layout::resume_staging(LeaseToken(id)),
        },
        manifest_hash: manifest_hash.to_string(),
        position: Position { job_step: id, rows_trained: id * 8, total_steps: 100 },
        rows_digest: "d".to_string(),
        train_loss: Some(1.5),
        created_ms: 7,
        ends_job: false,
        yielded: false,
        marks: Default::default(),
    }
}
