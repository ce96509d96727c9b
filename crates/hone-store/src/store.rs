//! The state of a workspace in SQLite.
//!
//! One table per kind of entity (`id`, `state` for people, `body` as JSON), `singletons`, and the append-only
//! `events`. `PRAGMA user_version` is the format. Every commit is one transaction in a write-ahead log that is
//! synced before `commit` returns.

mod queue;
mod reload;

use crate::Layout;
use crate::filesystem::network_file_system_of;
use anyhow::{Context, Result};
use hone_pipeline::state::{Change, Entity, Id, LogEntry, LogSeverity, State, Table};
use rusqlite::{Connection, OpenFlags, Transaction, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use queue::QueuePage;
pub use reload::Seen;

/// Version of the database's format, in `PRAGMA user_version`.
pub const FORMAT_VERSION: i64 = 1;
/// How many lines of the event log are kept.
pub const MAX_EVENTS: u64 = 100_000;

/// How long a reader waits for a lock of SQLite (held for moments only).
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a workspace's database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is none.
    #[error("{} holds no workspace (hint: `hone init` makes one)", .0.display())]
    Absent(PathBuf),
    /// There is one already.
    #[error("{} is a workspace already", .0.display())]
    Exists(PathBuf),
    /// It was written by a newer hone.
    #[error("hone.db has format {found}, this hone reads up to {FORMAT_VERSION} (hint: use the newer hone)")]
    Newer {
        /// Its format.
        found: i64,
    },
    /// Locks and the log cannot be trusted there.
    #[error("{} lies on a network file system ({name}), where SQLite is not safe (hint: use a local disk)", .root.display())]
    NetworkFileSystem {
        /// The workspace.
        root: PathBuf,
        /// E.g. `NFS`.
        name: &'static str,
    },
    /// The bytes are not a healthy database of ours.
    #[error("hone.db is damaged: {0} (hint: keep a copy of it, then restore a backup)")]
    Damaged(String),
    /// The file could not be read or written.
    #[error("open hone.db: {0:#}")]
    Io(#[from] anyhow::Error),
}

/// The open database of a workspace.
#[derive(Debug)]
pub struct Store {
    db: Connection,
    layout: Layout,
}

const SCHEMA: &str = "
    CREATE TABLE datasets    (id INTEGER PRIMARY KEY, state TEXT NOT NULL, body TEXT NOT NULL) STRICT;
    CREATE TABLE jobs        (id INTEGER PRIMARY KEY, state TEXT NOT NULL, body TEXT NOT NULL) STRICT;
    CREATE TABLE checkpoints (id INTEGER PRIMARY KEY, state TEXT NOT NULL, body TEXT NOT NULL) STRICT;
    CREATE TABLE evaluations (id INTEGER PRIMARY KEY, state TEXT NOT NULL, body TEXT NOT NULL) STRICT;
    CREATE TABLE judgements  (id INTEGER PRIMARY KEY, state TEXT NOT NULL, body TEXT NOT NULL) STRICT;
    CREATE TABLE deployments (id INTEGER PRIMARY KEY, state TEXT NOT NULL, body TEXT NOT NULL) STRICT;
    CREATE TABLE singletons  (name TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT;
    CREATE TABLE events (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        at_ms INTEGER NOT NULL, severity TEXT NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL, message TEXT NOT NULL
    ) STRICT;
";

impl Store {
    /// Makes the folders and the database of a new workspace. Refused where there is one already.
    pub fn create(root: &Path) -> Result<Store, OpenError> {
        let layout = Layout::new(root);
        if layout.db().exists() {
            return Err(OpenError::Exists(layout.root().to_path_buf()));
        }
        layout.create_folders()?;
        refuse_network_file_system(&layout)?;
        // The schema is born complete: in a temporary database that is then renamed.
        let temporary = layout.root().join(".hone.db.new.tmp");
        hone_disk::remove_file(&temporary)?;
        write_schema(&temporary).map_err(damaged_or_io)?;
        hone_disk::rename(&temporary, &layout.db())?;
        Store::open(root)
    }

    /// Opens an existing workspace for reading and writing, and checks the database's health. The caller holds
    /// the owner lock.
    pub fn open(root: &Path) -> Result<Store, OpenError> {
        let layout = existing(root)?;
        refuse_network_file_system(&layout)?;
        layout.create_folders()?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(layout.db(), flags).map_err(damaged_or_io)?;
        db.busy_timeout(BUSY_TIMEOUT).map_err(damaged_or_io)?;
        refuse_other_format(&db)?;
        db.pragma_update(None, "journal_mode", "WAL").map_err(damaged_or_io)?;
        db.pragma_update(None, "synchronous", "FULL").map_err(damaged_or_io)?;
        let health: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(damaged_or_io)?;
        if health != "ok" {
            return Err(OpenError::Damaged(health));
        }
        db.execute_batch(queue::INDICES).map_err(damaged_or_io)?;
        Ok(Store { db, layout })
    }

    /// Opens an existing workspace for reading, also while its owner writes. [`Store::commit`] fails on it.
    pub fn open_read_only(root: &Path) -> Result<Store, OpenError> {
        let layout = existing(root)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(layout.db(), flags).map_err(damaged_or_io)?;
        db.busy_timeout(BUSY_TIMEOUT).map_err(damaged_or_io)?;
        refuse_other_format(&db)?;
        Ok(Store { db, layout })
    }

    /// Where the workspace's files lie.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Everything the workspace knows, as of one instant.
    pub fn load(&self) -> Result<State> {
        let db = self.db.unchecked_transaction().context("begin reading hone.db")?;
        let mut state = State {
            datasets: load_table(&db, "datasets", |body: &hone_pipeline::state::Dataset| body.id)?,
            jobs: load_table(&db, "jobs", |body: &hone_pipeline::state::Job| body.id)?,
            checkpoints: load_table(&db, "checkpoints", |body: &hone_pipeline::state::Checkpoint| body.id)?,
            evaluations: load_table(&db, "evaluations", |body: &hone_pipeline::state::Evaluation| body.checkpoint)?,
            judgements: load_table(&db, "judgements", |body: &hone_pipeline::state::Judgement| body.challenger)?,
            deployments: load_table(&db, "deployments", |body: &hone_pipeline::state::Deployment| body.id)?,
            ..State::default()
        };
        load_singletons(&db, &mut state)?;
        Ok(state)
    }

    /// Writes all changes in one durable transaction. After an error the caller must not go on with a state in
    /// memory that has them: it ends, and a restart loads what is true.
    pub fn commit(&mut self, changes: &[Change]) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut write = || {
            let transaction = self.db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            for change in changes {
                write_change(&transaction, change)?;
            }
            if changes.iter().any(|change| matches!(change, Change::Log(_))) {
                let sql = "DELETE FROM events WHERE seq <= (SELECT max(seq) FROM events) - ?1";
                transaction.execute(sql, [MAX_EVENTS as i64])?;
            }
            Ok::<_, anyhow::Error>(transaction.commit()?)
        };
        write().context("commit to hone.db")
    }

    /// Writes a consistent copy of the whole database to a file that does not exist.
    pub(crate) fn copy_to(&self, file: &Path) -> Result<()> {
        let name = file.to_str().context("name the copy in UTF-8")?;
        self.db.execute("VACUUM INTO ?1", [name]).context("copy hone.db")?;
        Ok(())
    }

    /// Lines of the event log with their numbers, oldest first: those after `after`, or the newest `limit` ones.
    pub fn events(&self, after: Option<u64>, limit: usize) -> Result<Vec<(u64, LogEntry)>> {
        let columns = "seq, at_ms, severity, kind, subject, message";
        let sql = match after {
            Some(_) => format!("SELECT {columns} FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2"),
            None => format!(
                "SELECT {columns} FROM (SELECT * FROM events WHERE seq > ?1 ORDER BY seq DESC LIMIT ?2) ORDER BY seq"
            ),
        };
        let mut statement = self.db.prepare_cached(&sql).context("read events")?;
        let after = i64::try_from(after.unwrap_or(0)).unwrap_or(i64::MAX);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement.query_map([after, limit], read_event).context("read events")?;
        rows.collect::<rusqlite::Result<_>>().context("read events")
    }
}

/// Which lines of the event log are wanted.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// Only lines before this number.
    pub before: Option<u64>,
    /// Only these severities; none = all.
    pub severities: Vec<LogSeverity>,
    /// Only lines whose kind, subject or message has this text (ASCII letters in either case).
    pub text: Option<String>,
}

