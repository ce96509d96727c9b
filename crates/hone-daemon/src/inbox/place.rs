//! Putting a complete file into the inbox: a hidden copy, the sidecar, then one rename.

use super::{MAX_NAME_BYTES, Sidecar, is_ignored};
use anyhow::{Context, Result, bail, ensure};
use hone_disk::FileLock;
use hone_pipeline::state::Priority;
use hone_store::Layout;
use hone_store::datasets::sidecar_of;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long one placer waits for another one (choosing a free name and renaming are held together).
const LOCK_WAIT: Duration = Duration::from_secs(30);
const LOCK_POLL: Duration = Duration::from_millis(5);
/// A name that is taken gets a number, which needs room.
const ROOM_FOR_NUMBER: usize = 10;

/// Puts a copy of `source` into the inbox of the workspace `root`, complete at once: a hidden copy is written,
/// the sidecar placed, then the copy renamed. A sidecar that lies beside `source` is taken over; what `sidecar`
/// says wins. A name that is taken gets a number. Returns the path relative to `inbox/`.
///
/// # Errors
/// `source` cannot be read or has a name that the inbox leaves alone; the inbox cannot be written.
pub fn place(root: &Path, source: &Path, priority: Priority, sidecar: &Sidecar) -> Result<String> {
    let name = source.file_name().and_then(|name| name.to_str());
    let name = name.with_context(|| format!("use {}: its name is not UTF-8", source.display()))?;
    let beside = Sidecar::read(&sidecar_of(source)).with_context(|| format!("use {}", source.display()))?;
    let mut file = File::open(source).with_context(|| format!("open {}", source.display()))?;
    ensure!(file.metadata()?.is_file(), "{} is not a file", source.display());
    place_reader(root, name, &mut file, priority, merge(beside, sidecar))
}

/// As [`place`], for bytes made here.
///
/// # Errors
/// `name` is one that the inbox leaves alone, or the inbox cannot be written.
pub fn place_bytes(root: &Path, name: &str, bytes: &[u8], priority: Priority, sidecar: &Sidecar) -> Result<String> {
    let mut reader = bytes;
    place_reader(root, name, &mut reader, priority, sidecar.clone())
}

fn place_reader(
    root: &Path,
    name: &str,
    reader: &mut dyn Read,
    priority: Priority,
    sidecar: Sidecar,
) -> Result<String> {
    let plain = Path::new(name).components().count() == 1 && !name.contains('/');
    ensure!(plain && !is_ignored(name), "the inbox leaves files of the name {name:?} alone (hint: rename it)");
    ensure!(
        name.len() + ROOM_FOR_NUMBER <= MAX_NAME_BYTES,
        "the name {name:?} has more than {} bytes (hint: a shorter one)",
        MAX_NAME_BYTES - ROOM_FOR_NUMBER
    );
    let layout = Layout::new(root);
    let folder = layout.inbox_of(priority);
    hone_disk::create_dir(&folder)?;
    let hidden = folder.join(format!(".{name}.{}.part", std::process::id()));
    let result = copy(reader, &hidden).and_then(|()| {
        hone_disk::create_dir(&layout.run_dir())?;
        let _lock = lock(&layout.run_dir().join("place.lock"))?;
        let target = free_name(&folder, name);
        hone_disk::write_json(&sidecar_of(&target), &Sidecar { submitted: true, ..sidecar })?;
        hone_disk::rename(&hidden, &target)?;
        Ok(target)
    });
    let target = match result {
        Ok(target) => target,
        Err(error) => {
            let _ = hone_disk::remove_file(&hidden);
            return Err(error.context(format!("put {name} into the inbox")));
        }
    };
    let relative = target.strip_prefix(layout.inbox()).expect("the target was joined to the inbox");
    Ok(relative.to_string_lossy().into_owned())
}

fn copy(reader: &mut dyn Read, hidden: &Path) -> Result<()> {
    let mut file = hone_disk::create_streamed(hidden)?;
    std::io::copy(reader, &mut file).context("copy it")?;
    file.sync().context("sync the copy")
}

fn lock(path: &Path) -> Result<FileLock> {
    let start = Instant::now();
    loop {
        if let Some(lock) = FileLock::try_exclusive(path)? {
            return Ok(lock);
        }
        if start.elapsed() > LOCK_WAIT {
            let holder = FileLock::holder(path).unwrap_or_default();
            bail!("another program ({holder}) has been placing a file for {} s", LOCK_WAIT.as_secs());
        }
        std::thread::sleep(LOCK_POLL);
    }
}

fn merge(beside: Sidecar, given: &Sidecar) -> Sidecar {
    let mut other = beside.other;
    other.extend(given.other.clone());
    Sidecar {
        schema_id: given.schema_id.clone().or(beside.schema_id),
        schema_flag: given.schema_flag.clone(),
        provenance: given.provenance.clone().or(beside.provenance),
        submitted: true,
        other,
    }
}

/// `name`, or the first of `name-2`, `name-3` … (before its extensions) that is free.
fn free_name(folder: &Path, name: &str) -> PathBuf {
    let (stem, extensions) = name.split_at(name.find('.').unwrap_or(name.len()));
    let numbered = (2u64..).map(|number| format!("{stem}-{number}{extensions}"));
    let mut names = std::iter::once(name.to_string()).chain(numbered).map(|name| folder.join(name));
    names.find(|path| path.symlink_metadata().is_err()).expect("numbers do not end")
}
