//! The workspace's state, loaded once for all sources that are views of it, and again only when the database changed; then
//! only what differs is parsed, so that a workspace with a long past costs little while something trains.

use anyhow::{Result, bail};
use hone_pipeline::state::State;
use hone_store::{Layout, OpenError, Seen, Store};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// A state is loaded again after this time even when the database seems unchanged.
const MAX_CACHE_AGE: Duration = Duration::from_secs(10);
/// Within this time of a change a second one may leave the same time stamp.
const TIME_STAMP_GRAIN: Duration = Duration::from_millis(50);
/// A store is opened anew after this time, so that a replaced database is noticed.
const REOPEN_AFTER_MS: u64 = 30_000;

/// The workspace as the sources see it.
pub(crate) struct Workspace {
    root: PathBuf,
    layout: Layout,
    // A lock and no channel: the source that first finds the state old loads it, and the others want that same one.
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    store: Option<(u64, Store)>,
    loaded: Option<Loaded>,
}

struct Loaded {
    /// Shared with answers under way; a change copies the blocks that it concerns.
    state: Arc<State>,
    seen: Seen,
    stamp: Stamp,
    at: Instant,
    settled: bool,
}

/// Sizes and times of the database and its log.
type Stamp = [Option<(u64, SystemTime)>; 2];

impl Workspace {
    pub(crate) fn new(root: &Path) -> Workspace {
        Workspace { root: root.to_path_buf(), layout: Layout::new(root), cache: Mutex::default() }
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Everything the workspace knows, at most moments old.
    pub(crate) fn state(&self) -> Result<Arc<State>> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = self.stamp();
        let is_current =
            |loaded: &&Loaded| loaded.settled && loaded.stamp == stamp && loaded.at.elapsed() < MAX_CACHE_AGE;
        if let Some(loaded) = cache.loaded.as_ref().filter(is_current) {
            return Ok(loaded.state.clone());
        }
        let (mut state, mut seen) = cache.loaded.take().map(|loaded| (loaded.state, loaded.seen)).unwrap_or_default();
        let store = open_store(&self.root, &mut cache.store, crate::clock::now_ms())?;
        if let Err(error) = store.reload(Arc::make_mut(&mut state), &mut seen) {
            *cache = Cache::default();
            return Err(error);
        }
        let settled = stamp.iter().flatten().all(|(_, time)| time.elapsed().is_ok_and(|age| age > TIME_STAMP_GRAIN));
        cache.loaded = Some(Loaded { state: state.clone(), seen, stamp, at: Instant::now(), settled });
        Ok(state)
    }

    fn stamp(&self) -> Stamp {
        let db = self.layout.db();
        let log = db.with_file_name("hone.db-wal");
        [db, log].map(|path| {
            let metadata = path.metadata().ok()?;
            Some((metadata.len(), metadata.modified().ok()?))
        })
    }
}

/// The store of a workspace, opened read-only and kept for a while.
pub(crate) fn open_store<'a>(root: &Path, kept: &'a mut Option<(u64, Store)>, now_ms: u64) -> Result<&'a Store> {
    if !Layout::new(root).db().is_file() {
        *kept = None;
        bail!("there is no workspace here yet (hint: `hone init` makes one)");
    }
    if kept.as_ref().is_some_and(|(opened_ms, _)| now_ms.saturating_sub(*opened_ms) > REOPEN_AFTER_MS) {
        *kept = None;
    }
    if kept.is_none() {
        let store = Store::open_read_only(root).map_err(|error| match error {
            OpenError::Absent(_) => anyhow::anyhow!("there is no workspace here yet (hint: `hone init` makes one)"),
            other => other.into(),
        })?;
        *kept = Some((now_ms, store));
    }
    let (_, store) = kept.as_ref().expect("filled above");
    Ok(store)
}
