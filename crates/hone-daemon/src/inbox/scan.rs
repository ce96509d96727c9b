//! One look at the inbox: what is complete, what still waits.

use super::watch::{News, Sign};
use super::{MAX_DEPTH, MAX_NAME_BYTES, Sidecar, is_ignored};
use anyhow::{Context, Result};
use hone_pipeline::state::Priority;
use hone_store::datasets::sidecar_of;
use std::collections::{HashMap, HashSet};
use std::fs::{File, Metadata};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// One scan reports so many complete files; the next scan goes on.
pub(crate) const MAX_READY: usize = 64;
/// A file that was closed rests so long, so that `cp a.jsonl a.jsonl.meta.json inbox/` brings both.
const CLOSED_REST: Duration = Duration::from_millis(200);
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
    /// What it was when it was found complete; what differs later has been written to, or is another file.
    pub fingerprint: Fingerprint,
}

/// By which a file is known as the same and unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    size: u64,
    modified: Option<SystemTime>,
    inode: u64,
}

impl Fingerprint {
    /// That of the file at `path`; none where there is no plain file.
    #[must_use]
    pub fn of(path: &Path) -> Option<Fingerprint> {
        path.symlink_metadata().ok().filter(Metadata::is_file).map(|info| Fingerprint::from(&info))
    }
}

impl From<&Metadata> for Fingerprint {
    fn from(info: &Metadata) -> Self {
        Fingerprint { size: info.len(), modified: info.modified().ok(), inode: info.ino() }
    }
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
    /// What file events told last, of files that are there.
    signs: HashMap<String, Sign>,
    refused_names: HashSet<PathBuf>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    fingerprint: Fingerprint,
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
        let (seen, signs, refused_names) = (HashMap::new(), HashMap::new(), HashSet::new());
        Scanner { inbox: inbox.to_path_buf(), settle, torn, seen, signs, refused_names }
    }

    /// Takes note of a file event; the next scan goes by it.
    pub(crate) fn hear(&mut self, news: News) {
        match news {
            News::File { inbox_path, sign: Sign::Written } => drop(self.signs.remove(&inbox_path)),
            News::File { inbox_path, sign } => drop(self.signs.insert(inbox_path, sign)),
            News::Lost => self.signs.clear(),
        }
    }

    /// Looks at the inbox. `now` is passed in and never goes back. `on_the_way` are files that were told before and could
    /// not be taken yet: they neither count nor stand before others.
    ///
    /// # Errors
    /// The inbox itself cannot be listed.
    pub fn scan(&mut self, now: Instant, on_the_way: &HashSet<String>) -> Result<Scan> {
        let mut candidates = Vec::new();
        self.collect(&self.inbox.clone(), "", 0, &mut candidates)?;
        candidates
            .sort_by_key(|file| (priority_of(&file.inbox_path), file.info.modified().ok(), file.inbox_path.clone()));
        let mut scan = Scan::default();
        let mut seen = HashMap::new();
        for file in candidates {
            let state = self.seen_since(&file, now);
            seen.insert(file.inbox_path.clone(), state);
            if on_the_way.contains(&file.inbox_path) {
                continue;
            }
            // What the next scans report need not be read now.
            if scan.ready.len() >= MAX_READY {
                scan.num_waiting += 1;
                continue;
            }
            let sidecar = Sidecar::read(&sidecar_of(&file.path));
            let submitted = sidecar.as_ref().is_ok_and(|sidecar| sidecar.submitted);
            if submitted || self.is_complete(&file, now.duration_since(state.since)) {
                scan.ready.push(ReadyFile {
                    priority: priority_of(&file.inbox_path),
                    inbox_path: file.inbox_path,
                    schema_flag: sidecar.ok().and_then(|sidecar| sidecar.schema_flag),
                    fingerprint: state.fingerprint,
                });
            } else {
                scan.num_waiting += 1;
            }
        }
        self.signs.retain(|path, _| seen.contains_key(path));
        self.seen = seen;
        Ok(scan)
    }

    fn is_complete(&self, file: &Candidate, unchanged: Duration) -> bool {
        let settled = unchanged >= self.settle && (unchanged >= self.torn || end_of(&file.path) != End::Torn);
        settled
            || match self.signs.get(&file.inbox_path) {
                Some(Sign::RenamedIn) => true,
                Some(Sign::Closed) => unchanged >= CLOSED_REST && end_of(&file.path) == End::Whole,
                Some(Sign::Written) | None => false,
            }
    }

    fn seen_since(&self, file: &Candidate, now: Instant) -> Seen {
        let fingerprint = Fingerprint::from(&file.info);
        match self.seen.get(&file.inbox_path) {
            Some(old) if old.fingerprint == fingerprint => *old,
            _ => Seen { fingerprint, since: now },
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
            if name.len() > MAX_NAME_BYTES {
                if self.refused_names.insert(entry.path()) {
                    let (name, limit) = (name, MAX_NAME_BYTES);
                    tracing::warn!(
                        name,
                        "a name in the inbox has more than {limit} bytes; left alone until it is renamed"
                    );
                }
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

/// What the end of a file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// A footer, or a last line that parses.
    Whole,
    /// No footer, or the beginning of a JSON value that is not whole.
    Torn,
    /// Nothing: the format has no sign of its end, or the last line is not JSON at all (waiting would not mend it).
    Unknown,
}

fn end_of(path: &Path) -> End {
    match hone_data::reader::is_whole(path) {
        Ok(Some(true)) => End::Whole,
        Ok(Some(false)) => End::Torn,
        Ok(None) => end_of_lines(path),
        Err(_) => End::Unknown,
    }
}

fn end_of_lines(path: &Path) -> End {
    if !path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("jsonl")) {
        return End::Unknown;
    }
    let Ok(Some(line)) = last_line(path) else { return End::Unknown };
    if line.trim_ascii().is_empty() {
        return End::Unknown;
    }
    match serde_json::from_slice::<serde::de::IgnoredAny>(&line) {
        Ok(_) => End::Whole,
        Err(error) if error.is_eof() && !line.ends_with(b"\n") => End::Torn,
        Err(_) => End::Unknown,
    }
}

/// The last line, with or without its line break; `None` when it cannot be found within [`TAIL_BYTES`].
fn last_line(path: &Path) -> std::io::Result<Option<Vec<u8>>> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let start = size.saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail)?;
    let end = tail.len() - usize::from(tail.ends_with(b"\n"));
    match tail[..end].iter().rposition(|byte| *byte == b'\n') {
        Some(line_break) => Ok(Some(tail.split_off(line_break + 1))),
        None => Ok((start == 0).then_some(tail)),
    }
}
