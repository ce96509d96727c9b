//! One look at the inbox: what is complete, what still waits.

use super::{Sidecar, is_ignored};
use anyhow::{Context, Result};
use hone_pipeline::state::Priority;
use hone_store::datasets::sidecar_of;
use std::collections::{HashMap, HashSet};
use std::fs::{File, Metadata};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Folders below the inbox are followed this deep.
const MAX_DEPTH: usize = 16;
/// One scan reports so many complete files; the next scan goes on.
pub(crate) const MAX_READY: usize = 64;
/// A last line is looked for in so many bytes from the end.
const TAIL_BYTES: u64 = 1 << 20;

/// A complete file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyFile {
    /// Relative to `inbox/`, with `/`.
    pub inbox_path: String,
    /// By its folder.
    pub priority: Priority,
    /// The schema named on the command line of `hone submit`.
    pub schema_flag: Option<String>,
}

/// The result of one look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Complete files in the order in which they are to be taken: priority, time, name.
    pub ready: Vec<ReadyFile>,
    /// Files that may still be written.
    pub num_waiting: usize,
}

/// Remembers between scans since when a file has not changed.
#[derive(Debug)]
pub struct Scanner {
    inbox: PathBuf,
    settle: Duration,
    torn: Duration,
    seen: HashMap<String, Seen>,
    refused_names: HashSet<PathBuf>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    size: u64,
    modified: Option<SystemTime>,
    since: Instant,
}

struct Candidate {
    inbox_path: String,
    path: PathBuf,
    info: Metadata,
}

impl Scanner {
    /// A scanner that has seen nothing yet.
    #[must_use]
    pub fn new(inbox: &Path, settle: Duration, torn: Duration) -> Scanner {
        let (seen, refused_names) = (HashMap::new(), HashSet::new());
        Scanner { inbox: inbox.to_path_buf(), settle, torn, seen, refused_names }
    }

    /// Looks at the inbox. `now` is passed in and never goes back.
    ///
    /// # Errors
    /// The inbox itself cannot be listed.
    pub fn scan(&mut self, now: Instant) -> Result<Scan> {
        let mut candidates = Vec::new();
        self.collect(&self.inbox.clone(), "", 0, &mut candidates)?;
        candidates
            .sort_by_key(|file| (priority_of(&file.inbox_path), file.info.modified().ok(), file.inbox_path.clone()));
        let mut scan = Scan::default();
        let mut seen = HashMap::new();
        for file in candidates {
            let state = self.seen_since(&file, now);
            seen.insert(file.inbox_path.clone(), state);
            let sidecar = Sidecar::read(&sidecar_of(&file.path));
            let submitted = sidecar.as_ref().is_ok_and(|sidecar| sidecar.submitted);
            let unchanged = now.duration_since(state.since);
            let complete = submitted || (unchanged >= self.settle && (unchanged >= self.torn || !is_torn(&file.path)));
            if complete && scan.ready.len() < MAX_READY {
                scan.ready.push(ReadyFile {
                    priority: priority_of(&file.inbox_path),
                    inbox_path: file.inbox_path,
                    schema_flag: sidecar.ok().and_then(|sidecar| sidecar.schema_flag),
                });
            } else {
                scan.num_waiting += 1;
            }
        }
        self.seen = seen;
        Ok(scan)
    }

    fn seen_since(&self, file: &Candidate, now: Instant) -> Seen {
        let (size, modified) = (file.info.len(), file.info.modified().ok());
        match self.seen.get(&file.inbox_path) {
            Some(old) if old.size == size && old.modified == modified => *old,
            _ => Seen { size, modified, since: now },
        }
    }

    fn collect(&mut self, folder: &Path, prefix: &str, depth: usize, found: &mut Vec<Candidate>) -> Result<()> {
        for entry in std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
            let Ok(entry) = entry else { continue };
            // What vanishes between listing and looking is no error: the next scan sees the truth.
            let Ok(info) = entry.path().symlink_metadata() else { continue };
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                if self.refused_names.insert(entry.path()) {
                    tracing::warn!(path = %entry.path().display(), "a name in the inbox is not UTF-8; left alone");
                }
                continue;
            };
            if is_ignored(name) {
                continue;
            }
            let inbox_path = format!("{prefix}{name}");
            if info.is_dir() && depth < MAX_DEPTH {
                // A folder that cannot be listed must not hide the others.
                if let Err(error) = self.collect(&entry.path(), &format!("{inbox_path}/"), depth + 1, found)
                    && self.refused_names.insert(entry.path())
                {
                    tracing::warn!("a folder of the inbox is left out: failed to {error:#}");
                }
            } else if info.is_file() {
                found.push(Candidate { inbox_path, path: entry.path(), info });
            }
        }
        Ok(())
    }
}

fn priority_of(inbox_path: &str) -> Priority {
    match inbox_path.split_once('/') {
        Some(("high", _)) => Priority::High,
        Some(("low", _)) => Priority::Low,
        _ => Priority::Normal,
    }
}

/// True when a file is known to be cut short: by its own footer where it has one, else by its last line.
fn is_torn(path: &Path) -> bool {
    match hone_data::reader::is_whole(path) {
        Ok(Some(is_whole)) => !is_whole,
        Ok(None) => has_torn_line(path),
        Err(_) => false,
    }
}

/// True when the last line of a `.jsonl` file is the beginning of a JSON value and not a whole one. What is not
/// JSON at all is not torn: waiting would not mend it.
fn has_torn_line(path: &Path) -> bool {
    if !path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("jsonl")) {
        return false;
    }
    let Ok(Some(line)) = last_line(path) else { return false };
    match serde_json::from_slice::<serde::de::IgnoredAny>(&line) {
        Ok(_) => false,
        Err(error) => error.is_eof() && !line.trim_ascii().is_empty(),
    }
}

/// The bytes after the last line break; `None` when they cannot be found within [`TAIL_BYTES`].
fn last_line(path: &Path) -> std::io::Result<Option<Vec<u8>>> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let start = size.saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail)?;
    match tail.iter().rposition(|byte| *byte == b'\n') {
        Some(line_break) => Ok(Some(tail.split_off(line_break + 1))),
        None => Ok((start == 0).then_some(tail)),
    }
}
