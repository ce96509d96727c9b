//! Where everything lies in a workspace. Pure path arithmetic, but for [`Layout::create_folders`].

use anyhow::{Context, Result};
use hone_pipeline::ids::{CheckpointId, DatasetId, JobId, LeaseToken};
use hone_pipeline::state::{CheckpointState, Dataset, Priority, State};
use std::path::{Path, PathBuf};

/// The folders and files of one workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout of the workspace at `root` (made absolute where possible). Touches nothing.
    #[must_use]
    pub fn new(root: &Path) -> Layout {
        Layout { root: std::path::absolute(root).unwrap_or_else(|_| root.to_path_buf()) }
    }

    /// The workspace itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The database: the one source of truth.
    #[must_use]
    pub fn db(&self) -> PathBuf {
        self.root.join("hone.db")
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.root.join("config.json")
    }

    /// Where people drop files; `high/` and `low/` in it give the priority.
    #[must_use]
    pub fn inbox(&self) -> PathBuf {
        self.root.join("inbox")
    }

    /// Refused files, each with `<file>.report.json`.
    #[must_use]
    pub fn rejected(&self) -> PathBuf {
        self.root.join("rejected")
    }

    /// The folders of taken files.
    #[must_use]
    pub fn datasets(&self) -> PathBuf {
        self.root.join("datasets")
    }

    /// The folder of one taken file: the file, `report.json`, `meta.json`.
    #[must_use]
    pub fn dataset(&self, id: DatasetId) -> PathBuf {
        self.datasets().join(id.to_string())
    }

    /// The taken file itself. It keeps its own name; a name that the folder needs gets `file-` before it.
    #[must_use]
    pub fn dataset_file(&self, dataset: &Dataset) -> PathBuf {
        let folder = self.dataset(dataset.id);
        match dataset.file_name.as_str() {
            name @ ("report.json" | "meta.json") => folder.join(format!("file-{name}")),
            name => folder.join(name),
        }
    }

    /// The report of both gates about a taken file.
    #[must_use]
    pub fn dataset_report(&self, id: DatasetId) -> PathBuf {
        self.dataset(id).join("report.json")
    }

    /// The report of the deep check in the background, where one was made.
    #[must_use]
    pub fn dataset_deep_report(&self, id: DatasetId) -> PathBuf {
        self.dataset(id).join("report.deep.json")
    }

    /// The sidecar that came with a taken file, if any.
    #[must_use]
    pub fn dataset_meta(&self, id: DatasetId) -> PathBuf {
        self.dataset(id).join("meta.json")
    }

    /// The published checkpoints.
    #[must_use]
    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// The folder of one published checkpoint. `checkpoint-0` has none: see [`Layout::checkpoint_model_dir`].
    #[must_use]
    pub fn checkpoint(&self, id: CheckpointId) -> PathBuf {
        self.checkpoints().join(id.to_string())
    }

    /// Optimizer state and masters: one `step-N/` per checkpoint that still has them.
    #[must_use]
    pub fn resume_root(&self) -> PathBuf {
        self.root.join("resume")
    }

    /// The resume state of one checkpoint (`resume/step-N`).
    #[must_use]
    pub fn resume(&self, id: CheckpointId) -> PathBuf {
        self.resume_root().join(format!("step-{}", id.0))
    }

    /// Where a slice stages its weights, relative to the root (on the file system of the checkpoints).
    #[must_use]
    pub fn checkpoint_staging(token: LeaseToken) -> String {
        format!("checkpoints/.staging-{token}")
    }

    /// Where a slice stages its resume state, relative to the root.
    #[must_use]
    pub fn resume_staging(token: LeaseToken) -> String {
        format!("resume/.staging-{token}")
    }

    /// Folders of children: requests, events, metrics.
    #[must_use]
    pub fn runs(&self) -> PathBuf {
        self.root.join("runs")
    }

    /// The folder of one slice of a job.
    #[must_use]
    pub fn run(&self, job: JobId, token: LeaseToken) -> PathBuf {
        self.runs().join(job.to_string()).join(token.to_string())
    }

    /// The folder of one evaluation.
    #[must_use]
    pub fn eval_run(&self, checkpoint: CheckpointId, token: LeaseToken) -> PathBuf {
        self.runs().join("evaluations").join(format!("{checkpoint}-{token}"))
    }

    /// Scores and raw answers of a checkpoint, kept as they come and over all tries.
    #[must_use]
    pub fn eval_results(&self, checkpoint: CheckpointId) -> PathBuf {
        self.runs().join("results").join(checkpoint.to_string())
    }

    /// The folder of the check of one dataset.
    #[must_use]
    pub fn check_run(&self, dataset: DatasetId) -> PathBuf {
        self.runs().join("checks").join(dataset.to_string())
    }

    /// Fixed evaluation suites.
    #[must_use]
    pub fn validation(&self) -> PathBuf {
        self.root.join("validation")
    }

    /// Base models that live in the workspace.
    #[must_use]
    pub fn models(&self) -> PathBuf {
        self.root.join("models")
    }

    /// The files of the serving host, when it is this one.
    #[must_use]
    pub fn serve_root(&self) -> PathBuf {
        self.root.join("serve")
    }

    /// Daily snapshots: `snapshots/DAY/checkpoint-N`, weights only.
    #[must_use]
    pub fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// Log files.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Locks and sockets of what runs now.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.root.join("run")
    }

    /// JSON views for scripts; written atomically, never read back.
    #[must_use]
    pub fn status(&self) -> PathBuf {
        self.root.join("status")
    }

    /// The door for commands of people.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.run_dir().join("control.sock")
    }

    /// The lock of the workspace's one owner.
    #[must_use]
    pub fn owner_lock(&self) -> PathBuf {
        self.run_dir().join("owner.lock")
    }

    /// The inbox folder of a priority: `inbox/`, `inbox/high/` or `inbox/low/`.
    #[must_use]
    pub fn inbox_of(&self, priority: Priority) -> PathBuf {
        match priority {
            Priority::High => self.inbox().join("high"),
            Priority::Normal => self.inbox(),
            Priority::Low => self.inbox().join("low"),
        }
    }

    /// The model folder of a published checkpoint; for the first one of a lineage its base model.
    pub fn checkpoint_model_dir(&self, state: &State, id: CheckpointId) -> Result<PathBuf> {
        let checkpoint = state.checkpoints.get(&id).with_context(|| format!("{id} is not in the ledger"))?;
        anyhow::ensure!(
            checkpoint.state == CheckpointState::Published,
            "{id} is not published ({:?})",
            checkpoint.state
        );
        if checkpoint.parent.is_some() {
            return Ok(self.checkpoint(id));
        }
        let lineage = state.lineages().find(|lineage| lineage.base == id);
        let lineage = lineage.with_context(|| format!("no lineage begins with {id}"))?;
        Ok(self.root.join(&lineage.base_model))
    }

    /// Creates every folder that is absent.
    pub fn create_folders(&self) -> Result<()> {
        let folders = [
            self.inbox_of(Priority::High),
            self.inbox_of(Priority::Low),
            self.rejected(),
            self.datasets(),
            self.checkpoints(),
            self.resume_root(),
            self.runs(),
            self.validation(),
            self.models(),
            self.serve_root(),
            self.snapshots(),
            self.logs(),
            self.run_dir(),
            self.status(),
        ];
        folders.iter().try_for_each(|folder| hone_disk::create_dir(folder))
    }
}
