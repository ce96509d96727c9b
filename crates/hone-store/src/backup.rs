//! A backup of a workspace's state in one file, and the way back.
//!
//! The file is an SQLite database: a consistent copy of `hone.db`, taken while the daemon may write, with one more
//! table, `backup (name TEXT PRIMARY KEY, body TEXT)`, that holds `config.json` and the time (`created_ms`). Weights,
//! data and resume states are not in it: `hone checkpoints verify` says after a restore what of them is here.

use crate::Layout;
use crate::store::{FORMAT_VERSION, Store};
use anyhow::{Context, Result, bail, ensure};
use hone_pipeline::state::TimeMs;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use std::path::{Path, PathBuf};

#[cfg(test)]
mod tests;

/// Writes a backup of the workspace to a file that does not exist yet. It is there when it is whole.
///
/// # Errors
/// The file exists, or something cannot be read or written.
pub fn backup(store: &Store, file: &Path, now: TimeMs) -> Result<()> {
    ensure!(!file.exists(), "{} exists already", file.display());
    let temporary = beside(file, "backup")?;
    hone_disk::remove_file(&temporary)?;
    let config = match std::fs::read_to_string(store.layout().config()) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).context("read config.json"),
    };
    let result = store.copy_to(&temporary).and_then(|()| add_extras(&temporary, config.as_deref(), now));
    if let Err(error) = result {
        let _ = hone_disk::remove_file(&temporary);
        return Err(error).context("write the backup");
    }
    hone_disk::rename(&temporary, file)
}

/// Puts the state of a backup in the place of the workspace's, which is kept as `hone.db.before-restore` (and
/// `config.json.before-restore`). The workspace need not exist yet. The caller holds the owner lock. Returns when the
/// backup was taken.
///
/// # Errors
/// The file is not a healthy backup, or of a newer hone. What was there then still is.
pub fn restore(root: &Path, file: &Path) -> Result<TimeMs> {
    let layout = Layout::new(root);
    layout.create_folders()?;
    let temporary = layout.root().join(".hone.db.restore.tmp");
    hone_disk::remove_file(&temporary)?;
    let (config, created_ms) = unpack(file, &temporary).with_context(|| format!("read {}", file.display()))?;
    if layout.db().exists() {
        // All that is in the log goes into the database, so that one file is the whole old state.
        let old = Connection::open(layout.db()).context("open the old hone.db")?;
        old.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).context("fold the log of the old hone.db")?;
        old.close().map_err(|(_, error)| error).context("close the old hone.db")?;
        hone_disk::link_or_copy(&layout.db(), &layout.root().join("hone.db.before-restore"))?;
    }
    for log in ["hone.db-wal", "hone.db-shm"] {
        hone_disk::remove_file(&layout.root().join(log))?;
    }
    hone_disk::rename(&temporary, &layout.db())?;
    if let Some(config) = config {
        let place = layout.config();
        if std::fs::read_to_string(&place).is_ok_and(|old| old != config) {
            hone_disk::link_or_copy(&place, &layout.root().join("config.json.before-restore"))?;
        }
        hone_disk::write_atomic(&place, config.as_bytes())?;
    }
    Ok(created_ms)
}

fn add_extras(file: &Path, config: Option<&str>, now: TimeMs) -> Result<()> {
    let db = Connection::open(file)?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.execute_batch("CREATE TABLE backup (name TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT;")?;
    let mut extras = vec![("created_ms", now.to_string())];
    extras.extend(config.map(|text| ("config.json", text.to_string())));
    for (name, body) in extras {
        db.execute("INSERT INTO backup (name, body) VALUES (?1, ?2)", [name, &body])?;
    }
    db.close().map_err(|(_, error)| error.into())
}

/// Makes `target` the plain database of a backup; returns its configuration and its time.
fn unpack(file: &Path, target: &Path) -> Result<(Option<String>, TimeMs)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(file, flags)?;
    let health: String = db.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    ensure!(health == "ok", "it is damaged: {health}");
    let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version > FORMAT_VERSION {
        bail!("it has format {version}, this hone reads up to {FORMAT_VERSION} (hint: use the newer hone)");
    }
    let extra = |name: &str| -> Result<Option<String>> {
        let sql = "SELECT body FROM backup WHERE name = ?1";
        Ok(db.query_row(sql, [name], |row| row.get(0)).optional()?)
    };
    let created_ms = extra("created_ms").context("find the table of a backup")?;
    let created_ms = created_ms.and_then(|text| text.parse().ok()).context("find when it was taken")?;
    let config = extra("config.json")?;
    db.execute("VACUUM INTO ?1", [target.to_str().context("name the file in UTF-8")?])?;
    drop(db);
    let copy = Connection::open(target)?;
    copy.pragma_update(None, "synchronous", "FULL")?;
    copy.execute_batch("DROP TABLE backup; VACUUM;")?;
    copy.close().map_err(|(_, error)| error)?;
    Ok((config, created_ms))
}

fn beside(file: &Path, what: &str) -> Result<PathBuf> {
    let name = file.file_name().context("name the file")?.to_string_lossy().into_owned();
    Ok(file.with_file_name(format!(".{name}.{what}.tmp")))
}
