//! Keys of clients and operators: the file that holds their hashes, and the set that is in force.
//!
//! `keys.json`, mode 0600, next to the workspace's other files:
//!
//! ```json
//! {"format_version": 1, "keys": [{"name": "alice", "level": "read", "hash": "<BLAKE3 of the key, hex>", "created_ms": 0}]}
//! ```
//!
//! A key is `hone_` and 256 random bits, so a plain hash of it tells nothing; the key itself is shown once and stored
//! nowhere. The server looks at the file again when it changed, so a rotation needs no restart.

use crate::clock::now_ms;
use crate::options::Keys;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use subtle::{Choice, ConstantTimeEq};
use tracing::{info, warn};

const FORMAT_VERSION: u32 = 1;
const PREFIX: &str = "hone_";
const KEY_BYTES: usize = 32;
/// Most keys of a file.
const MAX_KEYS: usize = 1000;
/// A changed file is seen within this time.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// What a key opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyLevel {
    /// `/v1`, `/models`, `/metrics`, `/openapi.json`.
    Read,
    /// These and `/admin`.
    Admin,
}

/// A key as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredKey {
    /// Who has it; unique.
    pub name: String,
    /// What it opens.
    pub level: KeyLevel,
    /// BLAKE3 of the key, hex.
    pub hash: String,
    /// When it was made, in ms since the epoch.
    pub created_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    format_version: u32,
    keys: Vec<StoredKey>,
}

/// The keys of a file, by name; none when there is no file.
///
/// # Errors
/// A file that others may read, that is damaged, or of a newer format.
pub fn list_keys(path: &Path) -> Result<Vec<StoredKey>> {
    let metadata = match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        metadata => metadata.with_context(|| format!("read {}", path.display()))?,
    };
    let mode = metadata.permissions().mode() & 0o777;
    ensure!(
        mode & 0o077 == 0,
        "{} may be read by others (mode {mode:o})\nhint: chmod 600 {}",
        path.display(),
        path.display()
    );
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let file: KeyFile = serde_json::from_slice(&bytes).with_context(|| format!("parse {}", path.display()))?;
    ensure!(
        file.format_version == FORMAT_VERSION,
        "{} has format {}; this hone reads format {FORMAT_VERSION}",
        path.display(),
        file.format_version
    );
    Ok(file.keys)
}

/// Makes a key and stores its hash; the key is returned and nowhere else.
///
/// # Errors
/// A name that is taken, empty or longer than 100 characters; too many keys; a file that cannot be read or written.
pub fn make_key(path: &Path, name: &str, level: KeyLevel) -> Result<String> {
    let mut keys = list_keys(path)?;
    ensure!((1..=100).contains(&name.chars().count()), "a key's name has 1 to 100 characters");
    if keys.iter().any(|key| key.name == name) {
        bail!("there is a key named {name:?} already\nhint: `hone keys rotate {name}` gives it a new value");
    }
    ensure!(keys.len() < MAX_KEYS, "there are {MAX_KEYS} keys already");
    let key = random_key()?;
    keys.push(StoredKey { name: name.to_string(), level, hash: hash_of(&key), created_ms: now_ms() });
    write(path, keys)?;
    Ok(key)
}

/// Gives a key a new value; the old one is refused from then on.
///
/// # Errors
/// No key of this name; a file that cannot be read or written.
pub fn rotate_key(path: &Path, name: &str) -> Result<String> {
    let mut keys = list_keys(path)?;
    let key = random_key()?;
    let stored = find(&mut keys, name)?;
    (stored.hash, stored.created_ms) = (hash_of(&key), now_ms());
    write(path, keys)?;
    Ok(key)
}

/// Takes a key away.
///
/// # Errors
/// No key of this name; a file that cannot be read or written.
pub fn remove_key(path: &Path, name: &str) -> Result<()> {
    let mut keys = list_keys(path)?;
    find(&mut keys, name)?;
    keys.retain(|key| key.name != name);
    write(path, keys)
}

fn find<'a>(keys: &'a mut [StoredKey], name: &str) -> Result<&'a mut StoredKey> {
    let names: Vec<String> = keys.iter().map(|key| key.name.clone()).collect();
    let found = keys.iter_mut().find(|key| key.name == name);
    found.with_context(|| match names.as_slice() {
        [] => format!("no key is named {name:?}: there are none"),
        names => format!("no key is named {name:?} (there are: {})", names.join(", ")),
    })
}

fn write(path: &Path, keys: Vec<StoredKey>) -> Result<()> {
    hone_disk::write_private_json(path, &KeyFile { format_version: FORMAT_VERSION, keys })
}

fn random_key() -> Result<String> {
    let mut bytes = [0_u8; KEY_BYTES];
    let source = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    source.context("read random bytes from /dev/urandom")?;
    Ok(bytes.iter().fold(PREFIX.to_string(), |key, byte| format!("{key}{byte:02x}")))
}