impl Store {
    /// The newest lines of the event log that pass the filter, with their numbers, newest first.
    pub fn find_events(&self, filter: &EventFilter, limit: usize) -> Result<Vec<(u64, LogEntry)>> {
        let severities: Vec<String> =
            filter.severities.iter().map(|severity| tag(severity, "")).collect::<Result<_>>()?;
        // Names of ours, never a client's text.
        let severities = severities.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(",");
        let only = if severities.is_empty() { String::new() } else { format!("AND severity IN ({severities})") };
        let sql = format!(
            "SELECT seq, at_ms, severity, kind, subject, message FROM events WHERE seq < ?1 {only} \
             AND (?2 = '' OR instr(lower(kind || ' ' || subject || ' ' || message), lower(?2)) > 0) \
             ORDER BY seq DESC LIMIT ?3"
        );
        let mut statement = self.db.prepare_cached(&sql).context("find events")?;
        let before = filter.before.and_then(|before| i64::try_from(before).ok()).unwrap_or(i64::MAX);
        let text = filter.text.as_deref().unwrap_or_default();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement.query_map(params![before, text, limit], read_event).context("find events")?;
        rows.collect::<rusqlite::Result<_>>().context("find events")
    }
}

fn existing(root: &Path) -> Result<Layout, OpenError> {
    let layout = Layout::new(root);
    if layout.db().is_file() { Ok(layout) } else { Err(OpenError::Absent(layout.root().to_path_buf())) }
}

