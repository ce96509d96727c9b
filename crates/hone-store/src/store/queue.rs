//! The queue, a page at a time, without reading the whole state: what `hone queue` shows of a hundred thousand jobs.

use super::{Store, load_singleton};
use anyhow::{Context, Result};
use hone_pipeline::ids::DatasetId;
use hone_pipeline::state::{self, Control, Dataset, Job, Lease};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::BTreeMap;

/// Indices that make a page cheap. Made by whoever opens the workspace for writing; without them a page is only slower.
pub(super) const INDICES: &str = "
    CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, id);
    CREATE INDEX IF NOT EXISTS jobs_by_priority ON jobs (state, json_extract(body, '$.priority'), id);
";

/// Some jobs of the queue, and what says why they wait.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueuePage {
    /// Open jobs in the order of service: the running one, then high, normal and low, each by arrival.
    pub open: Vec<Job>,
    /// Ended jobs with the highest numbers, highest first.
    pub ended: Vec<Job>,
    /// How many jobs there are of each state, by its name.
    pub counts: BTreeMap<String, u64>,
    /// The data sets of these jobs.
    pub datasets: BTreeMap<DatasetId, Dataset>,
    /// What people asked for.
    pub control: Control,
    /// Who has the device.
    pub lease: Option<Lease>,
    /// Whether nothing new is begun for lack of room.
    pub disk_low: bool,
}

impl Store {
    /// The first `limit` open jobs and the newest `ended` ended ones.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn queue_page(&self, limit: usize, ended: usize) -> Result<QueuePage> {
        let db = self.db.unchecked_transaction().context("begin reading hone.db")?;
        let mut page = QueuePage {
            control: load_singleton(&db, "control")?.unwrap_or_default(),
            lease: load_singleton(&db, "lease")?.flatten(),
            disk_low: load_singleton(&db, "disk_low")?.unwrap_or_default(),
            ..QueuePage::default()
        };
        let by_priority = "state = ?1 AND json_extract(body, '$.priority') = ?2 ORDER BY id";
        let order = [("running", "high"), ("running", "normal"), ("running", "low")];
        let order = order.into_iter().chain([("queued", "high"), ("queued", "normal"), ("queued", "low")]);
        for (state, priority) in order {
            let left = limit.saturating_sub(page.open.len());
            page.open.extend(jobs(&db, by_priority, [state, priority], left)?);
        }
        let mut newest: Vec<Job> = Vec::new();
        for state in ["completed", "skipped", "failed", "cancelled", "rewound"] {
            newest.extend(jobs(&db, "state = ?1 AND ?2 = '' ORDER BY id DESC", [state, ""], ended)?);
        }
        newest.sort_by_key(|job| std::cmp::Reverse(job.id));
        newest.truncate(ended);
        page.ended = newest;
        let mut counts = db.prepare_cached("SELECT state, count(*) FROM jobs GROUP BY state")?;
        let counted = counts.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
        for row in counted {
            let (state, count) = row?;
            page.counts.insert(state, count.unsigned_abs());
        }
        for id in page.open.iter().chain(&page.ended).flat_map(|job| job.datasets.clone()) {
            if let Some(dataset) = dataset(&db, id)? {
                page.datasets.insert(id, dataset);
            }
        }
        Ok(page)
    }
}

impl QueuePage {
    /// What an open job of this page waits for, in a plain sentence. `now` in ms since the epoch.
    #[must_use]
    pub fn waits_for(&self, job: &Job, now: u64) -> String {
        let before = self.open.iter().position(|other| other.id == job.id).unwrap_or(0);
        state::waits_for(job, before, (&self.control, self.lease.as_ref(), self.disk_low), now)
    }
}

fn jobs(db: &Connection, clause: &str, [state, priority]: [&str; 2], limit: usize) -> Result<Vec<Job>> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let mut statement = db.prepare_cached(&format!("SELECT body FROM jobs WHERE {clause} LIMIT ?3"))?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = statement.query_map(params![state, priority, limit], |row| row.get::<_, String>(0))?;
    rows.map(|body| serde_json::from_str(&body?).context("read a job from hone.db")).collect()
}

fn dataset(db: &Connection, id: DatasetId) -> Result<Option<Dataset>> {
    let mut statement = db.prepare_cached("SELECT body FROM datasets WHERE id = ?1")?;
    let body: Option<String> = statement.query_row([i64::try_from(id.0)?], |row| row.get(0)).optional()?;
    body.map(|body| serde_json::from_str(&body).context("read a data set from hone.db")).transpose()
}