fn hash_of(key: &str) -> String {
    blake3::hash(key.as_bytes()).to_hex().to_string()
}

/// The keys that are in force: those given at the start, and those of a file that is looked at again when it changed.
pub struct KeySet {
    given: Vec<Hashed>,
    path: Option<PathBuf>,
    /// Every request reads it and one in a while renews it: a channel would have nobody to answer.
    file: Mutex<FromFile>,
}

struct Hashed {
    level: KeyLevel,
    hash: blake3::Hash,
}

struct FromFile {
    looked: Instant,
    /// Of the file whose keys are in force.
    stamp: Option<Stamp>,
    /// Of a file that could not be read, once that was told; it is tried again.
    told: Option<Option<Stamp>>,
    keys: Arc<Vec<Hashed>>,
    /// Once there were keys, an empty file closes the server and does not open it.
    had_keys: bool,
}

/// Changes when the file does, or who may read it: inode, size, mode, and the times of the last change of content and of
/// all else.
type Stamp = (u64, u64, u32, (i64, i64), (i64, i64));

/// What a given key opens, computed in a time that does not depend on it.
pub struct Opens {
    /// It is an admin key.
    pub admin: Choice,
    /// It is a read key.
    pub read: Choice,
}

impl KeySet {
    /// Reads the file, when there is a path. White space around given keys, such as the line break at the end of a secret's
    /// file, is no part of them: it is none of those that clients show either.
    ///
    /// # Errors
    /// An empty key; a file that is damaged or that others may read.
    pub fn new(given: &Keys, path: Option<PathBuf>) -> Result<KeySet> {
        ensure!(given.read.iter().chain(&given.admin).all(|key| !key.trim().is_empty()), "an empty key is configured");
        let hashed = |level| move |key: &String| Hashed { level, hash: blake3::hash(key.trim().as_bytes()) };
        let given: Vec<Hashed> = given
            .read
            .iter()
            .map(hashed(KeyLevel::Read))
            .chain(given.admin.iter().map(hashed(KeyLevel::Admin)))
            .collect();
        let stamp = path.as_deref().and_then(stamp_of);
        let keys = path.as_deref().map_or(Ok(Vec::new()), read_hashes)?;
        let had_keys = !given.is_empty() || !keys.is_empty();
        let file = FromFile { looked: Instant::now(), stamp, told: None, keys: Arc::new(keys), had_keys };
        Ok(KeySet { given, path, file: Mutex::new(file) })
    }

    /// True when no key was ever configured.
    pub fn is_open(&self) -> bool {
        self.look();
        !self.lock().had_keys
    }

    /// What a key opens. All keys are gone through, whichever matches.
    pub fn opens(&self, key: &[u8]) -> Opens {
        self.look();
        let keys = self.lock().keys.clone();
        let hash = blake3::hash(key);
        let one_of = |level| {
            let of_level = self
                .given
                .iter()
                .chain(keys.iter())
                .map(|key| Choice::from(u8::from(key.level == level)) & key.hash.as_bytes().ct_eq(hash.as_bytes()));
            of_level.fold(Choice::from(0), |found, matches| found | matches)
        };
        Opens { admin: one_of(KeyLevel::Admin), read: one_of(KeyLevel::Read) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, FromFile> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the file again when it changed; what cannot be read changes nothing.
    fn look(&self) {
        let Some(path) = &self.path else { return };
        let mut file = self.lock();
        if file.looked.elapsed() < LOOK_INTERVAL {
            return;
        }
        file.looked = Instant::now();
        let stamp = stamp_of(path);
        if stamp == file.stamp {
            return;
        }
        match read_hashes(path) {
            Ok(keys) => {
                info!(num_keys = keys.len(), "keys read again");
                file.had_keys |= !keys.is_empty();
                file.keys = Arc::new(keys);
                (file.stamp, file.told) = (stamp, None);
            }
            Err(_) if file.told == Some(stamp) => {}
            Err(error) => {
                warn!("the keys stay as they were: {error:#}");
                file.told = Some(stamp);
            }
        }
    }
}

fn stamp_of(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let of = std::fs::metadata(path).ok()?;
    Some((of.ino(), of.len(), of.mode(), (of.mtime(), of.mtime_nsec()), (of.ctime(), of.ctime_nsec())))
}

fn read_hashes(path: &Path) -> Result<Vec<Hashed>> {
    let hashed = |key: StoredKey| {
        let hash = blake3::Hash::from_hex(&key.hash).with_context(|| format!("read the hash of key {:?}", key.name))?;
        Ok(Hashed { level: key.level, hash })
    };
    list_keys(path)?.into_iter().map(hashed).collect()
}

impl fmt::Debug for KeySet {
    /// Counts only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySet").field("given", &self.given.len()).field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