fn refuse_network_file_system(layout: &Layout) -> Result<(), OpenError> {
    match network_file_system_of(layout.root()) {
        Some(name) => Err(OpenError::NetworkFileSystem { root: layout.root().to_path_buf(), name }),
        None => Ok(()),
    }
}

fn refuse_other_format(db: &Connection) -> Result<(), OpenError> {
    let found: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(damaged_or_io)?;
    match found {
        FORMAT_VERSION => Ok(()),
        _ if found > FORMAT_VERSION => Err(OpenError::Newer { found }),
        _ => Err(OpenError::Damaged(format!("it has format {found}, which never was one"))),
    }
}

fn damaged_or_io(error: rusqlite::Error) -> OpenError {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    match error.sqlite_error_code() {
        Some(DatabaseCorrupt | NotADatabase) => OpenError::Damaged(error.to_string()),
        _ => OpenError::Io(error.into()),
    }
}

/// Makes a complete, synced database without a write-ahead log beside it.
fn write_schema(path: &Path) -> rusqlite::Result<()> {
    let db = Connection::open(path)?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.execute_batch(&format!("BEGIN; {SCHEMA} PRAGMA user_version = {FORMAT_VERSION}; COMMIT;"))?;
    db.close().map_err(|(_, error)| error)
}

fn write_change(db: &Transaction, change: &Change) -> Result<()> {
    match change {
        Change::SetControl(control) => put_singleton(db, "control", control),
        Change::SetLineage(lineage) => put_singleton(db, "lineage", lineage),
        Change::SetOtherLineages { lineages } => put_singleton(db, "other_lineages", lineages),
        Change::PutDataset(dataset) => put_row(db, "datasets", dataset.id.0, &tag(&dataset.state, "state")?, dataset),
        Change::PutJob(job) => put_row(db, "jobs", job.id.0, &tag(&job.state, "state")?, job),
        Change::PutCheckpoint(checkpoint) => {
            put_row(db, "checkpoints", checkpoint.id.0, &tag(&checkpoint.state, "state")?, checkpoint)
        }
        Change::PutEvaluation(evaluation) => {
            let state = if evaluation.error.is_some() { "error" } else { "done" };
            put_row(db, "evaluations", evaluation.checkpoint.0, state, evaluation)
        }
        Change::PutJudgement(judgement) => {
            put_row(db, "judgements", judgement.challenger.0, &tag(&judgement.outcome, "")?, judgement)
        }
        Change::SetChampion { checkpoint } => put_singleton(db, "champion", checkpoint),
        Change::PutDeployment(deployment) => {
            put_row(db, "deployments", deployment.id.0, &tag(&deployment.state, "state")?, deployment)
        }
        Change::SetLease { lease } => put_singleton(db, "lease", lease),
        Change::SetCounters(counters) => put_singleton(db, "counters", counters),
        Change::SetQueueFull { full } => put_singleton(db, "queue_full", full),
        Change::SetDiskLow { low } => put_singleton(db, "disk_low", low),
        Change::SetCurriculum { skills } => put_singleton(db, "curriculum", skills),
        Change::SetOpenExams { exams } => put_singleton(db, "open_exams", exams),
        Change::Log(entry) => append_event(db, entry),
    }
}

