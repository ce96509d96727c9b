//! Reading the state again where most of it is known: for readers that look at a workspace all the time.

use super::{Store, load_singletons};
use anyhow::{Context, Result};
use hone_pipeline::state::{Entity, Id, State, Table};
use rusqlite::Transaction;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};

/// What a state was read from: of every entity the hash of its record.
#[derive(Default)]
pub struct Seen {
    tables: HashMap<&'static str, HashMap<i64, u64>>,
}

impl Store {
    /// Brings `state`, which was read with `seen` (both new at first), to what [`Store::load`] would read now. Only records
    /// that differ are parsed. After an error both are to be thrown away.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn reload(&self, state: &mut State, seen: &mut Seen) -> Result<()> {
        let db = self.db.unchecked_transaction().context("begin reading hone.db")?;
        let State { datasets, jobs, checkpoints, evaluations, judgements, deployments, .. } = state;
        refresh(&db, "datasets", datasets, seen, |body| body.id)?;
        refresh(&db, "jobs", jobs, seen, |body| body.id)?;
        refresh(&db, "checkpoints", checkpoints, seen, |body| body.id)?;
        refresh(&db, "evaluations", evaluations, seen, |body| body.checkpoint)?;
        refresh(&db, "judgements", judgements, seen, |body| body.challenger)?;
        refresh(&db, "deployments", deployments, seen, |body| body.id)?;
        load_singletons(&db, state)
    }
}

fn refresh<K: Id, T: Entity + DeserializeOwned>(
    db: &Transaction,
    name: &'static str,
    entities: &mut Table<K, T>,
    seen: &mut Seen,
    key: fn(&T) -> K,
) -> Result<()> {
    let known = seen.tables.entry(name).or_default();
    let mut statement = db.prepare_cached(&format!("SELECT id, body FROM {name}"))?;
    let mut rows = statement.query([])?;
    let mut num_rows = 0;
    while let Some(row) = rows.next()? {
        let (id, body) = (row.get(0)?, row.get_ref(1)?.as_str()?);
        num_rows += 1;
        let mut hasher = DefaultHasher::new();
        hasher.write(body.as_bytes());
        let hash = hasher.finish();
        if known.insert(id, hash) != Some(hash) {
            let value: T = serde_json::from_str(body).with_context(|| format!("read {name} {id} from hone.db"))?;
            entities.insert(key(&value), value);
        }
    }
    if num_rows < known.len() {
        // No hone removes a record; a database that was put in another's place may have fewer.
        seen.tables.remove(name);
        *entities = Table::default();
        refresh(db, name, entities, seen, key)?;
    }
    Ok(())
}