/// The name of an enum's variant as its JSON has it: the field `key`, or the value itself where it is a string.
fn tag(value: &impl Serialize, key: &str) -> Result<String> {
    let json = serde_json::to_value(value)?;
    let text = json.get(key).unwrap_or(&json).as_str().context("name a state")?;
    Ok(text.to_string())
}

fn put_row(db: &Transaction, table: &str, id: u64, state: &str, body: &impl Serialize) -> Result<()> {
    let sql = format!("INSERT OR REPLACE INTO {table} (id, state, body) VALUES (?1, ?2, ?3)");
    db.prepare_cached(&sql)?.execute(params![i64::try_from(id)?, state, serde_json::to_string(body)?])?;
    Ok(())
}

fn put_singleton(db: &Transaction, name: &str, body: &impl Serialize) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO singletons (name, body) VALUES (?1, ?2)";
    db.prepare_cached(sql)?.execute(params![name, serde_json::to_string(body)?])?;
    Ok(())
}

fn append_event(db: &Transaction, entry: &LogEntry) -> Result<()> {
    let sql = "INSERT INTO events (at_ms, severity, kind, subject, message) VALUES (?1, ?2, ?3, ?4, ?5)";
    let severity = tag(&entry.severity, "")?;
    let at_ms = i64::try_from(entry.at_ms)?;
    db.prepare_cached(sql)?.execute(params![at_ms, severity, entry.kind, entry.subject, entry.message])?;
    Ok(())
}

fn load_singleton<T: DeserializeOwned>(db: &Transaction, name: &str) -> Result<Option<T>> {
    let mut statement = db.prepare_cached("SELECT body FROM singletons WHERE name = ?1")?;
    let mut rows = statement.query([name])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let body: String = row.get(0)?;
    Ok(Some(serde_json::from_str(&body).with_context(|| format!("read {name} from hone.db"))?))
}

/// All that is not a table.
fn load_singletons(db: &Transaction, state: &mut State) -> Result<()> {
    let State {
        control,
        lineage,
        other_lineages,
        datasets: _,
        jobs: _,
        checkpoints: _,
        evaluations: _,
        judgements: _,
        champion,
        deployments: _,
        lease,
        counters,
        queue_full,
        disk_low,
        curriculum,
        open_exams,
    } = state;
    *control = load_singleton(db, "control")?.unwrap_or_default();
    *lineage = load_singleton(db, "lineage")?;
    *other_lineages = load_singleton(db, "other_lineages")?.unwrap_or_default();
    *champion = load_singleton(db, "champion")?.flatten();
    *lease = load_singleton(db, "lease")?.flatten();
    *counters = load_singleton(db, "counters")?.unwrap_or_default();
    *queue_full = load_singleton(db, "queue_full")?.unwrap_or_default();
    *disk_low = load_singleton(db, "disk_low")?.unwrap_or_default();
    *curriculum = load_singleton(db, "curriculum")?.unwrap_or_default();
    *open_exams = load_singleton(db, "open_exams")?.unwrap_or_default();
    Ok(())
}

fn load_table<K: Id, T: Entity + DeserializeOwned>(
    db: &Transaction,
    table: &str,
    key: fn(&T) -> K,
) -> Result<Table<K, T>> {
    let mut statement = db.prepare_cached(&format!("SELECT id, body FROM {table}"))?;
    let mut rows = statement.query([])?;
    let mut entities = Table::default();
    while let Some(row) = rows.next()? {
        let (id, body): (i64, String) = (row.get(0)?, row.get(1)?);
        let value: T = serde_json::from_str(&body).with_context(|| format!("read {table} {id} from hone.db"))?;
        entities.insert(key(&value), value);
    }
    Ok(entities)
}

fn read_event(row: &rusqlite::Row) -> rusqlite::Result<(u64, LogEntry)> {
    let severity: String = row.get(2)?;
    let severity = match severity.as_str() {
        "info" => LogSeverity::Info,
        "error" => LogSeverity::Error,
        _ => LogSeverity::Warning,
    };
    let (seq, at_ms): (i64, i64) = (row.get(0)?, row.get(1)?);
    let entry = LogEntry {
        at_ms: at_ms.max(0).unsigned_abs(),
        severity,
        kind: row.get(3)?,
        subject: row.get(4)?,
        message: row.get(5)?,
    };
    Ok((seq.max(0).unsigned_abs(), entry))
}

#[cfg(test)]
mod tests;
